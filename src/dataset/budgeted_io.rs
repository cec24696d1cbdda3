//! Reads of files that are charged to the rows they are for.
//!
//! Lance plans which bytes rows need and joins what lies close together; here it is counted, and timed where it arrives.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, Gauge, MetricBuilder, Time};
use futures::future::BoxFuture;
use lance_core::Result as LanceResult;
use lance_core::deepsize::{Context, DeepSizeOf};
use lance_encoding::EncodingsIo;
use lance_file::LanceEncodingsIo;
use lance_io::scheduler::ScanScheduler;
use lance_io::traits::Reader;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::ReadCharge;
use crate::source::{READ_WAIT, add_wait};

/// What a scan has read.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadFigures {
    /// Requests of Lance's decoder.
    requests: Gauge,
    /// Requests to the storage.
    iops: Gauge,
    bytes: Gauge,
    /// Waiting for the read budget.
    waited: Time,
}

impl ReadFigures {
    /// Figures that a plan node shows, under the names and of the kinds of those that Lance's node has.
    pub(super) fn of(metrics: &ExecutionPlanMetricsSet) -> Self {
        let gauge = |name| MetricBuilder::new(metrics).gauge(name, 0);
        Self {
            requests: gauge("requests"),
            iops: gauge("iops"),
            bytes: gauge("bytes_read"),
            waited: MetricBuilder::new(metrics).subset_time(READ_WAIT, 0),
        }
    }

    /// Figures that nobody sees but how long was waited, which `waited` counts with that of other reads.
    pub(super) fn waiting(waited: &Time) -> Self {
        Self { waited: waited.clone(), ..Self::default() }
    }

    pub(super) fn waited(&self, waited: Duration) {
        add_wait(&self.waited, waited);
    }
}

/// The reads that some rows need.
#[derive(Debug)]
pub(super) struct RowReads {
    charge: ReadCharge,
    figures: ReadFigures,
    /// When the first was sent and the last one came.
    time: Mutex<Option<(Instant, Instant)>>,
}

impl RowReads {
    pub(super) fn new(charge: ReadCharge, figures: ReadFigures) -> Arc<Self> {
        figures.waited(charge.waited());
        Arc::new(Self { charge, figures, time: Mutex::new(None) })
    }

    pub(super) fn charge(&self) -> &ReadCharge {
        &self.charge
    }

    /// All rows are decoded.
    pub(super) fn done(&self) {
        let took = self.time.lock().map_or(Duration::ZERO, |(from, to)| to - from);
        self.charge.done(took);
    }

    fn came(&self, sent: Instant, bytes: usize) {
        self.figures.iops.add(1);
        self.figures.bytes.add(bytes);
        let now = Instant::now();
        let mut time = self.time.lock();
        *time = Some(time.map_or((sent, now), |(from, _)| (from.min(sent), now)));
    }
}

/// Reads one file for some rows, charged to them.
pub(super) struct BudgetedIo {
    inner: LanceEncodingsIo,
    reads: Arc<RowReads>,
    /// What lies so close together is read at once.
    gap: u64,
}

impl BudgetedIo {
    /// Of the rows that are the `place`th of their scan: earlier ones go first. Reads end when `scan` closes.
    pub(super) fn new(
        scheduler: &Arc<ScanScheduler>,
        file: &Arc<dyn Reader>,
        place: u64,
        reads: &Arc<RowReads>,
        scan: watch::Receiver<()>,
    ) -> Arc<Self> {
        let reader = TimedReader { inner: Arc::clone(file), reads: Arc::clone(reads), scan };
        let inner = LanceEncodingsIo::new(scheduler.open_reader(Arc::new(reader)).with_priority(place));
        Arc::new(Self { inner, reads: Arc::clone(reads), gap: file.block_size() as u64 })
    }
}

impl EncodingsIo for BudgetedIo {
    /// Starts at once: the rows have their room. What a range needs within such a read, as values after their offsets, is
    /// a request like any other.
    fn submit_request(&self, ranges: Vec<Range<u64>>, priority: u64) -> BoxFuture<'static, LanceResult<Vec<Bytes>>> {
        self.reads.figures.requests.add(1);
        self.reads.charge.request(joined_bytes(&ranges, self.gap));
        self.inner.submit_request(ranges, priority)
    }
}

impl fmt::Debug for BudgetedIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetedIo").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The bytes of ranges in the order of the file, with the gaps between them that are read as well.
fn joined_bytes(ranges: &[Range<u64>], gap: u64) -> usize {
    let (mut bytes, mut end) = (0, None);
    for range in ranges {
        bytes += match end {
            Some(end) if range.start <= end + gap => range.end.saturating_sub(end),
            _ => range.end - range.start,
        };
        end = Some(end.map_or(range.end, |end: u64| end.max(range.end)));
    }
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A file whose reads are timed, and given up when nobody wants them any more.
#[derive(Debug)]
struct TimedReader {
    inner: Arc<dyn Reader>,
    reads: Arc<RowReads>,
    scan: watch::Receiver<()>,
}

impl DeepSizeOf for TimedReader {
    fn deep_size_of_children(&self, context: &mut Context) -> usize {
        self.inner.deep_size_of_children(context)
    }
}

impl Reader for TimedReader {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn block_size(&self) -> usize {
        self.inner.block_size()
    }

    fn io_parallelism(&self) -> usize {
        self.inner.io_parallelism()
    }

    fn size(&self) -> BoxFuture<'_, object_store::Result<usize>> {
        self.inner.size()
    }

    fn get_range(&self, range: Range<usize>) -> BoxFuture<'static, object_store::Result<Bytes>> {
        let (reads, sent, bytes) = (Arc::clone(&self.reads), Instant::now(), range.len());
        let (read, mut scan) = (self.inner.get_range(range), self.scan.clone());
        Box::pin(async move {
            tokio::select! {
                biased;
                read = read => {
                    reads.came(sent, bytes);
                    read
                }
                // It never sends: it closes.
                _ = scan.changed() => {
                    Err(object_store::Error::Generic { store: "TimedReader", source: "the scan has ended".into() })
                }
            }
        })
    }

    fn get_all(&self) -> BoxFuture<'_, object_store::Result<Bytes>> {
        self.inner.get_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_close_together_is_charged_with_what_lies_between() {
        assert_eq!(joined_bytes(&[], 10), 0);
        assert_eq!(joined_bytes(&[0..5, 5..7, 17..20], 10), 20);
        assert_eq!(joined_bytes(&[0..5, 16..20], 10), 9);
        assert_eq!(joined_bytes(&[0..50, 3..20, 55..60], 10), 60, "ranges may overlap");
    }
}

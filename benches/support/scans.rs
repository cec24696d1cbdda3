//! Scans of all rows of a dataset on a store that takes its time, by both sides, and what they hold of what they read.
//!
//! Both sides have the same files in a bucket of their own, metadata in memory, and nothing that keeps data.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch, RecordBatchIterator};
use arrow::datatypes::{Float32Type, Int64Type};
use arrow::error::ArrowError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion_lsm::cache::ReadBudget;
use datafusion_lsm::settings::{Bytes, Settings};
use datafusion_lsm::store::registry;
use datafusion_lsm::table::Components;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::session::Session;
use tokio::task::JoinSet;

use super::Result;
use super::measure::{median, timed};
use super::ours::Ours;
use super::peer;
use super::remote::Bucket;
use super::report::note;
use super::resident::Resident;
use super::rows::{KEY, Kind};
use super::side::settings;

/// Rows of a batch: the seed's, of whose scan each batch is one request.
const BATCH: usize = 1_024;
/// The most scans at once.
const SCANS: usize = 4;
/// More than there is to read.
pub(crate) const NO_BOUND: usize = 1 << 36;
/// Bytes of metadata that caches may go on to hold.
const CACHED: u64 = 1 << 20;

/// Who scans, and how many bytes it may read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// This crate's table, under a read budget.
    Ours(usize),
    /// Lance's scanner, with an I/O buffer.
    Lance(usize),
}

/// What is done at once, and how slowly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// How many scans run at once.
    pub(crate) scans: usize,
    /// How long a consumer is busy with each row.
    pub(crate) pause: Duration,
    /// How long each request takes.
    pub(crate) delay: Duration,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scan {
    time: Duration,
    peak: u64,
    resident: Option<u64>,
    requests: u64,
    bytes: u64,
}

/// What several measurements say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// The median of the times.
    pub(crate) seconds: f64,
    /// The most bytes that the store had given and somebody still referred to.
    pub(crate) peak: f64,
    /// How much the process grew at most.
    pub(crate) resident: Option<u64>,
    /// The most requests.
    pub(crate) requests: u64,
    /// The bytes that were read.
    pub(crate) bytes: u64,
}

/// Both sides.
pub(crate) struct Sides {
    /// How many rows there are.
    pub(crate) rows: usize,
    /// The bytes of their vectors: no file that has them is smaller.
    vector_bytes: u64,
    /// The table in a session for each scan: scans of one session would be one query to the budget.
    ours: Vec<Ours>,
    budget: Arc<ReadBudget>,
    our_bucket: Arc<Bucket>,
    dataset: Dataset,
    peer_bucket: Arc<Bucket>,
}

impl Reader {
    /// How it is called.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ours(budget) => format!("ours, {}", bound(budget)),
            Self::Lance(buffer) => format!("Lance, {}", bound(buffer)),
        }
    }
}

/// A bound in words.
pub(crate) fn bound(bytes: usize) -> String {
    match bytes {
        NO_BOUND => "unbounded".to_string(),
        bytes if bytes < 1 << 20 => format!("{} KiB", bytes >> 10),
        bytes => format!("{} MiB", bytes >> 20),
    }
}

impl Figures {
    /// What these measurements say.
    pub(crate) fn of(scans: &[Scan]) -> Self {
        let most = |of: fn(&Scan) -> u64| scans.iter().map(of).max().unwrap_or(0);
        Self {
            seconds: median(scans.iter().map(|scan| scan.time).collect()),
            peak: most(|scan| scan.peak) as f64,
            resident: scans.iter().filter_map(|scan| scan.resident).max(),
            requests: most(|scan| scan.requests),
            bytes: most(|scan| scan.bytes),
        }
    }
}

impl Sides {
    /// Both sides with `rows` rows whose vectors have `width` dimensions.
    pub(crate) async fn new(rows: usize, width: usize) -> Result<Self> {
        let (bucket, uri) = Bucket::new();
        bucket.silence();
        write(&uri, rows, Kind::Vectors(width)).await?;
        let ((our_bucket, our_uri), (peer_bucket, peer_uri)) = (bucket.fork(), bucket.fork());
        bucket.remove();
        our_bucket.give_copies();
        peer_bucket.give_copies();
        let budget = ReadBudget::new(NO_BOUND);
        let components = Components { read_budget: Arc::clone(&budget), ..Components::default() };
        let settings = Settings { cache_memory: Some(Bytes(0)), ..settings() };
        let mut ours = vec![Ours::adopt_at(&our_uri, &[], settings, components).await?];
        while ours.len() < SCANS {
            ours.push(ours[0].again()?);
        }
        for session in &mut ours {
            session.set("datafusion.execution.batch_size", &BATCH.to_string()).await?;
        }
        let dataset = peer::dataset(&peer_uri).await?;
        let vector_bytes = (rows * width * size_of::<f32>()) as u64;
        Ok(Self { rows, vector_bytes, ours, budget, our_bucket, dataset, peer_bucket })
    }

    /// Fails unless all `readers` give all rows, and the same ones.
    pub(crate) async fn check(&self, readers: &[Reader]) -> Result<()> {
        let mut first = None;
        for reader in readers {
            self.set(*reader);
            let found = Checksum::of(self.stream(*reader, 0).await?).await?;
            if found.rows != self.rows || found != *first.get_or_insert(found) {
                let what = reader.name();
                return Err(format!("{what}: the answers differ: {found:?}, others {first:?} of {}", self.rows).into());
            }
        }
        Ok(())
    }

    /// Runs the scans of a load; fails if they do not give all rows, or did not read them from the store.
    pub(crate) async fn measure(&self, reader: Reader, load: Load) -> Result<Scan> {
        let bucket = self.bucket(reader);
        settle(&self.our_bucket, "our").await;
        settle(&self.peer_bucket, "Lance's").await;
        bucket.set_delay(load.delay);
        self.set(reader);
        let resident = Resident::watch();
        bucket.reset();
        let (time, rows) = Box::pin(timed(self.run(reader, load))).await?;
        let (peak, bytes, requests) = (bucket.peak(), bucket.bytes_read(), bucket.requests().all());
        let resident = resident.map(Resident::rise).transpose()?;
        let scans = load.scans as u64;
        if rows != self.rows * load.scans {
            return Err(format!("{}: {} rows in {scans} scans, {rows} came", reader.name(), self.rows).into());
        }
        if bytes < self.vector_bytes * scans {
            return Err(format!("{}: {bytes} bytes were read, rows have more", reader.name()).into());
        }
        Ok(Scan { time, peak, resident, requests, bytes })
    }

    /// Runs the scans; how many rows came.
    async fn run(&self, reader: Reader, load: Load) -> Result<usize> {
        let mut scans = JoinSet::new();
        for scan in 0..load.scans {
            scans.spawn(drained(self.stream(reader, scan).await?, load.pause));
        }
        let mut rows = 0;
        while let Some(scanned) = scans.join_next().await {
            rows += scanned??;
        }
        Ok(rows)
    }

    /// Ends both.
    pub(crate) async fn close(self) -> Result<()> {
        self.our_bucket.set_delay(Duration::ZERO);
        self.ours[0].table.close().await?;
        self.our_bucket.remove();
        self.peer_bucket.remove();
        Ok(())
    }

    fn bucket(&self, reader: Reader) -> &Bucket {
        match reader {
            Reader::Ours(_) => &self.our_bucket,
            Reader::Lance(_) => &self.peer_bucket,
        }
    }

    fn set(&self, reader: Reader) {
        if let Reader::Ours(budget) = reader {
            self.budget.set_limit(budget);
        }
    }

    /// All rows, to the `scan`th consumer.
    async fn stream(&self, reader: Reader, scan: usize) -> Result<SendableRecordBatchStream> {
        match reader {
            Reader::Ours(_) => self.ours[scan].stream().await,
            Reader::Lance(buffer) => {
                let mut scanner = self.dataset.scan();
                scanner.batch_size(BATCH).io_buffer_size(buffer as u64);
                Ok(Box::pin(scanner.try_into_stream()).await?.into())
            }
        }
    }
}

/// Writes the rows with the first ids into one file.
async fn write(uri: &str, rows: usize, kind: Kind) -> Result<()> {
    let session = Session::new(CACHED as usize, CACHED as usize, registry());
    let params =
        WriteParams { session: Some(Arc::new(session)), max_rows_per_file: rows + 1, ..WriteParams::default() };
    // Made as they are wanted: all of them at once would be in memory twice.
    let batches = (0..rows).step_by(BATCH).map(move |from| {
        let ids: Vec<i64> = (from..rows.min(from + BATCH)).map(|id| id as i64).collect();
        kind.rows(&ids, 0).map_err(ArrowError::ExternalError)
    });
    let reader = RecordBatchIterator::new(batches, kind.schema());
    Box::pin(Dataset::write(reader, uri, Some(params))).await?;
    Ok(())
}

/// Takes all rows, each of which it is busy with for so long, and holds one batch at a time.
async fn drained(mut stream: SendableRecordBatchStream, pause: Duration) -> Result<usize> {
    let mut rows = 0;
    while let Some(batch) = stream.try_next().await? {
        rows += batch.num_rows();
        if !pause.is_zero() {
            tokio::time::sleep(pause.mul_f64(batch.num_rows() as f64)).await;
        }
    }
    Ok(rows)
}

/// Waits until nothing is held of what was read before, and tells if that does not come.
async fn settle(bucket: &Bucket, whose: &str) {
    for _ in 0..2_000 {
        if bucket.bytes_held() <= CACHED {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    note(&format!("of {whose} earlier scans {} bytes are still held", bucket.bytes_held()));
}

/// The rows as a set: how many, and the sum of what their keys and vectors come down to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Checksum {
    rows: usize,
    sum: u64,
}

impl Checksum {
    async fn of(mut stream: SendableRecordBatchStream) -> Result<Self> {
        let mut found = Self::default();
        while let Some(batch) = stream.try_next().await? {
            found.add(&batch)?;
        }
        Ok(found)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("there is no column {name}"));
        let ids = column(KEY)?.as_primitive_opt::<Int64Type>().ok_or("keys are numbers")?;
        let vectors = column("vector")?.as_fixed_size_list_opt().ok_or("vectors are lists")?;
        let values = vectors.values().as_primitive_opt::<Float32Type>().ok_or("vectors are of floats")?;
        let width = usize::try_from(vectors.value_length())?;
        for (id, vector) in ids.values().iter().zip(values.values().chunks_exact(width)) {
            let add = |sum: u64, value: &f32| sum.wrapping_mul(31).wrapping_add(u64::from(value.to_bits()));
            self.sum = self.sum.wrapping_add(vector.iter().fold(*id as u64, add));
        }
        self.rows += batch.num_rows();
        Ok(())
    }
}

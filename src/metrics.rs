//! What a table tells a recorder of figures that its embedder brings: how long its work takes, and how much there was.
//!
//! What is told as it happens is registered when a table is opened, so that telling it allocates nothing. What can be
//! looked up at any time is told when somebody asks for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use parking_lot::Mutex;

/// The label of all figures: where their table is.
const TABLE: &str = "table";
const METADATA: Metadata<'static> = Metadata::new("datafusion_lsm", Level::INFO, None);

/// Who is told figures: a recorder of the `metrics` crate, for which there are exporters. By default the one that the
/// process has when a table is opened (`metrics::set_global_recorder`); without one nobody.
#[derive(Clone, Default)]
pub struct MetricsRecorder(Option<Arc<dyn Recorder + Send + Sync>>);

impl MetricsRecorder {
    /// Tells `recorder`, whatever recorder the process has. An `Arc` of one is one, too.
    pub fn new(recorder: impl Recorder + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(recorder)))
    }

    fn with<T>(&self, tell: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.0 {
            Some(recorder) => tell(recorder.as_ref()),
            None => metrics::with_recorder(tell),
        }
    }
}

impl fmt::Debug for MetricsRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "MetricsRecorder(own)" } else { "MetricsRecorder(of the process)" })
    }
}

/// What a figure that is looked up is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// How much there is now.
    Now,
    /// How often something happened, or how much of it, since the table was opened.
    OfTable,
    /// The same, since the process knows what several tables share.
    OfProcess,
}

/// The figures of one table.
pub struct TableMetrics {
    recorder: MetricsRecorder,
    table: Label,
    open: Histogram,
    claim: Histogram,
    statement: Histogram,
    statement_failures: Counter,
    wal: Histogram,
    wal_rows: Counter,
    wal_bytes: Counter,
    freeze: Histogram,
    flush: Histogram,
    flush_rows: Counter,
    flush_failures: Counter,
    /// Figures of this table as they were told last. A recorder may have counted another handle of the table before.
    told: Mutex<HashMap<&'static str, u64>>,
}

impl TableMetrics {
    /// What is told as it happens.
    pub const NAMES: &'static [&'static str] = &[
        "lsm.open.duration",
        "lsm.claim.duration",
        "lsm.statement.duration",
        "lsm.statement.failures",
        "lsm.wal.duration",
        "lsm.wal.rows",
        "lsm.wal.bytes",
        "lsm.freeze.duration",
        "lsm.flush.duration",
        "lsm.flush.rows",
        "lsm.flush.failures",
    ];

    /// Figures of the table at `uri` for `recorder`.
    pub fn new(recorder: &MetricsRecorder, uri: &str) -> Self {
        let table = Label::new(TABLE, uri.to_string());
        let key = |name: &'static str| Key::from_parts(name, vec![table.clone()]);
        let duration = |name: &'static str, what: &'static str| {
            recorder.with(|recorder| {
                recorder.describe_histogram(KeyName::from_const_str(name), Some(Unit::Seconds), what.into());
                recorder.register_histogram(&key(name), &METADATA)
            })
        };
        let count = |name: &'static str, unit: Unit, what: &'static str| {
            recorder.with(|recorder| {
                recorder.describe_counter(KeyName::from_const_str(name), Some(unit), what.into());
                recorder.register_counter(&key(name), &METADATA)
            })
        };
        Self {
            open: duration("lsm.open.duration", "Opening the table."),
            claim: duration("lsm.claim.duration", "Claiming a shard, with the replay of its WAL."),
            statement: duration("lsm.statement.duration", "Statements, from their beginning to their acknowledgement."),
            statement_failures: count("lsm.statement.failures", Unit::Count, "Statements that failed."),
            wal: duration("lsm.wal.duration", "WAL writes, until they were durable."),
            wal_rows: count("lsm.wal.rows", Unit::Count, "Rows of WAL writes."),
            wal_bytes: count("lsm.wal.bytes", Unit::Bytes, "Bytes of WAL writes."),
            freeze: duration("lsm.freeze.duration", "Freezing a memtable, while its shard stands still."),
            flush: duration("lsm.flush.duration", "Flushes that succeeded, until their rows are a generation."),
            flush_rows: count("lsm.flush.rows", Unit::Count, "Rows of the generations that were flushed."),
            flush_failures: count("lsm.flush.failures", Unit::Count, "Flushes that failed and are tried again."),
            told: Mutex::default(),
            table: table.clone(),
            recorder: recorder.clone(),
        }
    }

    /// The table was opened.
    pub fn opened(&self, took: Duration) {
        self.open.record(took);
    }

    /// A shard was claimed.
    pub fn claimed(&self, took: Duration) {
        self.claim.record(took);
    }

    /// A statement was acknowledged.
    pub fn statement_done(&self, took: Duration) {
        self.statement.record(took);
    }

    /// A statement failed.
    pub fn statement_failed(&self) {
        self.statement_failures.increment(1);
    }

    /// A WAL entry is durable.
    pub fn wal_written(&self, rows: usize, bytes: usize, took: Duration) {
        self.wal.record(took);
        self.wal_rows.increment(rows as u64);
        self.wal_bytes.increment(bytes as u64);
    }

    /// A memtable was frozen.
    pub fn frozen(&self, took: Duration) {
        self.freeze.record(took);
    }

    /// A memtable became a generation of so many rows.
    pub fn flushed(&self, rows: usize, took: Duration) {
        self.flush.record(took);
        self.flush_rows.increment(rows as u64);
    }

    /// A flush failed.
    pub fn flush_failed(&self) {
        self.flush_failures.increment(1);
    }

    /// Tells a figure that was looked up.
    pub fn tell(&self, name: &'static str, value: u64, kind: MetricKind) {
        let key = Key::from_parts(name, vec![self.table.clone()]);
        self.recorder.with(|recorder| match kind {
            MetricKind::Now => recorder.register_gauge(&key, &METADATA).set(value as f64),
            MetricKind::OfTable => recorder.register_counter(&key, &METADATA).increment(self.more(name, value)),
            MetricKind::OfProcess => recorder.register_counter(&key, &METADATA).absolute(value),
        });
    }

    /// What came since it was told last.
    fn more(&self, name: &'static str, value: u64) -> u64 {
        let mut told = self.told.lock();
        let before = told.entry(name).or_default();
        let more = value.saturating_sub(*before);
        *before += more;
        more
    }
}

impl fmt::Debug for TableMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableMetrics").field("recorder", &self.recorder).finish_non_exhaustive()
    }
}

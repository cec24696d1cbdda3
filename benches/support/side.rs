//! Both sides of a table in a bucket, asked alike: how long each answer takes, and how many requests.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::settings::Settings;

use super::Result;
use super::answer::{Values, drain};
use super::measure::timed;
use super::ours::{self, Ours};
use super::peer::{self, Peer, Planners, Sources};
use super::remote::{Bucket, Requests};
use super::rows::KEY;
use super::search::{K, OurSearch, fused};
use super::texts::TextQuery;
use super::tuning::{OurEffort, PeerEffort};

use lance::dataset::mem_wal::scanner::LsmPointLookupPlanner;

/// A kind of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The best texts.
    Text,
    /// The nearest vectors.
    Vector,
    /// Both at once, their ranks fused.
    Hybrid,
    /// One row by its key.
    Point,
    /// The keys of all rows.
    Scan,
    /// All columns of all rows, every value of which is read.
    Values,
}

impl Kind {
    /// What metrics of it begin with.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Vector => "vector",
            Self::Hybrid => "hybrid",
            Self::Point => "point",
            Self::Scan => "scan",
            Self::Values => "scan_values",
        }
    }
}

/// What is asked, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Questions {
    pub(crate) texts: Vec<TextQuery>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) keys: Vec<i64>,
}

impl Questions {
    /// How many there are of a kind.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Text => self.texts.len(),
            Kind::Vector => self.vectors.len(),
            Kind::Hybrid => self.texts.len().min(self.vectors.len()),
            Kind::Point => self.keys.len(),
            Kind::Scan | Kind::Values => 1,
        }
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Texts(Vec<(i64, f64)>),
    Ids(Vec<i64>),
    Row(Option<RecordBatch>),
    Rows(usize),
    Values(Values),
}

/// An answer to one of the questions, how long it took and what it asked the store for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) at: usize,
    pub(crate) answer: Answer,
    pub(crate) time: Duration,
    pub(crate) requests: Requests,
}

/// One side.
pub(crate) trait Side: Sized {
    /// Where its table is.
    fn bucket(&self) -> &Bucket;
    /// The ids and scores of the best texts.
    async fn texts(&self, query: &TextQuery) -> Result<Vec<(i64, f64)>>;
    /// The ids of the rows nearest to `vector`.
    async fn near(&self, vector: &[f32]) -> Result<Vec<i64>>;
    /// The row with this key.
    async fn row(&self, id: i64) -> Result<Option<RecordBatch>>;
    /// The keys of all live rows.
    async fn keys(&self) -> Result<SendableRecordBatchStream>;
    /// All live rows.
    async fn rows(&self) -> Result<SendableRecordBatchStream>;
    /// Ends it; its bucket goes.
    async fn close(self) -> Result<()>;

    /// Asks question `at`.
    async fn ask(&self, kind: Kind, questions: &Questions, at: usize) -> Result<Asked> {
        let before = self.bucket().requests();
        let at = at % questions.count(kind).max(1);
        let answer = Box::pin(async {
            Ok(match kind {
                Kind::Text => Answer::Texts(self.texts(&questions.texts[at]).await?),
                Kind::Vector => Answer::Ids(self.near(&questions.vectors[at]).await?),
                Kind::Hybrid => {
                    let (near, best) =
                        tokio::try_join!(self.near(&questions.vectors[at]), self.texts(&questions.texts[at]))?;
                    let best: Vec<i64> = best.iter().map(|(id, _)| *id).collect();
                    Answer::Ids(fused(&near, &best).into_iter().take(K).map(|(id, _)| id).collect())
                }
                Kind::Point => Answer::Row(self.row(questions.keys[at]).await?),
                Kind::Scan => Answer::Rows(drain(self.keys().await?).await?),
                Kind::Values => Answer::Values(Values::of(self.rows().await?).await?),
            })
        });
        let (time, answer) = timed(answer).await?;
        Ok(Asked { at, answer, time, requests: since(before, self.bucket().requests()) })
    }

    /// Asks all questions of a kind.
    async fn ask_all(&self, kind: Kind, questions: &Questions) -> Result<Vec<Asked>> {
        let mut all = Vec::new();
        for at in 0..questions.count(kind) {
            all.push(self.ask(kind, questions, at).await?);
        }
        Ok(all)
    }
}

/// The requests of some queries.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    queries: usize,
    requests: Requests,
}

impl Tally {
    /// Takes down those of one.
    pub(crate) fn add(&mut self, requests: Requests) {
        self.queries += 1;
        self.requests.gets += requests.gets;
        self.requests.heads += requests.heads;
        self.requests.lists += requests.lists;
    }

    /// How many queries.
    pub(crate) fn queries(&self) -> usize {
        self.queries
    }

    fn each(&self, requests: u64) -> f64 {
        requests as f64 / self.queries.max(1) as f64
    }

    /// The requests of a query.
    pub(crate) fn all(&self) -> f64 {
        self.each(self.requests.all())
    }

    /// The same in words.
    pub(crate) fn told(&self) -> String {
        let Requests { gets, heads, lists } = self.requests;
        let (gets, heads, lists) = (self.each(gets), self.each(heads), self.each(lists));
        format!("{:.1} ({gets:.1} GET, {heads:.1} HEAD, {lists:.1} LIST)", self.all())
    }
}

/// The requests between two counts.
pub(crate) fn since(before: Requests, now: Requests) -> Requests {
    let Requests { gets, heads, lists } = before;
    Requests { gets: now.gets - gets, heads: now.heads - heads, lists: now.lists - lists }
}

/// This crate's table.
pub(crate) struct OurSide {
    pub(crate) ours: Ours,
    bucket: Arc<Bucket>,
}

/// Empties the caches of the process: what they keep of tables that are gone would take the room of those that come.
pub(crate) fn empty_caches() {
    let budget = MemoryBudget::global();
    let mut before = usize::MAX;
    while budget.used() < before {
        before = budget.used();
        budget.reclaim();
    }
}

/// Settings under which nothing but queries reads: nobody else writes the table.
pub(crate) fn settings() -> Settings {
    Settings { base_refresh: None, ..ours::roomy() }
}

impl OurSide {
    /// Opens the table in `bucket`.
    pub(crate) async fn open(bucket: Arc<Bucket>, effort: &OurEffort) -> Result<Self> {
        let mut ours = Ours::open_at(&bucket.uri(), settings()).await?;
        if *effort != OurEffort::default_one() {
            effort.set(&mut ours).await?;
        }
        Ok(Self { ours, bucket })
    }
}

impl Side for OurSide {
    fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    async fn texts(&self, query: &TextQuery) -> Result<Vec<(i64, f64)>> {
        OurSearch::new(&self.ours, None).scores(query).await
    }

    async fn near(&self, vector: &[f32]) -> Result<Vec<i64>> {
        OurSearch::new(&self.ours, None).near(vector).await
    }

    async fn row(&self, id: i64) -> Result<Option<RecordBatch>> {
        Ok(self.ours.table.get(&[ScalarValue::Int64(Some(id))]).await?)
    }

    async fn keys(&self) -> Result<SendableRecordBatchStream> {
        self.ours.keys().await
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.ours.stream().await
    }

    async fn close(self) -> Result<()> {
        self.bucket.set_delay(Duration::ZERO);
        self.ours.table.close().await?;
        self.bucket.remove();
        drop(self);
        empty_caches();
        Ok(())
    }
}

/// Lance's table at its best: planners that are kept.
pub(crate) struct PeerSide {
    pub(crate) peer: Option<Peer>,
    pub(crate) sources: Sources,
    planners: Planners,
    lookup: LsmPointLookupPlanner,
    probes: usize,
    bucket: Arc<Bucket>,
}

impl PeerSide {
    /// Opens the table in `bucket` to read it: nothing is claimed and nothing warmed.
    pub(crate) async fn open(bucket: Arc<Bucket>, effort: PeerEffort) -> Result<Self> {
        let sources = Sources::stored(&bucket.uri()).await?;
        Self::over(None, sources, bucket, effort)
    }

    /// Opens the table in `bucket` to write it, warmed.
    pub(crate) async fn writing(bucket: Arc<Bucket>, effort: PeerEffort) -> Result<Self> {
        let peer = Peer::open_at(&bucket.uri(), peer::roomy()).await?;
        let sources = peer.sources().await?;
        Self::over(Some(peer), sources, bucket, effort)
    }

    fn over(peer: Option<Peer>, sources: Sources, bucket: Arc<Bucket>, effort: PeerEffort) -> Result<Self> {
        let (planners, lookup) = (sources.planners(effort.refine), sources.lookup()?);
        Ok(Self { peer, sources, planners, lookup, probes: effort.probes, bucket })
    }

    /// Searches from now on with this effort what there is now, warmed.
    pub(crate) async fn renew(&mut self, effort: PeerEffort) -> Result<()> {
        if let Some(peer) = &self.peer {
            self.sources = peer.sources().await?;
        }
        (self.planners, self.lookup) = (self.sources.planners(effort.refine), self.sources.lookup()?);
        self.probes = effort.probes;
        Ok(())
    }
}

impl Side for PeerSide {
    fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    async fn texts(&self, query: &TextQuery) -> Result<Vec<(i64, f64)>> {
        self.planners.best(query).await
    }

    async fn near(&self, vector: &[f32]) -> Result<Vec<i64>> {
        self.planners.near(vector, self.probes).await
    }

    async fn row(&self, id: i64) -> Result<Option<RecordBatch>> {
        Ok(self.lookup.lookup(&[ScalarValue::Int64(Some(id))], None).await?)
    }

    async fn keys(&self) -> Result<SendableRecordBatchStream> {
        Ok(self.sources.scanner().project(&[KEY])?.try_into_stream().await?)
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.sources.stream().await
    }

    async fn close(self) -> Result<()> {
        self.bucket.set_delay(Duration::ZERO);
        if let Some(peer) = self.peer {
            peer.abort().await?;
        }
        self.bucket.remove();
        Ok(())
    }
}

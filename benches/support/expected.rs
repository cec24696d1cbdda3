//! What is asked of a table of documents, and what both sides should answer.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{Int64Array, RecordBatch};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::Result;
use super::answer::{Fingerprint, Values, same};
use super::bench::Bench;
use super::documents::{Documents, Live};
use super::rows::KEY;
use super::search::{compare_best, compare_recall, truths};
use super::shape::newest;
use super::side::{Answer, Asked, Kind, OurSide, PeerSide, Questions, Side};
use super::texts::{Class, Corpus, TextQuery};

/// Rows of a batch.
const BATCH: usize = 1_000;

/// What is asked of a table, and what the answers should be.
pub(crate) struct Expected<'a> {
    documents: &'a Documents,
    live: Live,
    corpus: Corpus,
    /// All live rows, made when they are first asked for.
    rows: OnceLock<(Values, Fingerprint)>,
    pub(crate) truth: Vec<Vec<i64>>,
    pub(crate) questions: Questions,
}

/// A question by its place, and an answer of each side.
struct Compared<'a> {
    query: &'a TextQuery,
    ours: &'a Answer,
    peer: &'a Answer,
}

impl AsRef<TextQuery> for Compared<'_> {
    fn as_ref(&self) -> &TextQuery {
        self.query
    }
}

fn texts(answer: &Answer) -> Result<Vec<(i64, f64)>> {
    match answer {
        Answer::Texts(found) => Ok(found.clone()),
        other => Err(format!("not texts: {other:?}").into()),
    }
}

pub(crate) fn ids(answer: &Answer) -> Result<Vec<i64>> {
    match answer {
        Answer::Ids(found) => Ok(found.clone()),
        other => Err(format!("not ids: {other:?}").into()),
    }
}

fn row(answer: &Answer) -> Result<Fingerprint> {
    match answer {
        Answer::Row(found) => Fingerprint::of_batches(found),
        other => Err(format!("not a row: {other:?}").into()),
    }
}

impl<'a> Expected<'a> {
    /// What is asked of the rows of these sources, and what the answers should be.
    pub(crate) fn of(bench: &Bench, documents: &'a Documents, sources: &[Vec<i64>]) -> Self {
        let mut live = Live::new();
        for (id, version) in newest(sources) {
            documents.write(&mut live, &[id], version);
        }
        let texts = Class::Or3.queries(bench.size(20, 3), &[]);
        let vectors = documents.queries(bench.size(40, 10));
        let ids: Vec<i64> = live.keys().copied().collect();
        let keys = ids.choose_multiple(&mut SmallRng::seed_from_u64(29), bench.size(100, 10)).copied().collect();
        let corpus = Corpus::of(documents.texts(&live), &texts);
        let truth = truths(&live, &vectors, None);
        let questions = Questions { texts, vectors, keys };
        Self { documents, live, corpus, rows: OnceLock::new(), truth, questions }
    }

    /// Fails unless these are right, of the nearest rows `least`. A hybrid answer is no more than its two parts, which
    /// are looked at.
    pub(crate) async fn check(
        &self,
        (metric, least): (&str, f64),
        kind: Kind,
        asked: (&[Asked], &[Asked]),
    ) -> Result<()> {
        let both = || asked.0.iter().zip(asked.1);
        match kind {
            Kind::Hybrid => {}
            Kind::Text => {
                let compared = |(ours, peer): (&Asked, &Asked)| (ours.at, ours.answer.clone(), peer.answer.clone());
                let all: Vec<(usize, Answer, Answer)> = both().map(compared).collect();
                let all: Vec<Compared<'_>> = all
                    .iter()
                    .map(|(at, ours, peer)| Compared { query: &self.questions.texts[*at], ours, peer })
                    .collect();
                let (ours, peer) = (async |q: &Compared<'_>| texts(q.ours), async |q: &Compared<'_>| texts(q.peer));
                compare_best(metric, &self.corpus, (&all, None), ours, peer).await?;
            }
            Kind::Vector => {
                let truth: Vec<Vec<i64>> = asked.0.iter().map(|asked| self.truth[asked.at].clone()).collect();
                let all: Vec<(&Answer, &Answer)> = both().map(|(ours, peer)| (&ours.answer, &peer.answer)).collect();
                let (ours, peer) = (async |q: &(&Answer, &Answer)| ids(q.0), async |q: &(&Answer, &Answer)| ids(q.1));
                compare_recall((metric, least), &truth, &all, ours, peer).await?;
            }
            Kind::Point => {
                for (ours, peer) in both() {
                    let expected = Fingerprint::of_batches([&self.row(self.questions.keys[ours.at])?])?;
                    same(&format!("{metric}, ours and what was written"), row(&ours.answer)?, expected)?;
                    same(&format!("{metric}, Lance and what was written"), expected, row(&peer.answer)?)?;
                }
            }
            Kind::Scan => {
                for asked in asked.0.iter().chain(asked.1) {
                    if !matches!(asked.answer, Answer::Rows(rows) if rows == self.live.len()) {
                        return Err(format!("{metric}: {:?} of {}", asked.answer, self.live.len()).into());
                    }
                }
            }
            Kind::Values => {
                let (expected, _) = self.rows()?;
                for asked in asked.0.iter().chain(asked.1) {
                    if !matches!(asked.answer, Answer::Values(values) if values == expected) {
                        return Err(format!("{metric}: {:?}, written were {expected:?}", asked.answer).into());
                    }
                }
            }
        }
        Ok(())
    }

    fn row(&self, id: i64) -> Result<RecordBatch> {
        let (version, _) = self.live.get(&id).ok_or("a key is asked for that is there")?;
        self.documents.rows(&[id], *version)
    }

    /// What all columns of all live rows come down to.
    fn rows(&self) -> Result<(Values, Fingerprint)> {
        if let Some(rows) = self.rows.get() {
            return Ok(*rows);
        }
        let (mut versions, mut batches) = (BTreeMap::<u64, Vec<i64>>::new(), Vec::new());
        for (id, (version, _)) in &self.live {
            versions.entry(*version).or_default().push(*id);
        }
        for (version, ids) in versions {
            batches.extend(self.documents.batches(&ids, version, BATCH)?);
        }
        let mut values = Values::default();
        for batch in &batches {
            values.add(batch)?;
        }
        let rows = (values, Fingerprint::of_batches(&batches)?);
        Ok(*self.rows.get_or_init(|| rows))
    }

    /// Fails unless scans of both sides give all columns of all live rows.
    pub(crate) async fn check_rows(&self, ours: &OurSide, peer: &PeerSide) -> Result<()> {
        let (_, expected) = self.rows()?;
        same("all columns, ours and what was written", Fingerprint::of(ours.rows().await?).await?, expected)?;
        same("all columns, Lance and what was written", expected, Fingerprint::of(peer.rows().await?).await?)
    }

    /// Fails unless a scan of both sides gives the keys of all live rows.
    pub(crate) async fn check_scan(&self, ours: &OurSide, peer: &PeerSide) -> Result<()> {
        let ids: Vec<i64> = self.live.keys().copied().collect();
        let mut expected = Vec::new();
        for ids in ids.chunks(BATCH) {
            let column = Arc::new(Int64Array::from(ids.to_vec()));
            expected.push(RecordBatch::try_from_iter([(KEY, column as _)])?);
        }
        let expected = Fingerprint::of_batches(&expected)?;
        same("scan, ours and what was written", Fingerprint::of(ours.keys().await?).await?, expected)?;
        same("scan, Lance and what was written", expected, Fingerprint::of(peer.keys().await?).await?)
    }
}

//! The cheapest settings with which each side finds enough of the nearest vectors.

use std::time::Duration;

use super::Result;
use super::measure::timed;
use super::ours::Ours;
use super::peer::Sources;
use super::report::note;
use super::search::{OurSearch, RECALL};
use super::vectors::recall;

/// Candidates that are compared exactly for each row asked for.
pub(crate) const REFINE: [u32; 3] = [2, 5, 10];

/// The fastest of some settings that find enough, or else the one that finds most.
struct Cheapest<S> {
    best: Option<(f64, Duration, S)>,
}

impl<S> Cheapest<S> {
    /// Tries a setting: what `search` finds the second time.
    async fn attempt(
        &mut self,
        truth: &[Vec<i64>],
        setting: S,
        search: impl AsyncFn(&S) -> Result<Vec<Vec<i64>>>,
    ) -> Result<()> {
        search(&setting).await?;
        let (time, found) = timed(search(&setting)).await?;
        let share = recall(truth, &found).min(RECALL);
        if self.best.as_ref().is_none_or(|(most, least, _)| share > *most || (share == *most && time < *least)) {
            self.best = Some((share, time, setting));
        }
        Ok(())
    }

    /// Whether one found enough: who looks into more partitions is no faster.
    fn is_enough(&self) -> bool {
        self.best.as_ref().is_some_and(|(share, ..)| *share >= RECALL)
    }

    fn found(self) -> Result<S> {
        Ok(self.best.ok_or("there are settings")?.2)
    }
}

/// How thoroughly the peer searches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PeerEffort {
    /// How many partitions of the base it looks into.
    pub(crate) probes: usize,
    /// How many candidates it compares exactly for each row it asks a source for.
    pub(crate) refine: Option<u32>,
}

/// How thoroughly ours searches, as options are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OurEffort {
    pub(crate) probes: String,
    pub(crate) refine: String,
}

impl OurEffort {
    /// What is searched unless it is said.
    pub(crate) fn default_one() -> Self {
        Self { probes: "default".to_string(), refine: "default".to_string() }
    }

    /// Searches so from now on.
    pub(crate) async fn set(&self, ours: &mut Ours) -> Result<()> {
        ours.set_effort(&self.probes, &self.refine).await
    }
}

/// The peer's cheapest.
pub(crate) async fn peer_effort(
    sources: &Sources,
    (queries, truth): (&[Vec<f32>], &[Vec<i64>]),
    probes: &[usize],
    refines: &[Option<u32>],
) -> Result<PeerEffort> {
    let mut cheapest = Cheapest { best: None };
    for &probes in probes {
        for &refine in refines {
            let planners = sources.planners(refine);
            let search = async |effort: &PeerEffort| {
                let mut found = Vec::new();
                for query in queries {
                    found.push(planners.near(query, effort.probes).await?);
                }
                Ok(found)
            };
            cheapest.attempt(truth, PeerEffort { probes, refine }, search).await?;
        }
        if cheapest.is_enough() {
            break;
        }
    }
    let effort = cheapest.found()?;
    let refine = effort.refine.map_or_else(|| "none".to_string(), |refine| refine.to_string());
    note(&format!("the peer's setting: nprobes {}, refine {refine}", effort.probes));
    Ok(effort)
}

/// Our cheapest, which is set then.
pub(crate) async fn our_effort(
    ours: &mut Ours,
    (queries, truth): (&[Vec<f32>], &[Vec<i64>]),
    probes: &[usize],
) -> Result<OurEffort> {
    let all = async |ours: &Ours| -> Result<Vec<Vec<i64>>> {
        let (search, mut found) = (OurSearch::new(ours, None), Vec::new());
        for query in queries {
            found.push(search.near(query).await?);
        }
        Ok(found)
    };
    note(&format!("our recall at the defaults: {:.3}", recall(truth, &all(ours).await?)));
    let mut cheapest = Cheapest { best: None };
    let default = OurEffort::default_one();
    for probes in probes.iter().map(usize::to_string) {
        for refine in REFINE.iter().map(u32::to_string).chain([default.refine.clone()]) {
            let effort = OurEffort { probes: probes.clone(), refine };
            effort.set(ours).await?;
            cheapest.attempt(truth, effort, async |_| all(ours).await).await?;
        }
        if cheapest.is_enough() {
            break;
        }
    }
    default.set(ours).await?;
    cheapest.attempt(truth, default, async |_| all(ours).await).await?;
    let effort = cheapest.found()?;
    note(&format!("our setting: nprobes {}, refine {}", effort.probes, effort.refine));
    effort.set(ours).await?;
    Ok(effort)
}

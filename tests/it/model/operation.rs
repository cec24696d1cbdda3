//! What a run may do next.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// One operation; its arguments are drawn when it is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    PutSeveral,
    Delete,
    Update,
    UpdateStale,
    DeleteStale,
    InsertOrFail,
    InsertIgnore,
    Cancel,
    Get,
    GetMany,
    Scan,
    Filter,
    FilterKeys,
    Limit,
    Aggregate,
    Project,
    Count,
    Nearest,
    Matches,
    Scores,
    TakeSnapshot,
    ReadSnapshot,
    Flush,
    Refresh,
    Reader,
    Reopen,
    Crash,
    Takeover,
    Replace,
}

use Operation::*;

/// How often each comes, relative to the others.
const WEIGHTS: &[(Operation, u32)] = &[
    (Put, 160),
    (PutSeveral, 30),
    (Delete, 60),
    (Update, 50),
    (UpdateStale, 25),
    (DeleteStale, 15),
    (InsertOrFail, 25),
    (InsertIgnore, 25),
    (Cancel, 10),
    (Get, 140),
    (GetMany, 60),
    (Scan, 60),
    (Filter, 70),
    (FilterKeys, 60),
    (Limit, 20),
    (Aggregate, 40),
    (Project, 20),
    (Count, 30),
    (Nearest, 36),
    (Matches, 18),
    (Scores, 36),
    (TakeSnapshot, 25),
    (ReadSnapshot, 40),
    (Flush, 12),
    (Refresh, 6),
    (Reader, 8),
    (Reopen, 6),
    (Crash, 10),
    (Takeover, 4),
    (Replace, 4),
];

impl Operation {
    /// The next operation; searches only if there is something to `search`.
    pub(super) fn random(random: &mut StdRng, search: bool) -> Self {
        let weight = |operation: Self, weight: u32| if operation.searches() && !search { 0 } else { weight };
        WEIGHTS.choose_weighted(random, |(operation, n)| weight(*operation, *n)).unwrap().0
    }

    fn searches(self) -> bool {
        matches!(self, Nearest | Matches | Scores)
    }
}

/// Between one and `most`, small ones more often.
pub(super) fn size(random: &mut StdRng, most: usize) -> usize {
    let most = random.random_range(1..=most);
    random.random_range(1..=most)
}

//! Moving a damaged entry and all later ones aside.
//!
//! The highest slot is moved first: stopped in the middle, the damaged entry is still where it was and the next attempt
//! goes on. Sentinels stay: they have no rows, and without them the writers they fence would fill slots again that
//! nobody reads. The caller puts sentinels into the slots that became free.

use bytes::Bytes;

use crate::error::Result;
use crate::ids::{ShardId, WalPosition};
use crate::store::{ObjectIo, TablePaths};
use crate::task::blocking;

use super::entry::{decode, read_stream};
use super::frames::stream_length;

/// What was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineReport {
    /// How many entries.
    pub entries: usize,
    /// How many rows they hold; `None` if some cannot be counted.
    pub rows: Option<usize>,
    /// Where they are, relative to the table directory; their names are unchanged.
    pub dir: String,
    /// The next free slot: behind all that are or were taken, now or before an attempt that was stopped.
    pub next: WalPosition,
}

/// The highest slot that is taken or was when it was quarantined; 0 if there is none.
///
/// # Errors
/// `Unavailable` or `Invalid`.
pub async fn last(io: &ObjectIo, shard: ShardId) -> Result<WalPosition> {
    let mut last = highest(&io.list(&TablePaths::wal_dir(shard)).await?);
    let quarantines = TablePaths::quarantines(shard);
    for name in io.list_dirs(&quarantines).await? {
        last = last.max(highest(&io.list(&format!("{quarantines}/{name}")).await?));
    }
    Ok(last)
}

fn highest(names: &[String]) -> WalPosition {
    names.iter().filter_map(|name| TablePaths::parse_wal_entry(name)).max().unwrap_or_default()
}

/// Moves the entry at `from` and all later ones but sentinels aside. Only the holder of the shard may do so.
///
/// # Errors
/// `Unavailable` or `Invalid`; do it again.
pub async fn quarantine(io: &ObjectIo, shard: ShardId, from: WalPosition) -> Result<QuarantineReport> {
    let next = last(io, shard).await?.max(WalPosition(from.0.saturating_sub(1))).next();
    let names = io.list(&TablePaths::wal_dir(shard)).await?;
    let mut positions: Vec<_> =
        names.iter().filter_map(|name| TablePaths::parse_wal_entry(name)).filter(|p| *p >= from).collect();
    positions.sort_unstable();
    let dir = TablePaths::new_quarantine_dir(shard);
    let mut entries = 0;
    let mut rows = Some(0);
    for position in positions.iter().rev() {
        let path = TablePaths::wal_entry(shard, *position);
        let Some(bytes) = io.get(&path).await? else { continue };
        if decode(*position, bytes.clone(), &path).is_ok_and(|entry| entry.sentinel) {
            continue;
        }
        rows = rows.zip(count_rows(bytes).await?).map(|(rows, more)| rows + more);
        io.rename(&path, &format!("{dir}/{}", TablePaths::wal_entry_name(*position))).await?;
        entries += 1;
    }
    tracing::warn!(%shard, %from, entries, ?rows, dir, "WAL entries were moved aside");
    Ok(QuarantineReport { entries, rows, dir, next })
}

/// How many rows an entry has, as far as its bytes tell, whole or not.
async fn count_rows(bytes: Bytes) -> Result<Option<usize>> {
    blocking(move || {
        let Ok(length) = stream_length(&bytes) else { return Ok(None) };
        let count =
            || read_stream(bytes.slice(..length)).map(|(_, batches)| batches.iter().map(|b| b.num_rows()).sum());
        Ok(std::panic::catch_unwind(count).ok().and_then(Result::ok))
    })
    .await
}

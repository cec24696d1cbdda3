//! Index maintenance: one task an index and shard, off the write lock.
//!
//! Rows become visible when every index has them. An index that fails or panics is given up for its memtable: its rows
//! stay, and searches pass over them flat.

use std::sync::Arc;

use super::shard::ShardWriter;
use crate::error::Result;
use crate::memtable::MemTable;
use crate::task::{self, Stop};

impl ShardWriter {
    /// Keeps index `which` of every memtable up to date until `stop`.
    pub async fn run_index(self: Arc<Self>, which: usize, mut stop: Stop) {
        loop {
            let woken = self.index_wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let memtables: Vec<Arc<MemTable>> =
                self.core.lock().slots.iter().map(|s| Arc::clone(&s.memtable)).collect();
            let mut progress = false;
            for memtable in &memtables {
                progress |= catch_up(memtable, which).await;
            }
            if progress {
                self.context.publisher.publish();
                self.context.room.notify_waiters();
                continue;
            }
            if stop.is_set() {
                return;
            }
            tokio::select! {
                () = woken => {}
                () = stop.wait() => {}
            }
        }
    }
}

/// Indexes what was appended since; whether there was anything.
async fn catch_up(memtable: &Arc<MemTable>, which: usize) -> bool {
    let state = &memtable.indexes()[which];
    let (from, to) = (state.indexed(), memtable.rows());
    let Some(index) = state.index().filter(|_| from < to) else { return false };
    let (index, table) = (Arc::clone(index), Arc::clone(memtable));
    let appended: Result<()> = task::blocking(move || {
        table.rows_between(from, to).into_iter().try_for_each(|(start, rows)| index.append(start, &rows))
    })
    .await;
    match appended {
        Ok(()) => {
            state.advance(to);
            memtable.charge();
        }
        Err(error) => {
            tracing::error!(index = state.name(), generation = %memtable.generation(), %error, "an index was given up");
            state.give_up(error.with_context("index", state.name()));
        }
    }
    true
}

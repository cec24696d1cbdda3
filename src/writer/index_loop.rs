//! Index maintenance: one task a shard, off the write lock; the indexes go on beside each other.
//!
//! Rows become visible when every index has them that they wait for. An index that is new to a memtable catches up
//! first, and nobody waits for it; with `lsm.index.sync` off nobody ever does. One that fails or panics is given up for
//! its memtable: its rows stay, and searches pass over them flat.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::shard::ShardWriter;
use crate::error::Result;
use crate::memtable::{IndexState, MemTable};
use crate::task::{self, Stop};

/// Rows after which searches may use what was indexed.
const STEP: usize = 16_384;

impl ShardWriter {
    /// Keeps the indexes of every memtable up to date until `stop`.
    pub async fn run_indexes(self: Arc<Self>, mut stop: Stop) {
        let mut working = FuturesUnordered::new();
        let mut busy: HashSet<String> = HashSet::new();
        loop {
            let woken = self.index_wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            for name in self.behind() {
                if busy.insert(name.clone()) {
                    working.push(self.index_rows(name));
                }
            }
            if stop.is_set() && working.is_empty() {
                return;
            }
            tokio::select! {
                Some(name) = working.next() => {
                    busy.remove(&name);
                }
                () = woken => {}
                () = stop.wait(), if !stop.is_set() => {}
            }
        }
    }

    fn memtables(&self) -> Vec<Arc<MemTable>> {
        self.core.lock().slots.iter().map(|s| Arc::clone(&s.memtable)).collect()
    }

    /// The names of indexes that rows wait for being put into.
    fn behind(&self) -> HashSet<String> {
        let names = self.memtables().into_iter().flat_map(|memtable| {
            let rows = memtable.rows();
            let indexes = memtable.indexes();
            let behind = indexes.iter().filter(|state| state.index().is_some() && state.indexed() < rows);
            behind.map(|state| state.name().to_string()).collect::<Vec<_>>()
        });
        names.collect()
    }

    /// Brings the index `name` of every memtable up to date, and returns its name.
    async fn index_rows(&self, name: String) -> String {
        loop {
            let mut progress = false;
            for memtable in self.memtables() {
                let state = memtable.indexes().iter().find(|state| state.name() == name).cloned();
                if let Some(state) = state {
                    progress |= step(&memtable, &state, self.context.indexes.is_sync()).await;
                }
            }
            if !progress {
                return name;
            }
            self.context.publisher.publish();
            self.context.room.notify_waiters();
        }
    }
}

/// Indexes what was appended since, or the first part of it; whether there was anything.
async fn step(memtable: &Arc<MemTable>, state: &Arc<IndexState>, sync: bool) -> bool {
    let (from, rows) = (state.indexed(), memtable.rows());
    let Some(index) = state.index().filter(|_| from < rows) else { return false };
    let to = rows.min(from + STEP);
    let (index, table) = (Arc::clone(index), Arc::clone(memtable));
    let appended: Result<()> = task::blocking(move || {
        table.rows_between(from, to).into_iter().try_for_each(|(start, rows)| index.append(start, &rows))
    })
    .await;
    match appended {
        Ok(()) => {
            if sync && to >= memtable.rows() {
                state.set_awaited();
            }
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

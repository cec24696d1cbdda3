//! Index maintenance: one task a shard, off the write lock; the indexes go on beside each other.
//!
//! Rows become visible when every index has them that they wait for. An index that is new to a memtable catches up
//! first, and nobody waits for it; with `lsm.index.sync` off nobody ever does. One that fails or panics is given up for
//! its memtable: its rows stay, and searches pass over them flat. An index that has all rows of a frozen memtable gives
//! back what only appending needed.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::shard::ShardWriter;
use crate::error::Result;
use crate::memtable::{IndexState, MemTable, RowIndexFactory};
use crate::task::{self, Stop};

/// Rows after which searches may use what was indexed.
const STEP: usize = 16_384;

type Factory = Arc<dyn RowIndexFactory>;

impl ShardWriter {
    /// Keeps the indexes of every memtable up to date until `stop`.
    pub async fn run_indexes(self: Arc<Self>, mut stop: Stop) {
        let mut working = FuturesUnordered::new();
        let mut busy: Vec<Factory> = Vec::new();
        loop {
            let woken = self.index_wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            for index in self.behind() {
                if !busy.iter().any(|other| Arc::ptr_eq(other, &index)) {
                    busy.push(Arc::clone(&index));
                    working.push(self.index_rows(index));
                }
            }
            if stop.is_set() && working.is_empty() {
                return;
            }
            tokio::select! {
                Some(done) = working.next() => busy.retain(|index| !Arc::ptr_eq(index, &done)),
                () = woken => {}
                () = stop.wait(), if !stop.is_set() => {}
            }
        }
    }

    fn memtables(&self) -> Vec<Arc<MemTable>> {
        self.core.lock().slots.iter().map(|s| Arc::clone(&s.memtable)).collect()
    }

    /// The indexes that rows wait for being put into, and those that have all rows there will be, by what makes them; those
    /// of several memtables several times.
    fn behind(&self) -> Vec<Factory> {
        let all = self.memtables().into_iter().flat_map(|memtable| {
            let indexes = memtable.indexes();
            let behind = indexes.iter().filter(|state| Work::of(&memtable, state).is_some());
            behind.map(|state| Arc::clone(state.factory())).collect::<Vec<_>>()
        });
        all.collect()
    }

    /// Brings the index that `factory` makes up to date in every memtable, and returns it.
    async fn index_rows(&self, factory: Factory) -> Factory {
        loop {
            let mut progress = false;
            for memtable in self.memtables() {
                let state = memtable.indexes().iter().find(|state| state.is_of(&factory)).cloned();
                if let Some(state) = state {
                    progress |= step(&memtable, &state, self.context.indexes.is_sync()).await;
                }
            }
            if !progress {
                return factory;
            }
            self.context.publisher.publish();
            self.context.room.notify_waiters();
        }
    }
}

/// What is to be done for an index of a memtable.
enum Work {
    /// To put these rows into it.
    Append(usize, usize),
    /// To tell it that it has all.
    Freeze,
}

impl Work {
    fn of(memtable: &MemTable, state: &IndexState) -> Option<Self> {
        state.index()?;
        // Asked before the rows are counted, which then are all.
        let is_frozen = memtable.is_frozen();
        let (from, rows) = (state.indexed(), memtable.rows());
        match from < rows {
            true => Some(Self::Append(from, rows.min(from + STEP))),
            false => (is_frozen && !state.is_frozen()).then_some(Self::Freeze),
        }
    }
}

/// Does what is to be done for an index, or the first part of it; whether there was anything.
async fn step(memtable: &Arc<MemTable>, state: &Arc<IndexState>, sync: bool) -> bool {
    let (Some(work), Some(index)) = (Work::of(memtable, state), state.index()) else { return false };
    let (index, table, frozen) = (Arc::clone(index), Arc::clone(memtable), Arc::clone(state));
    let done: Result<()> = match work {
        Work::Append(from, to) => {
            let append =
                move || table.rows_between(from, to).into_iter().try_for_each(|(at, rows)| index.append(at, &rows));
            task::blocking(append).await.map(|()| {
                if sync && to >= memtable.rows() {
                    state.set_awaited();
                }
                state.advance(to);
            })
        }
        Work::Freeze => {
            task::blocking(move || {
                frozen.freeze();
                Ok(())
            })
            .await
        }
    };
    match done {
        Ok(()) => memtable.charge(),
        Err(error) => {
            tracing::error!(index = state.name(), generation = %memtable.generation(), %error, "an index was given up");
            state.give_up(error.with_context("index", state.name()));
        }
    }
    true
}

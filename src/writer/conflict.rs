//! First writer wins: whether somebody wrote a key after the snapshot a statement decided on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::key::Keys;
use crate::memtable::MemTable;
use crate::version::{Snapshot, Version};

/// What must hold, key by key, when a write is appended.
#[derive(Debug, Clone)]
pub enum Check {
    /// Nothing: the last writer wins.
    None,
    /// Nobody wrote the key after this snapshot.
    Unchanged(Arc<Snapshot>),
}

impl Check {
    pub(super) fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        match self {
            Self::None => None,
            Self::Unchanged(snapshot) => Some(snapshot),
        }
    }
}

/// Fails if one of `keys` was written to shard `index` after `snapshot`; `memtables` are all the shard has now.
///
/// Newer than the snapshot are the rows of its own memtables from their watermarks on (it holds them, flushed or not),
/// and whatever is in memtables and generations that it does not know. It may know a memtable as a generation before
/// the shard has let go of it.
pub(super) fn check_unchanged<'a>(
    snapshot: &Snapshot,
    now: &Version,
    index: usize,
    keys: &Keys,
    memtables: impl Iterator<Item = &'a Arc<MemTable>>,
) -> Result<()> {
    if now.shards[index].foreign_changes != snapshot.version().shards[index].foreign_changes {
        return Err(Error::conflict(
            "another process wrote to the table after the statement had read it: run it again",
        ));
    }
    let known = snapshot.memtables(index);
    let newest = known[0].generation();
    let flushed = &snapshot.version().shards[index].generations;
    let mut unseen: Vec<(&Arc<MemTable>, usize)> = memtables
        .filter(|m| m.rows() > 0 && known.iter().all(|v| v.table().instance() != m.instance()))
        .filter(|m| flushed.iter().all(|g| g.id() != m.generation()))
        .map(|m| (m, 0))
        .collect();
    unseen.extend(known.iter().filter(|v| v.watermark() < v.table().rows()).map(|v| (v.table(), v.watermark())));
    let generations: Vec<_> = now.shards[index].generations.iter().filter(|g| g.id() > newest).collect();
    if unseen.is_empty() && generations.is_empty() {
        return Ok(());
    }
    for key in keys.iter() {
        let hash = key.hash();
        let in_memory = |(memtable, seen): &(&Arc<MemTable>, usize)| {
            memtable.find(key, hash, usize::MAX).is_some_and(|(row, _)| row >= *seen)
        };
        if unseen.iter().any(in_memory) || generations.iter().any(|g| g.keys().get(key, hash).is_some()) {
            return Err(Error::conflict(
                "a row was changed by another statement after this one had read it: run the statement again",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::base::{BaseTable, CreateSpec};
    use crate::block_list::BlockLists;
    use crate::cache::MemoryBudget;
    use crate::dataset::DatasetOpener;
    use crate::error::ErrorKind;
    use crate::generation::{self, Generation};
    use crate::ids::GenerationId;
    use crate::memtable::MemTableView;
    use crate::schema::TableSchema;
    use crate::store::StoreOptions;
    use crate::store::testing::local;
    use crate::version::{ShardVersion, VersionControl};

    fn memtable(schema: &Arc<TableSchema>, generation: u64) -> Arc<MemTable> {
        let lease = MemoryBudget::new(1 << 20).lease();
        Arc::new(MemTable::new(GenerationId(generation), Arc::clone(schema), Duration::ZERO, lease))
    }

    /// Appends a key and makes it visible.
    fn append(memtable: &MemTable, id: i64) -> Keys {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
        let rows = memtable.schema().to_stored(&RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap();
        let keys = memtable.schema().key().of_batch(&rows).unwrap();
        memtable.publish(memtable.append(rows, &keys, 8));
        keys
    }

    #[tokio::test]
    async fn a_memtable_that_a_snapshot_knows_as_a_generation_is_no_change() {
        let (_dir, io, _) = local().await;
        let opener = DatasetOpener::new(StoreOptions::default(), MemoryBudget::global());
        let spec = CreateSpec {
            schema: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
            key: vec!["id".into()],
            shards: 1,
            shard_column: None,
            indexes: Vec::new(),
            defaults: HashMap::new(),
        };
        let base = BaseTable::create(&opener, &io, &spec).await.unwrap();
        let (schema, shard) = (Arc::clone(base.schema()), base.sharding().shards[0]);
        let (flushed, active) = (memtable(&schema, 1), memtable(&schema, 2));
        let key = append(&flushed, 7);
        let rows = MemTableView::new(Arc::clone(&flushed), 1).newest_rows().collect::<Result<Vec<_>>>().unwrap();
        let id = GenerationId(1);
        let record = generation::write(&opener, &io, shard, id, rows, &schema, base.layout()).await.unwrap();
        let generations = vec![Generation::open(&opener, io.uri(), shard, &record, &schema).await.unwrap()];
        let only = ShardVersion {
            shard,
            active: Arc::clone(&active),
            frozen: Vec::new(),
            generations,
            foreign_changes: 0,
            damage: None,
        };
        let version = Version { base, shards: vec![only], replacements: 0 };
        let control = VersionControl::new(version, Arc::new(BlockLists::new(1 << 20)));

        // The flusher has published the generation and not told the shard yet.
        let snapshot = control.snapshot();
        let check = || check_unchanged(&snapshot, &control.current(), 0, &key, [&flushed, &active].into_iter());
        check().unwrap();
        append(&active, 8);
        check().unwrap();
        append(&active, 7);
        assert_eq!(check().unwrap_err().kind(), ErrorKind::Conflict);
    }
}

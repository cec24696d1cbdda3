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
///
/// This runs under the shard's lock and loads nothing. The keys of what this process flushes are in memory before it is
/// published. Of a generation whose keys are not, one of another process, a key that its filter does not exclude counts
/// as changed: the statement is run again on a snapshot that knows the generation, and nothing is asked of it then.
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
        if unseen.iter().any(in_memory) || generations.iter().any(|g| g.may_hold(key, hash)) {
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
    use crate::generation::{self, Generation, GenerationRecord};
    use crate::ids::GenerationId;
    use crate::memtable::MemTableView;
    use crate::schema::TableSchema;
    use crate::store::testing::{local, remote};
    use crate::store::{ObjectIo, StoreOptions};
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

    async fn base(opener: &DatasetOpener, io: &ObjectIo) -> Arc<BaseTable> {
        let spec = CreateSpec {
            schema: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
            key: vec!["id".into()],
            shards: 1,
            shard_column: None,
            indexes: Vec::new(),
            defaults: HashMap::new(),
        };
        BaseTable::create(opener, io, &spec).await.unwrap()
    }

    /// A table of one shard.
    fn version(base: &Arc<BaseTable>, active: &Arc<MemTable>, generations: Vec<Arc<Generation>>) -> Version {
        let only = ShardVersion {
            shard: base.sharding().shards[0],
            active: Arc::clone(active),
            frozen: Vec::new(),
            generations,
            foreign_changes: 0,
            damage: None,
        };
        Version { base: Arc::clone(base), shards: vec![only], replacements: 0 }
    }

    /// Writes the rows of a memtable as a generation.
    async fn flush(
        opener: &DatasetOpener,
        io: &ObjectIo,
        base: &BaseTable,
        memtable: &Arc<MemTable>,
    ) -> GenerationRecord {
        let view = MemTableView::new(Arc::clone(memtable), memtable.rows());
        let rows = view.newest_rows().collect::<Result<Vec<_>>>().unwrap();
        let (shard, id) = (base.sharding().shards[0], memtable.generation());
        generation::write(opener, io, shard, id, rows, base.schema(), base.layout()).await.unwrap()
    }

    #[tokio::test]
    async fn a_memtable_that_a_snapshot_knows_as_a_generation_is_no_change() {
        let (_dir, io, _) = local().await;
        let opener = DatasetOpener::new(StoreOptions::default(), MemoryBudget::global());
        let base = base(&opener, &io).await;
        let (schema, shard) = (Arc::clone(base.schema()), base.sharding().shards[0]);
        let (flushed, active) = (memtable(&schema, 1), memtable(&schema, 2));
        let key = append(&flushed, 7);
        let record = flush(&opener, &io, &base, &flushed).await;
        let generations = vec![Generation::open(&opener, io.uri(), shard, &record, &schema).await.unwrap()];
        let control = VersionControl::new(version(&base, &active, generations), Arc::new(BlockLists::new(1 << 20)));

        // The flusher has published the generation and not told the shard yet.
        let snapshot = control.snapshot();
        let check = || check_unchanged(&snapshot, &control.current(), 0, &key, [&flushed, &active].into_iter());
        check().unwrap();
        append(&active, 8);
        check().unwrap();
        append(&active, 7);
        assert_eq!(check().unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn of_a_generation_whose_keys_are_not_in_memory_its_filter_is_asked() {
        let (io, _) = remote().await;
        let opener = DatasetOpener::new(StoreOptions::default(), MemoryBudget::global());
        let base = base(&opener, &io).await;
        let (schema, shard) = (Arc::clone(base.schema()), base.sharding().shards[0]);
        let (known, flushed, active) = (memtable(&schema, 1), memtable(&schema, 2), memtable(&schema, 3));
        let elsewhere = memtable(&schema, 1);
        let (there, also) = (append(&flushed, 7), append(&flushed, 9));
        let record = flush(&opener, &io, &base, &flushed).await;
        let recording = Generation::recording(&opener, io.uri(), shard, &record).await.unwrap().unwrap();
        let written = Generation::open_written(&opener, io.uri(), shard, &record, &schema).await.unwrap();
        recording.write(written.stored_filter().unwrap()).await.unwrap();
        let opened = Generation::open(&opener, io.uri(), shard, &record, &schema).await.unwrap();
        assert!(written.known_keys().is_some() && opened.known_keys().is_none());

        let control = VersionControl::new(version(&base, &known, Vec::new()), Arc::new(BlockLists::new(1 << 20)));
        let snapshot = control.snapshot();
        let now = version(&base, &active, vec![Arc::clone(&opened)]);
        let check = |keys: &Keys| check_unchanged(&snapshot, &now, 0, keys, [&active].into_iter());
        let absent = (1000..1100).map(|id| append(&elsewhere, id));
        absent.for_each(|keys| check(&keys).unwrap());
        for keys in [&there, &also] {
            assert_eq!(check(keys).unwrap_err().kind(), ErrorKind::Conflict);
        }
        assert!(opened.known_keys().is_none(), "nothing is loaded for it");
    }
}

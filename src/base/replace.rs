//! Replacing all rows: TRUNCATE and INSERT OVERWRITE.
//!
//! One commit removes every fragment, adds the new ones and marks generations as compacted. Two would show a reader
//! the old generations over the new base, or the other way round. An overwrite of Lance's would drop the MemWAL index,
//! so the commit is an update of all fragments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use lance::dataset::CommitBuilder;
use lance::dataset::fragment::write::FragmentCreateBuilder;
use lance::dataset::transaction::{Operation, Transaction};
use lance_index::mem_wal::CompactedSsTable;
use lance_table::format::Fragment;

use super::BaseTable;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{GenerationId, ShardId};
use crate::key::Keys;
use crate::store::from_lance;

impl BaseTable {
    /// Replaces all rows by `rows` (logical schema) and marks, a shard, every generation up to the given one as
    /// compacted; synced when this returns.
    ///
    /// Rows that another program appends meanwhile stay, as if they had been appended afterwards. `may_commit` is awaited
    /// when the rows are written and the commit is next: its error ends the replacement with nothing changed.
    ///
    /// # Errors
    /// `Conflict` if another commit changed the same rows first, `Invalid` if the rows are not the table's: nothing is
    /// changed then. `Indeterminate` if the storage failed while committing.
    pub async fn replace(
        &self,
        rows: SendableRecordBatchStream,
        compacted: &[(ShardId, GenerationId)],
        may_commit: impl Future<Output = Result<()>>,
    ) -> Result<Arc<Self>> {
        let dataset = self.handle.dataset();
        let failed = |error| from_lance(error).with_context("location", self.io.uri());
        let new_fragments = self.write_rows(rows).await?;
        may_commit.await?;
        let mut newest: HashMap<ShardId, GenerationId> = HashMap::new();
        for (shard, generation) in compacted {
            let known = newest.entry(*shard).or_default();
            *known = (*known).max(*generation);
        }
        newest.retain(|shard, generation| *generation > self.compacted(*shard));
        let operation = Operation::Update {
            removed_fragment_ids: dataset.fragments().iter().map(|f| f.id).collect(),
            updated_fragments: Vec::new(),
            new_fragments,
            fields_modified: Vec::new(),
            compacted_sstables: newest.iter().map(|(s, g)| CompactedSsTable::new(s.0, g.0)).collect(),
            fields_for_preserving_frag_bitmap: Vec::new(),
            update_mode: None,
            inserted_rows_filter: None,
            updated_fragment_offsets: None,
        };
        let committed = CommitBuilder::new(Arc::clone(dataset))
            .execute(Transaction::new(self.version(), operation, None))
            .await
            .map_err(|error| undecided(failed(error)))?;
        self.io.sync_tree("_transactions").await.map_err(undecided)?;
        self.io.sync_tree("_versions").await.map_err(undecided)?;
        Self::of(self.opener.clone(), self.io.clone(), Arc::new(committed)).await
    }

    /// Writes rows as fragments that no version names yet, and syncs their files.
    async fn write_rows(&self, rows: SendableRecordBatchStream) -> Result<Vec<Fragment>> {
        let dataset = self.handle.dataset();
        let failed = |error| from_lance(error).with_context("location", self.io.uri());
        let mut rows = self.checked(rows).peekable();
        let schema = Arc::clone(self.schema().logical());
        if std::pin::Pin::new(&mut rows).peek().await.is_none() {
            return Ok(Vec::new());
        }
        let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let mut params = self.opener.write_params(self.io.uri());
        params.data_storage_version = Some(self.layout().version());
        let fragments = FragmentCreateBuilder::new(self.io.uri())
            .schema(dataset.schema())
            .write_params(&params)
            .write_fragments(rows)
            .await
            .map_err(failed)?;
        let files = fragments.iter().flat_map(|f| &f.files).map(|file| format!("data/{}", file.path));
        self.io.sync_files(files.collect()).await?;
        Ok(fragments)
    }

    /// The batches that have rows, each held against the table's schema.
    fn checked(
        &self,
        rows: SendableRecordBatchStream,
    ) -> impl futures::Stream<Item = Result<arrow::array::RecordBatch, DataFusionError>> + Send + Unpin + 'static {
        let schema = Arc::clone(self.schema());
        let logical: SchemaRef = Arc::clone(schema.logical());
        let all: Vec<usize> = (0..logical.fields().len()).collect();
        let mut seen = HashSet::new();
        let batches = rows.filter_map(move |batch| {
            let checked = batch.and_then(|batch| {
                let stored = schema.to_stored(&batch)?;
                check_keys_are_new(&schema.key().of_batch(&stored)?, &mut seen)?;
                Ok(schema.project(&stored, &all, &logical)?)
            });
            std::future::ready(match checked {
                Ok(batch) if batch.num_rows() == 0 => None,
                other => Some(other),
            })
        });
        Box::pin(batches)
    }
}

/// The keys of all rows are in memory while they are written: the base must not hold one twice.
fn check_keys_are_new(keys: &Keys, seen: &mut HashSet<Vec<u8>>) -> Result<()> {
    if keys.iter().all(|key| seen.insert(key.to_bytes())) {
        return Ok(());
    }
    Err(Error::invalid("the rows hold a primary key twice: which of them should stay? Select one row a key"))
}

/// A commit whose outcome the storage did not tell.
fn undecided(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Internal => {
            Error::indeterminate("the rows may or may not be replaced: read before repeating").with_source(error)
        }
        _ => error,
    }
}

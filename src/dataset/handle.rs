//! One version of a Lance dataset, read as rows of a table's schema.
//!
//! A handle is immutable: everything a scan or a take needs is resolved when it is made, so that building a plan costs
//! no I/O.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::compute::concat_batches;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Time;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::mem_wal::arrow_schema_with_field_ids;
use lance_core::datatypes::Schema as LanceSchema;
use lance_table::format::IndexMetadata;

use super::counters::counters;
use super::failure::diagnose_index;
use super::index_catalog::{IndexCatalog, IndexEntry, ValueEntry};
use super::layout::FileLayout;
use super::lazy_indexes::LazyIndexes;
use super::origin::{Origins, field_id};
use super::resident::{Loading, ROW_BYTES, Residency, Resident, ResidentRows};
use super::row_readers::RowReaders;
use super::scan::DatasetScanExec;
use super::text_index::{DatasetTextIndex, OpenTextIndexes, no_text_indexes};
use super::value_index::{DatasetValueIndex, ValueCandidates};
use super::vector_index::DatasetVectorIndex;
use crate::cache::{MemoryBudget, MemoryLease, ReadBudget};
use crate::distance::Metric;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
use crate::size::row_bytes;
use crate::source::ValueRanges;
use crate::store::{ReadCounters, Reads, StoreOptions, from_lance};
use crate::text_search::TextAnalyzer;

/// An index of values is used if it leaves at most one row in so many, which are taken one by one.
const VALUE_SHARE: u64 = 64;

/// One version of a dataset under a table's schema.
pub struct DatasetHandle {
    dataset: Arc<Dataset>,
    schema: Arc<TableSchema>,
    origins: Origins,
    rows: usize,
    /// How many rows each fragment had before any was deleted.
    fragments: HashMap<u64, u64>,
    label: String,
    row_readers: Option<RowReaders>,
    counters: Option<Arc<ReadCounters>>,
    resident: Arc<Resident>,
    catalog: IndexCatalog,
    vector_indexes: LazyIndexes<(usize, Metric), DatasetVectorIndex>,
    budget: Arc<MemoryBudget>,
    read_budget: Arc<ReadBudget>,
    waited: Time,
    /// Whether the storage answers at once.
    is_near: bool,
    /// `None` if it is unknown.
    file_bytes: Option<u64>,
    text_indexes: Arc<OpenTextIndexes>,
    value_indexes: LazyIndexes<usize, DatasetValueIndex>,
}

impl DatasetHandle {
    /// `dataset` as rows of `schema`; `label` names it in plans, `lease` is charged for rows that stay in memory and
    /// `read_budget` for what is read, it is reached by `options`.
    ///
    /// # Errors
    /// `Corrupt` if the dataset does not hold the table's key, or holds a column under another type; `Unavailable` if
    /// the storage fails.
    pub(super) async fn open(
        dataset: Arc<Dataset>,
        schema: Arc<TableSchema>,
        label: String,
        lease: MemoryLease,
        options: &StoreOptions,
        read_budget: Arc<ReadBudget>,
    ) -> Result<Arc<Self>> {
        let source = arrow_schema_with_field_ids(dataset.schema());
        let origins = Origins::resolve(source, Arc::clone(&schema))
            .map_err(|error| error.with_context("dataset", dataset.uri()))?;
        let rows = dataset.fragments().iter().map(|f| f.num_rows().or(f.physical_rows).unwrap_or(0)).sum();
        let fragments = dataset.fragments().iter().map(|f| (f.id, f.physical_rows.unwrap_or(0) as u64)).collect();
        let files = dataset.fragments().iter().flat_map(|f| &f.files);
        let budget = Arc::clone(lease.budget());
        let file_bytes = files.map(|f| f.file_size_bytes.get().map(u64::from)).sum();
        let resident = Resident::new(file_bytes, lease);
        let catalog = IndexCatalog::of(&dataset).await.map_err(|error| error.with_context("dataset", dataset.uri()))?;
        let row_readers =
            RowReaders::open(&dataset, options).await.map_err(|error| error.with_context("dataset", dataset.uri()))?;
        let store = dataset.object_store(None).await;
        let store = store.map_err(|error| from_lance(error).with_context("dataset", dataset.uri()))?;
        let counters = counters(&dataset, &store, options);
        let is_near = store.is_local() || store.scheme() == "memory";
        Ok(Arc::new(Self {
            dataset,
            schema,
            origins,
            rows,
            fragments,
            label,
            row_readers,
            counters,
            resident,
            catalog,
            vector_indexes: LazyIndexes::default(),
            text_indexes: no_text_indexes(&budget),
            budget,
            read_budget,
            waited: Time::new(),
            is_near,
            file_bytes,
            value_indexes: LazyIndexes::default(),
        }))
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The table's schema.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// How the dataset is called in plans.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What was read of its files so far; `None` if they are near.
    pub fn reads(&self) -> Option<Reads> {
        self.counters.as_ref().map(|counters| counters.get())
    }

    /// How many rows are not deleted.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How files that go with this dataset are written.
    pub fn layout(&self) -> FileLayout {
        let manifest = self.dataset.manifest();
        FileLayout { version: manifest.data_storage_format.version, max_field_id: manifest.max_field_id() }
    }

    /// A plan of one partition that reads the rows passing all `filters`: the logical columns `projection`, nullable
    /// as stored, then `_rowid`. Nothing is read before it is polled.
    ///
    /// # Errors
    /// `Invalid` if a filter cannot be evaluated on the table's columns.
    pub fn scan(self: &Arc<Self>, projection: &[usize], filters: &[Expr]) -> Result<Arc<dyn ExecutionPlan>> {
        self.scan_within(projection, filters, &[])
    }

    /// Like [`Self::scan`]; rows whose values are not in all of `ranges` may be left out, which spares reading them where
    /// there is an index of values.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_within(
        self: &Arc<Self>,
        projection: &[usize],
        filters: &[Expr],
        ranges: &[ValueRanges],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = DatasetScanExec::try_new(Arc::clone(self), projection.to_vec(), filters)?;
        Ok(Arc::new(scan.within(ranges)))
    }

    /// The text indexes that the files of the stored column `column` have and whose words are those that `analyzer` makes;
    /// `None` if there are none that can be used. Opened once for each analyzer while memory lasts.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn stored_text_index(
        self: &Arc<Self>,
        column: usize,
        analyzer: &TextAnalyzer,
    ) -> Result<Option<Arc<DatasetTextIndex>>> {
        let open = || {
            let (handle, analyzer) = (Arc::clone(self), analyzer.clone());
            async move { handle.open_text_index(column, &analyzer).await }
        };
        self.text_indexes.get((column, analyzer.told().clone()), open).await
    }

    /// The [stored](Self::stored_text_index) text indexes of a column. Where they do not know all rows, and these are in
    /// memory and their texts short, an index of them that is made instead.
    ///
    /// # Errors
    /// As there.
    pub async fn text_index(
        self: &Arc<Self>,
        column: usize,
        analyzer: &TextAnalyzer,
    ) -> Result<Option<Arc<DatasetTextIndex>>> {
        let stored = self.stored_text_index(column, analyzer).await?;
        if stored.as_ref().is_some_and(|index| index.uncovered().is_empty()) {
            return Ok(stored);
        }
        Ok(self.resident.text_index(column, analyzer).await?.or(stored))
    }

    /// Searches go without the text indexes of the stored column `column` from now on, of which one failed with `error`.
    ///
    /// # Errors
    /// `error` if it is nothing that is wrong with an index: it may be asked again.
    pub async fn give_up_text_index(&self, column: usize, analyzer: &TextAnalyzer, error: Error) -> Result<()> {
        self.check_unusable(self.text_segments(column), error).await?;
        self.text_indexes.give_up((column, analyzer.told().clone()));
        Ok(())
    }

    async fn open_text_index(&self, column: usize, analyzer: &TextAnalyzer) -> Result<Option<Arc<DatasetTextIndex>>> {
        let segments = self.text_segments(column);
        if segments.is_empty() {
            return Ok(None);
        }
        match DatasetTextIndex::open(&self.dataset, segments, analyzer, &self.budget).await {
            Ok(index) => Ok(index.map(Arc::new)),
            Err(error) => self.check_unusable(segments, error).await.map(|()| None),
        }
    }

    /// Nothing, if `error` says that an index of these segments is of no use.
    async fn check_unusable(&self, segments: &[IndexMetadata], error: Error) -> Result<()> {
        let error = diagnose_index(&self.dataset, segments, error).await;
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal | ErrorKind::Invalid) {
            return Err(error);
        }
        let index = segments.first().map_or("", |segment| &segment.name);
        tracing::warn!(dataset = self.dataset.uri(), index, %error, "an index is not used: drop it and create it anew");
        Ok(())
    }

    /// Whether the stored column `column` has text indexes, whatever their words, or gets one in memory.
    pub fn has_text_index(&self, column: usize) -> bool {
        self.has_stored_text_index(column) || self.resident.rows().is_some_and(|rows| rows.may_index_texts(column))
    }

    /// Whether files of the stored column `column` are text indexes, whatever their words.
    pub fn has_stored_text_index(&self, column: usize) -> bool {
        !self.text_segments(column).is_empty()
    }

    fn text_segments(&self, column: usize) -> &[IndexMetadata] {
        field_id(self.schema.numbered().field(column)).map_or(&[], |field| self.catalog.find_texts(field))
    }

    /// What Lance calls the kind of index that the logical column `column` has for `metric`, such as `IVF_PQ`.
    pub fn vector_index_kind(&self, column: usize, metric: Metric) -> Option<String> {
        self.index_entry(column, metric).map(|entry| entry.kind.to_string())
    }

    /// The index of the logical column `column` for `metric`, opened once; `None` if there is none that can be used.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails: the index may be asked for again.
    pub async fn vector_index(
        self: &Arc<Self>,
        column: usize,
        metric: Metric,
    ) -> Result<Option<Arc<DatasetVectorIndex>>> {
        let Some(entry) = self.index_entry(column, metric) else { return Ok(None) };
        let open = || {
            let (handle, entry) = (Arc::clone(self), entry.clone());
            async move {
                match DatasetVectorIndex::open(&handle, column, &entry).await {
                    Ok(index) => Ok(Some(Arc::new(index))),
                    Err(error) => handle.check_unusable(&entry.segments, error).await.map(|()| None),
                }
            }
        };
        self.vector_indexes.get((column, metric), open).await
    }

    /// The segments of all vector indexes, open or not.
    pub(super) fn vector_segments(&self) -> Vec<IndexMetadata> {
        self.catalog.vector_segments()
    }

    /// The vector indexes that are open.
    pub(super) fn vector_indexes(&self) -> Vec<Arc<DatasetVectorIndex>> {
        self.vector_indexes.opened()
    }

    /// Searches go without the index of the logical column `column` for `metric` from now on, which failed with `error`.
    ///
    /// # Errors
    /// `error` if it is nothing that is wrong with the index: it may be asked again.
    pub async fn give_up_vector_index(&self, column: usize, metric: Metric, error: Error) -> Result<()> {
        let segments = self.index_entry(column, metric).map_or(&[][..], |entry| &entry.segments);
        self.check_unusable(segments, error).await?;
        self.vector_indexes.give_up((column, metric));
        Ok(())
    }

    fn index_entry(&self, column: usize, metric: Metric) -> Option<&IndexEntry> {
        let field = self.dataset.schema().field(self.origins.unchanged(column)?)?;
        self.catalog.find(field.id, metric)
    }

    /// The name of the index of values that the logical column called `column` has.
    pub fn value_index_name(&self, column: &str) -> Option<&str> {
        self.value_entry(column).map(|(_, entry)| entry.name.as_str())
    }

    /// The rows whose values may be in all of `ranges`, as far as indexes tell; `None` if none tells, or they leave so many
    /// that reading all is better.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn find_values(self: &Arc<Self>, ranges: &[ValueRanges]) -> Result<Option<ValueCandidates>> {
        if self.is_resident() {
            return Ok(None);
        }
        let most = self.rows as u64 / VALUE_SHARE;
        let mut found: Option<ValueCandidates> = None;
        for ranges in ranges {
            let Some((column, entry)) = self.value_entry(&ranges.column) else { continue };
            let Some(index) = self.value_index(column, entry).await? else { continue };
            let candidates = match index.candidates(ranges, most).await {
                Ok(Some(candidates)) => candidates,
                Ok(None) => continue,
                Err(error) => {
                    self.check_unusable(&entry.segments, error).await?;
                    self.value_indexes.give_up(column);
                    continue;
                }
            };
            found = Some(match found {
                Some(found) => found.and(&candidates),
                None => candidates,
            });
        }
        Ok(found)
    }

    /// Opened once; `None` if there is none that can be used.
    pub(super) async fn value_index(
        self: &Arc<Self>,
        column: usize,
        entry: &ValueEntry,
    ) -> Result<Option<Arc<DatasetValueIndex>>> {
        let open = || {
            let (handle, entry) = (Arc::clone(self), entry.clone());
            async move {
                let name = handle.origins.name(column).unwrap_or_default();
                let data_type = handle.schema.stored().field(column).data_type();
                match DatasetValueIndex::open(&handle.dataset, name, data_type, &entry).await {
                    Ok(index) => Ok(index.map(Arc::new)),
                    Err(error) => handle.check_unusable(&entry.segments, error).await.map(|()| None),
                }
            }
        };
        self.value_indexes.get(column, open).await
    }

    /// The place of a column and its index of values. Those of floats are not asked: Lance orders NaN and zeros otherwise
    /// than filters do.
    pub(super) fn value_entry(&self, column: &str) -> Option<(usize, &ValueEntry)> {
        let column = self.schema.logical().index_of(column).ok()?;
        if self.schema.logical().field(column).data_type().is_floating() {
            return None;
        }
        let field = self.dataset.schema().field(self.origins.unchanged(column)?)?;
        Some((column, self.catalog.find_values(field.id)?))
    }

    /// Whether row ids name rows wherever they are, and do not say in which fragment.
    pub fn has_stable_row_ids(&self) -> bool {
        self.dataset.manifest().uses_stable_row_ids()
    }

    /// Whether there was a row with this id when the dataset was written. Lance panics when asked for rows of fragments
    /// it does not have.
    pub(super) fn may_have(&self, row_id: u64) -> bool {
        self.has_stable_row_ids()
            || self.fragments.get(&(row_id >> 32)).is_some_and(|rows| (row_id & u64::from(u32::MAX)) < *rows)
    }

    /// What is charged for what stays in memory.
    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// What reads are charged to.
    pub(super) fn read_budget(&self) -> &Arc<ReadBudget> {
        &self.read_budget
    }

    /// Whether the storage answers at once.
    pub(super) fn is_near(&self) -> bool {
        self.is_near
    }

    /// What its data files take; `None` if it is unknown.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.file_bytes
    }

    /// Readers of single rows, if these can be read at once.
    pub(super) fn row_readers(&self) -> Option<&RowReaders> {
        self.row_readers.as_ref()
    }

    /// How long reads that are no scan's waited for the read budget so far.
    pub fn read_wait(&self) -> Duration {
        Duration::from_nanos(self.waited.value() as u64)
    }

    /// What counts that.
    pub(super) fn waited(&self) -> &Time {
        &self.waited
    }

    /// Its rows, if they are in memory.
    pub(super) fn resident_rows(&self) -> Option<Arc<ResidentRows>> {
        self.resident.rows()
    }

    /// Whether its rows are in memory.
    pub fn is_resident(&self) -> bool {
        self.resident_rows().is_some()
    }

    /// Keeps the rows of a small dataset in memory if this is not the first time that they are read, and nothing fails.
    pub async fn keep_small(self: &Arc<Self>) {
        if let Residency::Load(loading) = self.residency()
            && let Err(error) = self.load(loading).await
        {
            tracing::debug!(dataset = self.dataset.uri(), %error, "rows are not kept in memory");
        }
    }

    /// How the dataset is read now.
    pub(super) fn residency(&self) -> Residency {
        self.resident.residency()
    }

    /// Reads all rows and keeps them; `None` if they are too many to be kept.
    pub(super) async fn load(self: &Arc<Self>, loading: Loading) -> Result<Option<Arc<ResidentRows>>> {
        let columns: Vec<usize> = (0..self.schema.stored().fields().len()).collect();
        let schema = self.origins.schema_of(&columns, true);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut read = self.rows_of(&columns, None)?;
        while let Some(batch) = read.try_next().await? {
            bytes += row_bytes(&batch);
            if bytes > ROW_BYTES {
                loading.give_up();
                return Ok(None);
            }
            rows.push(batch);
        }
        Ok(Some(loading.keep(concat_batches(&schema, &rows)?)))
    }

    /// The dataset's own schema of the stored columns `columns` that it has.
    pub(super) fn lance_schema(&self, columns: &[usize]) -> Result<LanceSchema> {
        let names: Vec<&str> = columns.iter().filter_map(|&i| self.origins.name(i)).collect();
        let all = self.dataset.schema();
        let fields = all.fields.iter().filter(|f| names.contains(&f.name.as_str())).cloned().collect();
        Ok(LanceSchema { fields, metadata: all.metadata.clone() })
    }
}

impl fmt::Debug for DatasetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetHandle")
            .field("label", &self.label)
            .field("uri", &self.dataset.uri())
            .field("version", &self.dataset.manifest().version)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

//! Creating, adopting, opening and refreshing the base table.
//!
//! The MemWAL index is the last commit of a creation: a dataset without it is not a table yet, whatever happened.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatchIterator;
use arrow::datatypes::{Schema, SchemaRef};
use futures::future::try_join;
use lance::Dataset;
use lance::dataset::mem_wal::arrow_schema_with_field_ids;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{ColumnAlteration, CommitBuilder, WriteMode};
use lance::index::DatasetIndexExt;
use lance_core::Error as LanceError;
use lance_core::datatypes::{LANCE_UNENFORCED_PRIMARY_KEY, LANCE_UNENFORCED_PRIMARY_KEY_POSITION};
use lance_file::version::ConcreteFileVersion;
use lance_index::mem_wal::{MEM_WAL_INDEX_NAME, MemWalIndexDetails};
use lance_table::system_index::mem_wal::{load_mem_wal_index_details, new_mem_wal_index_meta};
use tracing::Instrument;
use uuid::Uuid;

use super::{AdoptSpec, BaseTable, CreateSpec, Indexes, Sharding, column_index, column_type, declare};
use crate::dataset::{DatasetOpener, TableKey};
use crate::error::{Error, Result};
use crate::ids::{GenerationId, ShardId};
use crate::index_spec::IndexSpec;
use crate::key::PrimaryKey;
use crate::schema::{TableSchema, check_names};
use crate::store::{ObjectIo, TablePaths, from_lance};

/// The setting that tells the format of what is ours on disk.
const FORMAT: &str = "lsm.format";
/// The format of this version.
const FORMAT_VERSION: &str = "1";
/// The setting that tells one table from another that was created at the same place.
const IDENTITY: &str = "lsm.table";
/// The id of the second sharding that tables have whose key Lance does not know.
const BARRIER_SPEC_ID: u32 = 2;

impl BaseTable {
    /// Creates the table: a dataset without rows, then its MemWAL index; synced when this returns.
    ///
    /// # Errors
    /// `Invalid` if a column or the key cannot be stored, or a dataset is there already.
    pub async fn create(opener: &DatasetOpener, io: &ObjectIo, spec: &CreateSpec) -> Result<Arc<Self>> {
        let (key, sharding) = spec.plan()?;
        let schema = marked(&spec.schema, &key);
        let mut params = opener.write_params(io.uri());
        params.mode = WriteMode::Create;
        let no_rows = RecordBatchIterator::new(std::iter::empty(), Arc::clone(&schema));
        let mut dataset = Dataset::write(no_rows, io.uri(), Some(params)).await.map_err(|error| match error {
            LanceError::DatasetAlreadyExists { .. } => Error::invalid(
                "there is a dataset already: open it without columns, or make it a table with 'lsm.adopt'",
            )
            .with_context("location", io.uri()),
            other => failed(other, io),
        })?;
        let indexes = Indexes::try_new(&spec.indexes, &TableSchema::try_new(&schema, &spec.key)?)?;
        let defaults = with_indexes(&spec.defaults, &indexes);
        install(&mut dataset, &sharding, &key, &defaults, io).await?;
        Self::of(opener.clone(), io.clone(), Arc::new(dataset)).await
    }

    /// Makes a table of a plain dataset whose key is unique and without NULLs. A table with this key stays as it is.
    ///
    /// # Errors
    /// `Invalid` if there is no dataset, or its key is not a key, or it is a table with another key.
    pub async fn adopt(opener: &DatasetOpener, io: &ObjectIo, spec: &AdoptSpec) -> Result<Arc<Self>> {
        let Some(dataset) = opener.latest(io.uri()).await? else {
            return Err(Error::invalid("there is no dataset to adopt").with_context("location", io.uri()));
        };
        if mem_wal(&dataset).await.map_err(|e| failed(e, io))?.is_some() {
            let table = Self::of(opener.clone(), io.clone(), dataset).await?;
            if !spec.key.is_empty() && table.schema().key().names() != spec.key {
                return Err(Error::invalid(format!(
                    "the table has the primary key ({}): declare this one",
                    table.schema().key().names().join(", ")
                ))
                .with_context("location", io.uri()));
            }
            return Ok(table);
        }
        if dataset.manifest().data_storage_format.version == ConcreteFileVersion::V1 {
            return Err(Error::invalid("the dataset has Lance's legacy file format: write it anew")
                .with_context("location", io.uri()));
        }
        let declared: Vec<String> = dataset.schema().unenforced_primary_key().iter().map(|f| f.name.clone()).collect();
        let key = if spec.key.is_empty() { &declared } else { &spec.key };
        if !declared.is_empty() && declared != *key {
            return Err(Error::invalid(format!("the dataset has the primary key ({})", declared.join(", ")))
                .with_context("location", io.uri()));
        }
        if key.is_empty() {
            return Err(Error::invalid("the dataset does not tell its primary key: declare it")
                .with_context("location", io.uri()));
        }
        let numbered = arrow_schema_with_field_ids(dataset.schema());
        column_type::check(&numbered)?;
        let schema = Arc::new(TableSchema::try_new(&numbered, key)?);
        if let Some(columns) = &spec.columns {
            check_columns(columns, &schema)?;
        }
        let sharding = Sharding::plan(schema.key(), spec.shards, spec.shard_column.as_deref())?;
        let found = column_index::found(&dataset, &schema).await.map_err(|e| failed(e, io))?;
        let indexes = Indexes::try_new(&beside(found, &spec.indexes, &schema)?, &schema)?;
        let rows = opener.handle(Arc::clone(&dataset), Arc::clone(&schema), "base".into()).await?;
        let keys = rows.key_map().await?;
        if keys.len() < rows.rows() {
            return Err(Error::invalid(format!(
                "the primary key ({}) is not unique: {} rows have {} keys",
                key.join(", "),
                rows.rows(),
                keys.len()
            ))
            .with_context("location", io.uri()));
        }
        let mut dataset = Arc::unwrap_or_clone(dataset);
        declare_key(&mut dataset, schema.key()).await.map_err(|e| failed(e, io))?;
        install(&mut dataset, &sharding, schema.key(), &with_indexes(&spec.defaults, &indexes), io).await?;
        Self::of(opener.clone(), io.clone(), Arc::new(dataset)).await
    }

    /// The newest version of the table; `None` if there is no dataset.
    ///
    /// # Errors
    /// `Invalid` if the dataset is not a table, or a table of a newer format.
    pub async fn open(opener: &DatasetOpener, io: &ObjectIo) -> Result<Option<Arc<Self>>> {
        let span = tracing::debug_span!("lsm.dataset.open", table = io.uri());
        let open = async {
            let (dataset, shards) = try_join(opener.latest(io.uri()), shards(io)).await?;
            match dataset {
                Some(dataset) => {
                    Box::pin(Self::with_shards(opener.clone(), io.clone(), dataset, shards)).await.map(Some)
                }
                None => Ok(None),
            }
        };
        open.instrument(span).await
    }

    /// The newest version of the table if it is newer than this one.
    ///
    /// # Errors
    /// `Fenced` if another table is at the location now, `Invalid` if the dataset was replaced by an older one,
    /// `Unavailable` if the storage fails.
    pub async fn refresh(&self) -> Result<Option<Arc<Self>>> {
        let dataset = self.handle.dataset();
        let (manifest, location) = dataset.latest_manifest().await.map_err(|e| failed(e, &self.io))?;
        if std::ptr::eq(manifest.as_ref(), dataset.manifest()) {
            return Ok(None);
        }
        if location.version <= self.version() {
            // The same version in another object: of another table, unless the storage does not tell objects apart.
            self.check_present().await?;
            if location.version == self.version() {
                return Ok(None);
            }
            return Err(Error::invalid("the dataset was replaced by an older one: open the table again")
                .with_context("location", self.io.uri()));
        }
        let newer = dataset.checkout_version(location.version).await.map_err(|e| failed(e, &self.io))?;
        let newer = Self::of(self.opener.clone(), self.io.clone(), Arc::new(newer)).await?;
        if newer.is_same(self) { Ok(Some(newer)) } else { Err(self.replaced()) }
    }

    /// Nothing, if the table at the location is still this one: it may have been dropped, and another one created.
    ///
    /// # Errors
    /// `Fenced` if not; `Unavailable` if the storage fails.
    pub async fn check_present(&self) -> Result<()> {
        self.present().await.map(|_| ())
    }

    /// The newest version of the table, if the table at the location is still this one.
    ///
    /// # Errors
    /// As [`check_present`](Self::check_present).
    pub(super) async fn present(&self) -> Result<Arc<Self>> {
        // Another table may have a version of the same number, which caches do not tell from this one's.
        match Self::open(&self.opener.anew(), &self.io).await? {
            Some(now) if now.is_same(self) => Ok(now),
            _ => Err(self.replaced()),
        }
    }

    /// Whether both are versions of one table; tables that Lance made do not tell.
    fn is_same(&self, other: &Self) -> bool {
        self.defaults.get(IDENTITY) == other.defaults.get(IDENTITY)
    }

    fn replaced(&self) -> Error {
        Error::fenced("the table was dropped: if it was created again, open it again")
            .with_context("location", self.io.uri())
    }

    /// The table as of this version of its dataset.
    pub(super) async fn of(opener: DatasetOpener, io: ObjectIo, dataset: Arc<Dataset>) -> Result<Arc<Self>> {
        let shards = shards(&io).await?;
        Box::pin(Self::with_shards(opener, io, dataset, shards)).await
    }

    /// The same, `present` being the shards that have a directory.
    async fn with_shards(
        opener: DatasetOpener,
        io: ObjectIo,
        dataset: Arc<Dataset>,
        present: Vec<ShardId>,
    ) -> Result<Arc<Self>> {
        let Some(details) = mem_wal(&dataset).await.map_err(|e| failed(e, &io))? else {
            return Err(Error::invalid(
                "the location is a plain Lance dataset: make it a table with the option 'lsm.adopt' 'true'",
            )
            .with_context("location", io.uri()));
        };
        match details.writer_config_defaults.get(FORMAT).map(String::as_str) {
            None | Some(FORMAT_VERSION) => {}
            Some(other) => {
                return Err(Error::invalid(format!(
                    "the table has format {other}, this version knows format {FORMAT_VERSION}: upgrade"
                ))
                .with_context("location", io.uri()));
            }
        }
        let key: Vec<String> = dataset.schema().unenforced_primary_key().iter().map(|f| f.name.clone()).collect();
        if key.is_empty() {
            return Err(Error::invalid(
                "the table has no primary key, since another program made it: adopt a dataset without a MemWAL index \
                 instead",
            )
            .with_context("location", io.uri()));
        }
        let schema = TableSchema::try_new(&arrow_schema_with_field_ids(dataset.schema()), &key)?;
        let name = |id| dataset.schema().field_by_id(id).map(|f| f.name.clone());
        let sharding = Sharding::read(&details, name, present).map_err(|e| e.with_context("location", io.uri()))?;
        let compacted = &details.compacted_sstables;
        let compacted = compacted.iter().map(|c| (ShardId(c.shard_id), GenerationId(c.generation))).collect();
        let defaults = details.writer_config_defaults;
        let declared = declare::effective(defaults.clone(), dataset.config());
        // Settings are as they were stored: `lsm.index.sync` may be one, and the indexes of a column called so.
        let indexes = IndexSpec::of_options(&declared).map_err(|e| e.with_context("location", io.uri()))?;
        let indexes = Indexes::of_stored(&indexes, &schema);
        let table = defaults.get(IDENTITY).map(|identity| TableKey::new(io.uri(), identity));
        let opener = opener.of_table(table);
        let handle = opener.handle(dataset, Arc::new(schema), "base".into()).await?;
        Ok(Arc::new(Self { opener, io, handle, sharding, compacted, defaults, indexes }))
    }
}

impl CreateSpec {
    /// Nothing if there can be such a table.
    ///
    /// # Errors
    /// `Invalid` if a column or the key cannot be stored.
    pub fn validate(&self) -> Result<()> {
        self.plan().map(|_| ())
    }

    fn plan(&self) -> Result<(PrimaryKey, Sharding)> {
        check_names(&self.schema)?;
        column_type::check(&self.schema)?;
        let key = PrimaryKey::try_new(&self.schema, &self.key)?;
        let sharding = Sharding::plan(&key, self.shards, self.shard_column.as_deref())?;
        Indexes::try_new(&self.indexes, &TableSchema::try_new(&self.schema, &self.key)?)?;
        Ok((key, sharding))
    }
}

/// What is stored of a table besides its sharding.
fn with_indexes(defaults: &HashMap<String, String>, indexes: &Indexes) -> HashMap<String, String> {
    let mut stored = defaults.clone();
    stored.extend(IndexSpec::options(indexes.specs()));
    stored
}

/// The indexes that a dataset has, and those of `declared` besides that it does not have under another name.
fn beside(found: Vec<IndexSpec>, declared: &[IndexSpec], schema: &TableSchema) -> Result<Vec<IndexSpec>> {
    let mut all = found;
    for index in declared {
        let index = index.resolved(schema)?;
        if !all.iter().any(|there| there.column == index.column && index.kind.is_answered_by(&there.kind)) {
            all.push(index);
        }
    }
    Ok(all)
}

/// Fails if the dataset has other columns than were declared; NOT NULL is what the table makes of the key itself.
fn check_columns(declared: &SchemaRef, there: &TableSchema) -> Result<()> {
    let describe = |schema: &Schema| {
        let column = |(i, f): (usize, &arrow::datatypes::FieldRef)| {
            let nullable = f.is_nullable() && !there.key().columns().iter().any(|c| c.index == i);
            format!("{} {}{}", f.name(), column_type::as_stored(f.data_type()), if nullable { "" } else { " NOT NULL" })
        };
        schema.fields().iter().enumerate().map(column).collect::<Vec<_>>().join(", ")
    };
    let (is, said) = (describe(there.logical()), describe(declared));
    if is == said {
        return Ok(());
    }
    Err(Error::invalid(format!("the dataset has other columns: it has ({is}), declared are ({said})")))
}

/// The shards that have a directory.
async fn shards(io: &ObjectIo) -> Result<Vec<ShardId>> {
    let names = io.list_dirs(TablePaths::SHARDS).await?;
    Ok(names.iter().filter_map(|name| Uuid::parse_str(name).ok()).map(ShardId).collect())
}

/// The dataset's MemWAL index.
async fn mem_wal(dataset: &Dataset) -> lance_core::Result<Option<MemWalIndexDetails>> {
    let indices = dataset.load_indices().await?;
    let index = indices.iter().find(|index| index.name == MEM_WAL_INDEX_NAME);
    index.cloned().map(load_mem_wal_index_details).transpose()
}

/// Makes a dataset a table: field ids are never used again, then the MemWAL index.
///
/// A table whose key Lance does not know gets a second sharding, which no writer of Lance's opens: it would hash the
/// keys to nonsense.
async fn install(
    dataset: &mut Dataset,
    sharding: &Sharding,
    key: &PrimaryKey,
    defaults: &HashMap<String, String>,
    io: &ObjectIo,
) -> Result<()> {
    dataset.migrate_to_non_reusable_field_ids().await.map_err(|e| failed(e, io))?;
    let source = sharding.column.as_ref().and_then(|name| dataset.schema().field(name)).map(|field| field.id);
    let mut sharding_specs = vec![sharding.spec(source)];
    if !key.is_lance_key() {
        let mut barrier = sharding.spec(source);
        barrier.spec_id = BARRIER_SPEC_ID;
        sharding_specs.push(barrier);
    }
    let mut writer_config_defaults = defaults.clone();
    writer_config_defaults.insert(FORMAT.into(), FORMAT_VERSION.into());
    writer_config_defaults.insert(IDENTITY.into(), Uuid::new_v4().to_string());
    let details = MemWalIndexDetails {
        num_shards: sharding.shards.len() as u32,
        sharding_specs,
        maintain_all_indexes: true,
        writer_config_defaults,
        ..Default::default()
    };
    let version = dataset.manifest().version;
    let index = new_mem_wal_index_meta(version, details).map_err(|e| failed(e, io))?;
    let operation = Operation::CreateIndex { new_indices: vec![index], removed_indices: Vec::new() };
    // The rows must be on the disk before the dataset is a table, and the table before anybody is told.
    io.sync_tree("").await?;
    *dataset = CommitBuilder::new(Arc::new(dataset.clone()))
        .execute(Transaction::new(version, operation, None))
        .await
        .map_err(|e| failed(e, io))?;
    io.sync_tree("_transactions").await?;
    io.sync_tree("_versions").await
}

/// Marks the key's columns of a dataset as key, and NOT NULL.
async fn declare_key(dataset: &mut Dataset, key: &PrimaryKey) -> lance_core::Result<()> {
    let nullable = |name: &&String| dataset.schema().field(name).is_some_and(|field| field.nullable);
    let names = key.names();
    let tightened: Vec<_> =
        names.iter().filter(nullable).map(|name| ColumnAlteration::new(name.clone()).set_nullable(false)).collect();
    if !tightened.is_empty() {
        dataset.alter_columns(&tightened).await?;
    }
    if dataset.schema().unenforced_primary_key().is_empty() {
        let mut update = dataset.update_field_metadata();
        for (name, marks) in names.iter().zip(marks(names.len())) {
            update = update.update(name.as_str(), marks)?;
        }
        update.await?;
    }
    Ok(())
}

/// The marks of the columns of a key of `n` columns.
fn marks(n: usize) -> Vec<HashMap<String, String>> {
    let mark = |place: usize| {
        let mut marks = HashMap::from([(LANCE_UNENFORCED_PRIMARY_KEY.to_string(), "true".to_string())]);
        if n > 1 {
            marks.insert(LANCE_UNENFORCED_PRIMARY_KEY_POSITION.to_string(), (place + 1).to_string());
        }
        marks
    };
    (0..n).map(mark).collect()
}

/// The schema with the key's columns marked for Lance and NOT NULL, and view types as Lance stores them.
fn marked(schema: &Schema, key: &PrimaryKey) -> SchemaRef {
    let marks = marks(key.columns().len());
    let fields = schema.fields().iter().enumerate().map(|(i, field)| {
        let field = field
            .as_ref()
            .clone()
            .with_data_type(column_type::as_stored(field.data_type()))
            .with_metadata(HashMap::new());
        match key.columns().iter().position(|c| c.index == i) {
            Some(place) => field.with_nullable(false).with_metadata(marks[place].clone()),
            None => field,
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn failed(error: LanceError, io: &ObjectIo) -> Error {
    from_lance(error).with_context("location", io.uri())
}

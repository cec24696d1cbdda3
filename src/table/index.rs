//! CREATE INDEX and DROP INDEX on an open table, and what its indexes have.
//!
//! An index is first declared, by one commit: from then on every process that sees it gives its memtables an index, and
//! rows that none has yet are searched one by one. Then the base's rows get theirs. Dropping goes the other way round.

use std::sync::Arc;

use super::handle::LsmTable;
use crate::base::{BaseTable, Indexes};
use crate::error::{Error, ErrorKind, Result};
use crate::generation::Generation;
use crate::ids::{GenerationId, ShardId};
use crate::index_spec::{IndexKind, IndexSpec};
use crate::settings::Access;

/// How often a change of indexes is tried that others come before.
const ATTEMPTS: usize = 8;

/// What one source has of one index.
#[derive(Debug, Clone)]
pub struct IndexInfo {
    /// The index.
    pub index: IndexSpec,
    /// The source's shard; `None` for the base.
    pub shard: Option<ShardId>,
    /// `memtable`, `generation` or `base`.
    pub source: &'static str,
    /// The source's generation; 0 for the base.
    pub generation: GenerationId,
    /// The source's rows, superseded ones and tombstones included; of a memtable those that are visible.
    pub rows: u64,
    /// How many of them the index has; searches compare the others one by one.
    pub indexed: u64,
    /// Why a memtable's index was given up.
    pub error: Option<String>,
}

/// What a column has from now on, made of all indexes there are.
type Decide<'a> = dyn FnMut(&Indexes) -> Result<Option<(String, Vec<IndexSpec>)>> + Send + 'a;

/// One commit of the base.
enum BaseCommit<'a> {
    Declare(&'a mut Decide<'a>),
    Build(&'a IndexSpec),
    Drop(&'a str),
}

impl BaseCommit<'_> {
    /// The next version of `base`; `None` if there is nothing to do.
    async fn run(&mut self, base: &BaseTable) -> Result<Option<Arc<BaseTable>>> {
        match self {
            Self::Declare(decide) => match decide(base.indexes())? {
                Some((column, indexes)) => base.declare(&column, &indexes).await.map(Some),
                None => Ok(None),
            },
            Self::Build(index) => base.build_index(index).await,
            Self::Drop(name) => base.drop_index(name).await,
        }
    }
}

impl LsmTable {
    /// Gives the table an index of its live and later rows and returns whether it had none of this name. Memtables have
    /// it at once and catch up in the background; when this returns, the base's rows are indexed too, unless there are
    /// none. Existing generations stay without.
    ///
    /// # Errors
    /// `Invalid` if there cannot be such an index, or there is one of this name and not `if_not_exists`; `Conflict` if
    /// others keep changing the table's indexes or its base; `Fenced` if the table was dropped. If the index is declared
    /// and only the base's rows are not indexed, the error says so.
    pub async fn create_index(&self, index: &IndexSpec, if_not_exists: bool) -> Result<bool> {
        let _one_at_a_time = self.index_change.lock().await;
        let schema = self.table_schema();
        let index = index.resolved(&schema)?;
        self.context.indexes.check_name(&index.name)?;
        let mut created = false;
        self.check_may_change_indexes()?;
        let mut decide = |indexes: &Indexes| {
            let specs = indexes.specs();
            created = !(if_not_exists && specs.iter().any(|there| there.name == index.name));
            if !created {
                return Ok(None);
            }
            index.check_beside(specs)?;
            let all: Vec<IndexSpec> = specs.iter().chain([&index]).cloned().collect();
            Indexes::try_new(&all, &schema)?;
            Ok(Some(of_column(&all, &index.column)))
        };
        self.commit_base(BaseCommit::Declare(&mut decide)).await?;
        let indexes = self.indexes();
        let Some(there) = indexes.iter().find(|there| there.name == index.name) else { return Ok(created) };
        self.commit_base(BaseCommit::Build(there)).await.map_err(|error| {
            Error::new(
                error.kind(),
                format!(
                    "the index '{}' is there, but the rows of the base are not in it: {}; CREATE INDEX IF NOT EXISTS \
                     tries again",
                    index.name,
                    error.message()
                ),
            )
            .with_source(error)
        })?;
        Ok(created)
    }

    /// Takes the index of this name from the table, or a Lance index of this name from the base if the table has no such
    /// index, and returns whether there was one. Its parts in memory are freed at
    /// once; those of generations go with them.
    ///
    /// # Errors
    /// `Invalid` if there is none and not `if_exists`; otherwise as [`create_index`](Self::create_index).
    pub async fn drop_index(&self, name: &str, if_exists: bool) -> Result<bool> {
        let _one_at_a_time = self.index_change.lock().await;
        self.check_may_change_indexes()?;
        let mut decide = |indexes: &Indexes| {
            let all = || indexes.specs().iter().chain(indexes.left_out());
            let Some(index) = all().find(|there| there.name == name) else { return Ok(None) };
            let rest: Vec<IndexSpec> = all().filter(|there| there.name != name).cloned().collect();
            Ok(Some(of_column(&rest, &index.column)))
        };
        let undeclared = self.commit_base(BaseCommit::Declare(&mut decide)).await?;
        // There may be one that is not declared: of a statement that ended halfway, or of another program.
        let dropped = self.commit_base(BaseCommit::Drop(name)).await? || undeclared;
        if dropped || if_exists {
            return Ok(dropped);
        }
        let indexes = self.indexes();
        let known: Vec<&str> = indexes.iter().map(|there| there.name.as_str()).collect();
        Err(Error::invalid(format!("there is no index '{name}': there are ({})", known.join(", "))))
    }

    /// What each source has of each index.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn index_info(&self) -> Result<Vec<IndexInfo>> {
        let snapshot = self.snapshot();
        let base = &snapshot.version().base;
        let of_base = base.indexed_rows().await?;
        let mut all = Vec::new();
        for index in base.indexes().specs() {
            let info = |shard, source, generation, rows: usize| IndexInfo {
                index: index.clone(),
                shard,
                source,
                generation,
                rows: rows as u64,
                indexed: 0,
                error: None,
            };
            for (shard, memtables) in snapshot.shards() {
                for view in memtables {
                    let rows = view.watermark();
                    let indexes = view.table().indexes();
                    let state = indexes.iter().find(|state| state.name() == index.name);
                    let working = state.filter(|state| state.failure().is_none());
                    all.push(IndexInfo {
                        indexed: working.map_or(0, |state| state.indexed().min(rows) as u64),
                        error: state.and_then(|state| state.failure()).map(ToString::to_string),
                        ..info(Some(shard.shard), "memtable", view.generation(), rows)
                    });
                }
                for generation in &shard.generations {
                    let of = info(Some(shard.shard), "generation", generation.id(), generation.rows());
                    let is_indexed = has_index(generation, index, base.indexes()).await?;
                    all.push(IndexInfo { indexed: if is_indexed { of.rows } else { 0 }, ..of });
                }
            }
            let indexed = of_base.get(&index.name).copied().unwrap_or(0).min(base.rows() as u64);
            all.push(IndexInfo { indexed, ..info(None, "base", GenerationId(0), base.rows()) });
        }
        Ok(all)
    }

    /// Does `commit` on the newest base, again if others came before, takes over what comes out, and returns whether there
    /// was anything to do.
    async fn commit_base(&self, mut commit: BaseCommit<'_>) -> Result<bool> {
        for attempt in 1.. {
            self.shards.check_open()?;
            self.context.refresh_base().await?;
            let base = Arc::clone(&self.control.current().base);
            match Box::pin(commit.run(&base)).await {
                Ok(Some(newer)) => {
                    self.context.adopt_base(newer)?;
                    self.control.release().await;
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn check_may_change_indexes(&self) -> Result<()> {
        if self.settings.access == Access::Write {
            return Ok(());
        }
        Err(Error::invalid("'lsm.access' = 'read' forbids changing indexes"))
    }
}

/// Whether a generation was written with an index that answers as `index` does.
async fn has_index(generation: &Generation, index: &IndexSpec, all: &Indexes) -> Result<bool> {
    let Ok(column) = generation.handle().schema().logical().index_of(&index.column) else { return Ok(false) };
    Ok(match &index.kind {
        IndexKind::Text(_) => {
            generation.handle().stored_text_index(column, &all.text_analyzer(&index.column)).await?.is_some()
        }
        IndexKind::Vector(vector) => generation.handle().vector_index_kind(column, vector.metric).is_some(),
        IndexKind::BTree | IndexKind::Bitmap => generation.handle().value_index_name(&index.column).is_some(),
    })
}

/// Those of `all` that are of `column`, and its name.
fn of_column(all: &[IndexSpec], column: &str) -> (String, Vec<IndexSpec>) {
    (column.to_string(), all.iter().filter(|index| index.column == column).cloned().collect())
}

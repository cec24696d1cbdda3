//! The table functions: `lsm_sources('t')`, `lsm_indexes('t')`, `lsm_wal('t')`, `lsm_metrics('t')`, `lsm_flush('t')`,
//! `lsm_refresh('t')`, `lsm_drop_index('t', 'name')`, `lsm_warm('t', 'all')`.
//!
//! Planning only finds the table; the work is in the stream. A flush that happened while planning would happen under
//! EXPLAIN, and twice.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::provider::LsmTableProvider;
use super::{report, when_read};
use crate::error::Error;
use crate::table::LsmTable;

/// What a table function tells or does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LsmFunction {
    /// What the table consists of.
    Sources,
    /// What each source has of each index.
    Indexes,
    /// The state of each shard's WAL.
    Wal,
    /// Counters and gauges.
    Metrics,
    /// Turns the memtables into generations.
    Flush,
    /// Looks for what other processes wrote.
    Refresh,
    /// Takes an index from the table.
    DropIndex,
    /// Reads ahead of queries.
    Warm,
}

impl LsmFunction {
    /// All functions.
    pub const ALL: &'static [Self] = &[
        Self::Sources,
        Self::Indexes,
        Self::Wal,
        Self::Metrics,
        Self::Flush,
        Self::Refresh,
        Self::DropIndex,
        Self::Warm,
    ];

    /// The function's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sources => "lsm_sources",
            Self::Indexes => "lsm_indexes",
            Self::Wal => "lsm_wal",
            Self::Metrics => "lsm_metrics",
            Self::Flush => "lsm_flush",
            Self::Refresh => "lsm_refresh",
            Self::DropIndex => "lsm_drop_index",
            Self::Warm => "lsm_warm",
        }
    }

    /// What the function takes behind the name of the table, and an example of it.
    fn takes(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::DropIndex => Some(("of an index", "index")),
            Self::Warm => Some(("of what is to be read: none, metadata, indexes or all", "indexes")),
            _ => None,
        }
    }
}

/// One of the table functions.
#[derive(Debug)]
pub struct LsmTableFunction {
    function: LsmFunction,
}

impl LsmTableFunction {
    /// The table function for `function`.
    pub fn new(function: LsmFunction) -> Self {
        Self { function }
    }
}

impl TableFunctionImpl for LsmTableFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let texts: Option<Vec<&str>> = args.exprs().iter().map(text_of).collect();
        let (function, takes) = (self.function, self.function.takes());
        let (table, argument) = match (texts.as_deref(), takes) {
            (Some([table]), None) => (*table, None),
            (Some([table, argument]), Some(_)) => (*table, Some((*argument).to_string())),
            _ => {
                let name = function.name();
                return Err(Error::invalid(match takes {
                    None => format!("{name} takes the name of a table: {name}('t')"),
                    Some((what, example)) => {
                        format!("{name} takes the names of a table and {what}: {name}('t', '{example}')")
                    }
                })
                .into());
            }
        };
        Ok(Arc::new(Call { function, name: TableReference::parse_str(table), argument }))
    }
}

/// The text that is given as a literal.
fn text_of(argument: &Expr) -> Option<&str> {
    match argument {
        Expr::Literal(value, _) => value.try_as_str()?,
        _ => None,
    }
}

/// A call of a table function.
#[derive(Debug)]
struct Call {
    function: LsmFunction,
    name: TableReference,
    argument: Option<String>,
}

#[async_trait]
impl TableProvider for Call {
    fn schema(&self) -> SchemaRef {
        report::schema(self.function)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = find(state, &self.name).await?;
        let (function, argument) = (self.function, self.argument.clone());
        when_read::plan(self.schema(), projection, limit, move || {
            let (table, argument) = (Arc::clone(&table), argument.clone());
            Box::pin(async move { report::run(function, &table, argument.as_deref()).await.map(Some) })
        })
    }
}

/// The LSM table of this name.
pub(super) async fn find(session: &dyn Session, name: &TableReference) -> Result<Arc<LsmTable>> {
    let state = session
        .as_any()
        .downcast_ref::<SessionState>()
        .ok_or_else(|| Error::invalid("this session does not tell its tables"))?;
    let schema = state.schema_for_ref(name.clone())?;
    let provider = schema.table(name.table()).await?;
    let provider = provider.ok_or_else(|| Error::invalid(format!("there is no table '{name}'")))?;
    match provider.downcast_ref::<LsmTableProvider>() {
        Some(provider) => Ok(Arc::clone(provider.table())),
        None => Err(Error::invalid(format!("'{name}' is not an LSM table")).into()),
    }
}

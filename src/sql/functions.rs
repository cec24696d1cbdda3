//! The table functions: `lsm_sources('t')`, `lsm_wal('t')`, `lsm_metrics('t')`, `lsm_flush('t')`, `lsm_refresh('t')`.
//!
//! Planning only finds the table; the work is in the stream. A flush that happened while planning would happen under
//! EXPLAIN, and twice.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, TableReference};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream;

use super::provider::LsmTableProvider;
use super::report;
use crate::error::Error;
use crate::table::LsmTable;

/// What a table function tells or does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LsmFunction {
    /// What the table consists of.
    Sources,
    /// The state of each shard's WAL.
    Wal,
    /// Counters and gauges.
    Metrics,
    /// Turns the memtables into generations.
    Flush,
    /// Looks for what other processes wrote.
    Refresh,
}

impl LsmFunction {
    /// All functions.
    pub const ALL: &'static [Self] = &[Self::Sources, Self::Wal, Self::Metrics, Self::Flush, Self::Refresh];

    /// The function's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sources => "lsm_sources",
            Self::Wal => "lsm_wal",
            Self::Metrics => "lsm_metrics",
            Self::Flush => "lsm_flush",
            Self::Refresh => "lsm_refresh",
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
        let name = match args.exprs() {
            [Expr::Literal(ScalarValue::Utf8(Some(name)), _)]
            | [Expr::Literal(ScalarValue::LargeUtf8(Some(name)), _)]
            | [Expr::Literal(ScalarValue::Utf8View(Some(name)), _)] => name,
            _ => {
                let name = self.function.name();
                return Err(Error::invalid(format!("{name} takes the name of a table: {name}('t')")).into());
            }
        };
        Ok(Arc::new(Call { function: self.function, name: TableReference::parse_str(name) }))
    }
}

/// A call of a table function.
#[derive(Debug)]
struct Call {
    function: LsmFunction,
    name: TableReference,
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
        let partition = Arc::new(Partition { function: self.function, table, schema: self.schema() });
        let exec = StreamingTableExec::try_new(self.schema(), vec![partition], projection, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}

/// The LSM table of this name.
async fn find(session: &dyn Session, name: &TableReference) -> Result<Arc<LsmTable>> {
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

/// Does the work of a call when it is read.
struct Partition {
    function: LsmFunction,
    table: Arc<LsmTable>,
    schema: SchemaRef,
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (function, table) = (self.function, Arc::clone(&self.table));
        let batch = stream::once(async move { Ok(Box::pin(report::run(function, &table)).await?) });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batch))
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Partition");
        debug.field("function", &self.function).field("table", &self.table.uri()).finish_non_exhaustive()
    }
}

//! CREATE INDEX and DROP INDEX.
//!
//! DataFusion plans CREATE INDEX and runs it nowhere, so the statement rule makes it a scan that does the work when it is
//! read. Of its clauses it keeps name, table, USING and columns, and drops WITH; DROP INDEX it does not plan at all. So
//! [`LsmSqlExt::lsm_sql`] takes both from the parser.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateIndex, Expr, LogicalPlan, LogicalPlanBuilder, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{self, BinaryOperator, Expr as SqlExpr, ObjectType, Statement};

use super::functions::find;
use super::provider::LsmTableProvider;
use super::when_read;
use crate::error::Error;
use crate::index_spec::IndexSpec;
use crate::table::LsmTable;

/// What an index is if USING does not say.
const DEFAULT_KIND: &str = "btree";

/// What a statement does to indexes.
#[derive(Debug, Clone)]
pub(super) enum IndexStatement {
    Create {
        index: IndexSpec,
        table: TableReference,
        if_not_exists: bool,
    },
    /// Without a table it is looked for in the default schema.
    Drop {
        name: String,
        table: Option<TableReference>,
        if_exists: bool,
    },
}

impl IndexStatement {
    /// What DataFusion planned.
    pub(super) fn of_plan(create: CreateIndex, params: &[(String, String)]) -> Result<Self> {
        let CreateIndex { name, table, using, columns, unique, if_not_exists, .. } = create;
        let refuse = |why: &'static str| Err(Error::invalid(format!("CREATE INDEX: {why}")).into());
        if unique {
            return refuse("UNIQUE cannot be enforced: only the PRIMARY KEY is unique");
        }
        let [column] = columns.as_slice() else { return refuse("an index is of one column: create one for each") };
        let (Expr::Column(name_of), true) = (&column.expr, column.asc) else {
            return refuse("an index is of a column as it is: give its name alone");
        };
        let kind = using.as_deref().unwrap_or(DEFAULT_KIND);
        let index = IndexSpec::declared(name.as_deref(), &name_of.name, kind, params)
            .map_err(|e| Error::invalid(format!("CREATE INDEX: {}", e.message())))?;
        Ok(Self::Create { index, table, if_not_exists })
    }

    /// A plan that does it.
    pub(super) fn plan(self) -> Result<LogicalPlan> {
        let what = match &self {
            Self::Create { index, .. } => format!("create index {}", index.name),
            Self::Drop { name, .. } => format!("drop index {name}"),
        };
        let source = provider_as_source(Arc::new(self));
        LogicalPlanBuilder::scan(TableReference::bare(what), source, None)?.build()
    }

    async fn find(&self, state: &dyn Session) -> Result<Option<Arc<LsmTable>>> {
        let (name, if_exists) = match self {
            Self::Create { table, .. } | Self::Drop { table: Some(table), .. } => {
                return find(state, table).await.map(Some);
            }
            Self::Drop { name, table: None, if_exists } => (name, *if_exists),
        };
        let mut having = having(state, name).await?;
        match (having.len(), if_exists) {
            (0, true) => Ok(None),
            (0, false) => {
                Err(Error::invalid(format!("no table has an index '{name}': say which with DROP INDEX {name} ON t"))
                    .into())
            }
            (1, _) => Ok(having.pop().map(|(_, table)| table)),
            _ => {
                let tables: Vec<String> = having.into_iter().map(|(table, _)| table).collect();
                let tables = tables.join(", ");
                Err(Error::invalid(format!("several tables have an index '{name}' ({tables}): say which with ON"))
                    .into())
            }
        }
    }

    async fn run(&self, table: &LsmTable) -> crate::error::Result<bool> {
        match self {
            Self::Create { index, if_not_exists, .. } => table.create_index(index, *if_not_exists).await,
            Self::Drop { name, if_exists, .. } => table.drop_index(name, *if_exists).await,
        }
    }
}

/// The tables of the default schema that have an index of this name.
async fn having(session: &dyn Session, index: &str) -> Result<Vec<(String, Arc<LsmTable>)>> {
    let state = session.as_any().downcast_ref::<SessionState>();
    let state = state.ok_or_else(|| Error::invalid("this session does not tell its tables"))?;
    let schema = state.schema_for_ref(TableReference::bare(index))?;
    let mut found: Vec<(String, Arc<LsmTable>)> = Vec::new();
    for name in schema.table_names() {
        let provider = schema.table(&name).await?;
        let table = provider.as_ref().and_then(|p| p.downcast_ref::<LsmTableProvider>()).map(|p| Arc::clone(p.table()));
        // One table may have several names.
        let new = |table: &Arc<LsmTable>| !found.iter().any(|(_, other)| Arc::ptr_eq(other, table));
        found.extend(table.filter(new).filter(|t| t.indexes().iter().any(|i| i.name == index)).map(|t| (name, t)));
    }
    Ok(found)
}

#[async_trait]
impl TableProvider for IndexStatement {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
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
        let table = self.find(state).await?;
        let statement = self.clone();
        when_read::plan(self.schema(), projection, limit, move || {
            let (statement, table) = (statement.clone(), table.clone());
            Box::pin(async move {
                if let Some(table) = table {
                    statement.run(&table).await?;
                }
                Ok(None)
            })
        })
    }
}

/// SQL with the statements that DataFusion does not plan: DROP INDEX, and CREATE INDEX … WITH.
#[async_trait]
pub trait LsmSqlExt {
    /// As `SessionContext::sql`, with those statements. A session's own `sql` ignores WITH, and knows no DROP INDEX; what
    /// it knows are `USING "fts(language = 'German')"` and `SELECT * FROM lsm_drop_index('t', 'name')`.
    ///
    /// # Errors
    /// As there.
    async fn lsm_sql(&self, sql: &str) -> Result<DataFrame>;
}

#[async_trait]
impl LsmSqlExt for SessionContext {
    async fn lsm_sql(&self, sql: &str) -> Result<DataFrame> {
        let state = self.state();
        let dialect = state.config().options().sql_parser.dialect;
        let Ok(ParsedStatement::Statement(parsed)) = state.sql_to_statement(sql, &dialect) else {
            return self.sql(sql).await;
        };
        match *parsed {
            Statement::Drop { object_type: ObjectType::Index, if_exists, names, table, .. } => {
                let [name] = names.as_slice() else {
                    return Err(Error::invalid("DROP INDEX: drop one at a time").into());
                };
                let table = table.map(|table| TableReference::parse_str(&table.to_string()));
                let name = name_of(name);
                let plan = IndexStatement::Drop { name, table, if_exists }.plan()?;
                Ok(DataFrame::new(state, plan))
            }
            Statement::CreateIndex(create) if !create.with.is_empty() => {
                let params = create.with.iter().map(param).collect::<Result<Vec<_>>>()?;
                let bare = ast::CreateIndex { with: Vec::new(), ..create };
                let bare = ParsedStatement::Statement(Box::new(Statement::CreateIndex(bare)));
                let planned = state.statement_to_plan(bare).await?;
                let LogicalPlan::Ddl(datafusion::logical_expr::DdlStatement::CreateIndex(create)) = planned else {
                    return Err(Error::internal("CREATE INDEX is planned as such").into());
                };
                Ok(DataFrame::new(state, IndexStatement::of_plan(create, &params)?.plan()?))
            }
            _ => self.sql(sql).await,
        }
    }
}

fn name_of(name: &ast::ObjectName) -> String {
    TableReference::parse_str(&name.to_string()).table().to_string()
}

/// `name = value`, the value as options spell it.
fn param(param: &SqlExpr) -> Result<(String, String)> {
    if let SqlExpr::BinaryOp { left, op: BinaryOperator::Eq, right } = param
        && let SqlExpr::Identifier(name) = left.as_ref()
    {
        return Ok((name.value.clone(), right.to_string()));
    }
    Err(Error::invalid(format!("CREATE INDEX: WITH takes parameters as name = value, and this is {param}")).into())
}

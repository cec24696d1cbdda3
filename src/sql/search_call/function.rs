//! The functions as a session calls them. Planning finds the table and looks at nothing else: values may be missing
//! until a prepared statement is executed.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, ident};
use datafusion::physical_plan::ExecutionPlan;
use futures::FutureExt;

use super::SearchCall;
use super::parameters::{Kind, Parameter, SearchFunction};
use crate::error::Error;

/// One of the table functions that search.
#[derive(Debug)]
pub struct SearchTableFunction {
    function: SearchFunction,
}

impl SearchTableFunction {
    /// The table function for `function`.
    pub fn new(function: SearchFunction) -> Self {
        Self { function }
    }
}

impl TableFunctionImpl for SearchTableFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let arguments = arguments(self.function, args.exprs())?;
        let table = match arguments.first() {
            Some(Expr::Literal(table, _)) => table.try_as_str().flatten(),
            _ => None,
        };
        let table = table.ok_or_else(|| self.function.refused("the name of the table is not a text"))?;
        let table = TableReference::parse_str(table);
        let source = provider_as_source(provider(args.session(), &table, self.function)?);
        let input = LogicalPlanBuilder::scan(table, source, None)?.build()?;
        let plan = SearchCall::try_new(self.function, arguments, input)?.into_plan();
        Ok(Arc::new(Call { schema: Arc::clone(plan.schema().inner()), plan }))
    }
}

/// The arguments, with types for what has none yet.
fn arguments(function: SearchFunction, given: &[Expr]) -> Result<Vec<Expr>> {
    let parameters = function.parameters();
    if given.len() > parameters.len() {
        return Err(function.refused("there are too many arguments"));
    }
    if let Some(missing) = parameters[given.len()..].iter().find(|parameter| parameter.is_required) {
        return Err(function.refused(format!("'{}' is missing", missing.name)));
    }
    let argument = |(parameter, value): (&Parameter, &Expr)| match value.any_column_refs() {
        true => Err(function.refused(format!("'{}' is not constant", parameter.name))),
        false => typed(value.clone(), parameter.kind),
    };
    parameters.iter().zip(given).map(argument).collect()
}

/// `value` whose parameters of a prepared statement have the types that are wanted, so that the statement need not tell
/// them.
fn typed(value: Expr, kind: Kind) -> Result<Expr> {
    let of = |data_type: DataType| Some(Arc::new(Field::new("", data_type, true)));
    let (whole, part) = match kind {
        Kind::Text | Kind::Texts => (DataType::Utf8, DataType::Utf8),
        Kind::Vector => (DataType::new_list(DataType::Float64, true), DataType::Float64),
        Kind::Count => (DataType::Int64, DataType::Int64),
        Kind::Number => (DataType::Float64, DataType::Float64),
    };
    if let Expr::Placeholder(Placeholder { id, field: None }) = value {
        return Ok(Expr::Placeholder(Placeholder { id, field: of(whole) }));
    }
    let typed = value.transform_up(|expr| match expr {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            Ok(Transformed::yes(Expr::Placeholder(Placeholder { id, field: of(part.clone()) })))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(typed.data)
}

/// The table of this name in the session's catalogs.
fn provider(session: &dyn Session, name: &TableReference, function: SearchFunction) -> Result<Arc<dyn TableProvider>> {
    let state = session.as_any().downcast_ref::<SessionState>();
    let state = state.ok_or_else(|| Error::invalid("this session does not tell its tables"))?;
    let schema = state.schema_for_ref(name.clone())?;
    // A table function is planned without waiting, and the catalogs of a session answer at once unless they are remote.
    let found = schema.table(name.table()).now_or_never().ok_or_else(|| {
        let function = function.name();
        Error::invalid(format!(
            "the catalog of '{name}' does not answer at once, which {function} needs: make a view of it"
        ))
    })??;
    let there = || {
        let mut names = schema.table_names();
        names.sort_unstable();
        names.iter().take(20).map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
    };
    found.ok_or_else(|| Error::invalid(format!("there is no table '{name}', there are: {}", there())).into())
}

/// What a call returns, as a table.
#[derive(Debug)]
struct Call {
    plan: LogicalPlan,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Call {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    /// Planners put this in the place of the table.
    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    /// For those that see tables and no plans.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plan = LogicalPlanBuilder::from(self.plan.clone());
        if let Some(filter) = conjunction(filters.iter().cloned()) {
            plan = plan.filter(filter)?;
        }
        if limit.is_some() {
            plan = plan.limit(0, limit)?;
        }
        if let Some(projection) = projection {
            plan = plan.project(projection.iter().map(|at| ident(self.schema.field(*at).name())))?;
        }
        state.create_physical_plan(&plan.build()?).await
    }
}

//! Arguments with names, `k => 3`, which DataFusion's own planner refuses in table functions.

use datafusion::common::{DFSchema, Result, ScalarValue, TableReference};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, TableFactor};

use super::parameters::SearchFunction;

/// Plans the calls that have them.
#[derive(Debug)]
pub(crate) struct NamedArguments;

impl RelationPlanner for NamedArguments {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let called = match &relation {
            TableFactor::Table { name, args: Some(call), .. }
                if call.args.iter().any(|arg| !matches!(arg, FunctionArg::Unnamed(_))) =>
            {
                name.0.first().and_then(|name| name.as_ident()).map(|name| context.normalize_ident(name.clone()))
            }
            _ => None,
        };
        let function = called.and_then(|name| SearchFunction::ALL.iter().find(|function| function.name() == name));
        let (Some(function), TableFactor::Table { alias, args: Some(call), .. }) = (function, &relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let arguments = in_order(*function, &call.args, context)?;
        let source = context.context_provider().get_table_function_source(function.name(), arguments)?;
        let name = TableReference::bare(format!("{}()", function.name()));
        let plan = LogicalPlanBuilder::scan(name, source, None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// The arguments in the order of their parameters, with NULL for what is left out.
fn in_order(
    function: SearchFunction,
    given: &[FunctionArg],
    context: &mut dyn RelationPlannerContext,
) -> Result<Vec<Expr>> {
    let parameters = function.parameters();
    let mut values: Vec<Option<Expr>> = Vec::with_capacity(parameters.len());
    let mut names = false;
    for argument in given {
        let (at, value) = match argument {
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                names = true;
                let at = parameters.iter().position(|parameter| parameter.name.eq_ignore_ascii_case(&name.value));
                let unknown = || function.refused(format!("there is no argument '{}'", name.value));
                (at.ok_or_else(unknown)?, value)
            }
            FunctionArg::Unnamed(_) if names => {
                return Err(function.refused("an argument without a name follows one with a name"));
            }
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (values.len(), value),
            other => return Err(function.refused(format!("there is no argument such as {other}"))),
        };
        if values.len() <= at {
            values.resize(at + 1, None);
        }
        if values[at].is_some() {
            return Err(function.refused(format!("'{}' is given twice", parameters[at].name)));
        }
        values[at] = Some(context.sql_expr_to_logical_expr(value.clone(), &DFSchema::empty())?);
    }
    let value = |(at, value): (usize, Option<Expr>)| match value {
        Some(value) => Ok(value),
        None if parameters[at].is_required => Err(function.refused(format!("'{}' is missing", parameters[at].name))),
        None => Ok(Expr::Literal(ScalarValue::Null, None)),
    };
    values.into_iter().enumerate().map(value).collect()
}

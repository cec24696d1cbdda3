//! Finds out whose column the text of each `score` and `text_match` is: `score` is bound to the statement's snapshot of
//! that table, both to how the column's words are made.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::provider::LsmTableProvider;
use super::rule::{Pins, provider_of};
use super::score::{self, NAME};
use super::text;
use crate::table::TextSearch;

/// `plan` with every call of `score` and `text_match` bound.
///
/// # Errors
/// A plan error if a text is no column of an LSM table or a query is not constant, `Invalid` if a query is none.
pub(super) fn bind(plan: LogicalPlan, pins: &mut Pins) -> Result<LogicalPlan> {
    let bound = plan.transform_down_with_subqueries(|node| {
        let mut calls = false;
        node.apply_expressions(|expr| {
            calls |= expr.exists(|expr| Ok(score::call_of(expr).is_some() || text::text_of(expr).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if !calls {
            return Ok(Transformed::no(node));
        }
        let below = node.clone();
        node.map_expressions(|expr| expr.transform_up(|expr| bind_call(expr, &below, pins)))
    })?;
    Ok(bound.data)
}

fn bind_call(expr: Expr, node: &LogicalPlan, pins: &mut Pins) -> Result<Transformed<Expr>> {
    if let Some(Expr::Column(column)) = text::text_of(&expr)
        && let Some((provider, column)) = origin(node, column)
    {
        return Ok(Transformed::yes(text::bound(expr, provider.table().text_analyzer(&column))));
    }
    let Some((text, query)) = score::call_of(&expr) else { return Ok(Transformed::no(expr)) };
    let query = constant(query)?;
    let Some(words) = query.try_as_str() else {
        return plan_err!("{NAME} takes a query as text, not as {}", query.data_type());
    };
    // Of NULL nothing is to be known.
    let Some(words) = words else { return Ok(Transformed::no(expr)) };
    let found = match text {
        Expr::Column(column) => origin(node, column),
        _ => None,
    };
    let Some((provider, column)) = found else {
        return plan_err!(
            "{NAME} needs a column of an LSM table, whose rows tell what words weigh, and '{text}' is none"
        );
    };
    let search = TextSearch::parse(&column, words, &provider.table().text_analyzer(&column))?;
    let scorer = pins.scorer(provider.table(), search)?;
    Ok(Transformed::yes(score::bound(text.clone(), Expr::Literal(query, None), scorer)))
}

/// The value of an expression that has only one.
fn constant(query: &Expr) -> Result<ScalarValue> {
    let context = SimplifyContext::default();
    let simple = ExprSimplifier::new(context).simplify(query.clone())?;
    match simple {
        Expr::Literal(value, _) => Ok(value),
        other => plan_err!("{NAME} takes a constant query, and '{other}' differs from row to row"),
    }
}

/// The table and its column that `column`, of what `node` reads, comes from as it is.
fn origin(node: &LogicalPlan, column: &Column) -> Option<(LsmTableProvider, String)> {
    if let LogicalPlan::TableScan(scan) = node {
        scan.projected_schema.index_of_column(column).ok()?;
        return Some((provider_of::<LsmTableProvider>(&scan.source)?, column.name.clone()));
    }
    let has = |schema: &Arc<DFSchema>| schema.index_of_column(column).ok();
    node.inputs().into_iter().find_map(|input| {
        let at = has(input.schema())?;
        output(input, at)
    })
}

/// The table and its column that column `at` of what `node` yields comes from as it is.
fn output(node: &LogicalPlan, at: usize) -> Option<(LsmTableProvider, String)> {
    match node {
        LogicalPlan::TableScan(scan) => {
            let name = scan.projected_schema.field(at).name().clone();
            Some((provider_of::<LsmTableProvider>(&scan.source)?, name))
        }
        LogicalPlan::Projection(projection) => match projection.expr[at].clone().unalias() {
            Expr::Column(column) => origin(node, &column),
            _ => None,
        },
        LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(at)?.clone().unalias() {
            Expr::Column(column) => origin(node, &column),
            _ => None,
        },
        LogicalPlan::SubqueryAlias(alias) => output(&alias.input, at),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Window(_) => origin(node, &Column::from(node.schema().qualified_field(at))),
        _ => None,
    }
}

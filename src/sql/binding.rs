//! Finds out whose column the text of each `score`, `text_match` and `snippet` is, and whose key `lsm_source` is asked
//! about: `score` and `lsm_source` are bound to the statement's snapshot of that table, all that read texts to how the
//! column's words are made.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::provider::LsmTableProvider;
use super::rule::{Pins, provider_of};
use super::score::{self, NAME};
use super::{snippet, source, text};
use crate::table::{TextAnalyzer, TextSearch};

/// `plan` with every call of `score`, `text_match`, `snippet` and `lsm_source` bound.
///
/// # Errors
/// A plan error if a text is no column of an LSM table, a query is not constant or a key is none, `Invalid` if a query
/// is none.
pub(super) fn bind(plan: LogicalPlan, pins: &mut Pins) -> Result<LogicalPlan> {
    let bound = plan.transform_down_with_subqueries(|node| {
        let mut calls = false;
        node.apply_expressions(|expr| {
            calls |= expr.exists(|expr| Ok(is_unbound(expr)))?;
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

/// Whether the expression asks for what only its table knows.
fn is_unbound(expr: &Expr) -> bool {
    score::call_of(expr).is_some() || words_of(expr).is_some() || source::key_of(expr).is_some()
}

/// Tells a call how the words of its text are made.
type Binding = fn(Expr, Arc<TextAnalyzer>) -> Expr;

/// The text of a call that asks for nothing but words, and what binds it.
fn words_of(expr: &Expr) -> Option<(&Expr, Binding)> {
    let matching = text::text_of(expr).map(|of| (of, text::bound as Binding));
    matching.or_else(|| snippet::text_of(expr).map(|of| (of, snippet::bound as Binding)))
}

fn bind_call(expr: Expr, node: &LogicalPlan, pins: &mut Pins) -> Result<Transformed<Expr>> {
    if let Some((Expr::Column(column), bound)) = words_of(&expr)
        && let Some((provider, column)) = origin(node, column)
    {
        return Ok(Transformed::yes(bound(expr, provider.table().text_analyzer(&column))));
    }
    if let Some(key) = source::key_of(&expr) {
        return Ok(Transformed::yes(bind_key(key, node, pins)?));
    }
    let Some((text, query)) = score::call_of(&expr) else { return Ok(Transformed::no(expr)) };
    let value = constant(query)?;
    let Some(words) = value.try_as_str() else {
        return plan_err!("{NAME} takes a query as text, not as {}", value.data_type());
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
    Ok(Transformed::yes(score::bound(text.clone(), query.clone(), scorer)))
}

/// The call of `lsm_source` for `key`, which must be the key columns of one table.
fn bind_key(key: &[Expr], node: &LogicalPlan, pins: &mut Pins) -> Result<Expr> {
    let mut origins = key.iter().map(|expr| match expr {
        Expr::Column(column) => origin(node, column),
        _ => None,
    });
    let Some((provider, first)) = origins.next().flatten() else {
        return plan_err!("{} takes the columns of an LSM table's key, and '{}' is none", source::NAME, key[0]);
    };
    let table = provider.table();
    let rest = origins.map(|of| of.filter(|(p, _)| Arc::ptr_eq(p.table(), table)).map(|(_, column)| column));
    let given: Option<Vec<String>> = std::iter::once(Some(first)).chain(rest).collect();
    let schema = table.table_schema();
    let names = schema.key().names();
    if given.is_none_or(|given| given != names) {
        return plan_err!("{0} takes the columns of the table's key: {0}({1})", source::NAME, names.join(", "));
    }
    Ok(source::bound(key.to_vec(), pins.snapshot(table)))
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

/// The table and its column that `expr`, of what `node` reads, comes from as it is: from one side or, where a search
/// joins a table with itself, from either.
fn source(node: &LogicalPlan, expr: &Expr) -> Option<(LsmTableProvider, String)> {
    match expr {
        Expr::Alias(alias) => source(node, &alias.expr),
        Expr::Column(column) => origin(node, column),
        Expr::ScalarFunction(call) if call.name() == "coalesce" => {
            let mut sources = call.args.iter().map(|arg| source(node, arg));
            let (provider, column) = sources.next()??;
            let is_that = |(other, name): (LsmTableProvider, String)| {
                Arc::ptr_eq(other.table(), provider.table()) && name == column
            };
            sources.all(|other| other.is_some_and(is_that)).then_some((provider.clone(), column.clone()))
        }
        _ => None,
    }
}

/// The table and its column that column `at` of what `node` yields comes from as it is.
pub(super) fn output(node: &LogicalPlan, at: usize) -> Option<(LsmTableProvider, String)> {
    match node {
        LogicalPlan::TableScan(scan) => {
            let name = scan.projected_schema.field(at).name().clone();
            Some((provider_of::<LsmTableProvider>(&scan.source)?, name))
        }
        LogicalPlan::Projection(projection) => source(node, &projection.expr[at]),
        LogicalPlan::Distinct(Distinct::On(on)) => source(node, &on.select_expr[at]),
        LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(at)?.clone().unalias() {
            Expr::Column(column) => origin(node, &column),
            _ => None,
        },
        LogicalPlan::SubqueryAlias(alias) => output(&alias.input, at),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Distinct(Distinct::All(_))
        | LogicalPlan::Join(_)
        | LogicalPlan::Window(_) => origin(node, &Column::from(node.schema().qualified_field(at))),
        _ => None,
    }
}

//! Finds out whose columns the texts of each `score`, `text_match` and `snippet` are, and whose key `lsm_source` is asked
//! about: `score` and `lsm_source` are bound to the statement's snapshot of that table, all that read texts to how the
//! columns' words are made and to what a query calls them.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::provider::LsmTableProvider;
use super::rule::{Pins, provider_of};
use super::score::{self, NAME};
use super::text::{BoundText, ScoredTexts, Searched};
use super::{snippet, source, text};
use crate::table::{TextAnalyzer, TextSearch};

/// `plan` with every call of `score`, `text_match`, `snippet` and `lsm_source` bound.
///
/// # Errors
/// A plan error if a text is no column of an LSM table, a query is not constant or a key is none, `Invalid` if a query
/// is none.
pub(super) fn bind(plan: LogicalPlan, pins: &mut Pins) -> Result<LogicalPlan> {
    let mut calls = false;
    plan.apply_with_subqueries(|node| {
        calls |= has_calls(node)?;
        Ok(if calls { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if !calls {
        return Ok(plan);
    }
    Ok(Binder { pins, around: Vec::new() }.node(plan)?.data)
}

/// Whether `node` itself has a call that is to be bound.
fn has_calls(node: &LogicalPlan) -> Result<bool> {
    let mut calls = false;
    node.apply_expressions(|expr| {
        calls |= expr.exists(|expr| Ok(is_unbound(expr)))?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(calls)
}

/// Whether the expression asks for what only its table knows.
fn is_unbound(expr: &Expr) -> bool {
    score::call_of(expr).is_some() || words_of(expr).is_some() || source::key_of(expr).is_some()
}

/// `plan` whose calls of `text_match`, `snippet` and `score` know what their queries call the texts: before calls are moved to
/// where columns have other names.
///
/// # Errors
/// What DataFusion raises.
pub(super) fn label(plan: LogicalPlan) -> Result<LogicalPlan> {
    let labelled = |expr: Expr| match words_of(&expr).or_else(|| scored_of(&expr)) {
        Some((texts, [], bound)) => {
            let told = bound_texts(texts, &[], |_| None);
            Ok(Transformed::yes(bound(expr, told)))
        }
        _ => Ok(Transformed::no(expr)),
    };
    let plan = plan.transform_down_with_subqueries(|node| node.map_expressions(|expr| expr.transform_up(labelled)))?;
    Ok(plan.data)
}

/// Puts what is known of its texts into a call.
type Binding = fn(Expr, Vec<BoundText>) -> Expr;

/// The texts of a call that asks for nothing but words, what is known of them, and what binds it.
fn words_of(expr: &Expr) -> Option<(&[Expr], &[BoundText], Binding)> {
    let matching = text::call_of(expr).map(|(texts, told)| (texts, told, text::bound as Binding));
    matching.or_else(|| snippet::call_of(expr).map(|(texts, told)| (texts, told, snippet::bound as Binding)))
}

/// The same of a call of `score`.
fn scored_of(expr: &Expr) -> Option<(&[Expr], &[BoundText], Binding)> {
    let call = score::call_of(expr)?;
    Some((call.texts, call.told, score::labelled))
}

/// Binds the calls of a plan.
struct Binder<'a> {
    pins: &'a mut Pins,
    /// The nodes whose subqueries the plan is in, the innermost last: their inputs have the columns that it refers to
    /// from within.
    around: Vec<LogicalPlan>,
}

impl Binder<'_> {
    fn node(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let here = node.clone();
        let bound = match has_calls(&node)? {
            true => node.map_expressions(|expr| expr.transform_up(|expr| self.call(expr, &here)))?.data,
            false => node,
        };
        // A lateral subquery is an input of its join.
        let is_lateral = matches!(here, LogicalPlan::Join(_));
        self.around.push(here);
        let bound = bound.map_subqueries(|query| self.node(query))?.data;
        if !is_lateral {
            self.around.pop();
        }
        let bound = bound.map_children(|input| self.node(input))?.data;
        if is_lateral {
            self.around.pop();
        }
        Ok(Transformed::yes(bound))
    }

    /// Where each text comes from, of which `node` has a call.
    fn origins(&self, texts: &[Expr], node: &LogicalPlan) -> Vec<Option<Origin>> {
        let origin = |text: &Expr| match text {
            Expr::Column(column) => origin(node, column),
            Expr::OuterReferenceColumn(_, column) => self.around.iter().rev().find_map(|node| origin(node, column)),
            _ => None,
        };
        texts.iter().map(origin).collect()
    }

    fn call(&mut self, expr: Expr, node: &LogicalPlan) -> Result<Transformed<Expr>> {
        if let Some((texts, told, bound)) = words_of(&expr) {
            let origins = self.origins(texts, node);
            let texts = bound_texts(texts, told, |place| origins[place].as_ref().map(Origin::analyzer));
            text::check(&expr, &texts)?;
            let table = origins.into_iter().next().flatten().and_then(Origin::into_column);
            let known = |search: &TextSearch| self.pins.known_scorer(table?.0.table(), search);
            return Ok(Transformed::yes(text::scored_by(bound(expr, texts), known)));
        }
        if let Some(key) = source::key_of(&expr) {
            return Ok(Transformed::yes(self.key(key, node)?));
        }
        let Some(call) = score::call_of(&expr) else { return Ok(Transformed::no(expr)) };
        let value = constant(call.query)?;
        let Some(words) = value.try_as_str() else {
            return plan_err!("{NAME} takes a query as text, not as {}", value.data_type());
        };
        // Of NULL nothing is to be known.
        let Some(words) = words else { return Ok(Transformed::no(expr)) };
        let origins = self.origins(call.texts, node);
        let texts = bound_texts(call.texts, call.told, |place| origins[place].as_ref().map(Origin::analyzer));
        let mut table: Option<LsmTableProvider> = None;
        let mut names = Vec::with_capacity(origins.len());
        for (origin, text) in origins.into_iter().zip(call.texts) {
            let Some((provider, column)) = origin.and_then(Origin::into_column) else {
                return plan_err!(
                    "{NAME} needs a column of an LSM table, whose rows tell what words weigh, and '{text}' is none"
                );
            };
            if table.as_ref().is_some_and(|table| !Arc::ptr_eq(table.table(), provider.table())) {
                return plan_err!("{NAME} needs columns of one table, and '{text}' is of another: add up a score each");
            }
            table = Some(provider);
            names.push(column);
        }
        let Some(table) = table else { return plan_err!("{NAME} takes a text or several, and a query behind them") };
        let searched = Searched::named(&texts, names)?;
        let search = searched.search(words)?;
        let places = searched.places(&search);
        let scorer = self.pins.scorer(&table, search)?;
        Ok(Transformed::yes(score::bound(call.texts, call.query.clone(), texts, ScoredTexts { scorer, places })))
    }

    /// The call of `lsm_source` for `key`, which must be the key columns of one table.
    fn key(&mut self, key: &[Expr], node: &LogicalPlan) -> Result<Expr> {
        let origins = self.origins(key, node).into_iter();
        let mut origins = origins.map(|origin| origin.and_then(Origin::into_column));
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
        Ok(source::bound(key.to_vec(), self.pins.snapshot_with_keys(table)))
    }
}

/// Where a column comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A column of a table, as it is.
    Column(LsmTableProvider, String),
    /// Columns of several tables, of which the words are made alike.
    Words(Arc<TextAnalyzer>),
}

impl Origin {
    /// What makes the words of the column.
    fn analyzer(&self) -> Arc<TextAnalyzer> {
        match self {
            Self::Column(provider, column) => provider.table().text_analyzer(column),
            Self::Words(analyzer) => Arc::clone(analyzer),
        }
    }

    /// The table and its column, if it is one.
    pub(super) fn into_column(self) -> Option<(LsmTableProvider, String)> {
        match self {
            Self::Column(provider, column) => Some((provider, column)),
            Self::Words(_) => None,
        }
    }
}

/// What is to be known of texts, with what makes the words of each, by its place. What a query calls them stays as it was told first: an optimizer moves calls to where
/// columns have other names.
pub(super) fn bound_texts(
    texts: &[Expr],
    told: &[BoundText],
    analyzer: impl Fn(usize) -> Option<Arc<TextAnalyzer>>,
) -> Vec<BoundText> {
    let names: Vec<String> = texts.iter().map(|text| name_of(text, false)).collect();
    let bound = |(place, text): (usize, &Expr)| {
        let is_double = names.iter().filter(|name| **name == names[place]).count() > 1;
        let label = told.get(place).map_or_else(|| name_of(text, is_double), |told| told.label.clone());
        BoundText { label, analyzer: analyzer(place).unwrap_or_else(TextAnalyzer::default_one) }
    };
    texts.iter().enumerate().map(bound).collect()
}

/// What a query calls a text: a column by its name, with that of its table if that is needed.
fn name_of(text: &Expr, with_table: bool) -> String {
    match text {
        Expr::Column(column) | Expr::OuterReferenceColumn(_, column) if with_table => column.flat_name(),
        Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => column.name.clone(),
        // As functions take texts: dictionaries are not kept.
        Expr::Cast(cast) => name_of(&cast.expr, with_table),
        other => other.schema_name().to_string(),
    }
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

/// Where `column`, of what `node` reads, comes from as it is.
fn origin(node: &LogicalPlan, column: &Column) -> Option<Origin> {
    if let LogicalPlan::TableScan(scan) = node {
        scan.projected_schema.index_of_column(column).ok()?;
        return Some(Origin::Column(provider_of::<LsmTableProvider>(&scan.source)?, column.name.clone()));
    }
    let has = |schema: &Arc<DFSchema>| schema.index_of_column(column).ok();
    node.inputs().into_iter().find_map(|input| {
        let at = has(input.schema())?;
        output(input, at)
    })
}

/// Where `expr`, of what `node` reads, comes from as it is: from one side or, where a search joins a table with itself,
/// from either.
fn source(node: &LogicalPlan, expr: &Expr) -> Option<Origin> {
    match expr {
        Expr::Alias(alias) => source(node, &alias.expr),
        Expr::Column(column) => origin(node, column),
        Expr::ScalarFunction(call) if call.name() == "coalesce" => {
            let mut sources = call.args.iter().map(|arg| source(node, arg).and_then(Origin::into_column));
            let (provider, column) = sources.next()??;
            let is_that = |(other, name): (LsmTableProvider, String)| {
                Arc::ptr_eq(other.table(), provider.table()) && name == column
            };
            sources.all(|other| other.is_some_and(is_that)).then(|| Origin::Column(provider.clone(), column.clone()))
        }
        _ => None,
    }
}

/// Where column `at` of what `node` yields comes from as it is.
pub(super) fn output(node: &LogicalPlan, at: usize) -> Option<Origin> {
    match node {
        LogicalPlan::TableScan(scan) => {
            let name = scan.projected_schema.field(at).name().clone();
            Some(Origin::Column(provider_of::<LsmTableProvider>(&scan.source)?, name))
        }
        LogicalPlan::Projection(projection) => source(node, &projection.expr[at]),
        LogicalPlan::Distinct(Distinct::On(on)) => source(node, &on.select_expr[at]),
        LogicalPlan::Aggregate(aggregate) => {
            let groups = grouping_set_to_exprlist(&aggregate.group_expr).ok()?;
            match groups.get(at).copied()?.clone().unalias() {
                Expr::Column(column) => origin(node, &column),
                _ => None,
            }
        }
        LogicalPlan::Union(union) => {
            let mut inputs = union.inputs.iter().map(|input| output(input, at).map(|origin| origin.analyzer()));
            let first = inputs.next()??;
            inputs.all(|other| other.is_some_and(|other| other == first)).then_some(Origin::Words(first))
        }
        LogicalPlan::RecursiveQuery(query) => {
            output(&query.static_term, at).map(|origin| Origin::Words(origin.analyzer()))
        }
        LogicalPlan::SubqueryAlias(alias) => output(&alias.input, at),
        LogicalPlan::Subquery(query) => output(&query.subquery, at),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Distinct(Distinct::All(_))
        | LogicalPlan::Join(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Window(_) => origin(node, &Column::from(node.schema().qualified_field(at))),
        _ => None,
    }
}

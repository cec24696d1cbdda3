//! What WHERE asks of the columns of a searched table, put below the search: only rows that pass are searched.
//!
//! A condition goes down through subqueries, views and joins that keep every row of the side it goes to. It stays where
//! it is, and picks from what was found, if it asks for what only the search knows, stands in ON, or is above a LIMIT, a
//! grouping or the like. This is part of what a call means, so it does not depend on what an optimizer finds out.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, JoinType, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};

use super::SearchCall;
use crate::sql::search::through;

/// `plan` with its conditions below the calls that they are about.
pub(super) fn sink(plan: LogicalPlan) -> Result<LogicalPlan> {
    let sunk = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
        let (mut kept, mut input) = (Vec::new(), Arc::clone(&filter.input));
        for condition in split_conjunction_owned(filter.predicate.clone()) {
            match below(&condition, &input) {
                Some(plan) => input = Arc::new(plan),
                None => kept.push(condition),
            }
        }
        if Arc::ptr_eq(&input, &filter.input) {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        }
        Ok(Transformed::yes(match conjunction(kept) {
            Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, input)?),
            None => Arc::unwrap_or_clone(input),
        }))
    })?;
    Ok(sunk.data)
}

/// `plan` with `condition`, which is of its output, below a call in it; none if there is no way to one.
fn below(condition: &Expr, plan: &LogicalPlan) -> Option<LogicalPlan> {
    if !is_of_a_row(condition) {
        return None;
    }
    Some(match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            let mut alias = alias.clone();
            alias.input = Arc::new(below(&through(condition.clone(), plan)?, &alias.input)?);
            LogicalPlan::SubqueryAlias(alias)
        }
        LogicalPlan::Projection(projection) => {
            let mut projection = projection.clone();
            projection.input = Arc::new(below(&through(condition.clone(), plan)?, &projection.input)?);
            LogicalPlan::Projection(projection)
        }
        LogicalPlan::Filter(filter) => {
            let mut filter = filter.clone();
            filter.input = Arc::new(below(condition, &filter.input)?);
            LogicalPlan::Filter(filter)
        }
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            let mut sort = sort.clone();
            sort.input = Arc::new(below(condition, &sort.input)?);
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Join(join) => {
            let mut join = join.clone();
            if keeps_left(join.join_type) && is_of(condition, join.left.schema()) {
                join.left = Arc::new(below(condition, &join.left)?);
            } else if keeps_right(join.join_type) && is_of(condition, join.right.schema()) {
                join.right = Arc::new(below(condition, &join.right)?);
            } else {
                return None;
            }
            LogicalPlan::Join(join)
        }
        _ => {
            let call = SearchCall::of(plan)?;
            let input = &call.input;
            if !is_of(condition, input.schema()) {
                return None;
            }
            let filter = Filter::try_new(condition.clone(), Arc::new(input.clone())).ok()?;
            call.with_input(LogicalPlan::Filter(filter)).into_plan()
        }
    })
}

/// Whether the condition says the same of a row wherever it is asked.
fn is_of_a_row(condition: &Expr) -> bool {
    let is_bound = |expr: &Expr| match expr {
        Expr::OuterReferenceColumn(..) => true,
        Expr::ScalarSubquery(subquery) => !subquery.outer_ref_columns.is_empty(),
        Expr::InSubquery(of) => !of.subquery.outer_ref_columns.is_empty(),
        Expr::SetComparison(of) => !of.subquery.outer_ref_columns.is_empty(),
        Expr::Exists(of) => !of.subquery.outer_ref_columns.is_empty(),
        _ => false,
    };
    condition.any_column_refs()
        && !condition.is_volatile()
        && !condition.exists(|expr| Ok(is_bound(expr))).unwrap_or(true)
}

/// Whether all columns of `condition` are in `schema`.
fn is_of(condition: &Expr, schema: &DFSchema) -> bool {
    condition.column_refs().into_iter().all(|column| schema.has_column(column))
}

/// Whether a condition on the left side may be asked before the join.
fn keeps_left(join: JoinType) -> bool {
    matches!(join, JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark)
}

fn keeps_right(join: JoinType) -> bool {
    matches!(join, JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark)
}

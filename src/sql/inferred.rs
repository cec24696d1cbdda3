//! Conditions on scores that an optimizer inferred for tables that cannot tell them.
//!
//! What a text scores is known where rows of its table come from. Where a join makes a column of another table equal to
//! that text, an optimizer asks a condition of the other table's rows as well, which come from where nobody counted
//! words. It is left out there: it still stands where the statement has it.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, TableScan};

use super::provider::LsmTableProvider;
use super::rule::provider_of;
use super::score;
use crate::table::TextScorer;

/// `plan` without such conditions.
///
/// # Errors
/// What DataFusion raises.
pub(super) fn without_inferred(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) if !is_told(&filter.predicate, &filter.input) => {
            let parts = split_conjunction_owned(filter.predicate);
            let told = conjunction(parts.into_iter().filter(|part| is_told(part, &filter.input)));
            Ok(Transformed::yes(match told {
                Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?),
                None => Arc::unwrap_or_clone(filter.input),
            }))
        }
        LogicalPlan::TableScan(scan) => {
            let all = scan.filters.len();
            let from = LogicalPlan::TableScan(scan.clone());
            let filters: Vec<Expr> = scan.filters.iter().filter(|filter| is_told(filter, &from)).cloned().collect();
            let is_all = filters.len() == all;
            let scan = LogicalPlan::TableScan(TableScan { filters, ..scan });
            Ok(if is_all { Transformed::no(scan) } else { Transformed::yes(scan) })
        }
        other => Ok(Transformed::no(other)),
    })
}

/// Whether all scores in `expr` are known of the rows of `input`.
fn is_told(expr: &Expr, input: &LogicalPlan) -> bool {
    let mut told = true;
    let look = expr.apply(|expr| {
        if let Some(scorer) = score::known_scorer_of(expr)
            && !expr.contains_outer()
        {
            told &= is_below(scorer, input);
        }
        Ok(if told { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    told || look.is_err()
}

/// Whether rows of the table of `scorer` come out of `input`.
fn is_below(scorer: &Arc<TextScorer>, input: &LogicalPlan) -> bool {
    let has = |node: &LogicalPlan| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(false) };
        let provider = provider_of::<LsmTableProvider>(&scan.source);
        Ok(provider.is_some_and(|provider| provider.scorers().iter().any(|other| Arc::ptr_eq(other, scorer))))
    };
    input.exists(has).unwrap_or(true)
}

//! What makes a statement one statement: one snapshot of each table, and DELETE and UPDATE as what they mean.
//!
//! It runs at every analysis, before any optimizer rule: prepared statements, views and frames get a fresh snapshot
//! each time they run. It takes snapshots and changes nothing: EXPLAIN analyzes too.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{LogicalPlan, TableScan, TableSource};
use datafusion::optimizer::AnalyzerRule;

use super::provider::LsmTableProvider;
use super::rewrite;
use crate::table::LsmTable;
use crate::version::Snapshot;

/// The rule's name.
pub(super) const RULE: &str = "lsm_statement";

/// The rule that every session with LSM tables needs, after DataFusion's own rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct LsmStatementRule;

impl AnalyzerRule for LsmStatementRule {
    fn name(&self) -> &str {
        RULE
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let mut pins = Pins::default();
        let analyzed = plan.transform_down_with_subqueries(|node| match node {
            LogicalPlan::TableScan(scan) => Ok(match lsm_provider(&scan.source) {
                Some(provider) => {
                    let pinned = provider.pinned(pins.snapshot(provider.table()));
                    Transformed::yes(LogicalPlan::TableScan(TableScan {
                        source: provider_as_source(Arc::new(pinned)),
                        ..scan
                    }))
                }
                None => Transformed::no(LogicalPlan::TableScan(scan)),
            }),
            LogicalPlan::Dml(statement) => rewrite::statement(statement, &mut pins),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(analyzed.data)
    }
}

/// The snapshots of one statement.
#[derive(Debug, Default)]
pub(super) struct Pins(HashMap<usize, Arc<Snapshot>>);

impl Pins {
    /// The statement's snapshot of `table`.
    pub(super) fn snapshot(&mut self, table: &Arc<LsmTable>) -> Arc<Snapshot> {
        let identity = Arc::as_ptr(table) as usize;
        Arc::clone(self.0.entry(identity).or_insert_with(|| table.snapshot()))
    }
}

/// The LSM table behind a source, if it is one.
fn lsm_provider(source: &Arc<dyn TableSource>) -> Option<LsmTableProvider> {
    provider_of::<LsmTableProvider>(source)
}

/// The provider behind a source, if it is a `P`.
pub(super) fn provider_of<P: TableProvider + Clone>(source: &Arc<dyn TableSource>) -> Option<P> {
    source_as_provider(source).ok()?.downcast_ref::<P>().cloned()
}

//! What makes a statement one statement: one snapshot of each table; searches, DELETE and UPDATE as what they mean.
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
use datafusion::logical_expr::{DdlStatement, LogicalPlan, TableScan, TableSource};
use datafusion::optimizer::AnalyzerRule;

use super::binding;
use super::index_statement::IndexStatement;
use super::options::SessionOptions;
use super::provider::{LsmTableProvider, options};
use super::rewrite;
use super::search_call;
use crate::table::{LsmTable, TextScorer, TextSearch};
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

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = search_call::expand(plan, config)?;
        let mut pins = Pins { session: options(config).cloned(), ..Pins::default() };
        let plan = binding::bind(plan, &mut pins)?;
        let analyzed = plan.transform_down_with_subqueries(|node| match node {
            LogicalPlan::TableScan(scan) => Ok(match lsm_provider(&scan.source) {
                Some(provider) => {
                    let pin = pins.of(provider.table());
                    let pinned = provider.pinned(Arc::clone(&pin.snapshot)).scored(pin.scorers.clone());
                    let pinned = pinned.with_keys(pin.with_keys);
                    Transformed::yes(LogicalPlan::TableScan(TableScan {
                        source: provider_as_source(Arc::new(pinned)),
                        ..scan
                    }))
                }
                None => Transformed::no(LogicalPlan::TableScan(scan)),
            }),
            LogicalPlan::Dml(statement) => rewrite::statement(statement, &mut pins),
            LogicalPlan::Ddl(DdlStatement::CreateIndex(create)) => {
                Ok(Transformed::yes(IndexStatement::of_plan(create, &[])?.plan()?))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(analyzed.data)
    }
}

/// What a session without the rule is told that asks for what only the rule makes possible.
pub(super) fn needs_rule(what: &str) -> String {
    format!(
        "{what} needs the statement rule: make the session with LsmSessionExt::with_lsm, or add LsmStatementRule to its \
         analyzer"
    )
}

/// The snapshots of one statement.
#[derive(Debug, Default)]
pub(super) struct Pins {
    tables: HashMap<usize, Pin>,
    /// What the session says.
    session: Option<SessionOptions>,
}

/// What one statement sees of a table.
#[derive(Debug)]
pub(super) struct Pin {
    pub(super) snapshot: Arc<Snapshot>,
    /// What its texts are scored by.
    pub(super) scorers: Vec<Arc<TextScorer>>,
    /// Whether somebody asks which sources its rows are in.
    with_keys: bool,
}

impl Pins {
    /// What the statement sees of `table`.
    pub(super) fn of(&mut self, table: &Arc<LsmTable>) -> &mut Pin {
        let identity = Arc::as_ptr(table) as usize;
        let pin = || Pin { snapshot: table.snapshot(), scorers: Vec::new(), with_keys: false };
        self.tables.entry(identity).or_insert_with(pin)
    }

    /// The statement's snapshot of `table`.
    pub(super) fn snapshot(&mut self, table: &Arc<LsmTable>) -> Arc<Snapshot> {
        Arc::clone(&self.of(table).snapshot)
    }

    /// The same for who asks which sources rows are in.
    pub(super) fn snapshot_with_keys(&mut self, table: &Arc<LsmTable>) -> Arc<Snapshot> {
        let pin = self.of(table);
        pin.with_keys = true;
        Arc::clone(&pin.snapshot)
    }

    /// What scores the texts of a table that `search` is about: one for all that ask the same in the same way.
    ///
    /// # Errors
    /// `Invalid` if there is no such column.
    pub(super) fn scorer(&mut self, provider: &LsmTableProvider, search: TextSearch) -> Result<Arc<TextScorer>> {
        let (table, stats) = (provider.table(), provider.search_settings(self.session.as_ref()).search_stats);
        let pin = self.of(table);
        let known = pin.scorers.iter().find(|scorer| *scorer.search() == search && scorer.stats() == stats);
        if let Some(known) = known {
            return Ok(Arc::clone(known));
        }
        let scorer = Arc::new(table.text_scorer(&pin.snapshot, search, stats)?);
        pin.scorers.push(Arc::clone(&scorer));
        Ok(scorer)
    }

    /// What scores these texts, if something does already.
    pub(super) fn known_scorer(&mut self, table: &Arc<LsmTable>, search: &TextSearch) -> Option<Arc<TextScorer>> {
        self.of(table).scorers.iter().find(|scorer| scorer.search() == search).cloned()
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

#[cfg(test)]
mod tests {
    use datafusion::common::tree_node::TreeNodeRecursion;

    use super::super::fixture::{Fixture, run, text};
    use super::*;

    /// The snapshots of all scans in a plan, subqueries included.
    fn pinned(plan: &LogicalPlan) -> Vec<Option<Arc<Snapshot>>> {
        let mut found = Vec::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(provider) = lsm_provider(&scan.source)
            {
                found.push(provider.snapshot().cloned());
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        found
    }

    #[tokio::test]
    async fn every_scan_of_a_statement_sees_one_snapshot() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let sql = "SELECT count(*) FROM t a JOIN t b ON a.id = b.id WHERE a.n IN (SELECT n FROM t) \
                   AND EXISTS (SELECT 1 FROM t c WHERE c.id = a.id) AND a.n <= (SELECT max(n) FROM t)";
        let plan = session.sql(sql).await.unwrap().into_unoptimized_plan();
        assert!(pinned(&plan).iter().all(Option::is_none));
        let config = ConfigOptions::default();
        let first = LsmStatementRule.analyze(plan, &config).unwrap();
        let pins = pinned(&first);
        assert_eq!(pins.len(), 5);
        assert!(pins.iter().all(|p| Arc::ptr_eq(p.as_ref().unwrap(), pins[0].as_ref().unwrap())));
        // Analyzed again, it is another statement.
        let again = pinned(&LsmStatementRule.analyze(first, &config).unwrap());
        assert!(!Arc::ptr_eq(again[0].as_ref().unwrap(), pins[0].as_ref().unwrap()));
        assert!(again.iter().all(|p| Arc::ptr_eq(p.as_ref().unwrap(), again[0].as_ref().unwrap())));
    }

    #[tokio::test]
    async fn frames_views_and_prepared_statements_see_what_is_there_when_they_run() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(2).await;
        let frame = session.sql("SELECT count(*) FROM t").await.unwrap();
        let view = session.sql("SELECT * FROM t").await.unwrap().into_view();
        session.register_table("frame", view).unwrap();
        run(&session, "CREATE VIEW v AS SELECT * FROM t WHERE id > 1").await.unwrap();
        run(&session, "PREPARE p AS SELECT count(*) FROM t").await.unwrap();
        assert_eq!(text(&frame.clone().collect().await.unwrap()), ["2"]);
        run(&session, "INSERT INTO t VALUES (3, 0)").await.unwrap();
        assert_eq!(text(&frame.collect().await.unwrap()), ["3"]);
        for (sql, rows) in [
            ("SELECT count(*) FROM v", "2"),
            ("SELECT count(*) FROM frame", "3"),
            ("EXECUTE p", "3"),
            ("SELECT count(*) FROM t, v, frame", "18"),
        ] {
            assert_eq!(run(&session, sql).await.unwrap(), [rows], "{sql}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_self_join_sees_no_row_in_two_versions() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(50).await;
        let other = fixture.another().await;
        let writes = async {
            for _ in 0..20 {
                run(&other, "UPDATE t SET n = n + 1").await.unwrap();
            }
        };
        let reads = async {
            for _ in 0..20 {
                let torn = "SELECT count(*) FROM t a JOIN t b ON a.id = b.id WHERE a.n <> b.n";
                assert_eq!(run(&session, torn).await.unwrap(), ["0"]);
                let whole = "SELECT count(DISTINCT n), count(*) FROM t";
                assert_eq!(run(&session, whole).await.unwrap(), ["1 50"]);
            }
        };
        tokio::join!(writes, reads);
        assert_eq!(run(&session, "SELECT sum(n) FROM t").await.unwrap(), ["1000"]);
    }

    #[tokio::test]
    async fn explain_analyze_runs_a_statement_and_explain_does_not() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(5).await;
        for sql in ["DELETE FROM t", "UPDATE t SET n = 1", "TRUNCATE TABLE t", "INSERT OVERWRITE t VALUES (9, 9)"] {
            run(&session, &format!("EXPLAIN {sql}")).await.unwrap();
            run(&session, &format!("EXPLAIN VERBOSE {sql}")).await.unwrap();
        }
        assert_eq!(run(&session, "SELECT count(*), sum(n) FROM t").await.unwrap(), ["5 0"]);
        let shown = run(&session, "EXPLAIN ANALYZE DELETE FROM t WHERE id <= 2").await.unwrap().join("\n");
        assert!(shown.contains("LsmSink(delete)") && shown.contains("rows_written=2"), "{shown}");
        assert_eq!(run(&session, "SELECT count(*), sum(n) FROM t").await.unwrap(), ["3 0"]);
        // Five rows and two tombstones, of which three rows are live.
        let shown = run(&session, "EXPLAIN ANALYZE SELECT * FROM t").await.unwrap().join("\n");
        assert!(shown.contains("output_rows=3") && shown.contains("rows_dropped=4"), "{shown}");
    }
}

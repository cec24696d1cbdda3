//! An LSM table as DataFusion's catalog sees it.
//!
//! Without a pinned snapshot each scan takes its own: consistent in itself, not with the other scans of a statement.
//! [`super::LsmStatementRule`] pins. DELETE and UPDATE go only through that rule: DataFusion's hooks for them lose the
//! predicate in places, so here they refuse.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Constraint, Constraints, DFSchema, Result, SchemaExt};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::declaration::Declaration;
use super::options::{SEARCH, SessionOptions, with_search_options};
use super::replace_sink::{self, Replace};
use super::rule::needs_rule;
use super::search::{Search, Target};
use super::sink::{LsmSink, Write};
use super::{score, text};
use crate::error::Error;
use crate::settings::{Ack, OnConflict, OnDrop, Settings};
use crate::table::{self, FilterSupport, LsmTable, ScanRequest, TextRanking, TextScorer, TextSearch, VectorSearch};
use crate::version::Snapshot;

/// What one name of a table was declared with: it may differ from name to name of one open table.
#[derive(Debug, Clone, Default)]
pub(super) struct Defaults {
    ack: Option<Ack>,
    on_conflict: Option<OnConflict>,
    on_drop: Option<OnDrop>,
    search: BTreeMap<&'static str, String>,
    columns: HashMap<String, Expr>,
}

impl Defaults {
    /// # Errors
    /// `Invalid` if a value does not fit.
    pub(super) fn new(declaration: &Declaration, columns: &HashMap<String, Expr>) -> crate::error::Result<Self> {
        let options = declaration.options.own();
        Ok(Self {
            ack: options.get("lsm.ack").map(|v| v.parse()).transpose()?,
            on_conflict: options.get("lsm.on_conflict").map(|v| v.parse()).transpose()?,
            on_drop: Some(declaration.settings.on_drop),
            search: options.iter().filter(|(name, _)| name.starts_with(SEARCH)).map(|(n, v)| (*n, v.clone())).collect(),
            columns: columns.clone(),
        })
    }
}

/// A table in a catalog, as of now or as of one snapshot.
#[derive(Debug, Clone)]
pub struct LsmTableProvider {
    table: Arc<LsmTable>,
    snapshot: Option<Arc<Snapshot>>,
    constraints: Constraints,
    defaults: Arc<Defaults>,
    search: Option<Arc<Search>>,
    flat: Option<&'static str>,
    scorers: Vec<Arc<TextScorer>>,
    with_keys: bool,
}

impl LsmTableProvider {
    /// The table as of the moment it is read.
    pub fn new(table: Arc<LsmTable>) -> Self {
        let key = table.table_schema().key().columns().iter().map(|c| c.index).collect();
        let constraints = Constraints::new_unverified(vec![Constraint::PrimaryKey(key)]);
        Self {
            table,
            snapshot: None,
            constraints,
            defaults: Arc::default(),
            search: None,
            flat: None,
            scorers: Vec::new(),
            with_keys: false,
        }
    }

    pub(super) fn with_defaults(self, defaults: Defaults) -> Self {
        Self { defaults: Arc::new(defaults), ..self }
    }

    /// The table as of `snapshot`.
    #[must_use]
    pub fn pinned(&self, snapshot: Arc<Snapshot>) -> Self {
        // A plan that is analyzed again is optimized again: the search is found anew, if it is still one.
        let found = Self { search: None, flat: None, scorers: Vec::new(), with_keys: false, ..self.clone() };
        Self { snapshot: Some(snapshot), ..found }
    }

    /// The table whose scans know what `scorers` need before a row comes out.
    pub(super) fn scored(self, scorers: Vec<Arc<TextScorer>>) -> Self {
        Self { scorers, ..self }
    }

    /// The table whose scans have the keys of all generations in memory before a row comes out, if they are asked for.
    pub(super) fn with_keys(self, with_keys: bool) -> Self {
        Self { with_keys, ..self }
    }

    /// What scores its texts.
    pub(super) fn scorers(&self) -> &[Arc<TextScorer>] {
        &self.scorers
    }

    /// The table.
    pub fn table(&self) -> &Arc<LsmTable> {
        &self.table
    }

    /// The snapshot that scans read, if one is pinned.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The table of which only the rows of `search` are wanted.
    pub(super) fn searching(&self, search: Search) -> Self {
        Self { search: Some(Arc::new(search)), ..self.clone() }
    }

    /// The table all of whose rows are compared for a search; `why`, plans tell.
    pub(super) fn comparing_all(&self, why: &'static str) -> Self {
        Self { flat: Some(why), ..self.clone() }
    }

    /// Whether it was found out before what is searched for.
    pub(super) fn is_told(&self) -> bool {
        self.search.is_some() || self.flat.is_some()
    }

    /// Which rows are wanted, if not all.
    #[cfg(test)]
    pub(super) fn search(&self) -> Option<&Search> {
        self.search.as_deref()
    }

    /// What the engine is to search for among the rows that pass `filters`; none if it cannot be told: all rows are read
    /// then.
    fn engine_search(&self, state: &dyn Session, filters: &[&Expr]) -> Option<table::Search> {
        let search = self.search.as_ref()?;
        let schema = self.table.schema();
        let columns = DFSchema::try_from(schema.as_ref().clone()).ok()?;
        let physical = |filters: Vec<Expr>| match conjunction(filters) {
            Some(predicate) => state.create_physical_expr(predicate, &columns).ok().map(Some),
            None => Some(None),
        };
        let all = || filters.iter().map(|filter| (*filter).clone());
        let beside_texts: Vec<Expr> = all().filter(|filter| text::search_of(filter).is_none()).collect();
        let asks_scores = beside_texts.iter().any(score::is_in);
        let beside_texts = physical(beside_texts)?;
        let ranges = self.table.value_ranges(filters.iter().copied());
        Some(match &search.target {
            Target::Nearest { column, metric, query, nulls_first } => table::Search::Vector(Arc::new(VectorSearch {
                column: schema.index_of(column).ok()?,
                metric: *metric,
                query: query.clone(),
                k: search.k,
                nulls_first: *nulls_first,
                beside_texts,
                ranges,
                effort: self.search_settings(options(state.config_options())).search_effort(),
                // What scores are here may differ from what a condition on them compares above.
                is_shared: !asks_scores,
            })),
            Target::Fitting(scorer) => {
                let scorer = Arc::clone(scorer);
                let ranking = TextRanking::new(scorer, search.k, beside_texts, asks_scores, ranges);
                table::Search::Text(Arc::new(ranking))
            }
        })
    }

    /// The rows that pass `filters`, or of which those that do must be told above.
    ///
    /// # Errors
    /// `Invalid` if a filter cannot be evaluated on the table's columns.
    pub(super) fn plan_scan(
        &self,
        state: &dyn Session,
        projection: Option<&[usize]>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> crate::error::Result<Arc<dyn ExecutionPlan>> {
        let snapshot = self.snapshot.clone().unwrap_or_else(|| self.table.snapshot());
        let above = self.search.iter().flat_map(|search| &search.filters).filter(|filter| !filters.contains(filter));
        let all: Vec<&Expr> = filters.iter().chain(above).collect();
        let search = self.engine_search(state, &all);
        let texts: Vec<TextSearch> = all.into_iter().filter_map(text::search_of).collect();
        let (search, scorers) = (search.as_ref(), self.scorers.as_slice());
        let (texts, flat, with_keys) = (texts.as_slice(), self.flat, self.with_keys);
        let wanted = ScanRequest { projection, filters, limit, texts, ..ScanRequest::default() };
        let request = ScanRequest { search, flat, scorers, with_keys, ..wanted };
        self.table.search(&snapshot, request)
    }

    /// What DROP TABLE does with the data.
    pub(super) fn on_drop(&self) -> OnDrop {
        self.defaults.on_drop.unwrap_or(self.table.settings().on_drop)
    }

    /// How a session searches the table: it decides, then the name, then the table.
    pub(super) fn search_settings(&self, session: Option<&SessionOptions>) -> Settings {
        let said = session.into_iter().flat_map(SessionOptions::values);
        with_search_options(self.table.settings(), self.defaults.search.iter().chain(said))
    }

    /// When a write of `session` is acknowledged: the session decides, then the name, then the table.
    pub(super) fn ack(&self, session: &dyn Session) -> Option<Ack> {
        options(session.config_options()).and_then(SessionOptions::ack).or(self.defaults.ack)
    }

    /// What an INSERT of `session` is: the session decides, then the name, then the table.
    pub(super) fn insert(&self, session: &dyn Session) -> Write {
        let asked =
            options(session.config_options()).and_then(SessionOptions::on_conflict).or(self.defaults.on_conflict);
        match asked.unwrap_or(self.table.settings().on_conflict) {
            OnConflict::Replace => Write::Upsert,
            other => Write::Insert(other),
        }
    }

    /// Fails unless `input` has the table's columns.
    pub(super) fn check_input(&self, input: &Arc<dyn ExecutionPlan>) -> Result<()> {
        self.schema().logically_equivalent_names_and_types(&input.schema())
    }
}

/// What a session says.
pub(super) fn options(config: &ConfigOptions) -> Option<&SessionOptions> {
    config.extensions.get::<SessionOptions>()
}

#[async_trait]
impl TableProvider for LsmTableProvider {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.defaults.columns.get(column)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.plan_scan(state, projection.map(Vec::as_slice), filters, limit)?)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |support: FilterSupport| match support {
            FilterSupport::Exact => TableProviderFilterPushDown::Exact,
            FilterSupport::Inexact => TableProviderFilterPushDown::Inexact,
            FilterSupport::Unsupported => TableProviderFilterPushDown::Unsupported,
        };
        let mut supported: Vec<_> = self.table.supports_filters(filters).into_iter().map(support).collect();
        for (supported, filter) in supported.iter_mut().zip(filters) {
            if let Some(search) = text::search_of(filter)
                && search.columns.iter().all(|column| self.table.has_text_index(&column.name))
            {
                *supported = TableProviderFilterPushDown::Inexact;
            }
        }
        Ok(supported)
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check_input(&input)?;
        let write = match op {
            InsertOp::Append => self.insert(state),
            InsertOp::Replace => Write::Upsert,
            InsertOp::Overwrite => {
                return Ok(replace_sink::plan(&self.table, input, Replace::Overwrite(self.snapshot.clone())));
            }
        };
        Ok(LsmSink::new(Arc::clone(&self.table), write, self.snapshot.clone(), self.ack(state)).plan(input))
    }

    async fn delete_from(&self, _state: &dyn Session, _filters: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::invalid(needs_rule("DELETE")).into())
    }

    async fn update(
        &self,
        _state: &dyn Session,
        _assignments: Vec<(String, Expr)>,
        _filters: Vec<Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::invalid(needs_rule("UPDATE")).into())
    }

    async fn truncate(&self, _state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(replace_sink::truncate(&self.table))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::prelude::SessionContext;

    use super::super::fixture::{Fixture, run};
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn without_the_rule_delete_and_update_refuse_and_the_rest_works() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let bare = SessionContext::new();
        bare.register_table("t", session.table_provider("t").await.unwrap()).unwrap();
        for sql in ["DELETE FROM t WHERE false", "DELETE FROM t", "UPDATE t SET n = 1 WHERE id = 1"] {
            let error = run(&bare, sql).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains("LsmSessionExt"), "{error}");
        }
        assert_eq!(run(&bare, "INSERT INTO t VALUES (4, 4), (1, 1)").await.unwrap(), ["2"]);
        assert_eq!(run(&bare, "SELECT count(*), sum(n) FROM t").await.unwrap(), ["4 5"]);
        assert_eq!(run(&bare, "SELECT n FROM t WHERE id IN (1, 4) ORDER BY n").await.unwrap(), ["1", "4"]);
        assert_eq!(run(&bare, "TRUNCATE TABLE t").await.unwrap(), ["4"]);
    }

    #[tokio::test]
    async fn the_key_is_told_as_a_constraint() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(1).await;
        let provider = session.table_provider("t").await.unwrap();
        let key = Constraints::new_unverified(vec![Constraint::PrimaryKey(vec![0])]);
        assert_eq!(provider.constraints(), Some(&key));
        assert!(Arc::clone(&provider).schema().field(0).name() == "id");
    }
}

//! A search without a statement: what `vector_search` and `text_search` find, planned directly.
//!
//! The sources are searched by the nodes that the statement has. What it has not is the way there, a logical plan and all
//! rules of an optimizer, nor tasks and channels between nodes: both take longer than the search of what is in memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float32Array, RecordBatch};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, SortExpr, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, is_not_null};
use datafusion::physical_expr::utils::conjunction_opt;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, create_physical_expr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, collect};

use super::binding::bound_texts;
use super::provider::{LsmTableProvider, options};
use super::search::{Search, Target, flat, nearest};
use super::search_call::{DISTANCE, K, SCORE, text_column, vector_column};
use super::text::{BoundText, ScoredTexts, Searched};
use super::{distance, score, text};
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::physical_plan::{BestExec, Rank};
use crate::table::LsmTable;
use crate::version::Snapshot;

/// The best rows of a table: those nearest to a vector, or whose texts fit a query best.
///
/// They come the best first, as the table functions of these names return them: the columns that are asked for, and
/// `_distance` (Float64) or `_score` (Float32). A row without a distance is not found, nor is a text that does not match.
/// Options of the session count, as `SET lsm.search.mode` does.
#[derive(Debug, Clone)]
pub struct TableSearch {
    table: Arc<LsmTable>,
    snapshot: Option<Arc<Snapshot>>,
    query: Query,
    filters: Vec<Expr>,
    columns: Option<Vec<String>>,
    k: usize,
}

/// What is searched for.
#[derive(Debug, Clone)]
enum Query {
    Vector { column: String, metric: Metric, vector: Arc<[f32]> },
    Text { columns: Vec<String>, words: String },
}

impl Query {
    /// The columns that it is asked of.
    fn columns(&self) -> &[String] {
        match self {
            Self::Vector { column, .. } => std::slice::from_ref(column),
            Self::Text { columns, .. } => columns,
        }
    }
}

impl TableSearch {
    /// The rows whose vectors in `column` are nearest to `query`, which has as many elements as they have.
    pub fn nearest(table: &Arc<LsmTable>, column: &str, metric: Metric, query: &[f32]) -> Self {
        Self::of(table, Query::Vector { column: column.to_string(), metric, vector: query.into() })
    }

    /// The rows whose texts in `columns`, one or several, score most for `query`.
    pub fn text(table: &Arc<LsmTable>, columns: impl IntoIterator<Item = impl Into<String>>, query: &str) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self::of(table, Query::Text { columns, words: query.to_string() })
    }

    fn of(table: &Arc<LsmTable>, query: Query) -> Self {
        Self { table: Arc::clone(table), snapshot: None, query, filters: Vec::new(), columns: None, k: K }
    }

    /// How many rows; 10 unless told.
    #[must_use]
    pub fn k(self, k: usize) -> Self {
        Self { k, ..self }
    }

    /// Only rows that pass `filter` too, which is of the table's columns.
    #[must_use]
    pub fn filter(mut self, filter: Expr) -> Self {
        self.filters.push(filter);
        self
    }

    /// The columns that come out, in this order; all unless told.
    #[must_use]
    pub fn select(self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { columns: Some(columns.into_iter().map(Into::into).collect()), ..self }
    }

    /// The rows as of `snapshot`, and not as of now.
    #[must_use]
    pub fn as_of(self, snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot: Some(snapshot), ..self }
    }

    /// Plans the search and runs it.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and what reading raises.
    pub async fn rows(&self, session: &dyn Session) -> Result<Vec<RecordBatch>> {
        Ok(collect(self.plan(session)?, task_context(session)).await?)
    }

    /// The plan of the search, of the rows as of now: one partition, sorted.
    ///
    /// # Errors
    /// `Invalid` if a column is not there or not of the type that is searched, a vector has another size or an element
    /// that is no number, a query cannot be parsed, or a filter cannot be evaluated.
    pub fn plan(&self, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.table.schema();
        let snapshot = self.snapshot.clone().unwrap_or_else(|| self.table.snapshot());
        let columns = DFSchema::try_from(schema.as_ref().clone())?;
        let conditions = self.conditions(session, &columns)?;
        let mut own = Vec::new();
        let mut provider = LsmTableProvider::new(Arc::clone(&self.table)).pinned(Arc::clone(&snapshot));
        let settings = provider.search_settings(options(session.config_options()));

        let (name, value, target, sort) = match &self.query {
            Query::Vector { column, metric, vector } => {
                let value = self.distance(column, *metric, vector, &schema)?;
                let sort = value.clone().sort(metric.nearest_is_smallest(), false);
                (DISTANCE, value, nearest(&sort.expr, &sort, &schema, None), sort)
            }
            Query::Text { columns, words } => {
                if columns.is_empty() {
                    return Err(Error::invalid("a text search needs at least one column of texts"));
                }
                for column in columns {
                    text_column(schema.field_with_name(column).map_err(|_| self.no_column(column))?)?;
                }
                let columns: Vec<Expr> = columns.iter().map(|column| Expr::Column(Column::from_name(column))).collect();
                let (texts, query) = (self.texts(&columns), lit(words.clone()));
                let searched = Searched::new(&texts)?;
                let search = searched.search(words)?;
                let places = searched.places(&search);
                let scorer = Arc::new(self.table.text_scorer(&snapshot, search, settings.search_stats)?);
                provider = provider.scored(vec![Arc::clone(&scorer)]);
                let arguments = columns.iter().cloned().chain([query.clone()]).collect();
                let matching = ScalarFunction::new_udf(text::function(), arguments);
                let matching = text::bound(Expr::ScalarFunction(matching), texts.clone());
                let scored = ScoredTexts { scorer: Arc::clone(&scorer), places };
                own.push(text::scored(matching, scored.clone()));
                let value = score::bound(&columns, query, texts, scored);
                let sort = value.clone().sort(false, false);
                (SCORE, value, Some(Target::Fitting(scorer)), sort)
            }
        };
        let filters: Vec<Expr> = conditions.iter().chain(&own).cloned().collect();
        // What differs each time it is asked cannot be asked twice.
        let is_steady = !filters.iter().any(Expr::is_volatile);
        if let Some(target) = target.filter(|_| is_steady && self.k > 0) {
            provider = match flat(settings.search_mode, self.k) {
                Some(why) => provider.comparing_all(why),
                None => provider.searching(Search { target, k: self.k, filters: filters.clone() }),
            };
        }

        let selected = self.selected(&schema)?;
        let read = self.read(&selected, &filters, &schema)?;
        let read_schema = Arc::new(schema.project(&read)?);
        let mut plan = provider.plan_scan(session, Some(&read), &filters, None)?;
        let of_read = DFSchema::try_from(read_schema.as_ref().clone())?;
        let asked = conditions.into_iter().map(|filter| Ok(session.create_physical_expr(filter, &of_read)?));
        let own = own.into_iter().map(|filter| self.physical(filter, session, &of_read));
        let predicate = conjunction_opt(asked.chain(own).collect::<Result<Vec<_>>>()?);
        let value = self.physical(value, session, &of_read)?;
        if is_small(&plan)? {
            let rank = Rank { value, name: name.to_string(), ascending: sort.asc };
            let columns = selected.iter().map(|at| Ok(read_schema.index_of(schema.field(*at).name())?));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            return Ok(Arc::new(BestExec::try_new(plan, predicate, rank, self.k, columns)?));
        }
        if let Some(predicate) = predicate {
            plan = Arc::new(FilterExec::try_new(predicate, plan)?);
        }
        let ranked = projection(&selected, &schema, &read_schema)?.into_iter().chain([(value, name.to_string())]);
        plan = Arc::new(ProjectionExec::try_new(ranked.collect::<Vec<_>>(), plan)?);
        self.best(plan, name, &sort)
    }

    /// The best of the rows of `plan`, by its last column.
    fn best(&self, plan: Arc<dyn ExecutionPlan>, name: &str, sort: &SortExpr) -> Result<Arc<dyn ExecutionPlan>> {
        let value: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(name, plan.schema().fields().len() - 1));
        let options = SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first };
        let order = LexOrdering::new([PhysicalSortExpr::new(Arc::clone(&value), options)]);
        let order = order.ok_or_else(|| Error::internal("a search has an order"))?;
        if self.k == 0 {
            return Ok(Arc::new(EmptyExec::new(plan.schema())));
        }
        let partitions = plan.output_partitioning().partition_count();
        let sorted = SortExec::new(order.clone(), plan).with_preserve_partitioning(partitions > 1);
        let mut plan: Arc<dyn ExecutionPlan> = Arc::new(sorted.with_fetch(Some(self.k)));
        if partitions > 1 {
            plan = Arc::new(SortPreservingMergeExec::new(order, plan).with_fetch(Some(self.k)));
        }
        if let Query::Text { .. } = self.query {
            return Ok(plan);
        }
        // NULLs are last, so what they leave out is not missing.
        let ranked = is_not_null(value)?;
        Ok(Arc::new(FilterExec::try_new(ranked, plan)?))
    }

    /// What evaluates an expression of ours.
    fn physical(&self, expr: Expr, session: &dyn Session, read: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let mut needs_no_cast = true;
        for column in self.query.columns() {
            let field = read.field_with_unqualified_name(column)?;
            needs_no_cast &= match &self.query {
                Query::Vector { .. } => *vector_column(field)?.0 == DataType::Float32,
                Query::Text { .. } => *field.data_type() == DataType::Utf8,
            };
        }
        // Finding out whether to cast writes a vector out as text, and takes longer than finding a rare word.
        Ok(match needs_no_cast {
            true => create_physical_expr(&expr, read, session.execution_props())?,
            false => session.create_physical_expr(expr, read)?,
        })
    }

    /// The filters as the optimizer would hand them to a scan.
    fn conditions(&self, session: &dyn Session, columns: &DFSchema) -> Result<Vec<Expr>> {
        if self.filters.is_empty() {
            return Ok(Vec::new());
        }
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(columns.clone()))
            .with_config_options(Arc::clone(session.config().options()))
            .with_query_execution_start_time(session.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let condition = |filter: &Expr| -> Result<Expr> {
            let bound = filter.clone().transform(|expr| match text::call_of(&expr) {
                Some((texts, _)) => {
                    let texts = self.texts(texts);
                    Ok(Transformed::yes(text::bound(expr, texts)))
                }
                _ => Ok(Transformed::no(expr)),
            })?;
            let condition = simplifier.simplify(simplifier.coerce(bound.data, columns)?)?;
            match condition.get_type(columns)? {
                DataType::Boolean => Ok(condition),
                DataType::Null => Ok(lit(ScalarValue::Boolean(None))),
                other => Err(Error::invalid(format!("a filter says which rows are wanted, and {filter} is {other}"))),
            }
        };
        self.filters.iter().map(condition).collect()
    }

    /// What is known of texts, which are columns of the table or of which nothing is known.
    fn texts(&self, texts: &[Expr]) -> Vec<BoundText> {
        bound_texts(texts, &[], |place| match &texts[place] {
            Expr::Column(column) => Some(self.table.text_analyzer(&column.name)),
            _ => None,
        })
    }

    /// The distance of a row.
    fn distance(&self, column: &str, metric: Metric, query: &[f32], schema: &Schema) -> Result<Expr> {
        let field = schema.field_with_name(column).map_err(|_| self.no_column(column))?;
        let (_, width) = vector_column(field)?;
        if query.len() != width {
            return Err(Error::invalid(format!(
                "'{column}' has vectors of {width} elements, and the one searched for has {}",
                query.len()
            )));
        }
        if query.iter().any(|element| !element.is_finite()) {
            return Err(Error::invalid("the vector searched for has an element that is no finite number"));
        }
        let elements: ArrayRef = Arc::new(Float32Array::from(query.to_vec()));
        let element = Arc::new(Field::new_list_field(DataType::Float32, true));
        let vector = SingleRowListArrayBuilder::new(elements).with_field(&element).build_list_scalar();
        let arguments = vec![Expr::Column(Column::from_name(column)), Expr::Literal(vector, None)];
        Ok(Expr::ScalarFunction(ScalarFunction::new_udf(distance::function(metric), arguments)))
    }

    /// The places of the columns that come out.
    fn selected(&self, schema: &Schema) -> Result<Vec<usize>> {
        match &self.columns {
            None => Ok((0..schema.fields().len()).collect()),
            Some(names) => names.iter().map(|name| schema.index_of(name).map_err(|_| self.no_column(name))).collect(),
        }
    }

    /// The places of the columns that are read for that, in their order.
    fn read(&self, selected: &[usize], filters: &[Expr], schema: &Schema) -> Result<Vec<usize>> {
        let mut read: BTreeSet<usize> = selected.iter().copied().collect();
        let asked = filters.iter().flat_map(|filter| filter.column_refs()).map(|column| column.name.as_str());
        for name in asked.chain(self.query.columns().iter().map(String::as_str)) {
            read.insert(schema.index_of(name).map_err(|_| self.no_column(name))?);
        }
        Ok(read.into_iter().collect())
    }

    fn no_column(&self, name: &str) -> Error {
        let schema = self.table.schema();
        let there: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        Error::invalid(format!("there is no column '{name}', there are: {}", there.join(", ")))
    }
}

/// So many rows are ranked in one task.
const SMALL: usize = 16 * 1024;

/// Whether few rows come out of `plan`.
fn is_small(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let rows = plan.partition_statistics(None)?.num_rows;
    Ok(rows.get_value().is_some_and(|rows| *rows <= SMALL))
}

/// What the plan of a search needs to run: unlike that of a statement no functions by their names.
fn task_context(session: &dyn Session) -> Arc<TaskContext> {
    let (id, config) = (session.session_id().to_string(), session.config().clone());
    let runtime = Arc::clone(session.runtime_env());
    let context =
        TaskContext::new(None, id, config, HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new(), runtime);
    Arc::new(context)
}

/// The columns at the places `selected` of `schema`, of a plan that reads those of `read`.
fn projection(selected: &[usize], schema: &Schema, read: &Schema) -> Result<Vec<(Arc<dyn PhysicalExpr>, String)>> {
    let column = |at: &usize| -> Result<(Arc<dyn PhysicalExpr>, String)> {
        let name = schema.field(*at).name();
        Ok((Arc::new(PhysicalColumn::new(name, read.index_of(name)?)), name.clone()))
    };
    selected.iter().map(column).collect()
}

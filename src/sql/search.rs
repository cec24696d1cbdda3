//! What a statement searches for, as its plan says it, and the rule that finds it there.
//!
//! `ORDER BY distance(column, vector) LIMIT k` needs of each source only its own k nearest rows, and `ORDER BY
//! score(column, query) DESC LIMIT k` those that score most, unless other sources have better ones. The rule tells the scan
//! so and leaves the plan as it is: the sort above ranks what comes out by what it computes itself, and a filter above
//! sees the rows again. A plan that is not of this form is not changed, and answered by comparing all rows.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, LogicalPlan, Sort, SortExpr, TableScan};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::inferred::without_inferred;
use super::provider::{LsmTableProvider, options};
use super::rule::provider_of;
use super::{distance, score};
use crate::distance::Metric;
use crate::settings::SearchMode;
use crate::table::TextScorer;
use crate::vector_index::accepts;

/// The rule's name.
pub(super) const RULE: &str = "lsm_search";

/// Searches for more rows than this are answered by comparing all.
const MAX_K: usize = 10_000;

/// The rows that a scan is asked for.
#[derive(Debug, Clone)]
pub(super) struct Search {
    /// What makes them the best.
    pub(super) target: Target,
    pub(super) k: usize,
    /// What rows must pass: conditions, none of them a conjunction, of the table's columns without qualifiers.
    pub(super) filters: Vec<Expr>,
}

/// What makes rows the best.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// They are nearest to a vector.
    Nearest {
        /// The column of vectors.
        column: String,
        metric: Metric,
        query: Vec<f32>,
        nulls_first: bool,
    },
    /// Their texts score most.
    Fitting(Arc<TextScorer>),
}

/// Tells scans of LSM tables which of their rows a sort with a limit wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct LsmSearchRule;

impl OptimizerRule for LsmSearchRule {
    fn name(&self) -> &str {
        RULE
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let (mut sorts, mut scores) = (false, false);
        plan.apply_with_subqueries(|node| {
            sorts |= matches!(node, LogicalPlan::Sort(sort) if sort.fetch.is_some());
            if let LogicalPlan::TableScan(scan) = node {
                scores |= provider_of::<LsmTableProvider>(&scan.source).is_some_and(|p| !p.scorers().is_empty());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let plan = if scores { without_inferred(plan)? } else { Transformed::no(plan) };
        if !sorts {
            return Ok(plan);
        }
        plan.transform_data(|plan| plan.transform_down_with_subqueries(|node| Self::searched(node, config)))
    }
}

impl LsmSearchRule {
    /// The node with the scan below it told, if it is a search.
    fn searched(plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Sort(sort) = &plan else { return Ok(Transformed::no(plan)) };
        let Some((provider, search)) = search_of(sort, config.function_registry()) else {
            return Ok(Transformed::no(plan));
        };
        let mode = provider.search_settings(options(&config.options())).search_mode;
        let told = match flat(mode, search.k) {
            Some(why) => provider.comparing_all(why),
            None => provider.searching(search),
        };
        let source = provider_as_source(Arc::new(told));
        plan.transform_down(|node| match node {
            LogicalPlan::TableScan(scan) => {
                let source = Arc::clone(&source);
                Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan })))
            }
            other => Ok(Transformed::no(other)),
        })
    }
}

/// Why a search for so many rows is answered by comparing all, if it is.
pub(super) fn flat(mode: SearchMode, k: usize) -> Option<&'static str> {
    if mode == SearchMode::Exact { Some("exact mode") } else { (k > MAX_K).then_some("many rows wanted") }
}

/// The table that `sort` sorts and what is searched for in it, if it is a search that was not found before.
fn search_of(sort: &Sort, registry: Option<&dyn FunctionRegistry>) -> Option<(LsmTableProvider, Search)> {
    let k = sort.fetch.filter(|k| *k > 0)?;
    let [by] = sort.expr.as_slice() else { return None };
    let mut by_expr = by.expr.clone();
    let mut filters: Vec<Expr> = Vec::new();
    let mut node = sort.input.as_ref();
    let scan = loop {
        let below = |expr: Expr| through(expr, node);
        match node {
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
                by_expr = below(by_expr)?;
                filters = filters.into_iter().map(below).collect::<Option<_>>()?;
                node = node.inputs().first()?;
            }
            LogicalPlan::Filter(filter) => {
                filters.extend(split_conjunction_owned(filter.predicate.clone()));
                node = &filter.input;
            }
            LogicalPlan::TableScan(scan) => break scan,
            _ => return None,
        }
    };
    let provider = provider_of::<LsmTableProvider>(&scan.source).filter(|p| !p.is_told())?;
    filters.extend(scan.filters.iter().cloned());
    if scan.fetch.is_some() || filters.iter().any(|f| f.is_volatile() || has_subquery(f)) {
        return None;
    }
    let mut filters = filters.into_iter().map(unqualified).collect::<Result<Vec<_>>>().ok()?;
    // What the scan is told may still stand above it.
    let mut known = HashSet::new();
    filters.retain(|filter| known.insert(filter.clone()));
    let by_expr = by_expr.unalias_nested().data;
    let target = match score::scorer_of(&by_expr) {
        Some(scorer) => (!by.asc).then(|| Target::Fitting(Arc::clone(scorer)))?,
        None => nearest(&by_expr, by, scan.source.schema().as_ref(), registry)?,
    };
    Some((provider, Search { target, k, filters }))
}

/// What `expr`, by which `by` sorts, has nearest, if it is a distance whose nearest rows come first.
pub(super) fn nearest(
    expr: &Expr,
    by: &SortExpr,
    schema: &Schema,
    registry: Option<&dyn FunctionRegistry>,
) -> Option<Target> {
    let (metric, column, query) = distance_of(expr, registry)?;
    let usable = by.asc == metric.nearest_is_smallest() && accepts(metric, &query);
    let fits = matches!(schema.field_with_name(&column.name).ok()?.data_type(), DataType::FixedSizeList(element, width)
        if *element.data_type() == DataType::Float32 && usize::try_from(*width) == Ok(query.len()));
    let target = Target::Nearest { column: column.name.clone(), metric, query, nulls_first: by.nulls_first };
    (usable && fits).then_some(target)
}

/// `expr`, which is of the output of `node`, in terms of its input.
pub(super) fn through(expr: Expr, node: &LogicalPlan) -> Option<Expr> {
    let input = node.inputs().first()?.schema().columns();
    let replaced = expr.transform(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let at = node.schema().index_of_column(column)?;
        Ok(Transformed::yes(match node {
            LogicalPlan::Projection(projection) => projection.expr[at].clone().unalias(),
            _ => Expr::Column(input[at].clone()),
        }))
    });
    replaced.ok().map(|replaced| replaced.data)
}

fn has_subquery(expr: &Expr) -> bool {
    let is_one = |e: &Expr| {
        matches!(e, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(..))
    };
    expr.exists(|e| Ok(is_one(e))).unwrap_or(true)
}

fn unqualified(expr: Expr) -> Result<Expr> {
    let bare = expr.transform(|expr| match expr {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::from_name(column.name)))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(bare.data)
}

/// The metric, the column and the vector of a call that compares them.
fn distance_of<'a>(expr: &'a Expr, registry: Option<&dyn FunctionRegistry>) -> Option<(Metric, &'a Column, Vec<f32>)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let (metric, is_datafusions) = distance::metric_of(&call.func, registry)?;
    let [left, right] = call.args.as_slice() else { return None };
    let plain = |expr: &'a Expr| if is_datafusions { uncast(expr) } else { expr };
    match (plain(left), plain(right)) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
            Some((metric, column, vector_of(value)?))
        }
        _ => None,
    }
}

/// What DataFusion's own functions make a list: the vectors stay the same.
fn uncast(expr: &Expr) -> &Expr {
    let element = |list: &DataType| match list {
        DataType::List(element) | DataType::LargeList(element) => Some(element.data_type().clone()),
        _ => None,
    };
    match expr {
        Expr::Cast(cast) if matches!(element(cast.field.data_type()), Some(DataType::Float32 | DataType::Float64)) => {
            &cast.expr
        }
        other => other,
    }
}

/// The elements of a vector without NULLs.
fn vector_of(value: &ScalarValue) -> Option<Vec<f32>> {
    let elements = match value {
        ScalarValue::List(list) if list.is_valid(0) => list.value(0),
        ScalarValue::LargeList(list) if list.is_valid(0) => list.value(0),
        ScalarValue::FixedSizeList(list) if list.is_valid(0) => list.value(0),
        _ => return None,
    };
    let elements = match elements.as_primitive_opt::<Float64Type>() {
        // What 32 bits take for zero is none.
        Some(wide) if wide.iter().flatten().any(|x| x != 0.0 && x.abs() < f64::from(f32::MIN_POSITIVE)) => return None,
        Some(_) => cast(&elements, &DataType::Float32).ok()?,
        None => elements,
    };
    let elements = elements.as_primitive_opt::<Float32Type>().filter(|elements| elements.null_count() == 0)?;
    Some(elements.values().to_vec())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::compute::concat_batches;
    use datafusion::functions_nested::cosine_distance::cosine_distance_udf;
    use datafusion::functions_nested::distance::array_distance_udf;
    use datafusion::functions_nested::inner_product::inner_product_udf;
    use datafusion::functions_nested::make_array::make_array;
    use datafusion::logical_expr::utils::split_conjunction;
    use datafusion::logical_expr::{ColumnarValue, Volatility, col, create_udf, lit};
    use datafusion::prelude::SessionContext;

    use super::super::fixture::{Fixture, run};
    use super::super::text;
    use super::*;

    /// Whether the plan of `sql` searches.
    async fn searches(session: &SessionContext, sql: &str) -> bool {
        search_in(session, sql).await.is_some()
    }

    /// What the plan of `sql` searches for.
    async fn search_in(session: &SessionContext, sql: &str) -> Option<Search> {
        search_of_plan(&session.sql(sql).await.unwrap().into_optimized_plan().unwrap())
    }

    fn search_of_plan(plan: &LogicalPlan) -> Option<Search> {
        let mut found = None;
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                let provider = provider_of::<LsmTableProvider>(&scan.source);
                found = found.take().or_else(|| provider.and_then(|p| p.search().cloned()));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        found
    }

    #[tokio::test]
    async fn what_a_search_asks_of_texts_stands_alone_beside_other_filters() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = "CREATE EXTERNAL TABLE v (id BIGINT PRIMARY KEY, kind VARCHAR) STORED AS LSM";
        let options = "OPTIONS ('lsm.index.kind' 'fts')";
        run(&session, &format!("{create} LOCATION '{}' {options}", fixture.path("v"))).await.unwrap();
        for sql in [
            "SELECT id FROM v WHERE id % 2 = 1 AND text_match(kind, 'a') AND id > 3 ORDER BY score(kind, 'a') DESC LIMIT 3",
            "SELECT id FROM text_search('v', 'kind', 'a', k => 3) WHERE id % 2 = 1",
        ] {
            let filters = search_in(&session, sql).await.unwrap().filters;
            assert!(filters.iter().any(|filter| text::search_of(filter).is_some()), "{sql}: {filters:?}");
            assert!(filters.iter().all(|filter| split_conjunction(filter).len() == 1), "{sql}: {filters:?}");
        }
    }

    #[tokio::test]
    async fn a_sort_by_distance_with_a_limit_is_a_search() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = format!(
            "CREATE EXTERNAL TABLE v (id BIGINT PRIMARY KEY, kind VARCHAR, e FLOAT[2], d DOUBLE[2]) STORED AS LSM \
             LOCATION '{}' OPTIONS ('lsm.index.e' 'vector(l2)', 'lsm.index.kind' 'fts')",
            fixture.path("v")
        );
        run(&session, &create).await.unwrap();
        for (name, call) in [
            ("of_vector(FLOAT[2])", "l2_distance(e, $1)"),
            ("of_list(DOUBLE[])", "cosine_distance($1, e)"),
            ("of_any", "l2_distance(e, $1)"),
        ] {
            let prepare = format!("PREPARE {name} AS SELECT id FROM v WHERE id > 1 ORDER BY {call} LIMIT 3");
            run(&session, &prepare).await.unwrap();
        }
        for sql in [
            "EXECUTE of_vector([1.0, 0.0])",
            "EXECUTE of_list([1.0, 0.0])",
            "EXECUTE of_any([1, 0])",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance([1.0, 0.0], e) LIMIT 3 OFFSET 7",
            "SELECT id FROM v ORDER BY array_distance(e, [1, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY list_distance([1.0, 0.0], e) LIMIT 3",
            "SELECT id FROM v ORDER BY dot_product(e, [1, 0]) DESC LIMIT 3",
            "SELECT id, l2_distance(e, [1, 0]) AS far FROM v ORDER BY far LIMIT 3",
            "SELECT * FROM (SELECT id AS k, cosine_distance(e, [1, 0]) AS far FROM v WHERE kind = 'a') s ORDER BY far LIMIT 3",
            "WITH near AS (SELECT * FROM v WHERE id % 2 = 0) SELECT id FROM near WHERE kind LIKE 'a%' \
             ORDER BY l2_distance(near.e, [1, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY inner_product(e, [1, 0]) DESC NULLS LAST LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) NULLS FIRST LIMIT 3",
            "SELECT count(*) FROM (SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) LIMIT 3) s",
            "SELECT id FROM v WHERE id IN (SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) LIMIT 3)",
            "SELECT id FROM v ORDER BY score(kind, 'a') DESC LIMIT 3",
            "SELECT k, s FROM (SELECT id AS k, score(kind, 'a b') AS s, e FROM v) x WHERE k > 1 ORDER BY s DESC LIMIT 3",
        ] {
            assert!(searches(&session, sql).await, "{sql}");
        }
        for sql in [
            "SELECT id FROM v ORDER BY l2_distance(e, ['NaN'::FLOAT, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, ['Infinity'::FLOAT, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, 0])",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) DESC LIMIT 3",
            "SELECT id FROM v ORDER BY inner_product(e, [1, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, 0]), id LIMIT 3",
            "SELECT id FROM v ORDER BY round(l2_distance(e, [1, 0])) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(d, [1, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, e) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, NULL]) LIMIT 3",
            "SELECT id FROM v ORDER BY cosine_distance(e, [0, 0]) LIMIT 3",
            "SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) LIMIT 20000",
            "SELECT id FROM v ORDER BY score(kind, 'a') LIMIT 3",
            "SELECT id FROM v ORDER BY score(kind, 'a') DESC",
            "SELECT id FROM v ORDER BY score(kind, NULL) DESC LIMIT 3",
            "SELECT id FROM v WHERE random() < 0.5 ORDER BY l2_distance(e, [1, 0]) LIMIT 3",
            "SELECT a.id FROM v a JOIN v b ON a.id = b.id ORDER BY l2_distance(a.e, [1, 0]) LIMIT 3",
            "SELECT id FROM (SELECT * FROM v LIMIT 5) s ORDER BY l2_distance(e, [1, 0]) LIMIT 3",
        ] {
            assert!(!searches(&session, sql).await, "{sql}");
        }
        run(&session, "INSERT INTO v VALUES (1, 'a', [1, 0], [1, 0])").await.unwrap();
        let explained = async |limit: usize| {
            let sql = format!("EXPLAIN SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) LIMIT {limit}");
            run(&session, &sql).await.unwrap().join("\n")
        };
        assert!(explained(20_000).await.contains("flat=many rows wanted"));
        run(&session, "SET lsm.search.mode = 'exact'").await.unwrap();
        assert!(!searches(&session, "SELECT id FROM v ORDER BY l2_distance(e, [1, 0]) LIMIT 3").await);
        assert!(explained(3).await.contains("flat=exact mode"));
    }

    /// Expressions that are made in Rust have DataFusion's own functions, which make lists of vectors.
    #[tokio::test]
    async fn a_sort_by_datafusions_own_distance_is_a_search() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = "CREATE EXTERNAL TABLE v (id BIGINT PRIMARY KEY, e FLOAT[2]) STORED AS LSM";
        let options = "OPTIONS ('lsm.index.e' 'vector(l2)')";
        run(&session, &format!("{create} LOCATION '{}' {options}", fixture.path("v"))).await.unwrap();
        run(&session, "INSERT INTO v VALUES (1, [1, 0]), (2, [0, 1]), (3, [3, 1]), (4, NULL)").await.unwrap();
        let query = make_array(vec![lit(1.0), lit(0.5)]);
        for (call, smallest, nearest) in [
            (array_distance_udf().call(vec![col("e"), query.clone()]), true, ["1", "2"]),
            (cosine_distance_udf().call(vec![query.clone(), col("e")]), true, ["3", "1"]),
            (inner_product_udf().call(vec![col("e"), query.clone()]), false, ["3", "1"]),
        ] {
            let rows = session.table("v").await.unwrap().sort(vec![call.clone().sort(smallest, false)]).unwrap();
            let rows = rows.limit(0, Some(2)).unwrap().select_columns(&["id"]).unwrap();
            let plan = rows.clone().into_optimized_plan().unwrap();
            assert!(search_of_plan(&plan).is_some(), "{}", plan.display_indent());
            let schema = Arc::new(rows.schema().as_arrow().clone());
            let found = concat_batches(&schema, &rows.collect().await.unwrap()).unwrap();
            let ids = cast(found.column(0), &DataType::Utf8).unwrap();
            assert_eq!(ids.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), nearest, "{call}");
        }
        // Somebody's own function of that name measures what it likes.
        let vector = DataType::new_fixed_size_list(DataType::Float32, 2, true);
        let types = vec![vector, DataType::new_list(DataType::Float64, true)];
        let zero = Arc::new(|_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Float64(Some(0.0)))));
        let own = create_udf("inner_product", types, DataType::Float64, Volatility::Immutable, zero);
        for (call, smallest) in [
            (own.call(vec![col("e"), query]), false),
            // Zero in 32 bits.
            (inner_product_udf().call(vec![col("e"), make_array(vec![lit(1e-50), lit(2e-50)])]), false),
        ] {
            let rows = session.table("v").await.unwrap().sort(vec![call.clone().sort(smallest, false)]).unwrap();
            let plan = rows.limit(0, Some(2)).unwrap().into_optimized_plan().unwrap();
            assert!(search_of_plan(&plan).is_none(), "{call}");
        }
    }

    #[tokio::test]
    async fn a_scan_is_told_each_condition_once_and_by_itself() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = format!(
            "CREATE EXTERNAL TABLE d (id BIGINT PRIMARY KEY, kind VARCHAR, body VARCHAR) STORED AS LSM LOCATION '{}' \
             OPTIONS ('lsm.index.body' 'fts')",
            fixture.path("d")
        );
        run(&session, &create).await.unwrap();
        for sql in [
            "SELECT id FROM d WHERE text_match(body, 'a b') AND kind = 'x' ORDER BY score(body, 'a') DESC LIMIT 3",
            "SELECT i FROM (SELECT id AS i, kind, score(body, 'a') AS s FROM d WHERE text_match(body, 'a b')) t \
             WHERE kind = 'x' ORDER BY s DESC LIMIT 3",
        ] {
            let plan = session.sql(sql).await.unwrap().into_optimized_plan().unwrap();
            let mut told = Vec::new();
            plan.apply_with_subqueries(|node| {
                if let LogicalPlan::TableScan(scan) = node {
                    let provider = provider_of::<LsmTableProvider>(&scan.source).unwrap();
                    told.extend(provider.search().unwrap().filters.iter().map(ToString::to_string));
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .unwrap();
            told.sort();
            assert_eq!(told, ["kind = Utf8(\"x\")", "text_match(body, Utf8(\"a b\"))"], "{sql}");
        }
    }
}

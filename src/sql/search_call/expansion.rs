//! What the calls of a plan mean, as sorts with limits of the rows of their tables.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, SortExpr, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;

use super::SearchCall;
use super::hybrid;
use super::parameters::{DISTANCE, SCORE, SearchFunction};
use super::prefilter;
use super::values::Values;
use crate::distance::Metric;
use crate::error::Error;
use crate::index_spec::{IndexKind, IndexSpec, metric_named};
use crate::sql::binding::{Origin, label, output};
use crate::sql::{distance, score, text};

/// `plan` with what they mean in the place of all calls.
///
/// # Errors
/// `Invalid` if an argument is not what its parameter takes.
pub(crate) fn expand(plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
    let mut calls = false;
    plan.apply_with_subqueries(|node| {
        calls |= SearchCall::of(node).is_some();
        Ok(if calls { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if !calls {
        return Ok(plan);
    }
    let expanded = prefilter::sink(label(plan)?)?.transform_up_with_subqueries(|node| {
        Ok(Transformed::yes(match SearchCall::of(&node) {
            Some(call) => TypeCoercion::new().analyze(planned(call, config)?, config)?,
            None => node.recompute_schema()?,
        }))
    })?;
    Ok(expanded.data)
}

fn planned(call: &SearchCall, config: &ConfigOptions) -> Result<LogicalPlan> {
    let values = Values::of(call, config)?;
    let input = call.input.clone();
    let side = match call.function {
        SearchFunction::Vector => Side::vector(&input, &values, "column", "query")?,
        SearchFunction::Text => Side::text(&input, &values, "column", "query")?,
        SearchFunction::Hybrid => return hybrid::planned(&input, &values),
    };
    side.best(&input, values.k()?)?.sort([side.order()])?.build()
}

/// The columns of `plan`.
pub(super) fn columns(plan: &LogicalPlan) -> impl Iterator<Item = Expr> {
    plan.schema().columns().into_iter().map(Expr::Column)
}

/// What one search ranks rows by.
pub(super) struct Side {
    /// What the rank is computed from.
    pub(super) value: Expr,
    /// The value's name.
    pub(super) name: &'static str,
    /// Whether the smallest value is the best.
    pub(super) is_ascending: bool,
    /// What a row must be to be ranked, which is asked before rows are counted.
    matching: Option<Expr>,
}

impl Side {
    /// The search for a vector; `column` and `query` are the parameters that tell it.
    pub(super) fn vector(
        input: &LogicalPlan,
        values: &Values,
        column: &'static str,
        query: &'static str,
    ) -> Result<Self> {
        let (column, field) = column_of(input, values.name(column)?)?;
        let (element, width) = vector_column(&field)?;
        let metric = metric(input, &column, values.text("metric")?)?;
        let vector = values.vector(query, element, width)?;
        let is_comparable = vector.is_some();
        let vector = Expr::Literal(vector.unwrap_or(ScalarValue::Null), None);
        let value = ScalarFunction::new_udf(distance::function(metric), vec![Expr::Column(column), vector]);
        let value = Expr::ScalarFunction(value);
        let matching = (!is_comparable).then(|| lit(false));
        Ok(Self { value, name: DISTANCE, is_ascending: metric.nearest_is_smallest(), matching })
    }

    /// The search for a text in one column or several; `column` and `query` are the parameters that tell it.
    pub(super) fn text(
        input: &LogicalPlan,
        values: &Values,
        column: &'static str,
        query: &'static str,
    ) -> Result<Self> {
        let mut texts = Vec::new();
        for name in values.names(column)? {
            let (column, field) = column_of(input, &name)?;
            text_column(&field)?;
            texts.push(Expr::Column(column));
        }
        let query = lit(ScalarValue::Utf8(values.text(query)?.map(str::to_string)));
        let call = |function| {
            let args = texts.iter().cloned().chain([query.clone()]).collect();
            Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
        };
        let matching = Some(call(text::function()));
        Ok(Self { value: call(score::function()), name: SCORE, is_ascending: false, matching })
    }

    /// The best first.
    pub(super) fn order(&self) -> SortExpr {
        Expr::Column(Column::from_name(self.name)).sort(self.is_ascending, false)
    }

    /// The `limit` best rows of `input` with their values. Those that cannot be ranked are not found.
    pub(super) fn best(&self, input: &LogicalPlan, limit: usize) -> Result<LogicalPlanBuilder> {
        let mut rows = LogicalPlanBuilder::from(input.clone());
        if let Some(matching) = &self.matching {
            rows = rows.filter(matching.clone())?;
        }
        let ranked = rows
            .project(columns(input).chain([self.value.clone().alias(self.name)]))?
            .sort([self.order()])?
            .limit(0, Some(limit))?;
        if self.matching.is_some() {
            return Ok(ranked);
        }
        // NULLs are last, so what they leave out is not missing.
        ranked.filter(Expr::Column(Column::from_name(self.name)).is_not_null())
    }
}

/// The type of the elements of the vectors in a column, and how many elements they have.
///
/// # Errors
/// `Invalid` if it is no column of vectors.
pub(crate) fn vector_column(field: &Field) -> Result<(&DataType, usize), Error> {
    match field.data_type() {
        DataType::FixedSizeList(element, width)
            if matches!(element.data_type(), DataType::Float16 | DataType::Float32 | DataType::Float64) =>
        {
            Ok((element.data_type(), usize::try_from(*width).unwrap_or(0)))
        }
        other => Err(Error::invalid(format!(
            "vectors are searched in columns of a type such as FLOAT[384], and '{}' is {other}",
            field.name()
        ))),
    }
}

/// # Errors
/// `Invalid` if it is no column of texts.
pub(crate) fn text_column(field: &Field) -> Result<(), Error> {
    if text::is_text(field.data_type()) {
        return Ok(());
    }
    let (name, other) = (field.name(), field.data_type());
    Err(Error::invalid(format!("texts are searched in columns of the type VARCHAR, and '{name}' is {other}")))
}

/// The column of this name.
fn column_of(input: &LogicalPlan, name: &str) -> Result<(Column, Arc<Field>)> {
    let schema = input.schema();
    let found = schema.iter().find(|(_, field)| field.name() == name);
    match found {
        Some((qualifier, field)) => Ok((Column::from((qualifier, field)), Arc::clone(field))),
        None => {
            let there: Vec<String> = schema.fields().iter().map(|field| format!("'{}'", field.name())).collect();
            Err(Error::invalid(format!("there is no column '{name}', there are: {}", there.join(", "))).into())
        }
    }
}

/// The metric that is told, or that of the column's index.
fn metric(input: &LogicalPlan, column: &Column, told: Option<&str>) -> Result<Metric> {
    if let Some(told) = told {
        return Ok(metric_named(told)?);
    }
    let at = input.schema().index_of_column(column)?;
    if let Some((provider, column)) = output(input, at).and_then(Origin::into_column) {
        let of_column = |index: IndexSpec| match index.kind {
            IndexKind::Vector(params) if index.column == column => Some(params.metric),
            _ => None,
        };
        if let Some(metric) = provider.table().indexes().into_iter().find_map(of_column) {
            return Ok(metric);
        }
    }
    Err(Error::invalid(format!(
        "'{}' has no index of vectors that tells the metric: add the argument metric, such as metric => 'l2'",
        column.name
    ))
    .into())
}

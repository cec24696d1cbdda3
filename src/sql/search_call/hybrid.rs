//! Two searches in one: the rows that each side finds, joined by key, and ranked by what both say.

use datafusion::common::{Column, JoinType, Result, TableReference};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_window::rank::rank;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFunctionDefinition, lit, when,
};

use super::expansion::{Side, columns};
use super::parameters::{DISTANCE, RANKS, SCORE, TEXT_SCORE};
use super::values::Values;
use crate::error::Error;

/// How many times as many rows each side searches for, unless the call says.
const SIDE_FACTOR: usize = 4;

/// What is added to ranks: Cormack, Clarke & Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
/// learning methods", SIGIR 2009.
const RANK_CONSTANT: f64 = 60.0;

/// A row's share of one side in its score, and the best and the worst value of that side.
const SHARE: &str = "(share)";
const BOUNDS: [&str; 2] = ["(most)", "(least)"];

/// What the sides are called in the plan.
const SIDES: [&str; 2] = ["by_vector", "by_text"];

/// How two ranks become one.
enum Fusion {
    /// A weight divided by the rank and a constant.
    Ranks { constant: f64 },
    /// A weight times the value, scaled so that the best of the side has 1 and the worst 0.
    Values,
}

impl Fusion {
    fn of(values: &Values) -> Result<Self> {
        let constant = values.number("rank_constant")?.unwrap_or(RANK_CONSTANT);
        match values.text("fusion")? {
            None | Some("rrf") => Ok(Self::Ranks { constant }),
            Some("weighted") => Ok(Self::Values),
            Some(other) => {
                Err(Error::invalid(format!("there is no fusion '{other}', there are: 'rrf', 'weighted'")).into())
            }
        }
    }
}

pub(super) fn planned(input: &LogicalPlan, values: &Values) -> Result<LogicalPlan> {
    let keys = keys(input)?;
    let fusion = Fusion::of(values)?;
    let k = values.k()?;
    let limit = |name| -> Result<usize> {
        Ok(values.count(name)?.unwrap_or(k.saturating_mul(SIDE_FACTOR).min(isize::MAX.unsigned_abs())))
    };
    let weight = |name| -> Result<f64> { Ok(values.number(name)?.unwrap_or(1.0)) };
    let sides = [
        (Side::vector(input, values, "vector_column", "vector")?, limit("vector_limit")?, weight("vector_weight")?),
        (Side::text(input, values, "text_column", "query")?, limit("text_limit")?, weight("text_weight")?),
    ];
    let [by_vector, by_text] = [0, 1].map(|side| {
        let (search, limit, weight) = &sides[side];
        share(search, input, *limit, *weight, &fusion, RANKS[side])?.alias(SIDES[side])?.build()
    });
    // Columns of these names as they are: a string would be read as SQL is.
    let [left, right] = SIDES.map(|side| keys.iter().map(|key| Column::new(Some(side), key)).collect::<Vec<_>>());
    let join = LogicalPlanBuilder::from(by_vector?).join(by_text?, JoinType::Full, (left, right), None)?;
    let of = |side: usize, name: &str| Expr::Column(Column::new(Some(SIDES[side]), name));
    let either = |table: Option<&TableReference>, name: &str| {
        coalesce(vec![of(0, name), of(1, name)]).alias_qualified(table.cloned(), name)
    };
    let shares = [0, 1].map(|side| coalesce(vec![of(side, SHARE), lit(0.0)]));
    let [by_vector, by_text] = shares;
    let table = input.schema().iter().map(|(table, field)| either(table, field.name()));
    let searches = [
        (by_vector + by_text).alias(SCORE),
        of(0, DISTANCE).alias(DISTANCE),
        of(1, SCORE).alias(TEXT_SCORE),
        of(0, RANKS[0]).alias(RANKS[0]),
        of(1, RANKS[1]).alias(RANKS[1]),
    ];
    let by_name = |name: &String| Expr::Column(Column::from_name(name)).sort(true, false);
    let best = Expr::Column(Column::from_name(SCORE)).sort(false, false);
    join.project(table.chain(searches))?
        .sort([best].into_iter().chain(keys.iter().map(by_name)).collect::<Vec<_>>())?
        .limit(0, Some(k))?
        .build()
}

/// What one side finds: its rows with their values, ranks and shares.
fn share(
    side: &Side,
    input: &LogicalPlan,
    limit: usize,
    weight: f64,
    fusion: &Fusion,
    rank_name: &str,
) -> Result<LogicalPlanBuilder> {
    let value = Expr::Column(Column::from_name(side.name));
    let named = |name: &str| Expr::Column(Column::from_name(name));
    // Nothing can be said of a value that is infinite or NaN, which counts as more than infinity.
    let finite = value.clone().lt(lit(f64::INFINITY)).and(value.clone().gt(lit(f64::NEG_INFINITY)));
    let mut found = side.best(input, limit)?.filter(finite)?;
    found = found.window([rank().order_by(vec![side.order()]).build()?.alias(rank_name)])?;
    let share = match fusion {
        Fusion::Ranks { constant } => lit(weight) / (lit(*constant) + named(rank_name)),
        Fusion::Values => {
            let over = [max_udaf(), min_udaf()].map(|function| {
                let function = WindowFunctionDefinition::AggregateUDF(function);
                Expr::from(WindowFunction::new(function, vec![value.clone()]))
            });
            found = found.window(over.into_iter().zip(BOUNDS).map(|(bound, name)| bound.alias(name)))?;
            let [most, least] = BOUNDS.map(named);
            let above = if side.is_ascending { most.clone() - value.clone() } else { value.clone() - least.clone() };
            let scaled = lit(weight) * above / (most.clone() - least.clone());
            when(most.gt(least), scaled).otherwise(lit(weight))?
        }
    };
    found.project(columns(input).chain([value, named(rank_name), share.alias(SHARE)]))
}

/// The primary key of the table.
fn keys(input: &LogicalPlan) -> Result<Vec<String>> {
    let key = input.schema().functional_dependencies();
    let key = key
        .iter()
        .find(|dependency| !dependency.nullable && dependency.target_indices.len() == input.schema().fields().len());
    match key {
        Some(key) => Ok(key.source_indices.iter().map(|at| input.schema().field(*at).name().clone()).collect()),
        None => {
            Err(Error::invalid("hybrid_search joins what its two sides find by primary key, and this table has none")
                .into())
        }
    }
}

//! What EXPLAIN tells of a statement.

use arrow::array::AsArray;
use datafusion::prelude::SessionContext;

/// The plan of a statement, with the figures of its run.
pub(crate) async fn analyzed(session: &SessionContext, sql: &str) -> String {
    told(session, &format!("EXPLAIN ANALYZE {sql}")).await
}

/// The plans of a statement that does not run.
pub(crate) async fn explained(session: &SessionContext, sql: &str) -> String {
    told(session, &format!("EXPLAIN {sql}")).await
}

async fn told(session: &SessionContext, explain: &str) -> String {
    let rows = session.sql(explain).await.unwrap().collect().await.unwrap();
    rows.iter().flat_map(|b| b.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>()).collect()
}

/// A figure of the first node of whose line `node` is a part. Of thousands it is rounded: "2.69 K".
pub(crate) fn figure(plan: &str, node: &str, name: &str) -> usize {
    let line = plan.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{node} is not in\n{plan}"));
    let figures = line.split("metrics=[").nth(1).unwrap_or_else(|| panic!("{node} has no figures\n{plan}"));
    let value = figures.split([',', ']']).find_map(|figure| figure.trim().strip_prefix(name)?.strip_prefix('='));
    let value = value.unwrap_or_else(|| panic!("{node} has no figure {name}\n{plan}"));
    match value.strip_suffix(" K") {
        Some(thousands) => (thousands.parse::<f64>().unwrap() * 1000.0).round() as usize,
        None => value.parse().unwrap_or_else(|_| panic!("{name} of {node} is no number\n{plan}")),
    }
}

//! DELETE and UPDATE as the inserts they are: of keys to delete, of full new rows.
//!
//! Done before the optimizer runs, so that the rows are chosen by an ordinary SELECT: DataFusion's own hooks take the
//! predicate from the optimized plan and turn `WHERE false`, `IN (SELECT …)` and LIMIT into "all rows".

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder, WriteOp};

use super::provider::LsmTableProvider;
use super::rule::{Pins, provider_of};
use super::target::{LsmTarget, TargetKind};
use crate::error::Error;
use crate::key::PrimaryKey;
use crate::table::LsmTable;

/// The statement with the target that knows its snapshot and how to run it again.
pub(super) fn statement(statement: DmlStatement, pins: &mut Pins) -> Result<Transformed<LogicalPlan>> {
    if let Some(target) = provider_of::<LsmTarget>(&statement.target) {
        // Analyzed before: it only needs a fresh snapshot.
        let snapshot = pins.snapshot(target.provider().table());
        let target = provider_as_source(Arc::new(target.pinned(snapshot)));
        return Ok(Transformed::yes(LogicalPlan::Dml(DmlStatement { target, ..statement })));
    }
    let Some(provider) = provider_of::<LsmTableProvider>(&statement.target) else {
        return Ok(Transformed::no(LogicalPlan::Dml(statement)));
    };
    let schema = provider.table().table_schema();
    let (kind, op, input) = match &statement.op {
        WriteOp::Insert(op @ (InsertOp::Append | InsertOp::Replace)) => {
            (TargetKind::Rows, WriteOp::Insert(*op), Arc::clone(&statement.input))
        }
        WriteOp::Update => {
            check_keys_kept(schema.key(), &statement.input)?;
            (TargetKind::Update, WriteOp::Insert(InsertOp::Replace), Arc::clone(&statement.input))
        }
        WriteOp::Delete => {
            let keys = keys_of(schema.key(), &statement.input)?;
            (TargetKind::Delete, WriteOp::Insert(InsertOp::Append), Arc::new(keys))
        }
        WriteOp::Insert(InsertOp::Overwrite) if reads(&statement.input, provider.table())? => {
            let target = provider_as_source(Arc::new(provider.pinned(pins.snapshot(provider.table()))));
            return Ok(Transformed::yes(LogicalPlan::Dml(DmlStatement { target, ..statement })));
        }
        WriteOp::Insert(InsertOp::Overwrite) | WriteOp::Truncate | WriteOp::Ctas => {
            return Ok(Transformed::no(LogicalPlan::Dml(statement)));
        }
    };
    let reads = kind != TargetKind::Rows || reads(&input, provider.table())?;
    let pinned = provider.pinned(pins.snapshot(provider.table()));
    let table_name = statement.table_name.clone();
    let target = LsmTarget::new(pinned, kind, reads, Arc::new(LogicalPlan::Dml(statement)));
    let rewritten = DmlStatement::new(table_name, provider_as_source(Arc::new(target)), op, input);
    Ok(Transformed::yes(LogicalPlan::Dml(rewritten)))
}

/// Whether the plan has a scan of the table, subqueries included.
fn reads(plan: &LogicalPlan, table: &Arc<LsmTable>) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = provider_of::<LsmTableProvider>(&scan.source);
            found |= provider.is_some_and(|p| Arc::ptr_eq(p.table(), table));
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Fails if an UPDATE assigns a key column: the row would become another one.
fn check_keys_kept(key: &PrimaryKey, input: &LogicalPlan) -> Result<()> {
    let LogicalPlan::Projection(projection) = input else {
        // Optimized before it came here: nothing is assigned, or there are no rows.
        return Ok(());
    };
    for column in key.columns() {
        let mut expr = projection.expr.get(column.index);
        while let Some(Expr::Alias(alias)) = expr {
            expr = Some(&alias.expr);
        }
        if !matches!(expr, Some(Expr::Column(c)) if c.name == column.name) {
            return Err(Error::invalid(format!(
                "UPDATE cannot assign '{}', a column of the primary key: DELETE the row and INSERT it under its new key",
                column.name
            ))
            .into());
        }
    }
    Ok(())
}

/// The keys of the rows of `input`, in key order.
fn keys_of(key: &PrimaryKey, input: &LogicalPlan) -> Result<LogicalPlan> {
    let schema = input.schema();
    let column = |name: &str| {
        let found = schema.iter().find(|(_, field)| field.name() == name);
        found
            .map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))))
            .ok_or_else(|| Error::internal(format!("the rows to delete come without their key column '{name}'")))
    };
    let keys = key.columns().iter().map(|c| column(&c.name)).collect::<Result<Vec<_>, _>>()?;
    LogicalPlanBuilder::from(input.clone()).project(keys)?.build()
}

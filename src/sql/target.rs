//! What a statement writes into, between analysis and execution.
//!
//! It is a provider because that is what a DML node may point to; nobody reads from it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, SchemaExt};
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::provider::LsmTableProvider;
use super::sink::{LsmSink, Rerun, Write, key_schema};
use crate::error::Error;
use crate::version::Snapshot;

/// What the rows are that the statement brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    /// New rows.
    Rows,
    /// Existing rows with new values.
    Update,
    /// The keys of rows to delete.
    Delete,
}

/// A table as the target of one statement.
#[derive(Debug, Clone)]
pub(super) struct LsmTarget {
    provider: LsmTableProvider,
    kind: TargetKind,
    /// Whether the statement reads the table that it writes.
    reads: bool,
    /// The statement before it was rewritten, to be planned anew after a conflict.
    statement: Arc<LogicalPlan>,
}

impl LsmTarget {
    pub(super) fn new(provider: LsmTableProvider, kind: TargetKind, reads: bool, statement: Arc<LogicalPlan>) -> Self {
        Self { provider, kind, reads, statement }
    }

    pub(super) fn provider(&self) -> &LsmTableProvider {
        &self.provider
    }

    pub(super) fn pinned(&self, snapshot: Arc<Snapshot>) -> Self {
        Self { provider: self.provider.pinned(snapshot), ..self.clone() }
    }
}

#[async_trait]
impl TableProvider for LsmTarget {
    fn schema(&self) -> SchemaRef {
        match self.kind {
            TargetKind::Rows | TargetKind::Update => self.provider.schema(),
            TargetKind::Delete => key_schema(self.provider.table()),
        }
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::internal("the target of a statement is not read").into())
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.schema().logically_equivalent_names_and_types(&input.schema())?;
        let write = match (self.kind, op) {
            (TargetKind::Rows, InsertOp::Replace) => Write::Upsert,
            (TargetKind::Rows, _) => self.provider.insert(state),
            (TargetKind::Update, _) => Write::Update,
            (TargetKind::Delete, _) => Write::Delete,
        };
        let table = Arc::clone(self.provider.table());
        let sink = LsmSink::new(table, write, self.provider.snapshot().cloned(), self.provider.ack(state));
        let rerun = state
            .as_any()
            .downcast_ref::<SessionState>()
            .map(|state| Rerun { session: Arc::new(state.clone()), statement: Arc::clone(&self.statement) });
        Ok(sink.with_rerun(rerun, self.reads).plan(input))
    }
}

//! A snapshot of a table for DataFusion, so that plans run as queries do: filters, limits, partitions.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_lsm::planner::FilterSupport;
use datafusion_lsm::table::LsmTable;
use datafusion_lsm::version::Snapshot;

/// A table as of one snapshot.
#[derive(Debug)]
struct Pinned {
    table: Arc<LsmTable>,
    snapshot: Arc<Snapshot>,
}

/// The snapshot as a data frame of a session with this many partitions.
pub(crate) fn frame(table: &Arc<LsmTable>, snapshot: &Arc<Snapshot>, partitions: usize) -> DataFrame {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
    let pinned = Pinned { table: Arc::clone(table), snapshot: Arc::clone(snapshot) };
    session.read_table(Arc::new(pinned)).unwrap()
}

#[async_trait]
impl TableProvider for Pinned {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.table.scan(&self.snapshot, projection.map(Vec::as_slice), filters, limit)?)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |support| match support {
            FilterSupport::Exact => TableProviderFilterPushDown::Exact,
            FilterSupport::Inexact => TableProviderFilterPushDown::Inexact,
            FilterSupport::Unsupported => TableProviderFilterPushDown::Unsupported,
        };
        Ok(self.table.supports_filters(filters).into_iter().map(support).collect())
    }
}

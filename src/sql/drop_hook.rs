//! DROP TABLE for tables with `'lsm.drop' 'delete'`.
//!
//! DataFusion tells nobody of a DROP but the schema that holds the name, and by a call that cannot wait. So a schema
//! that gets such a table is wrapped: the wrapper begins the deletion, which goes on in the background, and whoever
//! opens the location waits for it. A process that ends at once may leave the directory partly deleted.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::{DataFusionError, Result, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::TableType;

use super::engine::LsmEngine;
use super::provider::LsmTableProvider;
use crate::error::Error;
use crate::settings::OnDrop;

/// Makes the schema of `name` act on DROP.
///
/// # Errors
/// `Invalid` if the catalog does not let its schema be wrapped.
pub(super) fn install(session: &dyn Session, name: &TableReference, engine: &Arc<LsmEngine>) -> Result<()> {
    let refuse = |why: String| Error::invalid(format!("option 'lsm.drop' = 'delete' is not possible here: {why}"));
    let state = session.as_any().downcast_ref::<SessionState>().ok_or_else(|| refuse("a foreign session".into()))?;
    let resolved = name
        .clone()
        .resolve(&state.config_options().catalog.default_catalog, &state.config_options().catalog.default_schema);
    let catalog = state
        .catalog_list()
        .catalog(&resolved.catalog)
        .ok_or_else(|| refuse(format!("there is no catalog '{}'", resolved.catalog)))?;
    let inner =
        catalog.schema(&resolved.schema).ok_or_else(|| refuse(format!("there is no schema '{}'", resolved.schema)))?;
    if inner.is::<DropHook>() {
        return Ok(());
    }
    let hook = DropHook { inner, engine: Arc::clone(engine) };
    catalog.register_schema(&resolved.schema, Arc::new(hook)).map_err(|e| refuse(e.to_string()))?;
    Ok(())
}

/// A schema that deletes what it is told to.
#[derive(Debug)]
struct DropHook {
    inner: Arc<dyn SchemaProvider>,
    engine: Arc<LsmEngine>,
}

#[async_trait]
impl SchemaProvider for DropHook {
    fn owner_name(&self) -> Option<&str> {
        self.inner.owner_name()
    }

    fn table_names(&self) -> Vec<String> {
        self.inner.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.inner.table(name).await
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        self.inner.table_type(name).await
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        self.inner.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let table = self.inner.deregister_table(name)?;
        let lsm = table.as_ref().and_then(|t| t.downcast_ref::<LsmTableProvider>());
        if let Some(provider) = lsm.filter(|p| p.on_drop() == OnDrop::Delete)
            && let Err(error) = self.engine.delete(Arc::clone(provider.table()))
        {
            // Nothing was begun: the name stays.
            self.inner.register_table(name.to_string(), Arc::new(provider.clone()))?;
            return Err(error.into());
        }
        Ok(table)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.inner.table_exist(name)
    }
}

//! CREATE EXTERNAL TABLE … STORED AS LSM.
//!
//! With columns it creates the table or verifies that the one there has them; without columns it opens what is there.
//! A declaration that is wrong fails before anything is opened.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Result;
use datafusion::logical_expr::CreateExternalTable;

use super::declaration::Declaration;
use super::drop_hook;
use super::engine::{LsmEngine, OpenRequest, check_declared};
use super::options::SessionOptions;
use super::provider::{Defaults, LsmTableProvider};
use crate::settings::OnDrop;

/// What STORED AS calls these tables.
pub(super) const FILE_TYPE: &str = "LSM";

/// Makes the tables of `STORED AS LSM`.
#[derive(Debug)]
pub struct LsmTableFactory {
    engine: Arc<LsmEngine>,
}

impl LsmTableFactory {
    /// A factory whose tables are opened by `engine`.
    pub fn new(engine: Arc<LsmEngine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl TableProviderFactory for LsmTableFactory {
    async fn create(&self, state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let session = state.config_options().extensions.get::<SessionOptions>();
        let declaration = Declaration::try_new(command, session)?;
        if declaration.settings.on_drop == OnDrop::Delete {
            drop_hook::install(state, &command.name, &self.engine)?;
        }
        let request = OpenRequest {
            uri: declaration.uri.clone(),
            options: declaration.told.clone(),
            storage_options: declaration.options.storage().clone(),
            create: declaration.create(),
            adopt: declaration.adopt(),
            replace: declaration.replaces(command),
        };
        let table = Box::pin(self.engine.open(request)).await?;
        if let Some((schema, key)) = &declaration.columns {
            check_declared(&table, schema, key)?;
        }
        let defaults = Defaults::new(&declaration, &command.column_defaults)?;
        Ok(Arc::new(LsmTableProvider::new(table).with_defaults(defaults)))
    }
}

//! Changing which indexes a table has.
//!
//! What CREATE TABLE said is in the MemWAL index of the dataset. What is said later is in the dataset's config, under the
//! same names, and counts instead; an empty value says that the column has none. Lance merges a change of the config
//! with whatever else is committed at the same time. A new MemWAL index it would not merge with a compaction: that its
//! generations are in the base would be forgotten. Two changes of indexes must not be merged, as each was checked against
//! what there was: every one sets the key `lsm.indexes` anew, so that the later one conflicts.

use std::collections::HashMap;
use std::sync::Arc;

use lance::Dataset;
use uuid::Uuid;

use super::BaseTable;
use crate::error::Result;
use crate::index_spec::{self, IndexSpec};
use crate::store::from_lance;

/// The key that every change of indexes sets to something new.
const CHANGE: &str = "lsm.indexes";

impl BaseTable {
    /// Makes `indexes` those of `column`, in place of those it has; synced when this returns.
    ///
    /// # Errors
    /// `Conflict` if another process changed the table's indexes first, `Fenced` if the table was dropped, `Unavailable` if the storage fails.
    pub async fn declare(&self, column: &str, indexes: &[IndexSpec]) -> Result<Arc<Self>> {
        self.check_present().await?;
        let failed = |error| from_lance(error).with_context("location", self.io.uri());
        let said = IndexSpec::options(indexes).remove(&option(column)).unwrap_or_default();
        let mut dataset = Dataset::clone(self.handle.dataset());
        let change = Uuid::new_v4().to_string();
        dataset.update_config([(option(column), Some(said)), (CHANGE.into(), Some(change))]).await.map_err(failed)?;
        self.io.sync_tree("_transactions").await?;
        self.io.sync_tree("_versions").await?;
        Self::of(self.opener.clone(), self.io.clone(), Arc::new(dataset)).await
    }
}

fn option(column: &str) -> String {
    format!("{}{column}", index_spec::PREFIX)
}

/// The options that say indexes: what CREATE TABLE said, and over it what the config says.
pub(super) fn effective(
    mut defaults: HashMap<String, String>,
    config: &HashMap<String, String>,
) -> HashMap<String, String> {
    for (name, said) in config.iter().filter(|(name, _)| name.starts_with(index_spec::PREFIX)) {
        if said.is_empty() {
            defaults.remove(name);
        } else {
            defaults.insert(name.clone(), said.clone());
        }
    }
    defaults
}

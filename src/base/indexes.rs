//! The indexes that a table has of its columns, as one version of its base tells.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::index_spec::{IndexKind, IndexSpec};
use crate::schema::TableSchema;
use crate::text_search::TextAnalyzer;

/// Indexes, and what they need to work.
#[derive(Debug, Clone, Default)]
pub struct Indexes {
    specs: Vec<IndexSpec>,
    /// By column: those of the text indexes.
    analyzers: HashMap<String, Arc<TextAnalyzer>>,
    left_out: Vec<IndexSpec>,
}

impl Indexes {
    /// The indexes `specs` of a table.
    ///
    /// # Errors
    /// `Invalid` if one cannot be, here.
    pub fn try_new(specs: &[IndexSpec], schema: &TableSchema) -> Result<Self> {
        let mut indexes = Self::default();
        specs.iter().try_for_each(|index| indexes.add(index, schema))?;
        Ok(indexes)
    }

    /// Those of the indexes `specs`, which were declared before, that the table can have still: columns may have been
    /// dropped, renamed or made something else since. The others are left out, with a warning.
    pub(super) fn of_stored(specs: &[IndexSpec], schema: &TableSchema) -> Self {
        let mut indexes = Self::default();
        for index in specs {
            if let Err(error) = indexes.add(index, schema) {
                tracing::warn!(index = index.name, %error, "an index is left out: drop it");
                indexes.left_out.push(index.clone());
            }
        }
        indexes
    }

    fn add(&mut self, index: &IndexSpec, schema: &TableSchema) -> Result<()> {
        let index = index.resolved(schema)?;
        index.check_beside(&self.specs)?;
        if let IndexKind::Text(params) = &index.kind {
            let analyzer = TextAnalyzer::try_new(params).map_err(|e| {
                Error::invalid(format!("the index of '{}': {}", index.column, e.message())).with_source(e)
            })?;
            self.analyzers.insert(index.column.clone(), Arc::new(analyzer));
        }
        self.specs.push(index);
        Ok(())
    }

    /// Declared indexes that the table cannot have.
    pub fn left_out(&self) -> &[IndexSpec] {
        &self.left_out
    }

    /// The indexes, those of a column side by side.
    pub fn specs(&self) -> &[IndexSpec] {
        &self.specs
    }

    /// The text index of the column.
    pub fn of_texts(&self, column: &str) -> Option<&IndexSpec> {
        self.specs.iter().find(|index| index.column == column && matches!(index.kind, IndexKind::Text(_)))
    }

    /// An index of the column's values.
    pub fn of_values(&self, column: &str) -> Option<&IndexSpec> {
        let orders = |index: &&IndexSpec| matches!(index.kind, IndexKind::BTree | IndexKind::Bitmap);
        self.specs.iter().filter(orders).find(|index| index.column == column)
    }

    /// How the words of the column's texts are made: as its text index is told, else as Lance does at its defaults.
    pub fn text_analyzer(&self, column: &str) -> Arc<TextAnalyzer> {
        self.analyzers.get(column).map_or_else(TextAnalyzer::default_one, Arc::clone)
    }
}

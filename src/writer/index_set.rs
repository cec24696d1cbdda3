//! Which indexes the memtables of a table have: those that its base declares, and those of the embedder.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::base::{BaseTable, Indexes};
use crate::error::{Error, Result};
use crate::index_spec::{IndexKind, IndexSpec};
use crate::memtable::{RowIndexFactory, ScalarRowsFactory, TextRowsFactory, VectorRowsFactory};
use crate::schema::TableSchema;

type Factory = Arc<dyn RowIndexFactory>;

/// The indexes of memtables, as they are now.
#[derive(Debug)]
pub struct IndexSet {
    /// The embedder's, which never change.
    own: Vec<Factory>,
    /// Whether rows wait for their indexes.
    sync: bool,
    declared: Mutex<Vec<(IndexSpec, Factory)>>,
    all: ArcSwap<Vec<Factory>>,
}

impl IndexSet {
    /// The embedder's indexes, until [`adopt`](Self::adopt).
    pub fn new(own: Vec<Factory>, sync: bool) -> Self {
        let all = ArcSwap::from_pointee(own.clone());
        Self { own, sync, declared: Mutex::default(), all }
    }

    /// What makes the indexes.
    pub fn all(&self) -> Arc<Vec<Factory>> {
        self.all.load_full()
    }

    /// Nothing, if a declared index may have this name.
    ///
    /// # Errors
    /// `Invalid` if one of the embedder's has it.
    pub fn check_name(&self, name: &str) -> Result<()> {
        match self.own.iter().any(|own| own.name() == name) {
            true => Err(Error::invalid(format!("the program has an index '{name}' of its own: choose another name"))),
            false => Ok(()),
        }
    }

    /// Whether rows become visible only when they are indexed.
    pub fn is_sync(&self) -> bool {
        self.sync
    }

    /// Takes over what the base that `current` gives declares, and lets `apply` give it to the memtables, if it changed.
    /// An index that stays, stays the same.
    ///
    /// # Errors
    /// `Invalid` if one cannot be; nothing changes then.
    pub fn adopt(&self, current: impl FnOnce() -> Arc<BaseTable>, apply: impl FnOnce(&[Factory])) -> Result<()> {
        // Held to the end: of two changes at once the later one is what memtables get last.
        let mut there = self.declared.lock();
        let base = current();
        let (declared, schema) = (base.indexes(), base.schema());
        let factory = |index: &IndexSpec| match there.iter().find(|(spec, _)| spec == index) {
            Some(known) => Ok(known.clone()),
            None => Ok((index.clone(), factory(index, declared, schema)?)),
        };
        let next = declared.specs().iter().map(factory).collect::<Result<Vec<_>>>()?;
        if next.iter().map(|(spec, _)| spec).eq(there.iter().map(|(spec, _)| spec)) {
            return Ok(());
        }
        let all: Vec<Factory> = self.own.iter().chain(next.iter().map(|(_, factory)| factory)).cloned().collect();
        *there = next;
        self.all.store(Arc::new(all.clone()));
        apply(&all);
        Ok(())
    }
}

/// What makes the memtables' part of an index.
fn factory(index: &IndexSpec, all: &Indexes, schema: &TableSchema) -> Result<Factory> {
    let (name, column) = (&index.name, &index.column);
    Ok(match &index.kind {
        IndexKind::Text(_) => Arc::new(TextRowsFactory::try_new(schema, name, column, all.text_analyzer(column))?),
        IndexKind::Vector(vector) => Arc::new(VectorRowsFactory::try_new(schema, name, column, vector.metric)?),
        kind @ (IndexKind::BTree | IndexKind::Bitmap) => {
            Arc::new(ScalarRowsFactory::try_new(schema, name, column, kind)?)
        }
    })
}

//! Which indexes the generation of a frozen memtable gets, and from what they are made.

use std::any::Any;
use std::sync::Arc;

use crate::generation::{IndexWriter, NewIndex, TextIndexWriter, ValueIndexWriter, VectorIndexWriter};
use crate::memtable::{IndexState, MemTableView, RowIndex, ScalarRows, TextRows, VectorRows};

/// The indexes of the generation that `view`, all rows of a frozen memtable, becomes.
pub(super) fn of(view: &MemTableView) -> Vec<NewIndex> {
    let indexes = view.table().indexes();
    let written = indexes.iter().filter_map(|state| {
        let (column, writer) = writer(state, view)?;
        Some(NewIndex { name: state.name().to_string(), column, writer })
    });
    written.collect()
}

/// The column of an index and what writes the generation's part of it; `None` if generations have none of its kind.
fn writer(state: &IndexState, view: &MemTableView) -> Option<(usize, Box<dyn IndexWriter>)> {
    let index: Arc<dyn Any + Send + Sync> = Arc::<dyn RowIndex>::clone(state.kept());
    // What is not complete is made anew from the rows.
    let is_whole = state.failure().is_none() && state.indexed() >= view.watermark();
    if let Some(vectors) = index.downcast_ref::<VectorRows>() {
        let column = vectors.column();
        return Some((column, Box::new(VectorIndexWriter::new(column, vectors.metric()))));
    }
    if let Some(values) = index.downcast_ref::<ScalarRows>() {
        let column = values.column();
        return Some((column, Box::new(ValueIndexWriter::try_new(column, values.kind())?)));
    }
    if let Ok(texts) = index.downcast::<TextRows>() {
        let (column, analyzer) = (texts.column(), Arc::clone(texts.analyzer()));
        let writer = match is_whole {
            true => TextIndexWriter::of_memtable(column, analyzer, texts, view.newest_words()),
            false => TextIndexWriter::of_rows(column, analyzer),
        };
        return Some((column, Box::new(writer)));
    }
    None
}

//! What answering a query reads of a dataset on an object store.

use crate::dataset::DatasetHandle;
use crate::source::Work;
use crate::store::Reads;

/// Begins when it is made. What other queries read of the dataset meanwhile is told as well.
pub(super) struct Reading<'a> {
    handle: &'a DatasetHandle,
    before: Option<Reads>,
}

impl<'a> Reading<'a> {
    pub(super) fn begin(handle: &'a DatasetHandle) -> Self {
        Self { handle, before: handle.reads() }
    }

    /// Tells what was read since, unless the dataset is near.
    pub(super) fn tell(&self, work: &mut Work) {
        if let (Some(before), Some(now)) = (self.before, self.handle.reads()) {
            for (name, much) in now.since(before).named() {
                work.add(name, much);
            }
        }
    }
}

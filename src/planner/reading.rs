//! What answering a query reads of a dataset on an object store.

use std::time::Duration;

use crate::dataset::DatasetHandle;
use crate::source::Work;
use crate::store::Reads;

/// Begins when it is made. What other queries read of the dataset meanwhile is told as well.
pub(super) struct Reading<'a> {
    handle: &'a DatasetHandle,
    before: Option<Reads>,
    waited: Duration,
}

impl<'a> Reading<'a> {
    pub(super) fn begin(handle: &'a DatasetHandle) -> Self {
        Self { handle, before: handle.reads(), waited: handle.read_wait() }
    }

    /// Tells what was read since, unless the dataset is near, and how long that waited for the read budget.
    pub(super) fn tell(&self, work: &mut Work) {
        let waited = self.handle.read_wait().saturating_sub(self.waited);
        if self.before.is_some() || !waited.is_zero() {
            work.waited(waited);
        }
        if let (Some(before), Some(now)) = (self.before, self.handle.reads()) {
            for (name, much) in now.since(before).named() {
                work.add(name, much);
            }
        }
    }
}

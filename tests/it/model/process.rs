//! A process as far as a table can tell: a runtime of its own, a handle, and an end without warning.

use std::sync::Arc;

use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::error::{ErrorKind, Result};
use datafusion_lsm::settings::Settings;
use datafusion_lsm::store::SyncRecord;
use datafusion_lsm::table::{Components, LsmTable};
use tokio::runtime::{Builder, Runtime};

use crate::support::faults::Recorder;
use crate::support::place::{Place, of_a_process};

/// A handle and what it runs on.
pub(super) struct Process {
    pub(super) table: Arc<LsmTable>,
    runtime: Runtime,
}

impl Process {
    pub(super) fn start(
        place: &Place,
        settings: &Settings,
        budget: &Arc<MemoryBudget>,
        record: Option<&SyncRecord>,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let io_hook = record.map(Recorder::hook);
        let components = Components { io_hook, budget: Arc::clone(budget), ..of_a_process() };
        let open = place.builder(settings.clone()).components(components).open();
        let table = runtime.block_on(open).unwrap();
        Self { table, runtime }
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Ends in order.
    pub(super) fn close(self) -> Result<()> {
        let closed = self.block_on(self.table.close());
        let late = self.block_on(self.table.flush());
        assert!(late.is_ok() || late.as_ref().is_err_and(|e| e.kind() == ErrorKind::Closed), "{late:?}");
        closed
    }

    /// Ends at once: when this returns nothing of it runs any more. A request underway is carried out.
    pub(super) fn crash(self) {
        drop(self.table);
        drop(self.runtime);
    }
}

//! The flusher of a shard: one generation after the other, in order, for as long as it takes.
//!
//! A failure keeps the memtable readable and is told to the shard; the flush is tried again until it succeeds or the
//! shard is lost to another process. Generations are committed in order, so a later one waits.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument;

use super::job;
use crate::dataset::DatasetOpener;
use crate::error::{Error, ErrorKind};
use crate::events::EventListener;
use crate::manifest::ManifestStore;
use crate::metrics::TableMetrics;
use crate::store::{ObjectIo, Retry};
use crate::task::Stop;
use crate::version::{FlushRequest, GenerationWarmer, VersionControl};

/// What a flusher works with.
#[derive(Debug, Clone)]
pub struct FlushContext {
    /// The table's objects.
    pub io: ObjectIo,
    /// Opens what was written.
    pub opener: DatasetOpener,
    /// The version that generations join.
    pub control: Arc<VersionControl>,
    /// Who listens.
    pub events: Arc<dyn EventListener>,
    /// Who is told figures.
    pub metrics: Arc<TableMetrics>,
    /// Prepares generations before they are committed.
    pub warmer: Arc<dyn GenerationWarmer>,
}

/// Flushes what arrives in `requests` until `stop`; what is underway then is finished unless it fails.
pub async fn run(
    context: FlushContext,
    manifest: Arc<ManifestStore>,
    mut requests: mpsc::UnboundedReceiver<FlushRequest>,
    mut stop: Stop,
) {
    loop {
        let request = tokio::select! {
            biased;
            request = requests.recv() => request,
            () = stop.wait() => None,
        };
        let Some(request) = request else { return };
        if !flush_until_done(&context, &manifest, &request, &mut stop).await {
            return;
        }
    }
}

async fn flush_until_done(
    context: &FlushContext,
    manifest: &ManifestStore,
    request: &FlushRequest,
    stop: &mut Stop,
) -> bool {
    let id = request.memtable.generation();
    let retry = Retry::default();
    let mut attempt = 0;
    loop {
        let since = Instant::now();
        let span = tracing::info_span!(
            "lsm.flush",
            table = context.io.uri(),
            shard = %request.shard,
            generation = %id,
            rows = request.memtable.rows(),
        );
        let error: Error = match job::flush(context, manifest, request).instrument(span).await {
            Ok(generation) => {
                let rows = generation.as_ref().map_or(0, |g| g.rows());
                context.control.update(|version| {
                    let compacted = version.base.compacted(request.shard);
                    let shard = &mut version.shards[request.index];
                    shard.frozen.retain(|m| m.instance() != request.memtable.instance());
                    // Another process may have folded it into the base since it was named.
                    // A claim that goes on in this process may have read it from the manifest.
                    let is_new = |id| id > compacted && shard.generations.iter().all(|known| known.id() != id);
                    if let Some(generation) = generation.filter(|g| is_new(g.id())) {
                        shard.generations.insert(0, generation);
                    }
                });
                // Before those who wait for it.
                context.metrics.flushed(rows, since.elapsed());
                request.listener.flushed(&request.memtable);
                context.events.on_flush(request.shard, id, rows);
                tracing::info!(shard = %request.shard, generation = %id, rows, "flushed a memtable");
                context.control.release().await;
                return true;
            }
            Err(error) => error,
        };
        let finally = error.kind() == ErrorKind::Fenced;
        tracing::warn!(shard = %request.shard, generation = %id, %error, "a flush failed");
        context.metrics.flush_failed();
        request.listener.flush_failed(&request.memtable, &error, finally);
        if finally || stop.is_set() {
            return false;
        }
        attempt += 1;
        tokio::select! {
            () = retry.pause(attempt) => {}
            () = stop.wait() => return false,
        }
    }
}

//! One flush: a frozen memtable to a committed generation. Its steps and what a crash between them leaves:
//! `docs/concurrency.md`, Freeze and flush.

use std::sync::Arc;

use super::flusher::FlushContext;
use super::indexes;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{self, Contents, Generation, GenerationRecord};
use crate::ids::GenerationId;
use crate::manifest::{ManifestStore, SsTable};
use crate::memtable::MemTableView;
use crate::store::TablePaths;
use crate::task;
use crate::version::{self, FlushRequest};

/// Writes, commits and opens the generation of a frozen memtable; `None` if its rows are in the base already.
pub(super) async fn flush(
    context: &FlushContext,
    manifest: &ManifestStore,
    request: &FlushRequest,
) -> Result<Option<Arc<Generation>>> {
    let id = request.memtable.generation();
    let schema = request.memtable.schema();
    let compacted = context.control.current().base.compacted(request.shard);
    if id <= compacted {
        return Ok(None);
    }
    let (table, warm) = if let Some(table) = committed(manifest, id) {
        // The commit of an earlier attempt had come through after all.
        (table, None)
    } else {
        // Where nothing can be committed, nothing needs to be written.
        context.io.check_synced(&TablePaths::manifest_dir(request.shard))?;
        manifest.check_fenced(request.epoch).await?;
        // Lance makes directories of a table that was dropped. A base that cannot be read now is in nobody's way.
        if let Err(error) = context.control.current().base.check_present().await
            && error.kind() == ErrorKind::Fenced
        {
            return Err(error);
        }
        let view = MemTableView::new(Arc::clone(&request.memtable), request.memtable.rows());
        let base = Arc::clone(&context.control.current().base);
        let made = move || Ok((view.newest_rows().collect::<Result<Vec<_>>>()?, indexes::of(&view)));
        let (rows, indexes) = task::blocking(made).await?;
        let (contents, layout) = (Contents { rows, indexes }, base.layout());
        let record =
            generation::write(&context.opener, &context.io, request.shard, id, contents, schema, layout).await?;
        context.events.on_flush_written(request.shard, id);
        let warm = warmed(context, request, &record).await;
        let table = SsTable {
            generation: id.0,
            path: record.path,
            in_memory_bytes: record.bytes,
            physical_rows: record.rows,
            primary_key_bytes: record.key_bytes,
        };
        if let Err(error) = commit(manifest, request, &table, compacted).await {
            // A commit in doubt may yet come to name it.
            if error.kind() != ErrorKind::Indeterminate {
                generation::discard(&context.io, request.shard, &table.path).await;
            }
            return Err(error);
        }
        (table, warm)
    };
    if warm.is_some() {
        return Ok(warm);
    }
    let record = GenerationRecord {
        id,
        path: table.path,
        bytes: table.in_memory_bytes,
        rows: table.physical_rows,
        key_bytes: table.primary_key_bytes,
    };
    let generation = Generation::open(&context.opener, context.io.uri(), request.shard, &record, schema).await?;
    // Who writes asks the keys of what it flushed while it holds its lock, and can load none there.
    generation.keys().await?;
    Ok(Some(generation))
}

/// The generation, open and prepared for queries, if that can be done in time: nobody waits longer for its commit. What
/// that reads of it is what readers who have nothing of it in memory need: they get it in one object.
async fn warmed(context: &FlushContext, request: &FlushRequest, record: &GenerationRecord) -> Option<Arc<Generation>> {
    let (opener, uri, shard) = (&context.opener, context.io.uri(), request.shard);
    let deadline = version::deadline();
    let is_not = |what: &str, error: &Error| {
        tracing::warn!(%shard, generation = %record.id, %error, "a generation is not {what}");
    };
    let opening = async {
        let recording = Generation::recording(opener, uri, shard, record).await?;
        let generation = Generation::open_written(opener, uri, shard, record, request.memtable.schema()).await?;
        Ok::<_, Error>((recording, generation))
    };
    let opened = version::in_time(deadline, opening).await;
    let (recording, generation) = opened.inspect_err(|error| is_not("warm", error)).ok()?;
    version::warm(context.warmer.as_ref(), shard, &generation, &context.control, deadline).await;
    let deadline = version::deadline();
    if let Some(recording) = recording {
        let write = async { recording.write(generation.stored_filter()?).await };
        if let Err(error) = version::in_time(deadline, write).await {
            is_not("summarised", &error);
        }
    }
    version::load(context.warmer.as_ref(), shard, &generation, deadline).await;
    Some(generation)
}

fn committed(manifest: &ManifestStore, id: GenerationId) -> Option<SsTable> {
    manifest.cached()?.sstables.iter().find(|t| t.generation == id.0).cloned()
}

/// Names the generation, and no longer those up to `compacted`, which are in the base.
async fn commit(
    manifest: &ManifestStore,
    request: &FlushRequest,
    table: &SsTable,
    compacted: GenerationId,
) -> Result<()> {
    let committed = manifest.commit(request.epoch, |current| {
        let mut next = current.clone();
        next.sstables.retain(|t| t.generation > compacted.0);
        if !next.sstables.iter().any(|t| t.generation == table.generation) {
            next.sstables.push(table.clone());
        }
        next.current_generation = next.current_generation.max(table.generation + 1);
        next.replay_after_wal_entry_position = next.replay_after_wal_entry_position.max(request.covered.0);
        next.wal_entry_position_last_seen = next.wal_entry_position_last_seen.max(request.last_seen.0);
        Ok(next)
    });
    let manifest = committed.await?;
    if manifest.sstables.iter().any(|t| t == table) {
        return Ok(());
    }
    Err(Error::internal("the manifest names another directory for the generation").with_context("path", &table.path))
}

//! Reading, claiming and committing the manifest of one shard.
//!
//! The hint only says where to start looking: it may be missing, old or wrong, and writing it may fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{join, try_join_all};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::codec::{decode, encode};
use super::{ShardManifest, ShardStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, ManifestVersion, ShardId};
use crate::store::{ObjectIo, Put, Retry, TablePaths};

/// How often a claim or commit that lost a race starts over.
const MAX_RACES: u32 = 16;

/// A position older than this is looked up anew: its successors may have been pruned, which no forward scan can see.
const MAX_POSITION_AGE: Duration = Duration::from_secs(3600);

/// The manifests of one shard.
#[derive(Debug)]
pub struct ManifestStore {
    io: ObjectIo,
    shard: ShardId,
    probe: usize,
    retry: Retry,
    cached: Mutex<Option<(Arc<ShardManifest>, Instant)>>,
    /// Held while changing the manifest, so that the tasks of one process do not race each other.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct VersionHint {
    version: u64,
}

/// What became of an attempt to write a version.
enum Written {
    Ours,
    Lost,
}

impl ManifestStore {
    /// The manifests of a shard; `probe` is how many versions a forward step asks for at once.
    pub fn new(io: ObjectIo, shard: ShardId, probe: usize) -> Self {
        Self {
            io,
            shard,
            probe: probe.max(1),
            retry: Retry::default(),
            cached: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Tries failed writes again in another way than the default.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The newest manifest this handle has seen, without asking the storage.
    pub fn cached(&self) -> Option<Arc<ShardManifest>> {
        self.cached.lock().as_ref().map(|(manifest, _)| Arc::clone(manifest))
    }

    /// The cached manifest while it may serve as a position.
    fn fresh(&self) -> Option<Arc<ShardManifest>> {
        let cached = self.cached.lock();
        cached.as_ref().filter(|(_, seen)| seen.elapsed() < MAX_POSITION_AGE).map(|(manifest, _)| Arc::clone(manifest))
    }

    /// The newest manifest in storage; `None` if nobody ever claimed the shard.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, naming the object; `Unavailable`.
    pub async fn latest(&self) -> Result<Option<Arc<ShardManifest>>> {
        let start = match self.fresh() {
            Some(manifest) => Some(ManifestVersion(manifest.version)),
            None => self.hint().await,
        };
        if let Some(start) = start
            && let Some(newest) = self.newest(start).await?
        {
            return Ok(Some(newest));
        }
        // What it should start from is gone, or unknown.
        let Some(listed) = self.list().await? else { return Ok(None) };
        match self.newest(listed).await? {
            Some(newest) => Ok(Some(newest)),
            // Pruned in between: there are newer ones.
            None => match self.list().await? {
                Some(newest) => self.load(newest).await?.map(Some).ok_or_else(|| self.missing(newest)),
                None => Err(self.missing(listed)),
            },
        }
    }

    /// The newest version, from one that should exist; `None` if it does not. That there is none behind it is found out
    /// while it is read. If there is one, it does not matter what became of the older.
    async fn newest(&self, from: ManifestVersion) -> Result<Option<Arc<ShardManifest>>> {
        let (manifest, ahead) = join(self.load(from), self.ahead(from)).await;
        let is_there = !matches!(manifest, Ok(None));
        let Some(mut newest) = ahead?.filter(|_| is_there) else { return manifest };
        // Versions are gap-free, but another process may commit between two of these requests.
        while let Some(further) = self.ahead(newest).await? {
            newest = further;
        }
        self.load(newest).await
    }

    /// The newest of some versions behind this one, if there are any.
    async fn ahead(&self, of: ManifestVersion) -> Result<Option<ManifestVersion>> {
        let next = (1..=self.probe as u64).map(|n| ManifestVersion(of.0 + n));
        let exist = try_join_all(next.clone().map(|version| self.exists(version))).await?;
        Ok(next.zip(exist).filter(|(_, exists)| *exists).map(|(version, _)| version).last())
    }

    async fn hint(&self) -> Option<ManifestVersion> {
        let path = TablePaths::version_hint(self.shard);
        match self.io.get(&path).await {
            Ok(None) => None,
            Ok(Some(bytes)) => match serde_json::from_slice::<VersionHint>(&bytes) {
                Ok(hint) => Some(ManifestVersion(hint.version)),
                Err(error) => {
                    tracing::warn!(path, %error, "the version hint does not parse; listing instead");
                    None
                }
            },
            Err(error) => {
                tracing::warn!(path, %error, "the version hint was not read; listing instead");
                None
            }
        }
    }

    async fn list(&self) -> Result<Option<ManifestVersion>> {
        let names = self.io.list(&TablePaths::manifest_dir(self.shard)).await?;
        Ok(names.iter().filter_map(|name| TablePaths::parse_manifest(name)).max())
    }

    async fn exists(&self, version: ManifestVersion) -> Result<bool> {
        self.io.exists(&TablePaths::manifest(self.shard, version)).await
    }

    async fn load(&self, version: ManifestVersion) -> Result<Option<Arc<ShardManifest>>> {
        if let Some(cached) = self.cached()
            && cached.version == version.0
        {
            self.remember(Arc::clone(&cached));
            return Ok(Some(cached));
        }
        let path = TablePaths::manifest(self.shard, version);
        let decoded = self.io.read(&path, async |bytes| decode(&bytes, self.shard, version, &path)).await?;
        let Some(manifest) = decoded.map(Arc::new) else { return Ok(None) };
        self.remember(Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    #[expect(clippy::disallowed_methods, reason = "the age of a cached position, not time that anybody decides on")]
    fn remember(&self, manifest: Arc<ShardManifest>) {
        let mut cached = self.cached.lock();
        if cached.as_ref().is_none_or(|(known, _)| known.version <= manifest.version) {
            *cached = Some((manifest, Instant::now()));
        }
    }

    fn missing(&self, version: ManifestVersion) -> Error {
        Error::corrupt("a shard manifest is missing: restore it from a backup")
            .with_context("path", TablePaths::manifest(self.shard, version))
    }

    /// Claims the shard: the next epoch, which fences every other writer. A shard that is new starts with spec
    /// `spec_id`.
    ///
    /// # Errors
    /// `Invalid` if the shard is sealed or has another spec; `Fenced` if another process claimed it at the same time;
    /// `Indeterminate` if the storage does not tell: claim again.
    pub async fn claim(&self, spec_id: u32) -> Result<(Epoch, Arc<ShardManifest>)> {
        let _changing = self.changing.lock().await;
        self.io.check_synced(&TablePaths::manifest_dir(self.shard))?;
        for _ in 0..MAX_RACES {
            let latest = self.latest().await?;
            let next = self.claimed(latest.as_deref(), spec_id)?;
            let epoch = Epoch(next.writer_epoch);
            match self.write(&next).await? {
                Written::Ours => return Ok((epoch, self.accept(next).await)),
                Written::Lost => {
                    // A commit of the present writer is in no one's way; another claim is.
                    let winner = self.latest().await?.map_or(Epoch(0), |m| Epoch(m.writer_epoch));
                    if winner >= epoch {
                        return Err(self.fenced(epoch, winner));
                    }
                }
            }
        }
        Err(self.contended())
    }

    fn claimed(&self, latest: Option<&ShardManifest>, spec_id: u32) -> Result<ShardManifest> {
        let Some(latest) = latest else {
            return Ok(ShardManifest {
                shard_id: self.shard.0,
                version: 1,
                shard_spec_id: spec_id,
                shard_field_values: Default::default(),
                writer_epoch: 1,
                replay_after_wal_entry_position: 0,
                wal_entry_position_last_seen: 0,
                current_generation: 1,
                sstables: Vec::new(),
                status: ShardStatus::Active,
            });
        };
        if latest.status == ShardStatus::Sealed {
            return Err(Error::invalid(
                "the shard is sealed by another program, as Lance does before it drops a table: reset its status there \
                 to write",
            )
            .with_context("shard", self.shard));
        }
        if latest.shard_spec_id != spec_id && latest.shard_spec_id != 0 {
            return Err(Error::invalid(
                "the shard belongs to another sharding of the table: open it as it was created",
            )
            .with_context("shard", self.shard)
            .with_context("spec", latest.shard_spec_id));
        }
        Ok(ShardManifest { version: latest.version + 1, writer_epoch: latest.writer_epoch + 1, ..latest.clone() })
    }

    /// Commits a change as the holder of `epoch`. `edit` makes the next manifest from the newest one; it runs again
    /// when another commit came first, and must notice when its change is there already: after `Indeterminate` it may
    /// be. A result equal to the newest is not written. The version is set here.
    ///
    /// # Errors
    /// What `edit` returns; `Fenced` if the shard was claimed by another; `Indeterminate` if the storage does not tell;
    /// `Internal` if the edit breaks a rule of the format.
    pub async fn commit(
        &self,
        epoch: Epoch,
        edit: impl Fn(&ShardManifest) -> Result<ShardManifest>,
    ) -> Result<Arc<ShardManifest>> {
        let _changing = self.changing.lock().await;
        self.io.check_synced(&TablePaths::manifest_dir(self.shard))?;
        let mut latest = self.fresh();
        for _ in 0..MAX_RACES {
            let current = match latest.take() {
                Some(manifest) => manifest,
                None => self.latest().await?.ok_or_else(|| self.unclaimed())?,
            };
            self.check(epoch, &current)?;
            let mut next = edit(&current)?;
            next.version = current.version;
            if next == *current {
                return Ok(current);
            }
            next.version = current.version + 1;
            self.check_edit(&current, &next).await?;
            if let Written::Ours = self.write(&next).await? {
                return Ok(self.accept(next).await);
            }
        }
        Err(self.contended())
    }

    async fn check_edit(&self, current: &ShardManifest, next: &ShardManifest) -> Result<()> {
        let broken = |why: &'static str| Err(Error::internal(why).with_context("shard", self.shard));
        if next.shard_id != current.shard_id || next.writer_epoch != current.writer_epoch {
            return broken("a manifest edit changed the shard or the epoch");
        }
        if next.replay_after_wal_entry_position < current.replay_after_wal_entry_position
            || next.wal_entry_position_last_seen < current.wal_entry_position_last_seen
            || next.current_generation < current.current_generation
        {
            return broken("a manifest edit moved a position back");
        }
        if next.sstables.iter().any(|t| t.generation >= next.current_generation) {
            return broken("a manifest edit names a generation that is still to come");
        }
        for added in next.sstables.iter().filter(|t| !current.sstables.contains(t)) {
            let dir = TablePaths::generation_dir(self.shard, &added.path);
            if let Some(path) = self.io.unsynced(&dir).await?.first() {
                return Err(
                    Error::internal("a manifest names a generation that is not synced").with_context("path", path)
                );
            }
        }
        Ok(())
    }

    /// Whether the holder of `epoch` still owns the shard, as the storage has it.
    ///
    /// # Errors
    /// `Fenced` if not.
    pub async fn check_fenced(&self, epoch: Epoch) -> Result<()> {
        let latest = self.latest().await?.ok_or_else(|| self.unclaimed())?;
        self.check(epoch, &latest)
    }

    fn check(&self, epoch: Epoch, manifest: &ShardManifest) -> Result<()> {
        let owner = Epoch(manifest.writer_epoch);
        if owner > epoch { Err(self.fenced(epoch, owner)) } else { Ok(()) }
    }

    fn fenced(&self, epoch: Epoch, owner: Epoch) -> Error {
        Error::fenced("another process claimed the shard: open the table again if this one should write")
            .with_context("shard", self.shard)
            .with_context("epoch", epoch)
            .with_context("owner", owner)
    }

    fn unclaimed(&self) -> Error {
        Error::internal("a shard was used as a writer before it was claimed").with_context("shard", self.shard)
    }

    fn contended(&self) -> Error {
        Error::unavailable("too many processes change the shard at once: repeat later")
            .with_context("shard", self.shard)
    }

    /// Writes a version with the same bytes until it is known whose it is.
    async fn write(&self, next: &ShardManifest) -> Result<Written> {
        let path = TablePaths::manifest(self.shard, ManifestVersion(next.version));
        let bytes = encode(next);
        let mut attempt = 1;
        let mut in_doubt = false;
        loop {
            let mut free = false;
            let failure = match self.io.put_if_absent(&path, bytes.clone()).await {
                Ok(Put::Created) => return Ok(Written::Ours),
                Ok(Put::Exists) => match self.owner(&path, &bytes).await {
                    Ok(Some(written)) => return Ok(written),
                    // It was there a moment ago: somebody deletes manifests.
                    Ok(None) => Error::unavailable("the manifest vanished").with_context("path", &path),
                    Err(error) => error,
                },
                Err(error) => {
                    if error.kind() == ErrorKind::Indeterminate || (error.kind() == ErrorKind::Invalid && !in_doubt) {
                        return Err(error);
                    }
                    in_doubt = true;
                    match self.owner(&path, &bytes).await {
                        Ok(Some(written)) => return Ok(written),
                        Ok(None) => {
                            free = true;
                            error
                        }
                        Err(_) => error,
                    }
                }
            };
            if !self.retry.again_after(attempt) {
                // On a local file system nothing is under way once a request has been answered.
                if free && self.io.is_local() {
                    return Err(failure);
                }
                return Err(Error::indeterminate("the manifest may or may not be written: the next access finds out")
                    .with_context("path", path)
                    .with_source(failure));
            }
            self.io.retried();
            self.retry.pause(attempt).await;
            attempt += 1;
        }
    }

    /// Whose bytes the slot holds; `None` if it is free.
    async fn owner(&self, path: &str, ours: &Bytes) -> Result<Option<Written>> {
        let found = self.io.get(path).await?;
        Ok(found.map(|bytes| if bytes == *ours { Written::Ours } else { Written::Lost }))
    }

    async fn accept(&self, next: ShardManifest) -> Arc<ShardManifest> {
        let manifest = Arc::new(next);
        self.remember(Arc::clone(&manifest));
        let path = TablePaths::version_hint(self.shard);
        let hint = serde_json::json!({ "version": manifest.version }).to_string();
        if let Err(error) = self.io.put(&path, hint.into()).await {
            tracing::warn!(path, %error, "the version hint was not written; opening takes longer until it is");
        }
        manifest
    }
}

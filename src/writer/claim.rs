//! Opening a shard as a reader, and taking it over from whoever wrote it before. Its steps and what a crash between them
//! leaves: `docs/concurrency.md`, Claim.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::shard::ShardWriter;
use super::status::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, WalPosition};
use crate::settings::{Access, Recovery};
use crate::store::Retry;
use crate::wal::{self, WalWriter};

impl ShardWriter {
    /// Opens the shard as a reader. Damage is kept for those who ask for the shard's rows; other shards stay usable.
    /// With `'lsm.recovery' = 'quarantine'` a damaged shard is claimed and what is damaged moved aside.
    ///
    /// # Errors
    /// What reading raises, other than damage.
    pub async fn open(self: &Arc<Self>) -> Result<()> {
        let opened = {
            let _one_at_a_time = self.claiming.lock().await;
            self.catch_up_with_listing().await
        };
        let error = match opened {
            Err(error) if self.may_quarantine(&error) => return self.claim().await.map(|_| ()),
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            other => return other,
        };
        tracing::error!(shard = %self.shard, %error, "a shard is damaged");
        self.core.lock().role = Role::Failed(error.clone());
        self.context.control.update(|version| version.shards[self.index].damage = Some(error));
        Ok(())
    }

    /// Makes this process the shard's writer, unless it is: claims the epoch, fences the predecessor with a sentinel,
    /// and replays what it wrote.
    ///
    /// # Errors
    /// `Invalid` if the table was opened for reading only or the shard is sealed, `Fenced` if another process claimed
    /// at the same time or this handle was fenced before, `Corrupt` if the WAL is damaged.
    pub async fn claim(self: &Arc<Self>) -> Result<Epoch> {
        if let Some(epoch) = self.claimed()? {
            return Ok(epoch);
        }
        let span = tracing::info_span!("lsm.claim", table = self.context.io.uri(), shard = %self.shard);
        self.claim_now().instrument(span).await
    }

    async fn claim_now(self: &Arc<Self>) -> Result<Epoch> {
        let _one_at_a_time = self.claiming.lock().await;
        if let Some(epoch) = self.claimed()? {
            return Ok(epoch);
        }
        let since = Instant::now();
        if self.context.settings.access == Access::Read {
            return Err(Error::invalid(
                "the table was opened with 'lsm.access' = 'read': open it for writing to write",
            ));
        }
        let unfinished = match self.role() {
            // An earlier attempt failed or was given up behind its claim: go on with that one.
            Role::Claiming(epoch) => Some(epoch),
            _ => None,
        };
        let (epoch, still_ours) = match unfinished {
            Some(epoch) => (epoch, self.manifest.check_fenced(epoch).await),
            None => {
                // What is there is read before anybody is fenced: a shard that cannot be replayed keeps its writer.
                match self.catch_up_with_listing().await {
                    Err(error) if !self.may_quarantine(&error) => return Err(error),
                    _ => {}
                }
                self.context.control.current().base.check_present().await?;
                // A base that this handle cannot follow keeps it as well.
                self.context.refresh_base().await?;
                (self.manifest.claim(self.spec_id).await?.0, Ok(()))
            }
        };
        let result = match still_ours {
            Ok(()) => self.take_over(epoch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result
            && error.kind() == ErrorKind::Fenced
        {
            self.fail(&[], error.clone());
        }
        result.map(|()| {
            self.context.metrics.claimed(since.elapsed());
            epoch
        })
    }

    fn claimed(&self) -> Result<Option<Epoch>> {
        self.context.health.check()?;
        match &self.core.lock().role {
            Role::Writer(epoch) => Ok(Some(*epoch)),
            Role::Failed(error) => Err(error.clone()),
            Role::Reader | Role::Claiming(_) => Ok(None),
        }
    }

    async fn take_over(self: &Arc<Self>, epoch: Epoch) -> Result<()> {
        let io = &self.context.io;
        let hint = {
            let mut core = self.core.lock();
            // The table may have been closed while the epoch was written.
            if let Role::Failed(error) = &core.role {
                return Err(error.clone());
            }
            core.role = Role::Claiming(epoch);
            before(core.next_position)
        };
        self.context.refresh_base().await?;
        let tip = match self.context.settings.recovery {
            Recovery::Strict => wal::tip(io, self.shard, hint).await?,
            // Behind damage there may be entries that only a listing shows.
            Recovery::Quarantine => wal::last(io, self.shard).await?.max(hint).next(),
        };
        let appender_at = |position| WalWriter::new(io.clone(), self.shard, epoch, position, Retry::default());
        let mut appender = appender_at(tip);
        if epoch > Epoch(1) {
            appender.append(&wal::encode_sentinel(epoch)?).await?;
        }
        // All slots before the appender's were taken when it was placed; its own sentinel is the last of them.
        while let Err(error) = self.catch_up(Some(epoch), before(appender.next_position())).await {
            if !self.may_quarantine(&error) {
                return Err(error);
            }
            let damaged = self.core.lock().next_position;
            let report = wal::quarantine(io, self.shard, damaged).await?;
            // The slots that became free are filled again, or a predecessor could still write there.
            appender = appender_at(damaged);
            while appender.next_position() < report.next {
                appender.append(&wal::encode_sentinel(epoch)?).await?;
            }
            self.core.lock().quarantined.push(report);
        }
        let mut core = self.core.lock();
        if let Role::Failed(error) = &core.role {
            return Err(error.clone());
        }
        core.next_position = appender.next_position();
        // Before the role: whoever sees a writer may queue for its WAL at once.
        *self.appender.lock() = Some(appender);
        core.role = Role::Writer(epoch);
        drop(core);
        self.wal_wake.notify_one();
        self.context.events.on_claim(self.shard, epoch);
        tracing::info!(shard = %self.shard, %epoch, "claimed a shard");
        self.hand_over();
        Ok(())
    }

    /// Whether the damage that `error` tells of may be moved aside.
    pub(super) fn may_quarantine(&self, error: &Error) -> bool {
        let settings = &self.context.settings;
        error.kind() == ErrorKind::Corrupt
            && settings.recovery == Recovery::Quarantine
            && settings.access == Access::Write
            && error.context().iter().any(|(name, _)| *name == "position")
    }
}

/// The slot before `position`, or 0.
fn before(position: WalPosition) -> WalPosition {
    WalPosition(position.0.saturating_sub(1))
}

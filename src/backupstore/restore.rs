//! Restore a backup: every block is fetched once, verified, and written wherever the volume has it.
//!
//! What is done is noted in the sink from time to time, after the data was made durable, so that a restore goes on after a crash.

mod checkpoint;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::checkpoint::Checkpoint;
use self::plan::Plan;
use super::Store;
use super::block::{self, Checksum, Compression};
use super::config::{BackupConfig, VolumeConfig};
use super::driver::{Driver, DriverError};
use super::error::{DriverContext, Error, Result};
use super::io::Sink;
use super::json;
use super::layout::VolumeLayout;
use super::list::BackupInfo;
use super::lock::{Lock, LockKind};
use super::progress::{Phase, Progress};
use super::workers::{Buffers, Workers, in_flight};
use crate::names::{BackupName, VolumeName};

/// Fetched blocks between two checkpoints, and the time between them where fetching is slow.
const CHECKPOINT_BLOCKS: u64 = 64;
const CHECKPOINT_TIME: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The volume in the store.
    pub volume: VolumeName,
    /// Its backup.
    pub backup: BackupName,
}

/// A restore that is complete and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReceipt {
    /// Bytes of the volume at that snapshot.
    pub volume_size: u64,
    /// Blocks fetched from the store by this call.
    pub blocks_fetched: u64,
    /// Blocks that an earlier call had fetched.
    pub blocks_resumed: u64,
}

impl Store {
    /// Writes the backup's volume, whole, to `sink`; the sink holds at least [`BackupInfo::volume_size`] bytes.
    ///
    /// Fails at the first block that is missing or damaged, naming it; then, and on every other failure, the same call goes on later. Fails with
    /// [`Error::LockHeld`] at once when a deletion is under way. Sends one GET per different block.
    pub async fn restore(
        &self,
        request: RestoreRequest,
        sink: Arc<dyn Sink>,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Result<RestoreReceipt> {
        progress.enter(Phase::Locking);
        let lock = Lock::acquire(&self.context, &request.volume, LockKind::Transfer, &cancel).await?;
        let job = Job { store: self, layout: VolumeLayout::new(&request.volume), request, sink, progress };
        let result = tokio::select! {
            result = job.run() => result,
            error = lock.lost() => Err(error),
            () = cancel.cancelled() => Err(Error::Cancelled),
        };
        lock.release().await;
        result
    }
}

/// One restore under a lock.
struct Job<'a> {
    store: &'a Store,
    layout: VolumeLayout,
    request: RestoreRequest,
    sink: Arc<dyn Sink>,
    progress: Arc<Progress>,
}

impl Job<'_> {
    async fn run(&self) -> Result<RestoreReceipt> {
        self.progress.enter(Phase::Scanning);
        let (info, digest) = self.read_config().await?;
        let compression = self.compression(&info.config)?;
        let plan = Plan::new(&info).map_err(|reason| self.damaged(reason))?;
        let (volume_size, block_size) = (info.volume_size, info.block_size);
        drop(info);
        let mut checkpoint = self.resume(digest, plan.groups()).await?;
        self.progress.enter(Phase::Restoring);
        self.progress.expect(plan.groups() as u64, plan.blocks() * block_size);
        if checkpoint.needs_zeroing() {
            self.zero(plan.zeros(volume_size, block_size)).await?;
            checkpoint.set_zeroed();
            self.save(&checkpoint).await?;
        }
        let blocks_resumed = checkpoint.done();
        let transfer = Transfer {
            volume: self.request.volume.clone(),
            layout: self.layout.clone(),
            driver: self.store.context.driver.clone(),
            workers: self.store.workers.clone(),
            sink: self.sink.clone(),
            buffers: Buffers::new(usize::try_from(block_size).unwrap_or(usize::MAX)),
            compression,
            block_size,
            plan,
            progress: self.progress.clone(),
        };
        let checkpoint = self.transfer(Arc::new(transfer), checkpoint).await?;
        self.progress.enter(Phase::Committing);
        let blocks_fetched = checkpoint.done() - blocks_resumed;
        self.save(&checkpoint).await?;
        self.progress.enter(Phase::Done);
        Ok(RestoreReceipt { volume_size, blocks_fetched, blocks_resumed })
    }

    /// The backup's config, and a digest that tells it from every other.
    async fn read_config(&self) -> Result<(BackupInfo, Checksum)> {
        let path = self.layout.backup(&self.request.backup);
        let none = || Error::NoBackup { volume: self.request.volume.clone(), backup: self.request.backup.clone() };
        let bytes = match self.store.driver().get(&path).await {
            Err(DriverError::NotFound { .. }) => return Err(none()),
            other => other.context(|| format!("read {path}"))?,
        };
        let digest = Checksum::of(&bytes);
        let config = json::from_slice::<BackupConfig>(&bytes).map_err(|error| self.damaged(error.to_string()))?;
        if config.is_in_progress() {
            return Err(none());
        }
        let volume = match config.volume_size() {
            Some(_) => None,
            None => self.store.read::<VolumeConfig>(&self.layout.config()).await?,
        };
        Ok((BackupInfo::new(config, volume.as_ref(), &path)?, digest))
    }

    fn compression(&self, config: &BackupConfig) -> Result<Compression> {
        config.compression().map_err(|error| self.damaged(error.to_string()))
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Config { path: self.layout.backup(&self.request.backup).to_string(), reason }
    }

    /// Where an earlier restore of this backup was, or the start of a new one.
    async fn resume(&self, digest: Checksum, groups: usize) -> Result<Checkpoint> {
        let sink = self.sink.clone();
        let (state, is_blank) =
            self.blocking("read the checkpoint", move || Ok((sink.load_checkpoint()?, sink.is_blank()))).await?;
        if let Some(checkpoint) = state.as_deref().and_then(|state| Checkpoint::parse(state, digest, groups)) {
            return Ok(checkpoint);
        }
        // A state that is not ours tells that another restore has written here.
        let new = Checkpoint::new(digest, groups, !is_blank || state.is_some());
        // Before the first write: whoever finds the sink later knows that it is no longer blank.
        self.save(&new).await?;
        Ok(new)
    }

    async fn zero(&self, ranges: Vec<std::ops::Range<u64>>) -> Result<()> {
        for range in ranges {
            let sink = self.sink.clone();
            self.blocking("write zeros", move || sink.zero(range)).await?;
        }
        Ok(())
    }

    /// Fetches what is not done yet, noting from time to time what is.
    async fn transfer(&self, transfer: Arc<Transfer>, mut checkpoint: Checkpoint) -> Result<Checkpoint> {
        let in_flight = in_flight(transfer.block_size);
        let todo: Vec<usize> = (0..transfer.plan.groups()).filter(|group| !checkpoint.is_done(*group)).collect();
        for group in (0..transfer.plan.groups()).filter(|group| checkpoint.is_done(*group)) {
            self.progress.done(1, transfer.plan.group(group).len() as u64 * transfer.block_size);
        }
        let mut todo = todo.into_iter();
        let mut tasks = JoinSet::new();
        let (mut since_saved, mut saved_at) = (0, self.store.context.clock.now());
        loop {
            while tasks.len() < in_flight
                && let Some(group) = todo.next()
            {
                tasks.spawn(transfer.clone().fetch(group));
            }
            let Some(ended) = tasks.join_next().await else { break };
            let died = |error: tokio::task::JoinError| Error::Internal { context: "restore a block", reason: error.to_string() };
            checkpoint.set_done(ended.map_err(died)??);
            since_saved += 1;
            if since_saved >= CHECKPOINT_BLOCKS || self.store.context.clock.now().saturating_sub(saved_at) >= CHECKPOINT_TIME {
                self.save(&checkpoint).await?;
                (since_saved, saved_at) = (0, self.store.context.clock.now());
            }
        }
        Ok(checkpoint)
    }

    /// Makes what was written durable, then notes that it is.
    async fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (sink, state) = (self.sink.clone(), checkpoint.encode());
        self.blocking("save the checkpoint", move || {
            sink.sync()?;
            sink.save_checkpoint(&state)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.store.workers.run(work).await?;
        done.map_err(|source| Error::Sink { context: format!("{what} of the restored volume"), source })
    }
}

/// What the tasks of a restore share.
struct Transfer {
    volume: VolumeName,
    layout: VolumeLayout,
    driver: Arc<dyn Driver>,
    workers: Workers,
    sink: Arc<dyn Sink>,
    buffers: Buffers,
    compression: Compression,
    block_size: u64,
    plan: Plan,
    progress: Arc<Progress>,
}

impl Transfer {
    /// Fetches the block of one group and writes it to all offsets of the group.
    async fn fetch(self: Arc<Self>, group: usize) -> Result<usize> {
        let first = self.plan.group(group)[0];
        let (offset, checksum) = (first.offset, first.checksum);
        let stored = match self.driver.get(&self.layout.block(&checksum)).await {
            Err(DriverError::NotFound { .. }) => {
                return Err(Error::BlockMissing { volume: self.volume.clone(), offset, checksum });
            }
            other => other.context(|| format!("read block {checksum} at byte {offset} of volume {}", self.volume))?,
        };
        self.progress.read(stored.len() as u64);
        let this = self.clone();
        self.workers.run(move || this.write(group, &stored)).await??;
        self.progress.done(1, self.plan.group(group).len() as u64 * self.block_size);
        Ok(group)
    }

    /// The blocking half: decompress, verify, write.
    fn write(&self, group: usize, stored: &[u8]) -> Result<()> {
        self.buffers.with(|buffer| {
            let blocks = self.plan.group(group);
            let (offset, checksum) = (blocks[0].offset, blocks[0].checksum);
            block::decode(self.compression, stored, checksum, buffer).map_err(|source| Error::BlockCorrupt {
                volume: self.volume.clone(),
                offset,
                checksum,
                source,
            })?;
            for block in blocks {
                let context = || format!("write the restored volume at byte {}", block.offset);
                self.sink.write_at(block.offset, buffer).map_err(|source| Error::Sink { context: context(), source })?;
            }
            Ok(())
        })
    }
}

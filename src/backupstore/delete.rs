//! Delete a backup and collect what only it needed; delete a volume with all its backups.
//!
//! Order of writes: lock; the backup's config, after which the backup is gone; marks of writers that died; blocks that no config
//! names; `volume.cfg`. A crash leaves blocks that nobody needs, which the next delete of any backup of the volume finds.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::config::{BackupConfig, VolumeConfig};
use super::driver::{Depth, Listed, StorePath};
use super::error::{DriverContext, Error, Result};
pub use super::gc::Skipped;
use super::gc::Survey;
use super::layout::VolumeLayout;
use super::lock::{Lock, LockKind, LockName};
use super::{FEW_BLOCKS, Store, config, encode};
use crate::names::{BackupName, VolumeName};

/// Objects removed by one request.
const BATCH: usize = 1000;
/// Configs read at once: one of a large volume takes tens of megabytes.
const PARALLEL: usize = 4;

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Blocks that nobody needed any more.
    pub blocks_removed: u64,
    /// Their bytes in the store.
    pub bytes_removed: u64,
    /// Why blocks were left for a later delete; `None`: none were.
    pub skipped: Option<Skipped>,
}

impl Store {
    /// Removes a backup, complete or left over from a writer that died, and the blocks that only it needed. Success when there is none.
    ///
    /// Fails with [`Error::LockHeld`] at once while a backup or restore of the volume is under way.
    pub async fn delete_backup(&self, volume: &VolumeName, backup: &BackupName) -> Result<Deleted> {
        let lock = Lock::acquire(&self.context, volume, LockKind::Delete, &CancellationToken::new()).await?;
        let deletion = Deletion { store: self, layout: VolumeLayout::new(volume), lock };
        let result = deletion.delete_backup(backup).await;
        deletion.finish(result).await
    }

    /// Removes a volume with all its backups: everything in its folder. Success when there is none.
    ///
    /// Fails with [`Error::LockHeld`] at once while a backup or restore of the volume is under way.
    pub async fn delete_volume(&self, volume: &VolumeName) -> Result<Deleted> {
        let lock = Lock::acquire(&self.context, volume, LockKind::Delete, &CancellationToken::new()).await?;
        let deletion = Deletion { store: self, layout: VolumeLayout::new(volume), lock };
        let result = deletion.delete_volume().await;
        deletion.finish(result).await
    }
}

/// One deletion under a lock.
struct Deletion<'a> {
    store: &'a Store,
    layout: VolumeLayout,
    lock: Lock,
}

impl Deletion<'_> {
    async fn finish(self, result: Result<Deleted>) -> Result<Deleted> {
        self.lock.release().await;
        result
    }

    async fn delete_backup(&self, backup: &BackupName) -> Result<Deleted> {
        let backups = self.store.backups_with_times(&self.layout).await?;
        if backups.iter().any(|(name, _)| name == backup) {
            self.remove(&[self.layout.backup(backup)], || format!("remove the config of backup {backup}")).await?;
        }
        let remaining: Vec<_> = backups.into_iter().filter(|(name, _)| name != backup).collect();
        let survey = self.survey(remaining).await?;
        let deleted = self.collect(&survey).await?;
        self.update_volume(backup, &survey, deleted.skipped.is_none()).await?;
        Ok(deleted)
    }

    /// Reads every remaining config; removes the marks of writers that died.
    async fn survey(&self, backups: Vec<(BackupName, Timestamp)>) -> Result<Surveyed> {
        let mut survey = Survey::default();
        let mut names = Vec::new();
        let mut configs = stream::iter(backups)
            .map(|(name, modified)| async move {
                let config = self.store.read::<BackupConfig>(&self.layout.backup(&name)).await;
                (name, modified, config)
            })
            .buffer_unordered(PARALLEL);
        while let Some((name, modified, config)) = configs.next().await {
            match config {
                Ok(Some(config)) if !config.is_in_progress() => {
                    survey = self.add(survey, config).await?;
                    names.push(name);
                }
                Ok(Some(mark)) if self.is_dead(&mark, modified).await? => {
                    tracing::info!(backup = %name, "removing the mark of a writer that died");
                    self.remove(&[self.layout.backup(&name)], || format!("remove the mark of backup {name}")).await?;
                }
                Ok(Some(_)) => {
                    survey.skip(Skipped::InProgress(name.clone()));
                    names.push(name);
                }
                Ok(None) => survey.skip(Skipped::Changed),
                Err(Error::Config { reason, .. }) => {
                    survey.skip(Skipped::Damaged { name: name.clone(), reason });
                    names.push(name);
                }
                Err(error) => return Err(error),
            }
        }
        names.sort();
        Ok(Surveyed { survey: Arc::new(survey), names })
    }

    async fn add(&self, mut survey: Survey, config: BackupConfig) -> Result<Survey> {
        let is_small = config.blocks.len() <= FEW_BLOCKS;
        let add = move || {
            survey.add(&config);
            survey
        };
        self.store.compute(is_small, add).await
    }

    /// Whether the writer of `mark` no longer holds its lock. We hold one that excludes it, so it can at most have died a short while ago.
    async fn is_dead(&self, mark: &BackupConfig, modified: Timestamp) -> Result<bool> {
        if self.has_expired(modified) {
            return Ok(true);
        }
        let Some(writer) = mark.label(config::WRITER).and_then(|name| name.parse::<LockName>().ok()) else { return Ok(false) };
        let lock = self.store.driver().stat(&self.layout.lock(&writer)).await.context(|| format!("look at lock {writer}"))?;
        Ok(lock.is_none_or(|lock| self.has_expired(lock.modified)))
    }

    fn has_expired(&self, modified: Timestamp) -> bool {
        let expiry = SignedDuration::try_from(self.store.context.timings.expiry).unwrap_or(SignedDuration::MAX);
        self.lock.server_now().duration_since(modified) > expiry
    }

    /// Removes the blocks that no remaining backup needs, unless there is any doubt about which those are.
    async fn collect(&self, surveyed: &Surveyed) -> Result<Deleted> {
        let skipped = |reason: &Skipped| Ok(Deleted { skipped: Some(reason.clone()), ..Deleted::default() });
        if let Some(reason) = &surveyed.survey.skip {
            return skipped(reason);
        }
        let stored = self.store.list_blocks(&self.layout, surveyed.survey.used.len() as u64, &|| ()).await?;
        let survey = surveyed.survey.clone();
        let garbage = self.store.compute(stored.len() <= FEW_BLOCKS, move || survey.garbage(stored)).await?;
        if garbage.is_empty() {
            return Ok(Deleted::default());
        }
        let mut now: Vec<BackupName> =
            self.store.backups_with_times(&self.layout).await?.into_iter().map(|(name, _)| name).collect();
        now.sort();
        if now != surveyed.names {
            return skipped(&Skipped::Changed);
        }
        let mut deleted = Deleted::default();
        for batch in garbage.chunks(BATCH) {
            let paths: Vec<StorePath> = batch.iter().map(|(checksum, _)| self.layout.block(checksum)).collect();
            self.remove(&paths, || format!("remove {} blocks that no backup needs", paths.len())).await?;
            deleted.blocks_removed += batch.len() as u64;
            deleted.bytes_removed += batch.iter().map(|(_, meta)| meta.size).sum::<u64>();
        }
        Ok(deleted)
    }

    /// Brings `volume.cfg` up to date, if there is one that can be read.
    async fn update_volume(&self, deleted: &BackupName, surveyed: &Surveyed, collected: bool) -> Result<()> {
        let path = self.layout.config();
        let old = match self.store.read::<VolumeConfig>(&path).await {
            Ok(Some(volume)) => volume,
            Ok(None) => return Ok(()),
            Err(Error::Config { path, reason }) => {
                tracing::warn!(%path, %reason, "left a damaged config as it is");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut volume = old.clone();
        let is_there = surveyed.names.iter().any(|name| name.as_str() == volume.last_backup_name);
        if volume.last_backup_name == deleted.as_str() || !is_there {
            (volume.last_backup_at, volume.last_backup_name) = surveyed.survey.newest.clone().unwrap_or_default();
        }
        if collected {
            volume.block_count = surveyed.survey.used.len() as u64;
        }
        if volume == old {
            return Ok(());
        }
        let put = self.store.driver().put(&path, encode(&volume)?);
        self.lock.fenced(|| format!("write {path}"), put).await
    }

    /// Backups first, so that none can be seen without its blocks; our own lock last, when it is released.
    async fn delete_volume(&self) -> Result<Deleted> {
        self.remove_all(&self.layout.backups()).await?;
        let blocks = self.remove_all(&self.layout.blocks()).await?;
        self.remove_all(&self.layout.locks()).await?;
        self.remove_all(&self.layout.folder()).await?;
        Ok(blocks)
    }

    /// Removes everything below `folder` but our lock.
    async fn remove_all(&self, folder: &StorePath) -> Result<Deleted> {
        let own = self.layout.lock(self.lock.name());
        let mut rows = self.store.driver().list(Some(folder), Depth::All);
        let mut deleted = Deleted::default();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let row = rows.try_next().await.context(|| format!("list {folder}"))?;
            let is_last = row.is_none();
            if let Some(Listed::Object(path, meta)) = row
                && path != own
            {
                deleted.blocks_removed += 1;
                deleted.bytes_removed += meta.size;
                batch.push(path);
            }
            if batch.len() == BATCH || (is_last && !batch.is_empty()) {
                self.remove(&batch, || format!("remove {} objects below {folder}", batch.len())).await?;
                batch.clear();
            }
            if is_last {
                return Ok(deleted);
            }
        }
    }

    async fn remove(&self, paths: &[StorePath], context: impl FnOnce() -> String) -> Result<()> {
        self.lock.fenced(context, self.store.driver().delete(paths)).await
    }
}

/// A survey with the names of the backups it found, sorted.
struct Surveyed {
    survey: Arc<Survey>,
    names: Vec<BackupName>,
}

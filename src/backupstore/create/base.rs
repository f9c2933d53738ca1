//! The earlier backup that a new one is compared with.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use super::Job;
use crate::backupstore::FEW_BLOCKS;
use crate::backupstore::block::Checksum;
use crate::backupstore::config::{BackupConfig, Block, VolumeConfig};
use crate::backupstore::error::{Error, Result};
use crate::names::BackupName;

/// How many backups are asked about when the last one's snapshot is not here.
const CANDIDATES: usize = 4;

/// What is known from earlier backups. Empty: nothing.
#[derive(Debug, Default)]
pub struct Base {
    /// The backup whose snapshot the source can compare with, else the last one.
    blocks: HashMap<u64, Checksum>,
    /// Where a block of zeros must be explicit: offsets that the last backup has too. A reader that goes from one backup to the
    /// next sees only differences.
    offsets: HashSet<u64>,
    /// Byte ranges outside which the volume equals `blocks`, up to `size`. `None`: everything must be compared.
    pub changed: Option<Vec<Range<u64>>>,
    /// Bytes of the volume at that backup.
    pub size: u64,
    exists: bool,
}

impl Base {
    /// Whether there is an earlier backup.
    pub fn is_some(&self) -> bool {
        self.exists
    }

    /// The block at `offset`.
    pub fn block(&self, offset: u64) -> Option<Checksum> {
        self.blocks.get(&offset).copied()
    }

    /// Whether zeros at `offset` must be said.
    pub fn has(&self, offset: u64) -> bool {
        self.offsets.contains(&offset)
    }

    /// All its blocks.
    pub fn checksums(&self) -> impl Iterator<Item = Checksum> {
        self.blocks.values().copied()
    }

    /// The last backup, nothing proven about what changed since.
    pub fn last(config: &BackupConfig) -> Self {
        let pair = |block: &Block| (block.offset, block.checksum);
        Self {
            blocks: config.blocks.iter().map(pair).collect(),
            offsets: config.blocks.iter().map(|block| block.offset).collect(),
            changed: None,
            size: 0,
            exists: true,
        }
    }

    /// A backup with proof of what changed since; `offsets` of the last one stay.
    pub fn proven(mut self, config: &BackupConfig, size: u64, changed: Vec<Range<u64>>) -> Self {
        self.blocks = config.blocks.iter().map(|block| (block.offset, block.checksum)).collect();
        self.offsets.extend(self.blocks.keys());
        Self { changed: Some(changed), size, exists: true, ..self }
    }
}

/// The last backup of the volume, or the newest one whose snapshot is still here.
pub async fn find(job: &Job<'_>, volume: Option<&VolumeConfig>, backups: &[(BackupName, Timestamp)]) -> Result<Base> {
    let last = volume.and_then(|volume| volume.last_backup_name.parse::<BackupName>().ok());
    let mut base = Base::default();
    for name in candidates(last.as_ref(), backups) {
        let Some(config) = usable(job, &name).await?.map(Arc::new) else { continue };
        let is_small = config.blocks.len() <= FEW_BLOCKS;
        if Some(&name) == last.as_ref() {
            let config = config.clone();
            base = job.store.compute(is_small, move || Base::last(&config)).await?;
        }
        if let (Some(size), Some(changed)) = (config.volume_size(), changed_since(job, &config).await?) {
            return job.store.compute(is_small, move || base.proven(&config, size, changed)).await;
        }
    }
    Ok(base)
}

/// The last backup first, then the others, newest first.
fn candidates(last: Option<&BackupName>, backups: &[(BackupName, Timestamp)]) -> Vec<BackupName> {
    let mut others: Vec<&(BackupName, Timestamp)> = backups.iter().filter(|(name, _)| Some(name) != last).collect();
    others.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| b.0.cmp(&a.0)));
    let last = last.filter(|last| backups.iter().any(|(name, _)| name == *last));
    last.into_iter().chain(others.into_iter().map(|(name, _)| name)).take(CANDIDATES).cloned().collect()
}

/// The config if it can be a base: complete, readable, of our block size.
async fn usable(job: &Job<'_>, name: &BackupName) -> Result<Option<BackupConfig>> {
    match job.store.read::<BackupConfig>(&job.layout.backup(name)).await {
        Ok(config) => Ok(config.filter(|config| !config.is_in_progress() && config.block_size() == Some(job.block_size))),
        Err(Error::Config { path, reason }) => {
            tracing::warn!(%path, %reason, "a damaged config cannot be the base of a backup");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What changed since the snapshot of `config`, if the source can prove it.
async fn changed_since(job: &Job<'_>, config: &BackupConfig) -> Result<Option<Vec<Range<u64>>>> {
    let Some(id) = config.snapshot_id().map(str::to_owned) else { return Ok(None) };
    let source = job.source.clone();
    let changed = job.store.workers.run(move || source.changed_since(&id)).await?;
    changed.map_err(|source| Error::Source { volume: job.request.volume.name.clone(), offset: 0, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_backup_is_asked_first_then_the_newest() {
        let name = |n: u32| format!("b-{n}").parse::<BackupName>().unwrap();
        let backups: Vec<_> = (0..6).map(|n| (name(n), Timestamp::from_second(n.into()).unwrap())).collect();
        assert_eq!(candidates(Some(&name(2)), &backups), [name(2), name(5), name(4), name(3)]);
        assert_eq!(candidates(Some(&name(9)), &backups), [name(5), name(4), name(3), name(2)]);
        assert_eq!(candidates(None, &[]), []);
    }
}

//! What is in a store. Reads only, takes no lock.

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::Store;
use super::block::Checksum;
use super::config::{BackupConfig, VolumeConfig};
use super::driver::{Depth, Listed, Meta, StorePath};
use super::error::{DriverContext, Error, Result};
use super::layout::{self, VolumeLayout};
use crate::names::{BackupName, VolumeName};

/// Listings under way at once.
const PARALLEL: usize = 16;
/// Rows of a page, as S3 gives them.
const PAGE: usize = 1000;
/// From so many pages on, 256 listings at once take less time than one page after the other.
const SPLIT_FROM_PAGES: u64 = 16;

/// Requests that list about `blocks` blocks at most.
pub(super) fn block_requests(blocks: u64) -> u64 {
    let pages = blocks / PAGE as u64;
    if pages < SPLIT_FROM_PAGES { pages + 1 } else { pages + 256 }
}

/// A complete backup as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupInfo {
    /// Its config.
    pub config: BackupConfig,
    /// Bytes of the volume at that snapshot: what a restore needs. For a backup by Longhorn, whose config does not say, the size of the
    /// volume's newest backup.
    pub volume_size: u64,
    /// Bytes of a block.
    pub block_size: u64,
}

impl BackupInfo {
    /// Puts together what both configs say.
    pub(super) fn new(config: BackupConfig, volume: Option<&VolumeConfig>, path: &StorePath) -> Result<Self> {
        let damaged = |reason: String| Error::Config { path: path.to_string(), reason };
        let block_size = config.block_size().ok_or_else(|| damaged("its block size is no usable size".to_owned()))?;
        let needed = config.blocks.iter().map(|block| block.offset.saturating_add(block_size)).max().unwrap_or(0);
        let size = config.volume_size().or(volume.map(|volume| volume.size)).unwrap_or(0);
        Ok(Self { volume_size: size.max(needed), block_size, config })
    }
}

impl Store {
    /// Every volume that has a folder, in no promised order. Sends a request per folder level, none per volume: whether a volume is
    /// more than a stray lock, [`Store::volume`] tells.
    pub async fn list_volumes(&self) -> Result<Vec<VolumeName>> {
        let mut folders = vec![layout::volumes()];
        for _ in 0..3 {
            let below = stream::iter(folders).map(|folder| async move { self.folders(&folder).await });
            folders = below.buffer_unordered(PARALLEL).try_concat().await?;
        }
        Ok(folders.iter().filter_map(layout::volume_of).collect())
    }

    /// The backups of a volume that have a config, complete or in progress, in no promised order. One request per 1000.
    pub async fn list_backups(&self, volume: &VolumeName) -> Result<Vec<BackupName>> {
        let backups = self.backups_with_times(&VolumeLayout::new(volume)).await?;
        Ok(backups.into_iter().map(|(name, _)| name).collect())
    }

    /// The volume's config, `None` when there is none. One request.
    pub async fn volume(&self, volume: &VolumeName) -> Result<Option<VolumeConfig>> {
        self.read(&VolumeLayout::new(volume).config()).await
    }

    /// A complete backup, `None` when there is none or it is in progress. At most two requests.
    pub async fn backup(&self, volume: &VolumeName, backup: &BackupName) -> Result<Option<BackupInfo>> {
        let layout = VolumeLayout::new(volume);
        let path = layout.backup(backup);
        let config = self.read::<BackupConfig>(&path).await?;
        let Some(config) = config.filter(|config| !config.is_in_progress()) else { return Ok(None) };
        let volume = if config.volume_size().is_some() { None } else { self.read::<VolumeConfig>(&layout.config()).await? };
        BackupInfo::new(config, volume.as_ref(), &path).map(Some)
    }

    async fn folders(&self, parent: &StorePath) -> Result<Vec<StorePath>> {
        let rows = self.driver().list(Some(parent), Depth::Children);
        let folders = rows.try_filter_map(|row| async {
            Ok(match row {
                Listed::Folder(path) => Some(path),
                Listed::Object(..) => None,
            })
        });
        folders.try_collect().await.context(|| format!("list {parent}"))
    }

    /// Backup configs with the server's time of their last write.
    pub(super) async fn backups_with_times(&self, layout: &VolumeLayout) -> Result<Vec<(BackupName, Timestamp)>> {
        let folder = layout.backups();
        let rows = self.driver().list(Some(&folder), Depth::Children);
        let backups = rows.try_filter_map(|row| async move {
            Ok(match row {
                Listed::Object(path, meta) => layout.backup_of(&path).map(|name| (name, meta.modified)),
                Listed::Folder(_) => None,
            })
        });
        backups.try_collect().await.context(|| format!("list {folder}"))
    }

    /// Every block in the store, about `expected`: how many decides in how many parts they are asked for. Calls `moved` for each page.
    pub(super) async fn list_blocks(
        &self,
        layout: &VolumeLayout,
        expected: u64,
        moved: &(dyn Fn() + Send + Sync),
    ) -> Result<Vec<(Checksum, Meta)>> {
        let is_split = expected / PAGE as u64 >= SPLIT_FROM_PAGES;
        let folders = if is_split { layout.block_folders() } else { vec![layout.blocks()] };
        let listings: Vec<_> = folders.into_iter().map(|folder| self.list_blocks_below(layout, folder, moved)).collect();
        stream::iter(listings).buffer_unordered(PARALLEL).try_concat().await
    }

    async fn list_blocks_below(
        &self,
        layout: &VolumeLayout,
        folder: StorePath,
        moved: &(dyn Fn() + Send + Sync),
    ) -> Result<Vec<(Checksum, Meta)>> {
        let mut pages = self.driver().list(Some(&folder), Depth::All).try_chunks(PAGE);
        let mut blocks = Vec::new();
        while let Some(page) = pages.try_next().await.map_err(|error| error.1).context(|| format!("list {folder}"))? {
            moved();
            blocks.extend(page.into_iter().filter_map(|row| match row {
                Listed::Object(path, meta) => layout.block_of(&path).map(|checksum| (checksum, meta)),
                Listed::Folder(_) => None,
            }));
        }
        moved();
        Ok(blocks)
    }
}

//! Create a backup: what changed since the last one goes to the store, then one config makes it a backup.
//!
//! Order of writes: lock; `volume.cfg` of a new volume; the config marked "in progress"; blocks; the final config, which is the commit
//! point; `volume.cfg`. Whoever starts again after a crash overwrites its own mark and finds the blocks that are there.

mod base;
mod plan;
mod upload;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::base::Base;
use self::plan::{Plan, plan};
use self::upload::{Upload, Uploaded};
use super::block::{self, Checksum, Compression};
use super::config::{self, BackupConfig, Block, VolumeConfig, format_time};
use super::driver::StorePath;
use super::error::{DriverContext, Error, Result};
use super::io::Source;
use super::layout::VolumeLayout;
use super::lock::{Lock, LockKind};
use super::progress::{Phase, Progress};
use super::{FEW_BLOCKS, Store, encode, list};
use crate::names::{BackupName, SnapshotName, VolumeName};

/// Bytes of a block. Longhorn knows these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockSize {
    /// 2 MiB.
    #[default]
    Mi2,
    /// 16 MiB.
    Mi16,
}

impl BlockSize {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Mi2 => 2 << 20,
            Self::Mi16 => 16 << 20,
        }
    }
}

/// A block size that the format does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block size {0:?} is not known: allowed are 2Mi (2097152) and 16Mi (16777216)")]
pub struct UnknownBlockSize(String);

impl FromStr for BlockSize {
    type Err = UnknownBlockSize;

    fn from_str(text: &str) -> Result<Self, UnknownBlockSize> {
        match text {
            "2Mi" | "2097152" => Ok(Self::Mi2),
            "16Mi" | "16777216" => Ok(Self::Mi16),
            other => Err(UnknownBlockSize(other.to_owned())),
        }
    }
}

/// Which blocks are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Those that are not in the store; what did not change is not read.
    #[default]
    Incremental,
    /// All, also those that are there: repairs a store.
    Full,
}

/// The volume a backup is made of, for `volume.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRef {
    /// Its name in the store.
    pub name: VolumeName,
    /// When it was made.
    pub created_at: Timestamp,
    /// Kept in the store; when empty, those of the last backup stay.
    pub labels: BTreeMap<String, String>,
    /// Its StorageClass, or empty.
    pub storage_class: String,
}

/// The snapshot a backup is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRef {
    /// Its name.
    pub name: SnapshotName,
    /// The random id that [`Source::changed_since`] will be asked about at the next backup.
    pub id: String,
    /// When it was taken.
    pub created_at: Timestamp,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// The volume.
    pub volume: VolumeRef,
    /// The backup's name. A complete backup of that name is adopted when it was made of the same snapshot, and never overwritten.
    pub backup: BackupName,
    /// The snapshot that the source reads.
    pub snapshot: SnapshotRef,
    /// Bytes of a block; the volume's size must be a multiple.
    pub block_size: BlockSize,
    /// How new blocks are compressed.
    pub compression: Compression,
    /// Which blocks are uploaded.
    pub mode: Mode,
    /// Kept with the backup. Labels that begin with `drover.io/` are ours.
    pub labels: BTreeMap<String, String>,
    /// Kept with the backup; block size and mode are filled in.
    pub parameters: BTreeMap<String, String>,
}

/// A backup that is complete and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Number of blocks times block size, as the store and Longhorn's `status.size` have it.
    pub size: u64,
    /// Bytes of the volume at that snapshot.
    pub volume_size: u64,
    /// Bytes written for blocks that were not in the store.
    pub newly_uploaded: u64,
    /// Bytes written for blocks that were.
    pub re_uploaded: u64,
    /// Whether there was an earlier backup to compare with.
    pub incremental: bool,
    /// When the backup was complete.
    pub created_at: Timestamp,
    /// Whether it was already complete when this was called.
    pub adopted: bool,
}

impl Store {
    /// Makes one backup of the snapshot that `source` reads.
    ///
    /// Fails with [`Error::LockHeld`] at once when a deletion is under way; on every failure no backup is visible, unless a request that
    /// got no answer makes it so: the same call again then adopts it. Sends one PUT per new block and at most 16 requests
    /// more, a refresh of the lock each minute not counted; and, where that is less than the blocks to be read, one LIST for each 1000
    /// blocks that the volume already has (256 more from 16 000 on, all at once).
    pub async fn create(
        &self,
        request: CreateRequest,
        source: Arc<dyn Source>,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Result<Receipt> {
        let block_size = request.block_size.bytes();
        self.create_blocks_of(block_size, request, source, progress, cancel).await
    }

    /// [`Store::create`] with blocks of any size, so that a test can have many small ones.
    pub(super) async fn create_blocks_of(
        &self,
        block_size: u64,
        request: CreateRequest,
        source: Arc<dyn Source>,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Result<Receipt> {
        let size = source.size();
        if size == 0 || !size.is_multiple_of(block_size) {
            let volume = &request.volume.name;
            return Err(Error::Invalid(format!(
                "volume {volume} has {size} bytes: a multiple of the block size, {block_size}, is needed"
            )));
        }
        progress.enter(Phase::Locking);
        // The protocol makes everybody wait here; the snapshot is scanned meanwhile.
        let (lock, allocated) = tokio::join!(
            Lock::acquire(&self.context, &request.volume.name, LockKind::Transfer, &cancel),
            self.scan(&request.volume.name, source.clone())
        );
        let lock = lock?;
        let layout = VolumeLayout::new(&request.volume.name);
        let job = Job { store: self, layout, request, block_size, source, progress, lock };
        let result = match allocated {
            Ok(allocated) => tokio::select! {
                result = job.run(allocated) => result,
                error = job.lock.lost() => Err(error),
                () = cancel.cancelled() => Err(Error::Cancelled),
            },
            Err(error) => Err(error),
        };
        if result.is_err() {
            job.lock.settle().await;
            job.remove_mark().await;
        }
        job.lock.release().await;
        result
    }

    async fn scan(&self, volume: &VolumeName, source: Arc<dyn Source>) -> Result<Vec<Range<u64>>> {
        let scanned = self.workers.run(move || source.allocated()).await?;
        scanned.map_err(|source| Error::Source { volume: volume.clone(), offset: 0, source })
    }
}

/// One backup being made under a lock.
struct Job<'a> {
    store: &'a Store,
    layout: VolumeLayout,
    request: CreateRequest,
    block_size: u64,
    source: Arc<dyn Source>,
    progress: Arc<Progress>,
    lock: Lock,
}

/// What stands in the way of a new config of this backup's name.
// One exists at a time: boxing would save nothing.
#[allow(clippy::large_enum_variant)]
enum Earlier {
    /// Nothing.
    None,
    /// An attempt that did not end.
    Mark,
    /// The backup itself.
    Complete(BackupConfig),
}

impl Job<'_> {
    async fn run(&self, allocated: Vec<Range<u64>>) -> Result<Receipt> {
        self.progress.enter(Phase::Scanning);
        let volume = self.store.read::<VolumeConfig>(&self.layout.config()).await?;
        let backups = self.store.backups_with_times(&self.layout).await?;
        let earlier = self.earlier(backups.iter().any(|(name, _)| *name == self.request.backup)).await?;
        if let Earlier::Complete(config) = earlier {
            return self.adopt(volume, config).await;
        }
        let base = match self.request.mode {
            Mode::Incremental => base::find(self, volume.as_ref(), &backups).await?,
            Mode::Full => Base::default(),
        };
        let (mut plan, base) = self.plan(allocated, base).await?;
        let stored = self.stored_blocks(volume.as_ref(), matches!(earlier, Earlier::Mark), &plan).await?;
        if let Some(stored) = &stored {
            plan.mend(|checksum| stored.contains(checksum));
        }
        let known = stored.unwrap_or_else(|| base.checksums().collect());
        let new_volume = volume.is_none();
        let volume = volume.unwrap_or_default();
        if new_volume {
            self.save_volume(&self.volume_config(volume.clone())).await?;
        }
        self.mark().await?;
        let uploaded = self.upload(plan, known).await?;
        self.commit(volume, base.is_some(), uploaded).await
    }

    async fn plan(&self, allocated: Vec<Range<u64>>, base: Base) -> Result<(Plan, Base)> {
        let (size, block_size) = (self.source.size(), self.block_size);
        let is_small = size / block_size <= FEW_BLOCKS as u64;
        self.store.compute(is_small, move || (plan(size, block_size, &allocated, &base), base)).await
    }

    /// The config of this name that is in the store; an error if it is a backup of another snapshot.
    async fn earlier(&self, listed: bool) -> Result<Earlier> {
        let config = if listed { self.store.read::<BackupConfig>(&self.path()).await? } else { None };
        match config {
            None => Ok(Earlier::None),
            Some(config) if config.is_in_progress() => Ok(Earlier::Mark),
            Some(config) if config.snapshot_id() == Some(self.request.snapshot.id.as_str()) => Ok(Earlier::Complete(config)),
            Some(config) => Err(Error::BackupExists {
                volume: self.request.volume.name.clone(),
                backup: self.request.backup.clone(),
                snapshot: config.snapshot_name,
            }),
        }
    }

    /// All blocks in the store, if asking costs less than uploading some of them again, or if a backup needs to know.
    async fn stored_blocks(
        &self,
        volume: Option<&VolumeConfig>,
        resumed: bool,
        plan: &Plan,
    ) -> Result<Option<HashSet<Checksum>>> {
        let expected = volume.map_or(0, |volume| volume.block_count);
        let wanted = resumed || self.request.mode == Mode::Full || plan.read.len() as u64 >= list::block_requests(expected);
        if !wanted {
            return Ok(None);
        }
        let blocks = self.store.list_blocks(&self.layout, expected, &|| self.progress.moved()).await?;
        // An object without bytes is no block, whatever its name.
        Ok(Some(blocks.into_iter().filter(|(_, meta)| meta.size > 0).map(|(checksum, _)| checksum).collect()))
    }

    /// Writes the config that says "in progress" and by whom.
    async fn mark(&self) -> Result<()> {
        let mark = BackupConfig {
            name: self.request.backup.to_string(),
            volume_name: self.request.volume.name.to_string(),
            compression_method: self.request.compression.to_string(),
            labels: Some([(config::WRITER.to_owned(), self.lock.name().to_string())].into()),
            ..BackupConfig::default()
        };
        let path = self.path();
        let put = self.store.driver().put(&path, encode(&mark)?);
        self.lock.bounded(format!("mark backup {} as in progress", self.request.backup), put).await
    }

    async fn upload(&self, plan: Plan, known: HashSet<Checksum>) -> Result<Uploaded> {
        self.progress.enter(Phase::Uploading);
        let upload = Upload::new(self, known);
        upload.run(plan).await
    }

    /// Writes the final config under the fence, then `volume.cfg`.
    async fn commit(&self, volume: VolumeConfig, incremental: bool, uploaded: Uploaded) -> Result<Receipt> {
        self.progress.enter(Phase::Committing);
        // A mark of ours that was sent twice, or a change of it by an earlier attempt that died, must not meet the final config.
        self.lock.settle().await;
        self.lock.outlive_the_dead().await;
        let created_at = Timestamp::now();
        let new_blocks = uploaded.new_blocks;
        let config = Arc::new(self.final_config(created_at, incremental, uploaded));
        let to_encode = config.clone();
        let data = self.store.compute(config.blocks.len() <= FEW_BLOCKS, move || encode(&*to_encode)).await??;
        self.check_mark().await?;
        let path = self.path();
        let put = self.store.driver().put(&path, data);
        self.lock.fenced(|| format!("write the config of backup {}", self.request.backup), put).await?;
        let mut volume = self.volume_config(volume);
        volume.last_backup_name = config.name.clone();
        volume.last_backup_at = config.snapshot_created_at.clone();
        volume.block_count += new_blocks;
        self.save_volume(&volume).await?;
        self.progress.enter(Phase::Done);
        Ok(self.receipt(&config, false))
    }

    fn final_config(&self, created_at: Timestamp, incremental: bool, uploaded: Uploaded) -> BackupConfig {
        let request = &self.request;
        let mut labels = request.labels.clone();
        labels.insert(config::SNAPSHOT_ID.to_owned(), request.snapshot.id.clone());
        labels.insert(config::VOLUME_SIZE.to_owned(), self.source.size().to_string());
        let mut parameters = request.parameters.clone();
        parameters.insert(config::BLOCK_SIZE_PARAMETER.to_owned(), format_block_size(self.block_size));
        if request.mode == Mode::Full {
            parameters.insert(config::MODE_PARAMETER.to_owned(), "full".to_owned());
        }
        BackupConfig {
            name: request.backup.to_string(),
            volume_name: request.volume.name.to_string(),
            snapshot_name: request.snapshot.name.to_string(),
            snapshot_created_at: format_time(request.snapshot.created_at),
            created_time: format_time(created_at),
            data_size: uploaded.blocks.len() as u64 * self.block_size,
            labels: Some(labels),
            parameters: Some(parameters),
            is_incremental: incremental,
            compression_method: request.compression.to_string(),
            newly_uploaded_data_size: uploaded.new_bytes,
            re_uploaded_data_size: uploaded.again_bytes,
            processing_blocks: if incremental { serde_json::Value::Null } else { serde_json::json!({}) },
            blocks: uploaded.blocks,
            ..BackupConfig::default()
        }
    }

    /// `volume.cfg` with what this request says about the volume.
    fn volume_config(&self, mut config: VolumeConfig) -> VolumeConfig {
        let volume = &self.request.volume;
        config.name = volume.name.to_string();
        config.size = self.source.size();
        if !volume.labels.is_empty() || config.labels.is_none() {
            config.labels = Some(volume.labels.clone());
        }
        if config.created_time.is_empty() {
            config.created_time = format_time(volume.created_at);
        }
        config.compression_method = self.request.compression.to_string();
        if !volume.storage_class.is_empty() {
            config.storage_class_name = volume.storage_class.clone();
        }
        if config.data_engine.is_empty() {
            config.data_engine = "v1".to_owned();
        }
        config
    }

    async fn save_volume(&self, config: &VolumeConfig) -> Result<()> {
        let path = self.layout.config();
        let put = self.store.driver().put(&path, encode(config)?);
        self.lock.bounded(format!("write the config of volume {}", self.request.volume.name), put).await
    }

    /// Fails unless the mark in the store is the one of this attempt.
    async fn check_mark(&self) -> Result<()> {
        let volume = || self.request.volume.name.clone();
        match self.store.read::<BackupConfig>(&self.path()).await? {
            Some(mark) if self.is_own(&mark) => Ok(()),
            Some(_) => Err(Error::Superseded { volume: volume(), backup: self.request.backup.clone() }),
            None => Err(Error::LockLost { volume: volume(), reason: "somebody removed the mark of our backup".to_owned() }),
        }
    }

    fn is_own(&self, mark: &BackupConfig) -> bool {
        mark.is_in_progress() && mark.label(config::WRITER) == Some(self.lock.name().as_str())
    }

    /// Best effort: a mark that stays is overwritten by the next attempt, or removed by the next deletion.
    async fn remove_mark(&self) {
        let removed = match self.store.read::<BackupConfig>(&self.path()).await {
            Ok(Some(mark)) if self.is_own(&mark) => {
                let path = [self.path()];
                let delete = self.store.driver().delete(&path);
                self.lock.fenced(|| format!("remove the mark of backup {}", self.request.backup), delete).await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(volume = %self.request.volume.name, backup = %self.request.backup, %error, "left the mark of an unfinished backup");
        }
    }

    /// The backup is complete: an earlier attempt ended before it could say so. Only `volume.cfg` may be behind.
    async fn adopt(&self, volume: Option<VolumeConfig>, config: BackupConfig) -> Result<Receipt> {
        let volume = volume.unwrap_or_default();
        if volume.last_backup_name != config.name && self.is_newer(&volume, &config).await? {
            let mut volume = self.volume_config(volume);
            volume.last_backup_name = config.name.clone();
            volume.last_backup_at = config.snapshot_created_at.clone();
            self.save_volume(&volume).await?;
        }
        self.progress.enter(Phase::Done);
        Ok(self.receipt(&config, true))
    }

    /// Whether `config` was made no earlier than the backup that `volume.cfg` calls the last one: times are whole seconds.
    async fn is_newer(&self, volume: &VolumeConfig, config: &BackupConfig) -> Result<bool> {
        let Ok(last) = volume.last_backup_name.parse::<BackupName>() else { return Ok(true) };
        let last = self.store.read::<BackupConfig>(&self.layout.backup(&last)).await?;
        Ok(last.is_none_or(|last| last.created_at() <= config.created_at()))
    }

    fn receipt(&self, config: &BackupConfig, adopted: bool) -> Receipt {
        Receipt {
            size: config.data_size,
            volume_size: config.volume_size().unwrap_or(self.source.size()),
            newly_uploaded: config.newly_uploaded_data_size,
            re_uploaded: config.re_uploaded_data_size,
            incremental: config.is_incremental,
            created_at: config.created_at().unwrap_or_default(),
            adopted,
        }
    }

    fn path(&self) -> StorePath {
        self.layout.backup(&self.request.backup)
    }

    /// The explicit block of zeros.
    fn zero_block(&self, offset: u64) -> Block {
        Block { offset, checksum: Checksum::of_zeros(self.block_size) }
    }

    /// Puts the explicit block of zeros into the store.
    async fn put_zero_block(&self) -> Result<u64> {
        let zeros = vec![0; usize::try_from(self.block_size).unwrap_or(usize::MAX)];
        let method = self.request.compression;
        let encoded = self.store.workers.run(move || block::encode(method, &zeros)).await?;
        let data = encoded.map_err(|error| Error::Internal { context: "compress a block", reason: error.to_string() })?;
        let size = data.len() as u64;
        let path = self.layout.block(&Checksum::of_zeros(self.block_size));
        self.store.driver().put(&path, data).await.context(|| format!("write block {path}"))?;
        self.progress.uploaded(size);
        Ok(size)
    }
}

/// As Longhorn writes it: `2Mi`, `16Mi`.
fn format_block_size(bytes: u64) -> String {
    match (bytes % (1 << 20), bytes >> 20) {
        (0, mebibytes) => format!("{mebibytes}Mi"),
        _ => bytes.to_string(),
    }
}

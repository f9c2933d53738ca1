//! Volumes on this node: what the agent may ask of a storage engine.
//!
//! Knows neither Kubernetes nor backup stores. All calls block: callers use a blocking thread.

mod clone;
mod device;
mod error;
mod extents;
mod freeze;
mod holders;
mod image;
mod layout;
mod mend;
mod meta;
mod pool;
mod pool_image;
mod reflink;
mod snapshot;
mod sys;
mod transfer;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::names::{SnapshotName, VolumeName};

pub use self::error::{Error, Result};
pub use self::pool::{PoolConfig, PoolImageConfig};
pub use self::reflink::Reflink;

/// A volume as found on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: VolumeName,
    /// Bytes the guest sees.
    pub size: u64,
    /// Bytes the image takes in the pool, snapshots not counted.
    pub allocated: u64,
    /// Whether the content is whole: false while a restore into it has not ended.
    pub ready: bool,
    /// Where it is attached, if it is.
    pub attachment: Option<Attachment>,
}

/// An attached volume's block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `/dev/longhorn/{volume}`, a link to `loop_device`.
    pub device: PathBuf,
    /// `/dev/loopN`.
    pub loop_device: PathBuf,
    /// The direct I/O flag as read back from the kernel.
    pub direct_io: bool,
}

/// A snapshot as found on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name, unique within the volume.
    pub name: SnapshotName,
    /// Random id made with the snapshot: names can be used twice, this cannot.
    pub id: String,
    /// When the clone that made it was taken.
    pub created: Timestamp,
    /// Bytes the guest saw.
    pub size: u64,
    /// Bytes it takes in the pool, shared ones included.
    pub allocated: u64,
    /// The longest time the volume's I/O can have waited for it: the longest step of its preparation or the final clone, freeze and thaw
    /// included, whichever is longer. Zero when the volume was detached.
    pub stall: Duration,
    /// Whether a mounted file system was frozen for it.
    pub frozen: bool,
}

/// Whether a mounted file system is frozen for the instant of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Freeze when one is mounted on the device.
    WhenMounted,
    /// Never.
    Never,
}

/// Space of the pool in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSpace {
    /// Size of the file system.
    pub total: u64,
    /// Left for new data.
    pub available: u64,
}

/// What a new image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeros; ready at once.
    Blank,
    /// A restore will fill it; not ready, and cannot be attached or snapshotted, until [`Engine::finish_restore`].
    Restoring,
}

/// Volumes, their devices and snapshots on one node.
///
/// Every call is idempotent and survives a crash between any two of its steps: the next call, or the next start, mends what is half done.
pub trait Engine: Send + Sync + 'static {
    /// Every volume of the pool, by name. One that is damaged is logged and left out: ask for it by name to learn why.
    fn volumes(&self) -> Result<Vec<VolumeInfo>>;

    /// One volume, `None` when it is not here.
    fn volume(&self, volume: &VolumeName) -> Result<Option<VolumeInfo>>;

    /// Makes a volume of `size` bytes, rounded up to 2 MiB. Success when it is already there with that size or a larger one.
    fn create(&self, volume: &VolumeName, size: u64, content: Content) -> Result<VolumeInfo>;

    /// Removes the volume with all its snapshots. Success when there is none; refused while attached or while a reader or writer is open.
    fn delete(&self, volume: &VolumeName) -> Result<()>;

    /// Attaches the volume as a block device with 512-byte blocks. An image is never attached twice.
    fn attach(&self, volume: &VolumeName) -> Result<Attachment>;

    /// Detaches it and proves the device free. Refused while the device is in use.
    fn detach(&self, volume: &VolumeName) -> Result<()>;

    /// Grows the volume, also while it is in use. A smaller size is refused.
    fn expand(&self, volume: &VolumeName, size: u64) -> Result<VolumeInfo>;

    /// Takes a snapshot, or returns the one of that name.
    fn snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName, freeze: Freeze) -> Result<SnapshotInfo>;

    /// The volume's snapshots, oldest first.
    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>>;

    /// Removes one snapshot. Success when there is none; refused while a reader is open on it.
    fn delete_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<()>;

    /// Puts the volume back to the snapshot's content. Refused while attached.
    fn revert(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<()>;

    /// Opens a snapshot for reading; it cannot be deleted until the reader is dropped.
    fn open_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<Box<dyn SnapshotReader>>;

    /// Opens a volume made with [`Content::Restoring`] for writing.
    fn open_restore(&self, volume: &VolumeName) -> Result<Box<dyn RestoreWriter>>;

    /// Makes a restored volume's bytes durable and the volume ready. Refused while a writer is open.
    fn finish_restore(&self, volume: &VolumeName) -> Result<()>;

    /// Space of the pool now.
    fn space(&self) -> Result<PoolSpace>;
}

/// Reads one snapshot. Offsets and lengths are multiples of 512; buffers are aligned to 4096 bytes.
pub trait SnapshotReader: Send + Sync {
    /// What was opened.
    fn info(&self) -> &SnapshotInfo;
    /// Fills `buf` from `offset`, by direct I/O where the pool can.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// Byte ranges, ascending and disjoint, outside which the snapshot is all zeros.
    fn allocated(&self) -> Result<Vec<Range<u64>>>;
    /// Byte ranges outside which this snapshot equals the one with `snapshot_id`. `None` when that one is not here or its identity is in doubt.
    fn changed_since(&self, snapshot_id: &str) -> Result<Option<Vec<Range<u64>>>>;
}

/// Fills a volume that is being restored.
pub trait RestoreWriter: Send + Sync {
    /// Writes `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;
    /// Makes `range` a hole.
    fn zero(&self, range: Range<u64>) -> Result<()>;
    /// Everything written before is durable when this returns.
    fn sync(&self) -> Result<()>;
    /// The state saved last, by this process or an earlier one.
    fn load_checkpoint(&self) -> Result<Option<Vec<u8>>>;
    /// Saves a small state, atomically and durably.
    fn save_checkpoint(&self, state: &[u8]) -> Result<()>;
}

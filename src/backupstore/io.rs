//! The two ends of a transfer that are not the store: what a backup reads and what a restore writes.
//!
//! Both are synchronous and called from blocking threads only.

use std::io;
use std::ops::Range;

/// Reads one immutable snapshot of a volume.
pub trait Source: Send + Sync + 'static {
    /// Volume size in bytes at that snapshot.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`. `buf` is aligned to 4096 bytes in address, and offset and length are multiples of 512.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Byte ranges, ascending and disjoint, outside which the snapshot is all zeros.
    fn allocated(&self) -> io::Result<Vec<Range<u64>>>;

    /// Byte ranges outside which this snapshot equals the one whose random id is `snapshot_id`; never misses a change.
    /// `None` when that snapshot is not here or its identity cannot be proved: then everything must be compared.
    fn changed_since(&self, snapshot_id: &str) -> io::Result<Option<Vec<Range<u64>>>>;
}

/// Takes the bytes of a restore.
pub trait Sink: Send + Sync + 'static {
    /// Whether everything never written reads as zeros (a new sparse file). If not, zeros are written where the backup has none.
    fn is_blank(&self) -> bool;

    /// Writes `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes `range` read as zeros.
    fn zero(&self, range: Range<u64>) -> io::Result<()>;

    /// Everything written before is durable when this returns.
    fn sync(&self) -> io::Result<()>;

    /// The state saved last by [`Sink::save_checkpoint`], by this process or an earlier one; a restore resumes from it.
    fn load_checkpoint(&self) -> io::Result<Option<Vec<u8>>>;

    /// Saves a small state, atomically and durably. Called after [`Sink::sync`].
    fn save_checkpoint(&self, state: &[u8]) -> io::Result<()>;
}

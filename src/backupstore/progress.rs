//! How far a transfer is, for whoever watches it from another task.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// Not begun.
    #[default]
    Waiting,
    /// Taking the volume's lock; meanwhile the snapshot is scanned.
    Locking,
    /// Finding out what is to be transferred.
    Scanning,
    /// Reading, compressing and uploading blocks.
    Uploading,
    /// Downloading and writing blocks.
    Restoring,
    /// Downloading blocks and comparing them with their checksums.
    Verifying,
    /// Making the result final.
    Committing,
    /// Ended well.
    Done,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Locking,
        Self::Scanning,
        Self::Uploading,
        Self::Restoring,
        Self::Verifying,
        Self::Committing,
        Self::Done,
    ];

    /// PascalCase, for statuses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Locking => "Locking",
            Self::Scanning => "Scanning",
            Self::Uploading => "Uploading",
            Self::Restoring => "Restoring",
            Self::Verifying => "Verifying",
            Self::Committing => "Committing",
            Self::Done => "Done",
        }
    }
}

/// Counters that a transfer moves and anybody reads.
#[derive(Debug)]
pub struct Progress {
    phase: AtomicU8,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_read: AtomicU64,
    bytes_uploaded: AtomicU64,
    blocks_total: AtomicU64,
    blocks_done: AtomicU64,
    last_moved: Mutex<Instant>,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of the volume that this transfer has to look at or write.
    pub bytes_total: u64,
    /// How many of them are done.
    pub bytes_done: u64,
    /// Bytes read from the volume (backup), or from the store (restore).
    pub bytes_read: u64,
    /// Bytes sent to the store.
    pub bytes_uploaded: u64,
    /// Blocks that this transfer has to look at or fetch.
    pub blocks_total: u64,
    /// How many of them are done.
    pub blocks_done: u64,
    /// Since anything of this last changed: what a watcher compares with its deadline.
    pub idle: Duration,
}

impl Seen {
    /// Whole percent, 100 only at the end.
    pub fn percent(&self) -> u8 {
        match (self.phase, self.bytes_total) {
            (Phase::Done, _) => 100,
            (_, 0) => 0,
            (_, total) => (u128::from(self.bytes_done.min(total)) * 99 / u128::from(total)) as u8,
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Waiting as u8),
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_uploaded: AtomicU64::new(0),
            blocks_total: AtomicU64::new(0),
            blocks_done: AtomicU64::new(0),
            last_moved: Mutex::new(Instant::now()),
        }
    }
}

impl Progress {
    /// Everything at this moment; each counter by itself.
    pub fn snapshot(&self) -> Seen {
        let phase = Phase::ALL.into_iter().find(|phase| *phase as u8 == self.phase.load(Relaxed)).unwrap_or_default();
        Seen {
            phase,
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_uploaded: self.bytes_uploaded.load(Relaxed),
            blocks_total: self.blocks_total.load(Relaxed),
            blocks_done: self.blocks_done.load(Relaxed),
            idle: self.last_moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed(),
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.moved();
    }

    pub(super) fn expect(&self, blocks: u64, bytes: u64) {
        self.blocks_total.store(blocks, Relaxed);
        self.bytes_total.store(bytes, Relaxed);
        self.moved();
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
        self.moved();
    }

    pub(super) fn uploaded(&self, bytes: u64) {
        self.bytes_uploaded.fetch_add(bytes, Relaxed);
        self.moved();
    }

    pub(super) fn done(&self, blocks: u64, bytes: u64) {
        self.blocks_done.fetch_add(blocks, Relaxed);
        self.bytes_done.fetch_add(bytes, Relaxed);
        self.moved();
    }

    /// Shows that something goes on where there is nothing to count.
    pub(super) fn moved(&self) {
        *self.last_moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_grows_and_is_100_at_the_end_only() {
        let progress = Progress::default();
        assert_eq!(progress.snapshot().percent(), 0);
        progress.enter(Phase::Uploading);
        progress.expect(3, 30);
        let mut last = 0;
        for _ in 0..3 {
            progress.done(1, 10);
            let percent = progress.snapshot().percent();
            assert!(percent > last && percent < 100);
            last = percent;
        }
        progress.enter(Phase::Done);
        assert_eq!(progress.snapshot().percent(), 100);
        assert_eq!(progress.snapshot().phase.as_str(), "Done");
    }
}

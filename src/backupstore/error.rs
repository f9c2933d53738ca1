//! Why an operation on a backupstore failed, by what the caller can do about it.

use std::io;
use std::time::Duration;

use super::block::{Checksum, Corrupt};
use super::driver::DriverError;
use super::lock::{LockKind, LockName};
use crate::names::{BackupName, VolumeName};

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Messages hold no credentials, because no source does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store refused or did not answer.
    #[error("failed to {context}: {source}")]
    Driver {
        /// Completes "failed to ...".
        context: String,
        /// What the driver said.
        source: DriverError,
    },
    /// Somebody else holds a lock that excludes this operation. Try again later.
    #[error("volume {volume} is locked for {kind} by {holder}, last seen {} s ago", .age.as_secs())]
    LockHeld {
        /// The volume.
        volume: VolumeName,
        /// The other one's lock.
        holder: LockName,
        /// What it is for.
        kind: LockKind,
        /// Since the holder last refreshed it.
        age: Duration,
    },
    /// Our own lock is no longer proven: this process was suspended, or could not reach the store. Nothing was written after that. Try again.
    #[error("lost the lock on volume {volume}: {reason}")]
    LockLost {
        /// The volume.
        volume: VolumeName,
        /// How that was noticed.
        reason: String,
    },
    /// There is no such backup, or it is not complete.
    #[error("there is no complete backup {backup} of volume {volume}")]
    NoBackup {
        /// The volume.
        volume: VolumeName,
        /// The backup asked for.
        backup: BackupName,
    },
    /// A complete backup of that name was made of another snapshot.
    #[error("backup {backup} of volume {volume} is already in the store, made of snapshot {snapshot} with another id")]
    BackupExists {
        /// The volume.
        volume: VolumeName,
        /// The backup.
        backup: BackupName,
        /// The snapshot's name in the store.
        snapshot: String,
    },
    /// Another process writes the same backup.
    #[error("backup {backup} of volume {volume} was taken over by another writer")]
    Superseded {
        /// The volume.
        volume: VolumeName,
        /// The backup.
        backup: BackupName,
    },
    /// A config in the store cannot be read.
    #[error("{path} is damaged: {reason}")]
    Config {
        /// Its key.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A block that a backup needs is not in the store.
    #[error("block {checksum} at byte {offset} of volume {volume} is missing from the store")]
    BlockMissing {
        /// The volume.
        volume: VolumeName,
        /// The first offset that needs it.
        offset: u64,
        /// The block.
        checksum: Checksum,
    },
    /// A block in the store is not what its name says.
    #[error("block {checksum} at byte {offset} of volume {volume} is damaged: {source}")]
    BlockCorrupt {
        /// The volume.
        volume: VolumeName,
        /// The first offset that needs it.
        offset: u64,
        /// The block.
        checksum: Checksum,
        /// How.
        source: Corrupt,
    },
    /// The snapshot cannot be read.
    #[error("failed to read the snapshot of volume {volume} at byte {offset}: {source}")]
    Source {
        /// The volume.
        volume: VolumeName,
        /// Where.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The restored volume cannot be written.
    #[error("failed to {context}: {source}")]
    Sink {
        /// Completes "failed to ...".
        context: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The request can never succeed.
    #[error("{0}")]
    Invalid(String),
    /// This machine failed: no memory, no random bytes, a worker that died.
    #[error("failed to {context}: {reason}")]
    Internal {
        /// Completes "failed to ...".
        context: &'static str,
        /// Why.
        reason: String,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// PascalCase name: the reason of an Event or condition, and the label of a metric.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Driver { source, .. } => driver_category(source),
            Self::LockHeld { .. } => "LockHeld",
            Self::LockLost { .. } => "LockLost",
            Self::NoBackup { .. } => "NoBackup",
            Self::BackupExists { .. } => "BackupExists",
            Self::Superseded { .. } => "Superseded",
            Self::Config { .. } => "ConfigDamaged",
            Self::BlockMissing { .. } => "BlockMissing",
            Self::BlockCorrupt { .. } => "BlockDamaged",
            Self::Source { .. } => "ReadFailed",
            Self::Sink { .. } => "WriteFailed",
            Self::Invalid(_) => "Invalid",
            Self::Internal { .. } => "Internal",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Driver { source, .. } => source.is_transient(),
            Self::LockHeld { .. } | Self::LockLost { .. } | Self::Superseded { .. } | Self::Internal { .. } | Self::Cancelled => {
                true
            }
            Self::Source { source, .. } => source.kind() == io::ErrorKind::Interrupted,
            // Room is made and holders let go without the restore being asked for anew.
            Self::Sink { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::Interrupted
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ResourceBusy
            ),
            Self::NoBackup { .. }
            | Self::BackupExists { .. }
            | Self::Config { .. }
            | Self::BlockMissing { .. }
            | Self::BlockCorrupt { .. }
            | Self::Invalid(_) => false,
        }
    }
}

pub(super) fn driver_category(error: &DriverError) -> &'static str {
    match error {
        DriverError::NotFound { .. } => "NotFound",
        DriverError::Denied { .. } => "AccessDenied",
        DriverError::Credentials { .. } => "CredentialsRefused",
        DriverError::NoRoot { .. } => "NoStore",
        DriverError::NoSpace { .. } => "NoSpace",
        DriverError::Unavailable { .. } => "StoreUnavailable",
        DriverError::Invalid { .. } => "StoreInvalid",
    }
}

/// Adds what was being done to a driver's error.
pub(super) trait DriverContext<T> {
    /// `context` completes "failed to ...".
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> DriverContext<T> for std::result::Result<T, DriverError> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Driver { context: context(), source })
    }
}

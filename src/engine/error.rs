//! Why an engine call failed, and the one way a system call's failure becomes such an error.

use std::io;
use std::path::PathBuf;

use crate::names::{SnapshotName, VolumeName};

/// The result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an engine call failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volume is not on this node.
    #[error("volume {0} is not on this node")]
    NoVolume(VolumeName),
    /// The volume has no such snapshot.
    #[error("volume {volume} has no snapshot {snapshot}")]
    NoSnapshot {
        /// The volume.
        volume: VolumeName,
        /// The snapshot asked for.
        snapshot: SnapshotName,
    },
    /// The volume, its device or a snapshot is in use. Trying again later may help.
    #[error("{what} is in use: {holder}")]
    InUse {
        /// What is in use.
        what: String,
        /// By whom, as far as can be told.
        holder: String,
    },
    /// The volume is not in a state in which this can be done.
    #[error("volume {volume}: {reason}")]
    NotAllowed {
        /// The volume.
        volume: VolumeName,
        /// Why not, and what is allowed.
        reason: String,
    },
    /// The pool has no room left.
    #[error("pool {pool} is full: {context}")]
    Full {
        /// The pool's folder.
        pool: PathBuf,
        /// What was being done.
        context: String,
    },
    /// The pool cannot be used: not there, no reflinks, foreign, damaged.
    #[error("pool {pool}: {reason}")]
    Pool {
        /// The pool's folder.
        pool: PathBuf,
        /// What is wrong, with advice.
        reason: String,
    },
    /// A system call failed.
    #[error("failed to {context}: {source}")]
    Io {
        /// What was being done, with the object.
        context: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody changing the request.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Full { .. } | Self::Io { .. } | Self::Pool { .. })
    }
}

/// Says what was being done when a system call failed.
pub(super) trait Context<T> {
    /// Turns the failure into [`Error::Io`] with `what`, which goes on after "failed to".
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { context: what(), source: source.into() })
    }
}

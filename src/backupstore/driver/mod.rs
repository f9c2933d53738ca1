//! What a backupstore needs of the place that holds its objects, and nothing more.
//!
//! A driver contains protocol only. Retries inside one request, deadlines and authentication are its own;
//! locks, layout, compression and deduplication are written once above it.

pub mod fence;
pub mod local;
pub mod memory;
pub mod metered;
pub mod s3;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::credentials::Credentials;
use super::target_url::Target;

/// The key of one object below the target's root: `backupstore/volumes/aa/bb/...`.
///
/// Never empty, never begins or ends with `/`, has no empty, `.` or `..` part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(String);

impl StorePath {
    /// Takes `path` when it is a relative key without empty, `.` or `..` parts.
    pub fn parse(path: &str) -> Option<Self> {
        let sound = path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
        sound.then(|| Self(path.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last `/`.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Size in bytes and the server's modification time of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes stored.
    pub size: u64,
    /// When the server last wrote it, by the server's clock.
    pub modified: Timestamp,
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// An object below the prefix.
    Object(StorePath, Meta),
    /// With a delimiter: a folder directly below the prefix (without the final `/`).
    Folder(StorePath),
}

/// How deep a listing looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Objects and folders directly below the prefix.
    Children,
    /// Every object below the prefix; folders are not reported.
    All,
}

/// What went wrong, by what the caller can do about it. Sources are kept, credentials never are.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// There is no such object.
    #[error("{path} does not exist")]
    NotFound {
        /// The key asked for.
        path: String,
    },
    /// The server knows us and refuses this.
    #[error("access to {path} denied: {message}")]
    Denied {
        /// The key or prefix asked for.
        path: String,
        /// The server's words.
        message: String,
    },
    /// The credentials are wrong, expired or missing.
    #[error("credentials refused: {message}")]
    Credentials {
        /// The server's words.
        message: String,
    },
    /// The bucket or the root folder does not exist.
    #[error("{root} does not exist: {message}")]
    NoRoot {
        /// The bucket or folder.
        root: String,
        /// The server's words.
        message: String,
    },
    /// No space or quota left.
    #[error("no space left: {message}")]
    NoSpace {
        /// The server's words.
        message: String,
    },
    /// The server cannot be reached, answers with an error of its own, or did not answer in time. Trying again may help.
    #[error("{operation} {path} failed: {message}")]
    Unavailable {
        /// The verb: put, get, list, delete, stat.
        operation: &'static str,
        /// The key or prefix.
        path: String,
        /// The source chain in words.
        message: String,
    },
    /// The server's answer makes no sense, or this driver was set up wrongly. Trying again will not help.
    #[error("{operation} {path}: {message}")]
    Invalid {
        /// The verb.
        operation: &'static str,
        /// The key or prefix.
        path: String,
        /// What is wrong.
        message: String,
    },
}

impl DriverError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoSpace { .. })
    }
}

/// The result of a driver call.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

/// A place that holds whole objects under keys.
///
/// Every call ends in bounded time: within 50 s when it moves less than 128 KiB (a listing: each page), and 4 s later for every
/// 128 KiB more; a `get` of a server that keeps asking for patience within 15 minutes. Who must be sure of less puts a timeout
/// around the call. Dropping a future cancels the call; whether a cancelled or timed-out `put` or `delete` took effect is then
/// unknown, and callers must not rely on either. So it is, whatever the answer, with a `put` or `delete` that was sent more than once:
/// the driver then says so to the [`Fence`](fence::Fence) around the call.
#[async_trait]
pub trait Driver: fmt::Debug + Send + Sync + 'static {
    /// Writes the whole object: readers see the old bytes or all of the new ones, and after `Ok` the new ones survive a crash of the server.
    async fn put(&self, path: &StorePath, data: Bytes) -> Result<()>;

    /// Reads the whole object. [`DriverError::NotFound`] when there is none.
    async fn get(&self, path: &StorePath) -> Result<Bytes>;

    /// Reads bytes `range` of the object; shorter only where the object ends.
    async fn get_range(&self, path: &StorePath, range: Range<u64>) -> Result<Bytes>;

    /// Lists what is below the folder `prefix` (`None`: the root), in no promised order, page by page as the stream is polled.
    /// A missing folder is an empty listing. An error ends the stream: a listing without an error is complete.
    fn list<'a>(&'a self, prefix: Option<&StorePath>, depth: Depth) -> BoxStream<'a, Result<Listed>>;

    /// Removes the objects; one that is not there is success. On error some may be gone.
    async fn delete(&self, paths: &[StorePath]) -> Result<()>;

    /// Size and time of the object, `None` when there is none: absence and outage are never mixed up.
    async fn stat(&self, path: &StorePath) -> Result<Option<Meta>>;

    /// The server's clock now. Costs at most one request.
    async fn server_time(&self) -> Result<Timestamp>;
}

/// Why a target cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] s3::TlsError),
}

/// Sets up the driver of `target`. Sends nothing: whether the place is there and lets us in is seen at the first call.
///
/// Without `credentials`, or when they hold no access key, the role of the pod or node is used.
pub fn open(target: &Target, credentials: Option<&Credentials>) -> Result<Arc<metered::Metered>, OpenError> {
    let metered = match target {
        Target::File { path } => metered::Metered::new(Arc::new(local::Local::new(path))),
        Target::S3 { bucket, region, path } => {
            let none = Credentials::default();
            let counters = Arc::new(metered::Counters::default());
            let s3 = s3::S3::new(bucket, region, path, credentials.unwrap_or(&none), counters.clone())?;
            metered::Metered::over_network(Arc::new(s3), counters)
        }
    };
    Ok(Arc::new(metered))
}

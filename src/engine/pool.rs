//! The pool: a folder on a file system that can clone, its locks, and what is found in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::{Context, Error, Result};
use super::image::{self, FileId, FileSystem};
use super::layout::{self, PoolPaths, VolumePaths};
use super::{PoolSpace, device, mend, meta, pool_image};
use crate::names::VolumeName;

/// Where a pool is and where its devices appear.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// The pool's folder. Made when it is not there.
    pub dir: PathBuf,
    /// Folder of the links to attached volumes' devices. Two engines on one machine need two.
    pub device_dir: PathBuf,
    /// Used when `dir` lies on a file system that cannot clone files: then this image is mounted on `dir`.
    pub pool_image: Option<PoolImageConfig>,
}

impl PoolConfig {
    /// Where Longhorn's volumes appear, and so ours.
    pub const DEVICE_DIR: &str = "/dev/longhorn";

    /// A pool in `dir`, without a pool image.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), device_dir: Self::DEVICE_DIR.into(), pool_image: None }
    }
}

/// The file that holds a pool where the host's file system cannot clone.
#[derive(Debug, Clone)]
pub struct PoolImageConfig {
    /// The file: made, sparse and formatted XFS, when it is not there. One that is there is used as it is, never formatted.
    pub path: PathBuf,
    /// Its size in bytes. A file that is smaller is grown; one that is larger stays.
    pub size: u64,
}

/// An opened pool. Holds no state: everything is on disk.
#[derive(Debug)]
pub(super) struct Pool {
    pub paths: PoolPaths,
    pub file_system: FileSystem,
    device_dir: PathBuf,
    image: Option<PoolImageConfig>,
}

/// An flock on a file or folder, given back when dropped, also by a crash.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// A volume that nobody else changes now.
#[derive(Debug)]
pub(super) struct LockedVolume {
    pub paths: VolumePaths,
    _lock: Lock,
}

impl Pool {
    /// Finds or makes the pool and mends what a crash left half done.
    pub fn open(config: PoolConfig) -> Result<Self> {
        let PoolConfig { dir, device_dir, pool_image } = config;
        fs::create_dir_all(&dir).context(|| format!("create folder {}", dir.display()))?;
        let mut usable = usable_file_system(&dir)?;
        if usable.is_none()
            && let Some(image) = &pool_image
        {
            pool_image::ensure_mounted(image, &dir)?;
            usable = usable_file_system(&dir)?;
        } else if let Some(image) = &pool_image {
            // Mounted by an earlier start; it may have been asked to grow since.
            pool_image::ensure_size(image, &dir)?;
        }
        let Some(file_system) = usable else {
            return Err(Error::Pool {
                pool: dir,
                reason: "the file system cannot share blocks between files; use XFS made with reflink=1 or btrfs, or give a pool image"
                    .into(),
            });
        };
        let pool = Self { paths: PoolPaths::new(&dir), file_system, device_dir, image: pool_image };
        for dir in [pool.paths.volumes(), pool.paths.trash()] {
            fs::create_dir_all(&dir).context(|| format!("create folder {}", dir.display()))?;
        }
        mend::pool(&pool)?;
        Ok(pool)
    }

    /// The lock under which volumes come into being.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.paths.lock();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context(|| format!("open {}", path.display()))?;
        lock(file, FlockOperation::LockExclusive, &path)?.ok_or_else(|| unlocked(&path))
    }

    /// Waits for the volume's lock and mends the volume.
    pub fn lock_volume(&self, volume: &VolumeName) -> Result<LockedVolume> {
        self.find_volume(volume, FlockOperation::LockExclusive)?.ok_or_else(|| Error::NoVolume(volume.clone()))
    }

    /// As [`Pool::lock_volume`], but `None` when the volume is not here or somebody is at work on it.
    pub fn try_lock_volume(&self, volume: &VolumeName) -> Result<Option<LockedVolume>> {
        self.find_volume(volume, FlockOperation::NonBlockingLockExclusive)
    }

    fn find_volume(&self, volume: &VolumeName, operation: FlockOperation) -> Result<Option<LockedVolume>> {
        let paths = self.paths.volume(volume);
        loop {
            let dir = match File::open(paths.dir()) {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).context(|| format!("open {}", paths.dir().display())),
            };
            let id = FileId::of(&dir).context(|| format!("look at {}", paths.dir().display()))?;
            let Some(lock) = lock(dir, operation, paths.dir())? else { return Ok(None) };
            // Removed, or made anew under this name, while we waited?
            if FileId::at(paths.dir())? == Some(id) {
                let locked = LockedVolume { paths, _lock: lock };
                mend::volume(self, volume, &locked)?;
                return Ok(Some(locked));
            }
        }
    }

    /// The names of all volumes, sorted.
    pub fn volume_names(&self) -> Result<Vec<VolumeName>> {
        let mut names: Vec<VolumeName> =
            meta::names(&self.paths.volumes())?.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Where the volume's device appears while it is attached.
    pub fn device_link(&self, volume: &VolumeName) -> PathBuf {
        self.device_dir.join(volume.as_str())
    }

    /// Moves a volume's folder to where nobody finds it, then removes it.
    pub fn discard(&self, volume: LockedVolume) -> Result<()> {
        let trash = self.paths.trash().join(layout::random_id()?);
        let from = volume.paths.dir();
        fs::rename(from, &trash).context(|| format!("remove volume folder {}", from.display()))?;
        meta::sync_dir(&self.paths.volumes())?;
        mend::remove_tree(&trash)
    }

    /// Grows the pool image to `size` bytes; refused when the pool has none.
    pub fn grow(&self, size: u64) -> Result<PoolSpace> {
        let Some(image) = &self.image else {
            return Err(Error::Pool {
                pool: self.paths.dir().to_owned(),
                reason: "it lies on the host's own file system and has no pool image to grow".into(),
            });
        };
        let _lock = self.lock()?;
        pool_image::ensure_size(&PoolImageConfig { path: image.path.clone(), size }, self.paths.dir())?;
        self.space()
    }

    pub fn space(&self) -> Result<PoolSpace> {
        let dir = self.paths.dir();
        let found = rustix::fs::statvfs(dir).context(|| format!("read the space of {}", dir.display()))?;
        Ok(PoolSpace { total: found.f_blocks * found.f_frsize, available: found.f_bavail * found.f_frsize })
    }

    /// Makes the link to the volume's device right: there while attached, gone otherwise.
    pub fn mend_link(&self, volume: &VolumeName, device: Option<&device::LoopDevice>) -> Result<()> {
        let link = self.device_link(volume);
        match device {
            Some(device) => device::link(&link, device),
            None => device::unlink(&link),
        }
    }
}

/// The file system of `dir` when a pool can lie there.
fn usable_file_system(dir: &Path) -> Result<Option<FileSystem>> {
    let Some(file_system) = FileSystem::of(dir)? else { return Ok(None) };
    let can_clone = match image::can_clone(dir) {
        // A full pool is found again all the same: that it can clone was tried when it was made.
        Err(Error::Io { source, .. }) if is_full(&source) => PoolPaths::new(dir).volumes().is_dir(),
        other => other?,
    };
    Ok(can_clone.then_some(file_system))
}

/// Tells a full pool from other failures of system calls.
pub(super) fn seal(pool: &Path, error: Error) -> Error {
    match error {
        Error::Io { context, source } if is_full(&source) => {
            Error::Full { pool: pool.to_owned(), context: format!("failed to {context}") }
        }
        error => error,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// `None` when a lock that must not wait is held by somebody.
fn lock(file: File, operation: FlockOperation, path: &Path) -> Result<Option<Lock>> {
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(Some(Lock { _file: file })),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).context(|| format!("lock {}", path.display())),
        }
    }
}

fn unlocked(path: &Path) -> Error {
    Error::Io { context: format!("lock {}", path.display()), source: Errno::WOULDBLOCK.into() }
}

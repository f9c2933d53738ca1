//! Image files: making them with the attributes they need, sharing their bytes, guarding them from deletion.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, IFlags, OFlags};

use super::error::{Context, Error, Result};
use super::sys;

const XFS_MAGIC: u64 = 0x5846_5342;
const BTRFS_MAGIC: u64 = 0x9123_683E;

/// File systems whose clones and extent maps have been measured and may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileSystem {
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// The file system of `dir`, `None` when it is none of ours.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        let found = rustix::fs::statfs(dir).context(|| format!("look at the file system of {}", dir.display()))?;
        Ok(match found.f_type as u64 & 0xFFFF_FFFF {
            XFS_MAGIC => Some(Self::Xfs),
            BTRFS_MAGIC => Some(Self::Btrfs),
            _ => None,
        })
    }
}

impl FileSystem {
    /// Whether cloning what is shared already costs a check only. btrfs does all the work again, so nothing is won by sharing ahead.
    pub fn checks_before_sharing(self) -> bool {
        self == Self::Xfs
    }
}

/// What makes a file itself, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }

    /// The file at `path`, `None` when there is none.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(Self { device: meta.dev(), inode: meta.ino() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("look at {}", path.display())),
        }
    }
}

/// Makes an empty image whose attributes are set before its first byte, as btrfs wants it.
pub(super) fn create(file_system: FileSystem, path: &Path, size: u64) -> Result<File> {
    let make = || -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        match file_system {
            // The default hint of 128 KiB makes a random 4 KiB write after a snapshot cost fourteen times its space for half an hour.
            FileSystem::Xfs => sys::set_cow_extent_size(&file, rustix::fs::fstatvfs(&file)?.f_frsize as u32)?,
            FileSystem::Btrfs => {
                let flags = rustix::fs::ioctl_getflags(&file)?;
                rustix::fs::ioctl_setflags(&file, flags | IFlags::NOCOW)?;
            }
        }
        file.set_len(size)?;
        Ok(file)
    };
    make().context(|| format!("create image {}", path.display()))
}

/// Opens an image for reading and writing.
pub(super) fn open_writable(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).context(|| format!("open image {}", path.display()))
}

/// Opens an image for reading.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).context(|| format!("open image {}", path.display()))
}

/// Opens an image past the page cache, `None` when its file system cannot.
pub(super) fn open_direct(path: &Path, writable: bool) -> Result<Option<File>> {
    let flags = OFlags::DIRECT.bits() as i32;
    match OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(None),
        Err(error) => Err(error).context(|| format!("open image {} for direct I/O", path.display())),
    }
}

/// Bytes a file takes on disk.
pub(super) fn allocated(meta: &fs::Metadata) -> u64 {
    meta.blocks() * 512
}

/// Sets or clears the file system's immutable flag. A file system that has none is left as it is: then only the identity checks guard the image.
pub(super) fn set_immutable(path: &Path, immutable: bool) -> Result<()> {
    let change = || -> rustix::io::Result<()> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
        let flags = rustix::fs::ioctl_getflags(&file)?;
        let mut wanted = flags;
        wanted.set(IFlags::IMMUTABLE, immutable);
        if wanted == flags { Ok(()) } else { rustix::fs::ioctl_setflags(&file, wanted) }
    };
    use rustix::io::Errno;
    match change() {
        Ok(()) | Err(Errno::NOENT | Errno::NOTTY | Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(error) => Err(error).context(|| format!("change the immutable flag of {}", path.display())),
    }
}

/// Marks the image as used by this process, so that it is not deleted by any, until `file` is closed. False when somebody is deleting it.
pub(super) fn share(file: &File) -> Result<bool> {
    try_lock(file, FlockOperation::NonBlockingLockShared)
}

/// Takes the image for this process alone until `file` is closed. False when it is in use.
pub(super) fn claim(file: &File) -> Result<bool> {
    try_lock(file, FlockOperation::NonBlockingLockExclusive)
}

fn try_lock(file: &File, operation: FlockOperation) -> Result<bool> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).context(|| "lock an image".into()),
    }
}

/// Whether files in `dir` can share blocks; tried with files that have no name, so nothing is left behind.
pub(super) fn can_clone(dir: &Path) -> Result<bool> {
    let nameless = || {
        let flags = OFlags::TMPFILE.union(OFlags::CLOEXEC).bits() as i32;
        OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o600).open(dir)
    };
    let attempt = || -> io::Result<bool> {
        let mut source = nameless()?;
        source.write_all(&[1; 4096])?;
        use rustix::io::Errno;
        match rustix::fs::ioctl_ficlone(nameless()?, &source) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    };
    attempt().context(|| format!("try a clone in {}", dir.display()))
}

/// Removes an image that may be immutable; success when there is none.
pub(super) fn remove(path: &Path) -> Result<()> {
    set_immutable(path, false)?;
    super::meta::remove_if_present(path)
}

/// The error for an image that a reader or writer has open.
pub(super) fn in_use(what: String) -> Error {
    Error::InUse { what, holder: "a transfer is reading or writing it".into() }
}

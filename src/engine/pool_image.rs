//! The pool on a host whose own file system cannot clone: one sparse file, formatted XFS and mounted through a loop device.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use rustix::mount::MountFlags;

use super::error::{Context, Error, Result};
use super::image::{self, FileId};
use super::{PoolImageConfig, device, holders, meta};

/// First bytes of an XFS file system.
const XFS_MAGIC: &[u8; 4] = b"XFSB";

/// The least that mkfs.xfs makes a file system of.
const LEAST_SIZE: u64 = 300 << 20;

/// Makes the image if there is none, attaches it if it is not, mounts it on `dir` if it is not, and grows it to its configured size.
pub(super) fn ensure_mounted(config: &PoolImageConfig, dir: &Path) -> Result<()> {
    let _lock = lock(config)?;
    if fs::exists(&config.path).context(|| format!("look at {}", config.path.display()))? {
        check_is_ours(config)?;
    } else {
        make(config)?;
    }
    let file = image::open_writable(&config.path)?;
    let device = device::attach(&file)?;
    if !is_mounted(device.rdev, dir)? {
        refuse_foreign_content(dir)?;
        rustix::mount::mount(&device.path, dir, "xfs", MountFlags::NOATIME, None::<&CStr>)
            .context(|| format!("mount the pool image {} on {}", config.path.display(), dir.display()))?;
    }
    grow(config, dir, &file)
}

/// Grows the image that is mounted on `dir` to at least its configured size. Success when `dir` is no mount of it.
pub(super) fn ensure_size(config: &PoolImageConfig, dir: &Path) -> Result<()> {
    if FileId::at(&config.path)?.is_none() {
        return Ok(());
    }
    let _lock = lock(config)?;
    grow(config, dir, &image::open_writable(&config.path)?)
}

/// The image's folder is not in the pool, so it has a lock of its own.
fn lock(config: &PoolImageConfig) -> Result<File> {
    let path = beside(&config.path, ".lock");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(|| format!("create folder {}", parent.display()))?;
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Formats a new file under another name: what is at the image's own path is therefore always whole, and never formatted.
fn make(config: &PoolImageConfig) -> Result<()> {
    if config.size < LEAST_SIZE {
        return Err(refusal(config, format!("size is {} bytes; at least {LEAST_SIZE} are needed", config.size)));
    }
    let unfinished = beside(&config.path, ".drover-unfinished");
    meta::remove_if_present(&unfinished)?;
    let file = File::create_new(&unfinished).context(|| format!("create {}", unfinished.display()))?;
    file.set_len(config.size).context(|| format!("make {} {} bytes large", unfinished.display(), config.size))?;
    run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1,rmapbt=0", "-s", "size=512"]).arg(&unfinished))?;
    file.sync_all().context(|| format!("sync {}", unfinished.display()))?;
    fs::rename(&unfinished, &config.path).context(|| format!("create {}", config.path.display()))?;
    meta::sync_dir(config.path.parent().unwrap_or(Path::new("/")))
}

fn check_is_ours(config: &PoolImageConfig) -> Result<()> {
    let mut magic = [0; 4];
    let file = image::open(&config.path)?;
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    match (&file).read_exact(&mut magic) {
        Ok(()) if is_file && &magic == XFS_MAGIC => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(error).context(|| format!("read {}", config.path.display()))
        }
        _ => Err(refusal(config, "it is there but holds no XFS, and is not touched; move it away or name another path".into())),
    }
}

/// A mount would hide what lies in the folder.
fn refuse_foreign_content(dir: &Path) -> Result<()> {
    match meta::names(dir)?.first() {
        None => Ok(()),
        Some(name) => Err(Error::Pool {
            pool: dir.to_owned(),
            reason: format!("the folder must be empty for the pool image to be mounted on it, but holds {name:?}"),
        }),
    }
}

fn is_mounted(rdev: u64, dir: &Path) -> Result<bool> {
    let dir = fs::canonicalize(dir).context(|| format!("look at {}", dir.display()))?;
    Ok(holders::mounts_of(rdev, "self")?.iter().any(|mount| mount.point == dir))
}

fn grow(config: &PoolImageConfig, dir: &Path, file: &File) -> Result<()> {
    let describe = || format!("grow the pool image {}", config.path.display());
    let id = FileId::of(file).context(describe)?;
    let Some(device) = device::find(id)? else { return Ok(()) };
    if !is_mounted(device.rdev, dir)? {
        return Ok(());
    }
    if file.metadata().context(describe)?.len() < config.size {
        file.set_len(config.size).context(describe)?;
        file.sync_all().context(describe)?;
    }
    device::match_capacity(&device, file)?;
    // Does nothing when the file system has that size already: so it also ends what a crash interrupted.
    run(Command::new("xfs_growfs").arg("-d").arg(dir))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(|| format!("run {program} (is xfsprogs installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Io { context: format!("run {program}"), source: io::Error::other(format!("{}: {told}", output.status)) })
}

fn refusal(config: &PoolImageConfig, reason: String) -> Error {
    Error::Pool { pool: config.path.clone(), reason }
}

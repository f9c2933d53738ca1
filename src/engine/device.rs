//! Loop devices: found by what they are bound to, never by a remembered number.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::error::{Context, Error, Result};
use super::image::FileId;
use super::{holders, layout, sys};

/// Logical block size of every device: what Longhorn's have, and what file systems in old backups were made for.
const BLOCK_SIZE: u32 = 512;

/// Others take loop devices too; so many lost races in a row mean that something else is wrong.
const ATTACH_ATTEMPTS: usize = 64;

/// Programs that look at every new or changed device (udev, blkid) let go of it within this time.
const PASSERS_BY: Duration = Duration::from_secs(2);

const RETRY: Duration = Duration::from_millis(20);

/// A loop device that is bound to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoopDevice {
    /// `/dev/loopN`.
    pub path: PathBuf,
    /// Its device number.
    pub rdev: u64,
    /// The direct I/O flag as the kernel has it.
    pub direct_io: bool,
    flags: u32,
}

#[cfg(test)]
impl LoopDevice {
    /// One that is not there.
    pub fn named(path: PathBuf) -> Self {
        Self { path, rdev: 0, direct_io: false, flags: 0 }
    }
}

/// Every bound loop device of the machine by its file.
pub(super) fn bound() -> Result<HashMap<FileId, LoopDevice>> {
    let mut found = HashMap::new();
    for name in super::meta::names(Path::new("/sys/block"))? {
        // The folder is there only while a file is bound: free devices are not even opened.
        if name.starts_with("loop")
            && Path::new("/sys/block").join(&name).join("loop").exists()
            && let Some((id, device)) = look(&Path::new("/dev").join(&name))?
        {
            found.insert(id, device);
        }
    }
    Ok(found)
}

/// The loop device bound to this very file.
pub(super) fn find(image: FileId) -> Result<Option<LoopDevice>> {
    Ok(bound()?.remove(&image))
}

/// What the loop device at `path` is bound to, `None` when to nothing.
fn look(path: &Path) -> Result<Option<(FileId, LoopDevice)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open {}", path.display())),
    };
    match status(path, &file) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error).context(|| format!("read the status of {}", path.display())),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::NXIO | Errno::NODEV))
}

fn status(path: &Path, file: &File) -> io::Result<(FileId, LoopDevice)> {
    let info = sys::loop_status(file)?;
    let device = LoopDevice {
        path: path.to_owned(),
        rdev: file.metadata()?.rdev(),
        direct_io: info.flags & sys::LO_FLAGS_DIRECT_IO != 0,
        flags: info.flags,
    };
    Ok((FileId { device: info.device, inode: info.inode }, device))
}

/// Binds a loop device to `image`, or returns the one that is bound to it. The caller holds the image's lock.
///
/// Direct I/O is asked for; whether it was given is in the result.
pub(super) fn attach(image: &File) -> Result<LoopDevice> {
    let id = FileId::of(image).context(|| "look at an image".into())?;
    if let Some(device) = find(id)? {
        keep(&device)?;
        match_capacity(&device, image)?;
        return Ok(device);
    }
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .context(|| "open /dev/loop-control (is the loop module loaded?)".into())?;
    for _ in 0..ATTACH_ATTEMPTS {
        let number = sys::loop_get_free(&control).context(|| "get a free loop device".into())?;
        if let Some(device) = bind(&PathBuf::from(format!("/dev/loop{number}")), image, id)? {
            return Ok(device);
        }
        thread::sleep(RETRY);
    }
    Err(Error::Io { context: "get a loop device that nobody else takes first".into(), source: Errno::BUSY.into() })
}

/// Binds this device, `None` when somebody else has it by now.
fn bind(path: &Path, image: &File, id: FileId) -> Result<Option<LoopDevice>> {
    let device = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(device) => device,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open {}", path.display())),
    };
    match sys::loop_configure(&device, image, BLOCK_SIZE, sys::LO_FLAGS_DIRECT_IO) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(None),
        // Kernels and file systems that refuse the flag instead of leaving it off.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            match sys::loop_configure(&device, image, BLOCK_SIZE, 0) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(None),
                Err(error) => return Err(error).context(|| format!("configure {}", path.display())),
            }
        }
        Err(error) => return Err(error).context(|| format!("configure {}", path.display())),
    }
    let (bound, device) = status(path, &device).context(|| format!("read the status of {}", path.display()))?;
    if bound != id {
        return Err(Error::Io {
            context: format!("attach: {} is bound to another file", path.display()),
            source: io::ErrorKind::InvalidData.into(),
        });
    }
    Ok(Some(device))
}

/// Takes back a removal that waits for the device's last user.
fn keep(device: &LoopDevice) -> Result<()> {
    if device.flags & sys::LO_FLAGS_AUTOCLEAR == 0 {
        return Ok(());
    }
    let change = || -> io::Result<()> {
        let file = File::open(&device.path)?;
        let mut info = sys::loop_status(&file)?;
        info.flags &= !sys::LO_FLAGS_AUTOCLEAR;
        sys::loop_set_status(&file, info)
    };
    change().context(|| format!("keep {}", device.path.display()))
}

/// Makes the device as large as its image.
pub(super) fn match_capacity(device: &LoopDevice, image: &File) -> Result<()> {
    let change = || -> io::Result<()> {
        let wanted = image.metadata()?.len();
        let name = device.path.file_name().unwrap_or_default();
        let sectors = fs::read_to_string(Path::new("/sys/block").join(name).join("size"))?;
        let current = sectors.trim().parse::<u64>().map_err(io::Error::other)? * 512;
        if current == wanted { Ok(()) } else { sys::loop_set_capacity(File::open(&device.path)?) }
    };
    change().context(|| format!("resize {}", device.path.display()))
}

/// Unbinds the device from `image` and returns once the kernel says that it is.
///
/// Refused, with the device as it was, when it is mounted in any namespace or open anywhere that can be seen.
pub(super) fn release(device: &LoopDevice, image: FileId) -> Result<()> {
    let deadline = Instant::now() + PASSERS_BY;
    loop {
        let holder = match holders::of_device(device.rdev)? {
            Some(holder) => holder,
            None => match clear(device, image)? {
                Cleared::Free => return Ok(()),
                Cleared::Held => "a program or mount that cannot be seen from here".into(),
            },
        };
        if Instant::now() >= deadline {
            keep_if_bound(device, image)?;
            return Err(Error::InUse { what: device.path.display().to_string(), holder });
        }
        thread::sleep(RETRY);
    }
}

enum Cleared {
    Free,
    Held,
}

fn clear(device: &LoopDevice, image: FileId) -> Result<Cleared> {
    // An exclusive open fails while the device is mounted in any namespace, seen or not.
    let exclusive = OpenOptions::new().read(true).custom_flags(OFlags::EXCL.bits() as i32).open(&device.path);
    let file = match exclusive {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(Cleared::Held),
        Err(error) if is_gone(&error) => return Ok(Cleared::Free),
        Err(error) => return Err(error).context(|| format!("open {}", device.path.display())),
    };
    // The number may be somebody else's by now.
    match status(&device.path, &file) {
        Ok((bound, _)) if bound == image => {}
        Ok(_) => return Ok(Cleared::Free),
        Err(error) if is_gone(&error) => return Ok(Cleared::Free),
        Err(error) => return Err(error).context(|| format!("read the status of {}", device.path.display())),
    }
    match sys::loop_clear(&file) {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(Cleared::Free),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(Cleared::Held),
        Err(error) => return Err(error).context(|| format!("release {}", device.path.display())),
    }
    drop(file);
    Ok(if is_bound(device, image)? { Cleared::Held } else { Cleared::Free })
}

fn is_bound(device: &LoopDevice, image: FileId) -> Result<bool> {
    Ok(look(&device.path)?.is_some_and(|(bound, _)| bound == image))
}

/// A refused release must not end in the device vanishing at its user's last close.
fn keep_if_bound(device: &LoopDevice, image: FileId) -> Result<()> {
    match look(&device.path)? {
        Some((bound, now)) if bound == image => keep(&now),
        _ => Ok(()),
    }
}

/// Makes `link` a symbolic link to the device, atomically; one that is right is left alone.
pub(super) fn link(link: &Path, device: &LoopDevice) -> Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == device.path) {
        return Ok(());
    }
    let dir = link.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).context(|| format!("create folder {}", dir.display()))?;
    let temporary = dir.join(layout::temporary_name()?);
    std::os::unix::fs::symlink(&device.path, &temporary)
        .and_then(|()| fs::rename(&temporary, link))
        .context(|| format!("link {} to {}", link.display(), device.path.display()))
}

/// Removes the link; success when there is none. Anything that is no link is not ours and stays.
pub(super) fn unlink(link: &Path) -> Result<()> {
    match fs::symlink_metadata(link) {
        Ok(meta) if meta.file_type().is_symlink() => super::meta::remove_if_present(link),
        _ => Ok(()),
    }
}

/// The device number of the block device at `path`, `None` when it is none.
pub(super) fn number_at(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(|meta| meta.file_type().is_block_device()).map(|meta| meta.rdev())
}

//! Freezing the file system that is mounted on a volume for the instant of a snapshot, so that it is never left frozen.
//!
//! An intent that names the device is durable in the pool before the freeze and removed after the thaw. A process that dies in between
//! leaves the intent; whoever takes the volume's lock next thaws what it names, and nothing else.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use super::device::LoopDevice;
use super::error::{Context, Result};
use super::holders::{self, Mount};
use super::layout::VolumePaths;
use super::meta::{self, FreezeIntent};
use super::sys;

/// How often a failed thaw is tried again before the intent is left to the next holder of the lock.
const THAW_ATTEMPTS: u32 = 50;

/// A file system mounted on a volume's device, held open by its mount point.
pub(super) struct Mounted {
    point: File,
    mount_id: u64,
}

impl Mounted {
    /// A mount of the device in our mount namespace or in the one of the first process, `None` when there is none that can be opened.
    pub fn find(device: &LoopDevice) -> Result<Option<Self>> {
        for (process, root) in [("self", ""), ("1", "/proc/1/root")] {
            for mount in holders::mounts_of(device.rdev, process)? {
                if let Some(found) = Self::open(&mount, root) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn open(mount: &Mount, root: &str) -> Option<Self> {
        let path = PathBuf::from(format!("{root}{}", mount.point.display()));
        let point = File::open(path).ok()?;
        // Another mount may lie on top of this one.
        let found = rustix::fs::statx(&point, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        (found.stx_mnt_id == mount.id).then_some(Self { point, mount_id: mount.id })
    }

    /// Writes out what the file system holds back, so that little is left to do once it is frozen.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.point)?)
    }

    /// Runs `work` with the file system frozen. The second value says whether it was, from before `work` began until after it ended.
    ///
    /// Nothing but `work` happens in between. A file system that cannot be frozen, or that somebody else froze, is left as it is.
    pub fn frozen<T>(&self, paths: &VolumePaths, device: &LoopDevice, work: impl FnOnce() -> T) -> Result<(T, bool)> {
        let intent = FreezeIntent { boot_id: boot_id()?, device: device.rdev, mount_id: self.mount_id };
        meta::write_json(paths.dir(), VolumePaths::FREEZE, &intent)?;
        if let Err(error) = sys::freeze(&self.point) {
            tracing::warn!(device = %device.path.display(), %error, "file system is not frozen for the snapshot");
            // First: if we died at work, the heir of the intent would thaw what somebody else froze.
            remove_intent(paths)?;
            return Ok((work(), false));
        }
        let guard = ThawOnDrop { point: &self.point, armed: true };
        let result = work();
        // The intent stays when the thaw fails: then somebody must try again.
        let was_frozen = guard.thaw().context(|| format!("thaw the file system on {}", device.path.display()))?;
        remove_intent(paths)?;
        Ok((result, was_frozen))
    }
}

/// Thaws also when the work panics.
struct ThawOnDrop<'a> {
    point: &'a File,
    armed: bool,
}

impl ThawOnDrop<'_> {
    fn thaw(mut self) -> io::Result<bool> {
        self.armed = false;
        thaw(self.point)
    }
}

impl Drop for ThawOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = thaw(self.point)
        {
            tracing::error!(%error, "failed to thaw a file system; the next start tries again");
        }
    }
}

/// False when it was not frozen any more.
fn thaw(point: &File) -> io::Result<bool> {
    let mut attempt = 0;
    loop {
        match sys::thaw(point) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Ok(false),
            Err(error) if attempt == THAW_ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a freeze was begun and not ended: by a living process, or by one that died.
pub(super) fn is_pending(paths: &VolumePaths) -> bool {
    paths.dir().join(VolumePaths::FREEZE).exists()
}

/// Ends what a dead process began: thaws the file system that its intent names. The caller holds the volume's lock.
pub(super) fn mend(paths: &VolumePaths, device: Option<&LoopDevice>) -> Result<()> {
    if !is_pending(paths) {
        return Ok(());
    }
    // An intent that was never written whole cannot be: it is renamed into place. One that cannot be read names nothing.
    let intent = meta::read_json::<FreezeIntent>(paths.dir(), VolumePaths::FREEZE).unwrap_or_default();
    if let (Some(intent), Some(device)) = (intent, device)
        && intent.boot_id == boot_id()?
        && intent.device == device.rdev
        && let Some(mounted) = Mounted::find(device)?
    {
        let thawed = thaw(&mounted.point).context(|| format!("thaw the file system on {}", device.path.display()))?;
        if thawed {
            tracing::warn!(device = %device.path.display(), "thawed a file system that an interrupted snapshot left frozen");
        }
    }
    remove_intent(paths)
}

fn remove_intent(paths: &VolumePaths) -> Result<()> {
    meta::remove_if_present(&paths.dir().join(VolumePaths::FREEZE))?;
    meta::sync_dir(paths.dir())
}

fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path).map(|id| id.trim().to_owned()).context(|| format!("read {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn work_without_a_freeze_of_ours_begins_without_an_intent() {
        let folder = tempfile::tempdir().unwrap();
        let paths = VolumePaths::at(folder.path().to_owned());
        // No file system of this kind can be frozen.
        let mounted = Mounted { point: File::open("/proc").unwrap(), mount_id: 1 };
        let device = LoopDevice::named("/dev/loop-of-nobody".into());
        let (was_pending, frozen) = mounted.frozen(&paths, &device, || is_pending(&paths)).unwrap();
        assert!(!was_pending && !frozen);
        assert!(!is_pending(&paths));
    }
}

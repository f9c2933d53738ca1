//! Ends what a crash left half done. Runs at the start and whenever a lock is taken: what is half done under a lock nobody held is nobody's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Context, Result};
use super::image::{self, FileId};
use super::layout::{self, VolumePaths};
use super::meta::{self, VolumeMeta, VolumeState};
use super::pool::{LockedVolume, Pool};
use super::{device, freeze};
use crate::names::{SnapshotName, VolumeName};

/// Longer than any freeze of a process that gets to run.
const OUTLIVE: Duration = Duration::from_secs(5);

/// Mends the pool and every volume that nobody is at work on.
pub(super) fn pool(pool: &Pool) -> Result<()> {
    {
        let _lock = pool.lock()?;
        remove_temporary(&pool.paths.volumes())?;
    }
    for name in meta::names(&pool.paths.trash())? {
        remove_tree(&pool.paths.trash().join(name))?;
    }
    for volume in pool.volume_names()? {
        // One damaged volume must not keep the others from their users.
        if let Err(error) = mend_or_leave(pool, &volume) {
            tracing::error!(%volume, %error, "failed to mend a volume");
        }
    }
    Ok(())
}

/// Mends a volume, unless somebody living is at work on it and has mended it. Then only a death while frozen would need an heir at once.
fn mend_or_leave(pool: &Pool, volume: &VolumeName) -> Result<()> {
    if pool.try_lock_volume(volume)?.is_none() { outlive_freeze(pool, volume) } else { Ok(()) }
}

/// Thaws what a dead process left frozen. One that a living process has frozen is left to it.
pub(super) fn thaw_if_abandoned(pool: &Pool, volume: &VolumeName) -> Result<()> {
    if freeze::is_pending(&pool.paths.volume(volume)) {
        pool.try_lock_volume(volume)?;
    }
    Ok(())
}

/// The same at a start, when the process that has it frozen may be about to be replaced: its end is waited for.
fn outlive_freeze(pool: &Pool, volume: &VolumeName) -> Result<()> {
    let deadline = Instant::now() + OUTLIVE;
    while freeze::is_pending(&pool.paths.volume(volume)) && pool.try_lock_volume(volume)?.is_none() {
        if Instant::now() >= deadline {
            tracing::warn!(%volume, "another process keeps the volume's file system frozen");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Mends one volume, whose lock the caller holds.
pub(super) fn volume(pool: &Pool, name: &VolumeName, locked: &LockedVolume) -> Result<()> {
    let paths = &locked.paths;
    let device = match FileId::at(&paths.image())? {
        Some(id) => device::find(id)?,
        None => None,
    };
    freeze::mend(paths, device.as_ref())?;
    remove_temporary(paths.dir())?;
    remove_temporary(&paths.snapshots())?;
    snapshots(paths)?;
    remove_old_checkpoint(paths)?;
    if let Some(device) = &device {
        device::match_capacity(device, &image::open(&paths.image())?)?;
    }
    pool.mend_link(name, device.as_ref())
}

/// An image without metadata was never finished, or is being deleted. Metadata without an image says nothing.
fn snapshots(paths: &VolumePaths) -> Result<()> {
    let dir = paths.snapshots();
    let names: BTreeSet<String> = meta::names(&dir)?.into_iter().collect();
    for file in &names {
        if let Some(snapshot) = file.strip_suffix(".img") {
            let path = dir.join(file);
            if names.contains(&format!("{snapshot}.json")) {
                image::set_immutable(&path, true)?;
            } else {
                image::remove(&path)?;
            }
        } else if let Some(snapshot) = file.strip_suffix(".json").and_then(|name| name.parse::<SnapshotName>().ok())
            && !names.contains(&format!("{snapshot}.img"))
        {
            tracing::error!(volume = %paths.dir().display(), %snapshot, "the snapshot's image is gone; its metadata is removed");
            meta::remove_if_present(&dir.join(file))?;
        }
    }
    Ok(())
}

/// Metadata that cannot be read tells nothing here; whoever needs it says so. The volume can still be deleted.
fn remove_old_checkpoint(paths: &VolumePaths) -> Result<()> {
    match meta::read_json::<VolumeMeta>(paths.dir(), VolumePaths::META) {
        Ok(Some(meta)) if meta.state == VolumeState::Ready => remove_checkpoint(paths),
        _ => Ok(()),
    }
}

/// What a restore that has ended no longer needs.
pub(super) fn remove_checkpoint(paths: &VolumePaths) -> Result<()> {
    meta::remove_if_present(&paths.dir().join(VolumePaths::NEW_CHECKPOINT))?;
    meta::remove_if_present(&paths.dir().join(VolumePaths::CHECKPOINT))
}

fn remove_temporary(dir: &Path) -> Result<()> {
    for name in meta::names(dir)?.iter().filter(|name| layout::is_temporary(name)) {
        remove_tree(&dir.join(name))?;
    }
    Ok(())
}

/// Removes a file, or a folder with all that is in it, immutable files too. Success when it is gone, whoever removed it.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    let is_dir = match fs::symlink_metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(|| format!("look at {}", path.display())),
    };
    if !is_dir {
        return image::remove(path);
    }
    for name in meta::names(path)? {
        remove_tree(&path.join(name))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

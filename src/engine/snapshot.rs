//! Snapshots of one volume: taking, listing, removing, going back to one. The caller holds the volume's lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::ioctl_ficlone;

use super::device::LoopDevice;
use super::error::{Context, Error, Result};
use super::freeze::Mounted;
use super::image::{self, FileSystem};
use super::layout::{self, VolumePaths};
use super::meta::{self, SnapshotMeta};
use super::{Freeze, SnapshotInfo, clone};
use crate::names::{SnapshotName, VolumeName};

/// The moment of a snapshot.
struct Cut {
    created: Timestamp,
    stall: Duration,
    frozen: bool,
}

/// Takes a snapshot, or returns the one of that name.
pub(super) fn take(
    file_system: FileSystem,
    paths: &VolumePaths,
    name: &SnapshotName,
    device: Option<&LoopDevice>,
    freeze: Freeze,
) -> Result<SnapshotInfo> {
    if let Some(found) = find(paths, name)? {
        return Ok(found);
    }
    let temporary = paths.snapshots().join(layout::temporary_name()?);
    let finished = write(file_system, paths, name, &temporary, device, freeze);
    if finished.is_err() {
        // A pool that just became full gets its space back at once, not at the next start.
        meta::remove_if_present(&temporary)?;
    }
    finished
}

fn write(
    file_system: FileSystem,
    paths: &VolumePaths,
    name: &SnapshotName,
    temporary: &Path,
    device: Option<&LoopDevice>,
    freeze: Freeze,
) -> Result<SnapshotInfo> {
    let source = image::open(&paths.image())?;
    let size = source.metadata().context(|| "look at a volume's image".into())?.len();
    let copy = image::create(file_system, temporary, size)?;
    let cut = cut(file_system, paths, &source, &copy, device, freeze)?;
    copy.sync_all().context(|| format!("sync snapshot {name}"))?;
    let found = copy.metadata().context(|| format!("look at snapshot {name}"))?;
    let meta = SnapshotMeta {
        id: layout::random_id()?,
        created: cut.created,
        size,
        inode: found.ino(),
        stall_microseconds: u64::try_from(cut.stall.as_micros()).unwrap_or(u64::MAX),
        frozen: cut.frozen,
    };
    let image = paths.snapshot_image(name);
    fs::rename(temporary, &image).context(|| format!("create snapshot {name}"))?;
    meta::write_json(&paths.snapshots(), &layout::snapshot_meta(name), &meta)?;
    image::set_immutable(&image, true)?;
    Ok(info(name, &meta, &found))
}

/// Makes `copy` equal to `source` as it is at one instant.
fn cut(
    file_system: FileSystem,
    paths: &VolumePaths,
    source: &File,
    copy: &File,
    device: Option<&LoopDevice>,
    freeze: Freeze,
) -> Result<Cut> {
    let clone_all = || ioctl_ficlone(copy, source).context(|| "clone a volume's image".into());
    let Some(device) = device else {
        // Nobody does I/O on a detached volume, so nobody waits.
        let created = Timestamp::now();
        clone_all()?;
        return Ok(Cut { created, stall: Duration::ZERO, frozen: false });
    };
    let mounted = match freeze {
        Freeze::WhenMounted => Mounted::find(device)?,
        Freeze::Never => None,
    };
    let longest_step = if file_system.checks_before_sharing() {
        clone::prepare(copy, source, || write_out(mounted.as_ref(), device))?
    } else {
        write_out(mounted.as_ref(), device);
        Duration::ZERO
    };
    let begun = Instant::now();
    let (cloned, frozen) = match &mounted {
        Some(mounted) => mounted.frozen(paths, device, || (Timestamp::now(), clone_all()))?,
        None => ((Timestamp::now(), clone_all()), false),
    };
    let stall = begun.elapsed().max(longest_step);
    cloned.1?;
    Ok(Cut { created: cloned.0, stall, frozen })
}

/// Best effort: what is not written out here is written out by the freeze.
fn write_out(mounted: Option<&Mounted>, device: &LoopDevice) {
    if let Some(mounted) = mounted
        && let Err(error) = mounted.sync()
    {
        tracing::warn!(device = %device.path.display(), %error, "failed to sync the file system before its snapshot");
    }
}

/// One snapshot, `None` when there is none.
pub(super) fn find(paths: &VolumePaths, name: &SnapshotName) -> Result<Option<SnapshotInfo>> {
    Ok(read(paths, name)?.map(|(info, _)| info))
}

/// One snapshot with what its metadata says, `None` when there is none.
pub(super) fn read(paths: &VolumePaths, name: &SnapshotName) -> Result<Option<(SnapshotInfo, SnapshotMeta)>> {
    let Some(meta) = meta::read_json::<SnapshotMeta>(&paths.snapshots(), &layout::snapshot_meta(name))? else {
        return Ok(None);
    };
    match fs::metadata(paths.snapshot_image(name)) {
        Ok(found) => Ok(Some((info(name, &meta, &found), meta))),
        // Being removed just now, or gone; without its bytes it is no snapshot.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("look at snapshot {name}")),
    }
}

fn info(name: &SnapshotName, meta: &SnapshotMeta, found: &fs::Metadata) -> SnapshotInfo {
    SnapshotInfo {
        name: name.clone(),
        id: meta.id.clone(),
        created: meta.created,
        size: meta.size,
        allocated: image::allocated(found),
        stall: meta.stall(),
        frozen: meta.frozen,
    }
}

/// All snapshots, oldest first.
pub(super) fn list(paths: &VolumePaths) -> Result<Vec<SnapshotInfo>> {
    let mut found = Vec::new();
    for file in meta::names(&paths.snapshots())? {
        if let Some(name) = file.strip_suffix(".json").and_then(|name| name.parse().ok()) {
            found.extend(find(paths, &name)?);
        }
    }
    found.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    Ok(found)
}

/// Removes one snapshot; success when there is none. Needs no new block, so it works on a full pool.
pub(super) fn remove(volume: &VolumeName, paths: &VolumePaths, name: &SnapshotName) -> Result<()> {
    let path = paths.snapshot_image(name);
    // Held until the image has no name any more: nobody can open it in between.
    let _claim = claim(&path, || format!("snapshot {name} of volume {volume}"))?;
    // First: from here on there is no such snapshot, whatever happens.
    meta::remove_if_present(&paths.snapshots().join(layout::snapshot_meta(name)))?;
    meta::sync_dir(&paths.snapshots())?;
    image::remove(&path)?;
    meta::sync_dir(&paths.snapshots())
}

/// Takes an image for this call alone, `None` when there is no such file.
pub(super) fn claim(path: &Path, what: impl FnOnce() -> String) -> Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open image {}", path.display())),
    };
    if image::claim(&file)? { Ok(Some(file)) } else { Err(image::in_use(what())) }
}

/// Replaces the volume's image by the snapshot's content. A volume that was grown since stays as large; what was added reads as zeros.
pub(super) fn revert(file_system: FileSystem, volume: &VolumeName, paths: &VolumePaths, name: &SnapshotName) -> Result<()> {
    let not_found = || Error::NoSnapshot { volume: volume.clone(), snapshot: name.clone() };
    let snapshot = find(paths, name)?.ok_or_else(not_found)?;
    let source = image::open(&paths.snapshot_image(name))?;
    let image = paths.image();
    let current = fs::metadata(&image).context(|| format!("look at volume {volume}"))?.len();
    let temporary = paths.dir().join(layout::temporary_name()?);
    let replace = || -> Result<()> {
        let copy = image::create(file_system, &temporary, snapshot.size)?;
        ioctl_ficlone(&copy, &source).context(|| format!("clone snapshot {name}"))?;
        copy.set_len(current.max(snapshot.size)).context(|| format!("resize volume {volume}"))?;
        copy.sync_all().context(|| format!("sync volume {volume}"))?;
        fs::rename(&temporary, &image).context(|| format!("replace the image of volume {volume}"))?;
        meta::sync_dir(paths.dir())
    };
    let replaced = replace();
    if replaced.is_err() {
        meta::remove_if_present(&temporary)?;
    }
    replaced
}

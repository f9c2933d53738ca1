//! The engine for pools whose file system shares blocks: sparse image files, loop devices, clones.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::device::{self, LoopDevice};
use super::error::{Context, Error, Result};
use super::image::{self, FileId};
use super::layout::{self, VolumePaths};
use super::meta::{self, VolumeMeta, VolumeState};
use super::pool::{LockedVolume, Pool, PoolConfig};
use super::transfer::{Reader, Writer};
use super::{Attachment, Content, Engine, Freeze, PoolSpace, RestoreWriter, SnapshotInfo, SnapshotReader, VolumeInfo};
use super::{mend, snapshot};
use crate::names::{SnapshotName, VolumeName};

/// Volumes as sparse images in a pool on XFS or btrfs.
///
/// All state is on disk and in the kernel: dropping the engine, or losing its process, is not noticed by attached devices, and several
/// engines may have the same pool open.
#[derive(Debug)]
pub struct Reflink {
    pool: Pool,
}

impl Reflink {
    /// Opens the pool, made when it is not there, and mends what a crash left half done. File systems left frozen are thawed.
    pub fn open(config: PoolConfig) -> Result<Self> {
        let dir = config.dir.clone();
        let pool = Pool::open(config).map_err(|error| super::pool::seal(&dir, error))?;
        Ok(Self { pool })
    }

    /// Grows the pool image to `size` bytes, in use. Refused for a pool that has none. A smaller size changes nothing.
    pub fn grow_pool(&self, size: u64) -> Result<PoolSpace> {
        self.seal(self.pool.grow(size))
    }

    /// Tells a full pool from other failures.
    fn seal<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| super::pool::seal(self.pool.paths.dir(), error))
    }

    fn info(&self, name: &VolumeName, device: Option<&LoopDevice>) -> Result<Option<VolumeInfo>> {
        let paths = self.pool.paths.volume(name);
        let Some(meta) = meta::read_json::<VolumeMeta>(paths.dir(), VolumePaths::META)? else { return Ok(None) };
        let found = match fs::metadata(paths.image()) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| format!("look at volume {name}")),
        };
        Ok(Some(VolumeInfo {
            name: name.clone(),
            size: found.len(),
            allocated: image::allocated(&found),
            ready: meta.state == VolumeState::Ready,
            attachment: device.map(|device| self.attachment(name, device)),
        }))
    }

    fn attachment(&self, name: &VolumeName, device: &LoopDevice) -> Attachment {
        Attachment { device: self.pool.device_link(name), loop_device: device.path.clone(), direct_io: device.direct_io }
    }

    fn device_of(&self, name: &VolumeName) -> Result<Option<LoopDevice>> {
        match FileId::at(&self.pool.paths.volume(name).image())? {
            Some(id) => device::find(id),
            None => Ok(None),
        }
    }

    /// The volume as it is now; the caller holds its lock, so it cannot go.
    fn info_now(&self, name: &VolumeName) -> Result<VolumeInfo> {
        self.info(name, self.device_of(name)?.as_ref())?.ok_or_else(|| Error::NoVolume(name.clone()))
    }

    /// Locks a volume whose content is whole.
    fn lock_ready(&self, name: &VolumeName) -> Result<LockedVolume> {
        let locked = self.pool.lock_volume(name)?;
        match state(name, &locked)? {
            VolumeState::Ready => Ok(locked),
            VolumeState::Restoring => Err(not_allowed(name, "a restore into it has not ended")),
        }
    }

    fn refuse_attached(&self, name: &VolumeName) -> Result<()> {
        match self.device_of(name)? {
            None => Ok(()),
            Some(device) => {
                Err(Error::InUse { what: format!("volume {name}"), holder: format!("attached as {}", device.path.display()) })
            }
        }
    }

    fn make(&self, name: &VolumeName, size: u64, content: Content) -> Result<()> {
        let volumes = self.pool.paths.volumes();
        let unfinished = VolumePaths::at(volumes.join(layout::temporary_name()?));
        let fill = || -> Result<()> {
            let dir = unfinished.dir();
            fs::create_dir(dir).context(|| format!("create folder {}", dir.display()))?;
            fs::create_dir(unfinished.snapshots()).context(|| format!("create folder {}", unfinished.snapshots().display()))?;
            let image = image::create(self.pool.file_system, &unfinished.image(), size)?;
            image.sync_all().context(|| format!("sync the image of volume {name}"))?;
            let state = match content {
                Content::Blank => VolumeState::Ready,
                Content::Restoring => VolumeState::Restoring,
            };
            meta::write_json(dir, VolumePaths::META, &VolumeMeta { state })?;
            fs::rename(dir, self.pool.paths.volume(name).dir()).context(|| format!("create volume {name}"))?;
            meta::sync_dir(&volumes)
        };
        let made = fill();
        if made.is_err() {
            mend::remove_tree(unfinished.dir())?;
        }
        made
    }

    fn create_locked(&self, name: &VolumeName, size: u64, content: Content) -> Result<VolumeInfo> {
        let rounded = rounded(name, size)?;
        let _lock = self.pool.lock()?;
        if self.info(name, None)?.is_none() {
            self.make(name, rounded, content)?;
        }
        let found = self.info_now(name)?;
        if found.size < rounded {
            return Err(not_allowed(
                name,
                format!("it is there with {} bytes, {rounded} are wanted; expand it or choose another name", found.size),
            ));
        }
        Ok(found)
    }

    fn delete_locked(&self, name: &VolumeName) -> Result<()> {
        let locked = match self.pool.lock_volume(name) {
            Err(Error::NoVolume(_)) => return Ok(()),
            other => other?,
        };
        self.refuse_attached(name)?;
        let mut claims = vec![snapshot::claim(&locked.paths.image(), || format!("volume {name}"))?];
        for found in snapshot::list(&locked.paths)? {
            let path = locked.paths.snapshot_image(&found.name);
            claims.push(snapshot::claim(&path, || format!("snapshot {} of volume {name}", found.name))?);
        }
        device::unlink(&self.pool.device_link(name))?;
        self.pool.discard(locked)
    }

    fn attach_locked(&self, name: &VolumeName) -> Result<Attachment> {
        let locked = self.lock_ready(name)?;
        let device = device::attach(&image::open_writable(&locked.paths.image())?)?;
        self.pool.mend_link(name, Some(&device))?;
        Ok(self.attachment(name, &device))
    }

    fn detach_locked(&self, name: &VolumeName) -> Result<()> {
        let locked = self.pool.lock_volume(name)?;
        if let Some(id) = FileId::at(&locked.paths.image())?
            && let Some(device) = device::find(id)?
        {
            device::release(&device, id)?;
        }
        self.pool.mend_link(name, None)
    }

    fn expand_locked(&self, name: &VolumeName, size: u64) -> Result<VolumeInfo> {
        let rounded = rounded(name, size)?;
        let locked = self.pool.lock_volume(name)?;
        let describe = || format!("expand volume {name}");
        let image = image::open_writable(&locked.paths.image())?;
        let current = image.metadata().context(describe)?.len();
        if rounded < current {
            return Err(not_allowed(name, format!("it has {current} bytes and cannot shrink to {rounded}")));
        }
        if rounded > current {
            image.set_len(rounded).context(describe)?;
            image.sync_all().context(describe)?;
        }
        if let Some(device) = self.device_of(name)? {
            device::match_capacity(&device, &image)?;
        }
        self.info_now(name)
    }

    fn finish_locked(&self, name: &VolumeName) -> Result<()> {
        let locked = self.pool.lock_volume(name)?;
        if state(name, &locked)? == VolumeState::Ready {
            return Ok(());
        }
        let image = snapshot::claim(&locked.paths.image(), || format!("volume {name}"))?;
        if let Some(image) = image {
            image.sync_all().context(|| format!("sync volume {name}"))?;
        }
        meta::write_json(locked.paths.dir(), VolumePaths::META, &VolumeMeta { state: VolumeState::Ready })?;
        mend::remove_checkpoint(&locked.paths)
    }

    fn list_all(&self) -> Result<Vec<VolumeInfo>> {
        let devices = device::bound()?;
        let mut found = Vec::new();
        for name in self.pool.volume_names()? {
            // One that is damaged says so when it is asked for by name; the others are listed all the same.
            match self.look(&name, &devices) {
                Ok(info) => found.extend(info),
                Err(error) => tracing::error!(volume = %name, %error, "failed to look at a volume"),
            }
        }
        Ok(found)
    }

    fn look(&self, name: &VolumeName, devices: &HashMap<FileId, LoopDevice>) -> Result<Option<VolumeInfo>> {
        mend::thaw_if_abandoned(&self.pool, name)?;
        let id = FileId::at(&self.pool.paths.volume(name).image())?;
        self.info(name, id.and_then(|id| devices.get(&id)))
    }
}

fn state(name: &VolumeName, locked: &LockedVolume) -> Result<VolumeState> {
    meta::read_json::<VolumeMeta>(locked.paths.dir(), VolumePaths::META)?
        .map(|meta| meta.state)
        .ok_or_else(|| Error::NoVolume(name.clone()))
}

fn rounded(name: &VolumeName, size: u64) -> Result<u64> {
    match layout::round_size(size) {
        Some(0) => Err(not_allowed(name, "size 0 is not allowed; at least 1 byte, rounded up to 2 MiB")),
        Some(rounded) => Ok(rounded),
        None => Err(not_allowed(name, format!("size {size} is larger than a file can be"))),
    }
}

fn not_allowed(volume: &VolumeName, reason: impl Into<String>) -> Error {
    Error::NotAllowed { volume: volume.clone(), reason: reason.into() }
}

impl Engine for Reflink {
    fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        self.seal(self.list_all())
    }

    fn volume(&self, volume: &VolumeName) -> Result<Option<VolumeInfo>> {
        self.seal(mend::thaw_if_abandoned(&self.pool, volume).and_then(|()| self.info(volume, self.device_of(volume)?.as_ref())))
    }

    fn create(&self, volume: &VolumeName, size: u64, content: Content) -> Result<VolumeInfo> {
        self.seal(self.create_locked(volume, size, content))
    }

    fn delete(&self, volume: &VolumeName) -> Result<()> {
        self.seal(self.delete_locked(volume))
    }

    fn attach(&self, volume: &VolumeName) -> Result<Attachment> {
        self.seal(self.attach_locked(volume))
    }

    fn detach(&self, volume: &VolumeName) -> Result<()> {
        self.seal(self.detach_locked(volume))
    }

    fn expand(&self, volume: &VolumeName, size: u64) -> Result<VolumeInfo> {
        self.seal(self.expand_locked(volume, size))
    }

    fn snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName, freeze: Freeze) -> Result<SnapshotInfo> {
        self.seal(self.lock_ready(volume).and_then(|locked| {
            let device = self.device_of(volume)?;
            snapshot::take(self.pool.file_system, &locked.paths, snapshot, device.as_ref(), freeze)
        }))
    }

    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>> {
        let paths = self.pool.paths.volume(volume);
        self.seal(match self.info(volume, None) {
            Ok(Some(_)) => snapshot::list(&paths),
            Ok(None) => Err(Error::NoVolume(volume.clone())),
            Err(error) => Err(error),
        })
    }

    fn delete_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        self.seal(match self.pool.lock_volume(volume) {
            Err(Error::NoVolume(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(locked) => snapshot::remove(volume, &locked.paths, snapshot),
        })
    }

    fn revert(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        self.seal(self.lock_ready(volume).and_then(|locked| {
            self.refuse_attached(volume)?;
            snapshot::revert(self.pool.file_system, volume, &locked.paths, snapshot)
        }))
    }

    fn open_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<Box<dyn SnapshotReader>> {
        let paths = self.pool.paths.volume(volume);
        self.seal(match self.info(volume, None) {
            Ok(Some(_)) => Reader::open(volume, paths, snapshot).map(|reader| Box::new(reader) as Box<dyn SnapshotReader>),
            Ok(None) => Err(Error::NoVolume(volume.clone())),
            Err(error) => Err(error),
        })
    }

    fn open_restore(&self, volume: &VolumeName) -> Result<Box<dyn RestoreWriter>> {
        self.seal(self.pool.lock_volume(volume).and_then(|locked| match state(volume, &locked)? {
            VolumeState::Restoring => Ok(Box::new(Writer::open(volume, locked.paths)?) as Box<dyn RestoreWriter>),
            VolumeState::Ready => {
                Err(not_allowed(volume, "its content is whole; only a volume made for a restore can be written"))
            }
        }))
    }

    fn finish_restore(&self, volume: &VolumeName) -> Result<()> {
        self.seal(self.finish_locked(volume))
    }

    fn space(&self) -> Result<PoolSpace> {
        self.seal(self.pool.space())
    }
}

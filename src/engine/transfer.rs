//! The two ends of a transfer: reading a snapshot, filling a volume.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;

use super::error::{Context, Error, Result};
use super::layout::VolumePaths;
use super::meta::SnapshotMeta;
use super::{RestoreWriter, SnapshotInfo, SnapshotReader, extents, image, meta, snapshot};
use crate::names::{SnapshotName, VolumeName};

/// Addresses, offsets and lengths of direct I/O; enough for every pool, those with blocks of 4096 bytes included.
const ALIGNMENT: u64 = 4096;

fn is_aligned(buf: &[u8], offset: u64) -> bool {
    (buf.as_ptr() as u64 | buf.len() as u64 | offset).is_multiple_of(ALIGNMENT)
}

/// An open snapshot; its image stays while this lives.
#[derive(Debug)]
pub(super) struct Reader {
    volume: VolumeName,
    paths: VolumePaths,
    info: SnapshotInfo,
    file: File,
    direct: Option<File>,
}

impl Reader {
    pub fn open(volume: &VolumeName, paths: VolumePaths, name: &SnapshotName) -> Result<Self> {
        let not_found = || Error::NoSnapshot { volume: volume.clone(), snapshot: name.clone() };
        let (info, file) = open_whole(&paths, name)?.ok_or_else(not_found)?;
        let direct = image::open_direct(&paths.snapshot_image(name), false)?;
        Ok(Self { volume: volume.clone(), paths, info, file, direct })
    }
}

/// Opens a snapshot's image and keeps it from being deleted; `None` when it is not there, or not the one its metadata names.
fn open_whole(paths: &VolumePaths, name: &SnapshotName) -> Result<Option<(SnapshotInfo, File)>> {
    let file = match File::open(paths.snapshot_image(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open snapshot {name}")),
    };
    if !image::share(&file)? {
        return Ok(None);
    }
    // Only now: it may have been deleted, or deleted and taken again, before we had it.
    let Some((info, meta)) = snapshot::read(paths, name)? else { return Ok(None) };
    Ok(is_named_by(&file, &meta)?.then_some((info, file)))
}

fn is_named_by(file: &File, meta: &SnapshotMeta) -> Result<bool> {
    let found = file.metadata().context(|| "look at a snapshot's image".into())?;
    Ok(found.ino() == meta.inode && found.len() == meta.size)
}

impl SnapshotReader for Reader {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.direct.as_ref().filter(|_| is_aligned(buf, offset)).unwrap_or(&self.file);
        file.read_exact_at(buf, offset)
            .context(|| format!("read {} bytes at {offset} of snapshot {} of volume {}", buf.len(), self.info.name, self.volume))
    }

    fn allocated(&self) -> Result<Vec<Range<u64>>> {
        extents::allocated(&self.file, self.info.size)
    }

    fn changed_since(&self, snapshot_id: &str) -> Result<Option<Vec<Range<u64>>>> {
        if snapshot_id == self.info.id {
            return Ok(Some(Vec::new()));
        }
        let Some(base) = snapshot::list(&self.paths)?.into_iter().find(|info| info.id == snapshot_id) else {
            return Ok(None);
        };
        match open_whole(&self.paths, &base.name)? {
            Some((found, file)) if found.id == snapshot_id => extents::changed((&file, found.size), (&self.file, self.info.size)),
            _ => Ok(None),
        }
    }
}

/// A volume that is being filled; nobody else opens it while this lives.
#[derive(Debug)]
pub(super) struct Writer {
    volume: VolumeName,
    paths: VolumePaths,
    size: u64,
    file: File,
    direct: Option<File>,
}

impl Writer {
    /// The caller holds the volume's lock and knows that the volume is being restored.
    pub fn open(volume: &VolumeName, paths: VolumePaths) -> Result<Self> {
        let file = image::open_writable(&paths.image())?;
        if !image::claim(&file)? {
            return Err(image::in_use(format!("volume {volume}")));
        }
        let size = file.metadata().context(|| format!("look at volume {volume}"))?.len();
        let direct = image::open_direct(&paths.image(), true)?;
        Ok(Self { volume: volume.clone(), paths, size, file, direct })
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::NotAllowed {
                volume: self.volume.clone(),
                reason: format!("{length} bytes at {offset} reach beyond its {} bytes", self.size),
            }),
        }
    }
}

impl RestoreWriter for Writer {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        // Direct writes leave no dirty pages behind: memory stays bounded however fast the store is.
        let file = self.direct.as_ref().filter(|_| is_aligned(data, offset)).unwrap_or(&self.file);
        file.write_all_at(data, offset).context(|| format!("write {} bytes at {offset} of volume {}", data.len(), self.volume))
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        let length = range.end.saturating_sub(range.start);
        self.check(range.start, length)?;
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, range.start, length)
            .context(|| format!("zero {length} bytes at {} of volume {}", range.start, self.volume))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().context(|| format!("sync volume {}", self.volume))
    }

    fn load_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        meta::read(self.paths.dir(), VolumePaths::CHECKPOINT)
    }

    fn save_checkpoint(&self, state: &[u8]) -> Result<()> {
        // Not by a temporary name: whoever takes the volume's lock meanwhile, which we do not hold, removes those.
        meta::write_as(self.paths.dir(), VolumePaths::NEW_CHECKPOINT, VolumePaths::CHECKPOINT, state)
    }
}

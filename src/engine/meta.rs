//! Small files of state: read whole, written atomically and durably.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Context, Error, Result};
use super::layout;

/// What is known of a volume besides its image; its size is the image's length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VolumeMeta {
    pub state: VolumeState,
}

/// Whether a volume's content is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum VolumeState {
    Ready,
    Restoring,
}

/// What is known of a snapshot. The file is written last and removed first: without it there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotMeta {
    pub id: String,
    pub created: Timestamp,
    pub size: u64,
    /// The image's inode: an image that was put there by hand is not the one that `id` names.
    pub inode: u64,
    pub stall_microseconds: u64,
    pub frozen: bool,
}

impl SnapshotMeta {
    pub fn stall(&self) -> Duration {
        Duration::from_micros(self.stall_microseconds)
    }
}

/// Names the one file system that is about to be frozen, so that whoever finds it after a crash can thaw exactly that one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FreezeIntent {
    /// A freeze does not outlive the kernel it was made in.
    pub boot_id: String,
    /// Device number of the loop device.
    pub device: u64,
    /// The mount through which it was frozen.
    pub mount_id: u64,
}

/// Parses the JSON file `name` in `dir`, `None` when there is none.
pub(super) fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>> {
    let path = dir.join(name);
    let Some(bytes) = read(dir, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Io {
        context: format!("read {}", path.display()),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })
}

/// The content of the file `name` in `dir`, `None` when there is none.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("read {}", path.display())),
    }
}

/// Writes `value` as the JSON file `name` in `dir`.
pub(super) fn write_json<T: Serialize>(dir: &Path, name: &str, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other).context(|| format!("encode {name}"))?;
    write(dir, name, &bytes)
}

/// Puts `bytes` into the file `name` in `dir`: afterwards, and after a crash at any point, it holds all of them or what it held before.
pub(super) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    write_as(dir, &layout::temporary_name()?, name, bytes)
}

/// As [`write()`], by way of a name that the caller owns: what a crash left under it is overwritten.
pub(super) fn write_as(dir: &Path, temporary: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let (temporary, path) = (dir.join(temporary), dir.join(name));
    let written =
        write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path)).context(|| format!("write {}", path.display()));
    if written.is_err() {
        // Best effort: whoever mends the volume removes it as well.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_dir(dir)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes what was created, renamed and removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).context(|| format!("sync folder {}", dir.display()))
}

/// Removes a file; success when there is none.
pub(super) fn remove_if_present(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// Names in a folder, in no order; none when there is no such folder. Names that are not UTF-8 are not ours and left out.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("list {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("list {}", dir.display()))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

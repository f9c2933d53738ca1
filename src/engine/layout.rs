//! Where everything lies in a pool, and which names mean "not finished".
//!
//! ```text
//! {pool}/.drover.lock                         flock: making and removing of volumes
//! {pool}/volumes/{volume}/                    flock on the folder: everything else about this volume
//!                         volume.img  volume.json  freeze.json  checkpoint  checkpoint.new
//!                         snapshots/{snapshot}.img  {snapshot}.json
//! {pool}/volumes/.tmp-{random}/               a volume being made
//! {pool}/trash/{random}/                      a volume being removed
//! ```
//! A name that begins with `.tmp-` is half made: whoever holds the lock it belongs under may remove it. The checkpoint is written without
//! that lock, by the one who has claimed the image: so `checkpoint.new` stays until the restore has ended.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use crate::names::{SnapshotName, VolumeName};

/// Sizes of volumes are multiples of this: the smallest block of the store.
pub(super) const SIZE_UNIT: u64 = 2 << 20;

const TEMPORARY: &str = ".tmp-";

/// A random id of 128 bits, as 32 hex digits.
pub(super) fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Io { context: "get random bytes".into(), source: std::io::Error::other(error) })?;
    Ok(hex::encode(bytes))
}

/// A new name for something half made.
pub(super) fn temporary_name() -> Result<String> {
    Ok(format!("{TEMPORARY}{}", random_id()?))
}

/// Whether `name` was made by [`temporary_name`].
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// `size` rounded up to [`SIZE_UNIT`], `None` when that is no size a file can have.
pub(super) fn round_size(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(SIZE_UNIT).filter(|size| *size <= i64::MAX as u64)
}

/// The paths of a pool.
#[derive(Debug, Clone)]
pub(super) struct PoolPaths(PathBuf);

impl PoolPaths {
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join(".drover.lock")
    }

    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    pub fn trash(&self) -> PathBuf {
        self.0.join("trash")
    }

    pub fn volume(&self, volume: &VolumeName) -> VolumePaths {
        VolumePaths(self.volumes().join(volume.as_str()))
    }
}

/// The paths of one volume.
#[derive(Debug, Clone)]
pub(super) struct VolumePaths(PathBuf);

impl VolumePaths {
    pub const META: &str = "volume.json";
    pub const FREEZE: &str = "freeze.json";
    pub const CHECKPOINT: &str = "checkpoint";
    pub const NEW_CHECKPOINT: &str = "checkpoint.new";

    pub fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub fn image(&self) -> PathBuf {
        self.0.join("volume.img")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    pub fn snapshot_image(&self, snapshot: &SnapshotName) -> PathBuf {
        self.snapshots().join(format!("{snapshot}.img"))
    }
}

/// The file name of a snapshot's metadata.
pub(super) fn snapshot_meta(snapshot: &SnapshotName) -> String {
    format!("{snapshot}.json")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_the_unit() {
        assert_eq!(round_size(1), Some(SIZE_UNIT));
        assert_eq!(round_size(SIZE_UNIT), Some(SIZE_UNIT));
        assert_eq!(round_size(SIZE_UNIT + 1), Some(2 * SIZE_UNIT));
        assert_eq!(round_size(u64::MAX), None);
        assert_eq!(round_size(i64::MAX as u64), None);
    }

    #[test]
    fn no_volume_or_snapshot_can_have_a_temporary_name() {
        let name = temporary_name().unwrap();
        assert!(is_temporary(&name));
        assert!(name.parse::<VolumeName>().is_err());
    }
}

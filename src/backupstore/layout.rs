//! Where everything is in a backupstore: every key, and back from a listed key to what it names.
//!
//! Source: `docs/architecture.md`, "Backupstore". What a listing shows is believed only when the way back gives the same key.

use sha2::{Digest, Sha512};

use super::block::Checksum;
use super::driver::StorePath;
use super::lock::LockName;
use crate::names::{BackupName, VolumeName};

/// The folder below the target's root that holds everything.
const BASE: &str = "backupstore";

/// The folder of all volumes.
pub fn volumes() -> StorePath {
    key(format!("{BASE}/volumes"))
}

/// The folder of our own objects. Longhorn leaves it alone.
pub fn own_folder() -> StorePath {
    key(format!("{BASE}/drover"))
}

/// The object that gives the store its identity.
pub fn marker() -> StorePath {
    key(format!("{BASE}/drover/store.json"))
}

/// A small object that a probe writes, reads and removes.
pub fn probe(id: &str) -> StorePath {
    key(format!("{BASE}/drover/probe-{id}"))
}

/// Whether a probe wrote the object at `path`.
pub fn is_probe(path: &StorePath) -> bool {
    path.file_name().strip_prefix("probe-").is_some_and(|id| probe(id) == *path)
}

/// The volume that a folder three levels below [`volumes`] belongs to.
pub fn volume_of(folder: &StorePath) -> Option<VolumeName> {
    let name = folder.file_name().parse::<VolumeName>().ok()?;
    (VolumeLayout::new(&name).folder() == *folder).then_some(name)
}

/// The keys of one volume.
#[derive(Debug, Clone)]
pub struct VolumeLayout {
    folder: String,
}

impl VolumeLayout {
    /// The keys of `volume`.
    pub fn new(volume: &VolumeName) -> Self {
        let digest = hex::encode(&Sha512::digest(volume.as_str())[..2]);
        Self { folder: format!("{BASE}/volumes/{}/{}/{volume}", &digest[..2], &digest[2..]) }
    }

    /// Everything of the volume is below this folder.
    pub fn folder(&self) -> StorePath {
        key(self.folder.clone())
    }

    /// `volume.cfg`.
    pub fn config(&self) -> StorePath {
        key(format!("{}/volume.cfg", self.folder))
    }

    /// The folder of backup configs.
    pub fn backups(&self) -> StorePath {
        key(format!("{}/backups", self.folder))
    }

    /// The config of one backup.
    pub fn backup(&self, backup: &BackupName) -> StorePath {
        key(format!("{}/backups/backup_{backup}.cfg", self.folder))
    }

    /// The folder of blocks.
    pub fn blocks(&self) -> StorePath {
        key(format!("{}/blocks", self.folder))
    }

    /// The 256 folders below [`VolumeLayout::blocks`] that together hold all blocks.
    pub fn block_folders(&self) -> Vec<StorePath> {
        (0..=u8::MAX).map(|first| key(format!("{}/blocks/{first:02x}", self.folder))).collect()
    }

    /// One block.
    pub fn block(&self, checksum: &Checksum) -> StorePath {
        let hex = checksum.to_string();
        key(format!("{}/blocks/{}/{}/{hex}.blk", self.folder, &hex[..2], &hex[2..4]))
    }

    /// The folder of locks.
    pub fn locks(&self) -> StorePath {
        key(format!("{}/locks", self.folder))
    }

    /// One lock.
    pub fn lock(&self, lock: &LockName) -> StorePath {
        key(format!("{}/locks/{lock}.lck", self.folder))
    }

    /// The backup whose config is at `path`; `None` for strays and foreign files.
    pub fn backup_of(&self, path: &StorePath) -> Option<BackupName> {
        let name = path.file_name().strip_prefix("backup_")?.strip_suffix(".cfg")?.parse::<BackupName>().ok()?;
        (self.backup(&name) == *path).then_some(name)
    }

    /// The checksum of the block at `path`; `None` for strays and foreign files.
    pub fn block_of(&self, path: &StorePath) -> Option<Checksum> {
        let checksum = path.file_name().strip_suffix(".blk")?.parse::<Checksum>().ok()?;
        (self.block(&checksum) == *path).then_some(checksum)
    }

    /// The lock at `path`; `None` for strays and foreign files.
    pub fn lock_of(&self, path: &StorePath) -> Option<LockName> {
        let name = path.file_name().strip_suffix(".lck")?.parse::<LockName>().ok()?;
        (self.lock(&name) == *path).then_some(name)
    }
}

#[expect(clippy::expect_used, reason = "checked names and hex digits have no '/', '.' or '..' part")]
fn key(path: String) -> StorePath {
    StorePath::parse(&path).expect("a key made of checked parts")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(volume: &str) -> VolumeLayout {
        VolumeLayout::new(&volume.parse().unwrap())
    }

    #[test]
    fn folders_are_where_longhorn_puts_them() {
        // Seen in a store that Longhorn wrote.
        for (volume, folder) in [
            ("interop-lz4", "backupstore/volumes/16/c4/interop-lz4"),
            ("UPPER.case_name-1", "backupstore/volumes/12/18/UPPER.case_name-1"),
            ("pvc-5a1f2d44-1111-4222-8333-944445555666", "backupstore/volumes/c1/fa/pvc-5a1f2d44-1111-4222-8333-944445555666"),
        ] {
            assert_eq!(layout(volume).folder().as_str(), folder);
            assert_eq!(volume_of(&layout(volume).folder()), Some(volume.parse().unwrap()));
        }
    }

    #[test]
    fn strays_and_names_against_the_rule_are_skipped() {
        let volume = layout("vol-1");
        for stray in ["backup_b-1.cfg.tmp.123", "b-1.cfg", "backup_.cfg", "backup_-x.cfg", "backup_a b.cfg"] {
            let path = StorePath::parse(&format!("{}/{stray}", volume.backups())).unwrap();
            assert_eq!(volume.backup_of(&path), None, "{stray}");
        }
        let misplaced = StorePath::parse(&format!("{}/ab/cd/{}.blk", volume.blocks(), Checksum::of(b"x"))).unwrap();
        assert_eq!(volume.block_of(&misplaced), None);
        let elsewhere = StorePath::parse("backupstore/volumes/00/00/vol-1").unwrap();
        assert_eq!(volume_of(&elsewhere), None);
    }

    proptest! {
        #[test]
        fn every_key_leads_back(volume in "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,40}", backup in "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,40}", data: Vec<u8>) {
            let layout = layout(&volume);
            let backup: BackupName = backup.parse().unwrap();
            let checksum = Checksum::of(&data);
            prop_assert_eq!(volume_of(&layout.folder()), Some(volume.parse().unwrap()));
            prop_assert_eq!(layout.backup_of(&layout.backup(&backup)), Some(backup));
            prop_assert_eq!(layout.block_of(&layout.block(&checksum)), Some(checksum));
            let block = layout.block(&checksum).to_string();
            prop_assert_eq!(layout.block_folders().iter().filter(|folder| block.starts_with(&format!("{folder}/"))).count(), 1);
        }
    }
}

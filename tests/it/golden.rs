//! A store that Longhorn's own code wrote: every backup restores to its sum, every config is rewritten byte for byte, backups are
//! added and deleted, and what remains stays whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drover::backupstore::Store;
use drover::backupstore::block::Compression;
use drover::backupstore::config::{BackupConfig, VolumeConfig};
use drover::backupstore::create::{BlockSize, CreateRequest, Mode, SnapshotRef, VolumeRef};
use drover::backupstore::driver::local::Local;
use drover::backupstore::lock::Timings;
use drover::backupstore::progress::Progress;
use drover::backupstore::restore::RestoreRequest;
use drover::names::{BackupName, VolumeName};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::support::image::{Disk, Image};
use crate::support::scratch::Scratch;
use crate::support::{command, repository, run};

/// SHA-256 of the whole volume, by volume and backup.
type Sums = BTreeMap<String, BTreeMap<String, String>>;

/// The golden store in a folder of the test's own.
struct Golden {
    folder: Scratch,
    store: Store,
    sums: Sums,
}

impl Golden {
    fn unpack() -> Self {
        let data = repository().join("tests/data/golden");
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listing {
            volumes: Sums,
        }
        let listing: Listing = serde_json::from_slice(&fs::read(data.join("longhorn-store.json")).unwrap()).unwrap();
        let folder = Scratch::new("golden");
        let archive = data.join("longhorn-store.tar.xz");
        run(&mut command("tar", &["-xJf", archive.to_str().unwrap(), "-C", folder.to_str().unwrap()]));
        let timings = Timings { settle: Duration::from_millis(20), ..Timings::default() };
        let store = Store::new(Arc::new(Local::new(folder.to_path_buf())), timings);
        Self { folder, store, sums: listing.volumes }
    }

    async fn restore(&self, volume: &VolumeName, backup: &BackupName) -> Vec<u8> {
        let info = self.store.backup(volume, backup).await.unwrap().unwrap();
        let sink = Image::used(info.volume_size as usize);
        let request = RestoreRequest { volume: volume.clone(), backup: backup.clone() };
        self.store.restore(request, sink.clone(), Arc::new(Progress::default()), CancellationToken::new()).await.unwrap();
        sink.data()
    }

    async fn assert_restores(&self, volume: &VolumeName, backups: &BTreeMap<String, String>) {
        for (backup, sum) in backups {
            let data = self.restore(volume, &backup.parse().unwrap()).await;
            assert_eq!(hex::encode(Sha256::digest(&data)), *sum, "{backup} of {volume}");
        }
    }

    /// Files of one volume below a folder of its own, by suffix.
    fn files(&self, volume: &VolumeName, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder, &mut found);
        let part = format!("/{volume}/");
        found.retain(|path| path.to_str().unwrap().contains(&part) && path.to_str().unwrap().ends_with(suffix));
        found
    }

    /// The blocks in the folder are exactly those that the backups of the volume name.
    fn assert_tidy(&self, volume: &VolumeName) {
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let stored: BTreeSet<String> = self.files(volume, ".blk").iter().map(stem).collect();
        let configs = self.files(volume, ".cfg").into_iter().filter(|path| stem(path).starts_with("backup_"));
        let used: BTreeSet<String> = configs
            .flat_map(|path| BackupConfig::parse(&fs::read(path).unwrap()).unwrap().blocks)
            .map(|block| block.checksum.to_string())
            .collect();
        assert_eq!(stored, used, "{volume}");
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

fn volume_name(name: &str) -> VolumeName {
    name.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_backup_of_longhorn_restores_to_its_sum() {
    let golden = Golden::unpack();
    let listed: BTreeSet<String> = golden.store.list_volumes().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(listed, golden.sums.keys().cloned().collect());
    for (volume, backups) in &golden.sums {
        let volume = volume_name(volume);
        let listed: BTreeSet<String> =
            golden.store.list_backups(&volume).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(listed, backups.keys().cloned().collect(), "{volume}");
        golden.assert_restores(&volume, backups).await;
    }
}

#[test]
fn every_config_of_longhorn_is_rewritten_byte_for_byte() {
    let golden = Golden::unpack();
    let mut files = Vec::new();
    walk(&golden.folder, &mut files);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cfg"));
    assert_eq!(files.len(), golden.sums.len() + golden.sums.values().map(BTreeMap::len).sum::<usize>());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let rewritten = match file.file_name().unwrap().to_str().unwrap() {
            "volume.cfg" => VolumeConfig::parse(&bytes).unwrap().to_bytes().unwrap(),
            _ => BackupConfig::parse(&bytes).unwrap().to_bytes().unwrap(),
        };
        assert_eq!(String::from_utf8(rewritten).unwrap(), String::from_utf8(bytes).unwrap(), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_of_longhorn_are_deleted_one_by_one_and_the_others_stay_whole() {
    let golden = Golden::unpack();
    for (volume, backups) in &golden.sums {
        let volume = volume_name(volume);
        let mut remaining = backups.clone();
        while let Some((backup, _)) = remaining.pop_first() {
            let deleted = golden.store.delete_backup(&volume, &backup.parse().unwrap()).await.unwrap();
            assert_eq!(deleted.skipped, None, "{backup} of {volume}");
            golden.assert_tidy(&volume);
            golden.assert_restores(&volume, &remaining).await;
            let config = golden.store.volume(&volume).await.unwrap().unwrap();
            assert_eq!(config.block_count, golden.files(&volume, ".blk").len() as u64);
            assert_eq!(config.last_backup_name.is_empty(), remaining.is_empty());
            assert!(config.last_backup_name.is_empty() || remaining.contains_key(&config.last_backup_name));
        }
        assert_eq!(golden.files(&volume, ".blk"), Vec::<PathBuf>::new());
        golden.store.delete_volume(&volume).await.unwrap();
        assert!(!golden.store.list_volumes().await.unwrap().contains(&volume));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_added_to_a_volume_of_longhorn() {
    let golden = Golden::unpack();
    for (volume, compression) in [("interop-lz4", Compression::Lz4), ("interop-gzip", Compression::None)] {
        let (name, backups) = golden.sums.get_key_value(volume).unwrap();
        let volume = volume_name(name);
        let last: BackupName = golden.store.volume(&volume).await.unwrap().unwrap().last_backup_name.parse().unwrap();
        let mut disk = Disk::new(0);
        let content = golden.restore(&volume, &last).await;
        disk.grow(content.len());
        disk.data_mut().copy_from_slice(&content);
        disk.data_mut()[..2 << 20].fill(0);
        disk.data_mut()[2 << 20..4 << 20].fill(77);
        let source = disk.snapshot("ours");
        let request = CreateRequest {
            volume: VolumeRef {
                name: volume.clone(),
                created_at: Timestamp::now(),
                labels: BTreeMap::new(),
                storage_class: String::new(),
            },
            backup: "backup-0123456789abcdef".parse().unwrap(),
            snapshot: SnapshotRef { name: "snap-ours".parse().unwrap(), id: "ours".into(), created_at: Timestamp::now() },
            block_size: BlockSize::Mi2,
            compression,
            mode: Mode::Incremental,
            labels: BTreeMap::new(),
            parameters: BTreeMap::new(),
        };
        let before = golden.files(&volume, ".blk").len();
        let receipt =
            golden.store.create(request, source, Arc::new(Progress::default()), CancellationToken::new()).await.unwrap();
        assert!(receipt.incremental);
        let added = golden.files(&volume, ".blk").len() - before;
        assert!((1..=2).contains(&added), "the block of 77s, and one of zeros where none was: {added}");
        assert_eq!(golden.restore(&volume, &"backup-0123456789abcdef".parse().unwrap()).await, disk.data());
        golden.assert_restores(&volume, backups).await;
        for backup in backups.keys() {
            golden.store.delete_backup(&volume, &backup.parse().unwrap()).await.unwrap();
        }
        golden.assert_tidy(&volume);
        assert_eq!(golden.restore(&volume, &"backup-0123456789abcdef".parse().unwrap()).await, disk.data());
    }
}

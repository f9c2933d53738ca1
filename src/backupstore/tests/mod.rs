//! Tests of the operations together, over the memory driver and on a clock that only the test moves.

mod crash;
mod hooked;
#[path = "../../../tests/support/image.rs"]
mod image;
mod locks;
mod model;
mod own_objects;
mod rounds;
mod virtual_time;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::stream::TryStreamExt;
use tokio_util::sync::CancellationToken;

use self::image::{Disk, Image, Snapshot};
use self::virtual_time::{Time, VirtualClock};
use super::block::{self, Checksum, Compression};
use super::config::BackupConfig;
use super::create::{BlockSize, CreateRequest, Mode, Receipt, SnapshotRef, VolumeRef};
use super::driver::memory::Memory;
use super::driver::{Depth, Driver, Listed, StorePath};
use super::layout::VolumeLayout;
use super::lock::{Context, Timings};
use super::progress::Progress;
use super::restore::RestoreRequest;
use super::workers::Workers;
use super::{Error, Result, Store, json};
use crate::names::{BackupName, VolumeName};

const VOLUME: &str = "vol-1";

fn volume() -> VolumeName {
    VOLUME.parse().unwrap()
}

fn layout() -> VolumeLayout {
    VolumeLayout::new(&volume())
}

fn name(backup: &str) -> BackupName {
    backup.parse().unwrap()
}

/// A store on the test's clock that works in the caller's task.
fn store(driver: Arc<dyn Driver>, clock: &VirtualClock) -> Store {
    let context = Context { driver, clock: Arc::new(clock.clone()), timings: Timings::default() };
    Store { context, workers: Workers::inline() }
}

/// An incremental LZ4 backup; the snapshot's id is the backup's name with `snap-` before it.
fn request(backup: &str, time: &VirtualClock) -> CreateRequest {
    CreateRequest {
        volume: VolumeRef { name: volume(), created_at: time.timestamp(), labels: BTreeMap::new(), storage_class: String::new() },
        backup: name(backup),
        snapshot: SnapshotRef {
            name: format!("snap-{backup}").parse().unwrap(),
            id: format!("snap-{backup}"),
            created_at: time.timestamp(),
        },
        block_size: BlockSize::Mi2,
        compression: Compression::Lz4,
        mode: Mode::Incremental,
        labels: BTreeMap::new(),
        parameters: BTreeMap::new(),
    }
}

async fn create(store: &Store, block: u64, request: CreateRequest, source: Arc<Snapshot>) -> Result<Receipt> {
    store.create_blocks_of(block, request, source, Arc::new(Progress::default()), CancellationToken::new()).await
}

async fn restore(store: &Store, backup: &str, sink: Arc<Image>) -> Result<()> {
    let request = RestoreRequest { volume: volume(), backup: name(backup) };
    store.restore(request, sink, Arc::new(Progress::default()), CancellationToken::new()).await.map(drop)
}

/// What is in a memory store, read without any lock.
struct Inside {
    configs: BTreeMap<String, BackupConfig>,
    blocks: BTreeSet<Checksum>,
    locks: usize,
}

fn objects(memory: &Memory) -> Vec<StorePath> {
    let rows = memory.list(None, Depth::All).try_collect::<Vec<_>>().now_or_never().unwrap().unwrap();
    rows.into_iter()
        .filter_map(|row| match row {
            Listed::Object(path, _) => Some(path),
            Listed::Folder(_) => None,
        })
        .collect()
}

fn read(memory: &Memory, path: &StorePath) -> Option<bytes::Bytes> {
    memory.get(path).now_or_never().unwrap().ok()
}

impl Inside {
    fn of(memory: &Memory) -> Self {
        let layout = layout();
        let mut inside = Self { configs: BTreeMap::new(), blocks: BTreeSet::new(), locks: 0 };
        for path in objects(memory) {
            if let Some(backup) = layout.backup_of(&path) {
                let config = json::from_slice(&read(memory, &path).unwrap()).unwrap();
                inside.configs.insert(backup.to_string(), config);
            } else if let Some(checksum) = layout.block_of(&path) {
                inside.blocks.insert(checksum);
            } else if layout.lock_of(&path).is_some() {
                inside.locks += 1;
            }
        }
        inside
    }

    fn complete(&self) -> impl Iterator<Item = (&String, &BackupConfig)> {
        self.configs.iter().filter(|(_, config)| !config.is_in_progress())
    }

    fn used(&self) -> BTreeSet<Checksum> {
        self.complete().flat_map(|(_, config)| config.blocks.iter().map(|block| block.checksum)).collect()
    }

    /// Every complete backup has all its blocks.
    fn assert_valid(&self) {
        for (backup, config) in self.complete() {
            for block in &config.blocks {
                assert!(self.blocks.contains(&block.checksum), "{backup} needs block {} at {}", block.checksum, block.offset);
            }
        }
    }

    /// Nothing is there that no backup needs.
    fn assert_tidy(&self) {
        self.assert_valid();
        assert_eq!(self.used(), self.blocks, "blocks that no backup needs were left");
        assert_eq!(self.configs.len(), self.complete().count(), "marks were left");
        assert_eq!(self.locks, 0, "locks were left");
    }
}

/// The volume that a backup's config describes, straight from the objects.
fn rebuild(memory: &Memory, config: &BackupConfig) -> Vec<u8> {
    let size = config.block_size().unwrap() as usize;
    let mut data = vec![0; config.volume_size().unwrap() as usize];
    for entry in &config.blocks {
        let stored = read(memory, &layout().block(&entry.checksum)).unwrap();
        let start = entry.offset as usize;
        block::decode(Compression::Lz4, &stored, entry.checksum, &mut data[start..start + size]).unwrap();
    }
    data
}

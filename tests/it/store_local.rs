//! The store's operations as they run for users: real block sizes, real threads, a folder of files; how many requests they send.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drover::backupstore::Store;
use drover::backupstore::block::Compression;
use drover::backupstore::create::{BlockSize, CreateRequest, Mode, Receipt, SnapshotRef, VolumeRef};
use drover::backupstore::driver::Driver;
use drover::backupstore::driver::local::Local;
use drover::backupstore::driver::memory::Memory;
use drover::backupstore::driver::metered::{Metered, Verb};
use drover::backupstore::lock::Timings;
use drover::backupstore::progress::{Phase, Progress};
use drover::backupstore::restore::RestoreRequest;
use drover::names::VolumeName;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::support::image::{Disk, Image, Snapshot};
use crate::support::random::{Random, scramble};
use crate::support::scratch::Scratch;

const MIB: usize = 1 << 20;

fn volume() -> VolumeName {
    "pvc-1".parse().unwrap()
}

fn store(driver: Arc<dyn Driver>) -> Store {
    Store::new(driver, Timings { settle: Duration::from_millis(20), ..Timings::default() })
}

fn request(backup: &str) -> CreateRequest {
    CreateRequest {
        volume: VolumeRef { name: volume(), created_at: Timestamp::now(), labels: BTreeMap::new(), storage_class: String::new() },
        backup: backup.parse().unwrap(),
        snapshot: SnapshotRef {
            name: format!("snap-{backup}").parse().unwrap(),
            id: format!("snap-{backup}"),
            created_at: Timestamp::now(),
        },
        block_size: BlockSize::Mi2,
        compression: Compression::Lz4,
        mode: Mode::Incremental,
        labels: BTreeMap::new(),
        parameters: BTreeMap::new(),
    }
}

async fn create(store: &Store, request: CreateRequest, source: &Arc<Snapshot>) -> Receipt {
    let progress = Arc::new(Progress::default());
    let receipt = store.create(request, source.clone(), progress.clone(), CancellationToken::new()).await.unwrap();
    let seen = progress.snapshot();
    assert_eq!((seen.phase, seen.percent(), seen.bytes_done), (Phase::Done, 100, seen.bytes_total));
    receipt
}

async fn restored(store: &Store, backup: &str) -> Vec<u8> {
    let info = store.backup(&volume(), &backup.parse().unwrap()).await.unwrap().unwrap();
    let sink = Image::used(info.volume_size as usize);
    let request = RestoreRequest { volume: volume(), backup: backup.parse().unwrap() };
    store.restore(request, sink.clone(), Arc::new(Progress::default()), CancellationToken::new()).await.unwrap();
    sink.data()
}

/// Bytes that no method compresses.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64 / 8).flat_map(|i| scramble(seed ^ (i << 20)).to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_come_back_whatever_the_block_size_and_compression() {
    let mut random = Random::seeded("generations");
    for block_size in [BlockSize::Mi2, BlockSize::Mi16] {
        for compression in Compression::ALL {
            let folder = Scratch::new("store-local");
            let store = store(Arc::new(Local::new(folder.to_path_buf())));
            let block = block_size.bytes() as usize;
            let mut disk = Disk::new(4 * block);
            let mut contents = Vec::new();
            for generation in 0..3 {
                let at = random.below(3 * block as u64) as usize;
                disk.data_mut()[at..at + MIB].copy_from_slice(&noise(random.below(u64::MAX), MIB));
                let at = random.below(4) as usize * block;
                disk.data_mut()[at..at + block].fill(random.below(3) as u8);
                let backup = format!("backup-{generation}");
                let source = disk.snapshot(&format!("snap-{backup}"));
                create(&store, CreateRequest { block_size, compression, ..request(&backup) }, &source).await;
                contents.push((backup, source));
            }
            for (backup, source) in &contents {
                assert!(restored(&store, backup).await == source.data(), "{backup}, {block_size:?}, {compression}");
            }
            store.delete_backup(&volume(), &"backup-1".parse().unwrap()).await.unwrap();
            for (backup, source) in contents.iter().filter(|(backup, _)| backup != "backup-1") {
                assert!(restored(&store, backup).await == source.data(), "{backup}, {block_size:?}, {compression}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_one_put_per_new_block_and_at_most_sixteen_more() {
    let metered = Arc::new(Metered::new(Arc::new(Memory::new())));
    let counters = metered.counters().clone();
    let store = store(metered);
    let mut disk = Disk::new(64 * MIB);
    disk.data_mut()[..40 * MIB].copy_from_slice(&noise(1, 40 * MIB));
    // Two equal blocks, one of them behind a hole.
    disk.data_mut().copy_within(..2 * MIB, 60 * MIB);

    create(&store, request("backup-1"), &disk.snapshot("snap-backup-1")).await;
    let full = counters.snapshot();
    assert!(full.requests() <= 20 + 16, "{full:?}");
    assert!(full.verb(Verb::Put).requests <= 20 + 6, "{full:?}");

    disk.data_mut()[10 * MIB] ^= 1;
    let second = disk.snapshot("snap-backup-2");
    create(&store, request("backup-2"), &second).await;
    let incremental = counters.snapshot();
    assert_eq!(second.reads(), [10 * MIB as u64], "only what changed is read");
    assert!(incremental.requests() - full.requests() <= 1 + 16, "{incremental:?}");

    restored(&store, "backup-2").await;
    let restore = counters.snapshot();
    let gets = restore.verb(Verb::Get).requests - incremental.verb(Verb::Get).requests;
    assert!((20..=20 + 4).contains(&gets), "one GET per different block: {gets}");

    store.delete_backup(&volume(), &"backup-1".parse().unwrap()).await.unwrap();
    let deletion = counters.snapshot();
    assert!(deletion.requests() - restore.requests() <= 16, "{deletion:?}");
}

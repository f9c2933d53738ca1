//! Random volumes through generations of backups: every one comes back bit for bit, and nothing else is kept.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use proptest::prelude::*;

use super::*;
use crate::backupstore::driver::metered::{Metered, Verb};

const BLOCKS: usize = 8;

/// What happens to the disk between two backups.
#[derive(Debug, Clone)]
enum Change {
    /// Fills bytes of some blocks.
    Fill { start: usize, length: usize, byte: u8 },
    /// Copies one block over another: duplicates.
    Copy { from: usize, to: usize },
    /// Grows by blocks of zeros.
    Grow(usize),
    /// Removes the snapshot of an earlier backup.
    Forget(prop::sample::Index),
}

/// One backup and what came before it.
#[derive(Debug, Clone)]
struct Round {
    changes: Vec<Change>,
    full: bool,
    compression: usize,
    /// Whether an earlier backup is deleted afterwards, and which.
    delete: Option<prop::sample::Index>,
}

fn change(block: usize) -> impl Strategy<Value = Change> {
    let size = block * BLOCKS;
    prop_oneof![
        5 => (0..size, 1..2 * block, 0u8..4).prop_map(|(start, length, byte)| Change::Fill { start, length, byte }),
        2 => (0..BLOCKS, 0..BLOCKS).prop_map(|(from, to)| Change::Copy { from, to }),
        1 => (1..3usize).prop_map(Change::Grow),
        1 => any::<prop::sample::Index>().prop_map(Change::Forget),
    ]
}

fn rounds() -> impl Strategy<Value = (usize, Vec<Round>)> {
    prop_oneof![Just(512usize), Just(4096)].prop_flat_map(|block| {
        let delete = proptest::option::weighted(0.3, any::<prop::sample::Index>());
        let round = (proptest::collection::vec(change(block), 0..5), proptest::bool::weighted(0.2), 0..3usize, delete)
            .prop_map(|(changes, full, compression, delete)| Round { changes, full, compression, delete });
        (Just(block), proptest::collection::vec(round, 1..6))
    })
}

fn apply(disk: &mut Disk, block: usize, change: &Change, made: &[String]) {
    match change {
        Change::Fill { start, length, byte } => {
            let end = (start + length).min(disk.data().len());
            disk.data_mut()[*start..end].fill(*byte);
        }
        Change::Copy { from, to } => {
            let from = from * block;
            disk.data_mut().copy_within(from..from + block, to * block);
        }
        Change::Grow(blocks) => disk.grow(disk.data().len() + blocks * block),
        Change::Forget(which) if !made.is_empty() => disk.forget(&format!("snap-{}", made[which.index(made.len())])),
        Change::Forget(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_generation_comes_back_and_nothing_else_is_kept((block, rounds) in rounds()) {
        let time = Time::new();
        let clock = time.clock.clone();
        let memory = Arc::new(Memory::with_clock(Arc::new(move || clock.timestamp())));
        let store = store(memory.clone(), &time.clock);
        let mut disk = Disk::new(block * BLOCKS);
        let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut made: Vec<String> = Vec::new();
        for (i, round) in rounds.iter().enumerate() {
            round.changes.iter().for_each(|change| apply(&mut disk, block, change, &made));
            let backup = format!("b-{i}");
            let source = disk.snapshot(&format!("snap-{backup}"));
            let wanted = CreateRequest {
                mode: if round.full { Mode::Full } else { Mode::Incremental },
                compression: Compression::ALL[round.compression],
                ..request(&backup, &time.clock)
            };
            let receipt = time.run(create(&store, block as u64, wanted, source.clone())).unwrap();
            prop_assert_eq!(receipt.incremental, !round.full && !contents.is_empty());
            prop_assert_eq!(receipt.volume_size, source.data().len() as u64);
            contents.insert(backup.clone(), source.data().to_vec());
            made.push(backup);
            if let Some(which) = round.delete {
                let gone = contents.keys().nth(which.index(contents.len())).unwrap().clone();
                let deleted = time.run(store.delete_backup(&volume(), &name(&gone))).unwrap();
                prop_assert_eq!(deleted.skipped, None);
                contents.remove(&gone);
                Inside::of(&memory).assert_tidy();
                let volume = time.run(store.volume(&volume())).unwrap().unwrap();
                prop_assert_eq!(volume.block_count, Inside::of(&memory).blocks.len() as u64);
                prop_assert_eq!(volume.last_backup_name, contents.keys().last().cloned().unwrap_or_default());
            }
            for (backup, data) in &contents {
                for sink in [Image::blank(data.len()), Image::used(data.len())] {
                    time.run(restore(&store, backup, sink.clone())).unwrap();
                    prop_assert!(sink.data() == *data, "{} came back wrong", backup);
                }
            }
        }
        let mut listed = time.run(store.list_backups(&volume())).unwrap();
        listed.sort();
        prop_assert_eq!(listed.iter().map(ToString::to_string).collect::<Vec<_>>(), contents.keys().cloned().collect::<Vec<_>>());
        Inside::of(&memory).assert_valid();
    }
}

struct Rig {
    time: Time,
    memory: Arc<Memory>,
    store: Store,
}

fn rig() -> Rig {
    let time = Time::new();
    let clock = time.clock.clone();
    let memory = Arc::new(Memory::with_clock(Arc::new(move || clock.timestamp())));
    let store = store(memory.clone(), &time.clock);
    Rig { time, memory, store }
}

impl Rig {
    fn back_up(&self, backup: &str, source: &Arc<Snapshot>) -> Result<Receipt> {
        self.time.run(create(&self.store, 512, request(backup, &self.time.clock), source.clone()))
    }
}

fn numbered(blocks: usize) -> Disk {
    let mut disk = Disk::new(blocks * 512);
    for (i, block) in disk.data_mut().chunks_mut(512).enumerate() {
        block.fill(i as u8 + 1);
    }
    disk
}

#[test]
fn an_incremental_reads_only_what_changed() {
    let rig = rig();
    let mut disk = numbered(8);
    rig.back_up("b-1", &disk.snapshot("snap-b-1")).unwrap();
    disk.data_mut()[3 * 512] = 99;
    let second = disk.snapshot("snap-b-2");
    let receipt = rig.back_up("b-2", &second).unwrap();
    assert_eq!(second.reads(), [3 * 512]);
    assert!(receipt.incremental);
    assert_eq!(Inside::of(&rig.memory).blocks.len(), 9);
}

#[test]
fn an_older_snapshot_is_backed_up_after_a_newer_one() {
    let rig = rig();
    let mut disk = numbered(6);
    let first = disk.snapshot("snap-b-1");
    disk.data_mut()[0..512].fill(70);
    let second = disk.snapshot("snap-b-2");
    disk.data_mut()[512..1024].fill(71);
    let third = disk.snapshot("snap-b-3");
    for (backup, source) in [("b-1", &first), ("b-3", &third), ("b-2", &second)] {
        rig.back_up(backup, source).unwrap();
    }
    for (backup, source) in [("b-1", &first), ("b-2", &second), ("b-3", &third)] {
        let sink = Image::used(6 * 512);
        rig.time.run(restore(&rig.store, backup, sink.clone())).unwrap();
        assert_eq!(sink.data(), source.data(), "{backup}");
    }
    let volume = rig.time.run(rig.store.volume(&volume())).unwrap().unwrap();
    assert_eq!(volume.last_backup_name, "b-2", "the one made last");
}

#[test]
fn a_complete_backup_is_adopted_and_one_of_another_snapshot_never_overwritten() {
    let rig = rig();
    let mut disk = numbered(4);
    let source = disk.snapshot("snap-b-1");
    let made = rig.back_up("b-1", &source).unwrap();
    let again = rig.back_up("b-1", &source).unwrap();
    assert_eq!(Receipt { adopted: false, ..again.clone() }, made);
    assert!(again.adopted);

    let mut other = request("b-1", &rig.time.clock);
    other.snapshot.id = "another".into();
    let error = rig.time.run(create(&rig.store, 512, other, disk.snapshot("another"))).unwrap_err();
    assert_eq!((error.category(), error.is_transient()), ("BackupExists", false));
    Inside::of(&rig.memory).assert_tidy();
}

#[test]
fn full_mode_uploads_everything_again_and_counts_it() {
    let rig = rig();
    let mut disk = numbered(4);
    let first = rig.back_up("b-1", &disk.snapshot("snap-b-1")).unwrap();
    disk.data_mut()[0..512].fill(77);
    let full = CreateRequest { mode: Mode::Full, ..request("b-2", &rig.time.clock) };
    let receipt = rig.time.run(create(&rig.store, 512, full, disk.snapshot("snap-b-2"))).unwrap();
    assert!(!receipt.incremental);
    assert_eq!(receipt.newly_uploaded, first.newly_uploaded / 4);
    assert_eq!(receipt.re_uploaded, first.newly_uploaded / 4 * 3);
    assert_eq!(Inside::of(&rig.memory).configs["b-2"].processing_blocks, serde_json::json!({}));
}

#[test]
fn zeros_are_said_only_where_the_last_backup_had_a_block() {
    let rig = rig();
    let mut disk = Disk::new(4 * 512);
    disk.data_mut()[..512].fill(1);
    rig.back_up("b-1", &disk.snapshot("snap-b-1")).unwrap();
    disk.data_mut()[..512].fill(0);
    rig.back_up("b-2", &disk.snapshot("snap-b-2")).unwrap();
    let inside = Inside::of(&rig.memory);
    let offsets = |backup: &str| inside.configs[backup].blocks.iter().map(|b| (b.offset, b.checksum)).collect::<Vec<_>>();
    assert_eq!(offsets("b-1").len(), 1);
    assert_eq!(offsets("b-2"), [(0, Checksum::of_zeros(512))]);
    inside.assert_valid();
}

#[test]
fn a_block_that_vanished_from_the_store_is_uploaded_again() {
    let rig = rig();
    let mut disk = numbered(4);
    rig.back_up("b-1", &disk.snapshot("snap-b-1")).unwrap();
    let lost = Checksum::of(&disk.data()[512..1024]);
    rig.time.run(rig.memory.delete(&[layout().block(&lost)])).unwrap();
    let error = rig.time.run(restore(&rig.store, "b-1", Image::blank(4 * 512))).unwrap_err();
    assert_eq!(error.to_string(), format!("block {lost} at byte 512 of volume vol-1 is missing from the store"));
    disk.data_mut()[0..512].fill(88);
    let source = disk.snapshot("snap-b-2");
    rig.back_up("b-2", &source).unwrap();
    Inside::of(&rig.memory).assert_valid();
}

#[test]
fn a_large_listing_is_split_finds_the_same_and_shows_that_it_goes_on() {
    let rig = rig();
    let metered = Arc::new(Metered::new(rig.memory.clone()));
    let store = store(metered.clone(), &rig.time.clock);
    for n in 0..2500u32 {
        let path = layout().block(&Checksum::of(&n.to_le_bytes()));
        rig.time.run(rig.memory.put(&path, bytes::Bytes::from_static(b"x"))).unwrap();
    }
    let list = |expected: u64| {
        let moved = AtomicU64::new(0);
        let before = metered.counters().snapshot().verb(Verb::List).calls;
        let count = || {
            moved.fetch_add(1, SeqCst);
        };
        let mut blocks = rig.time.run(store.list_blocks(&layout(), expected, &count)).unwrap();
        blocks.sort_by_key(|(checksum, _)| *checksum);
        (blocks, metered.counters().snapshot().verb(Verb::List).calls - before, moved.into_inner())
    };
    let (whole, calls, moved) = list(2500);
    assert_eq!((whole.len(), calls), (2500, 1));
    assert!(moved >= 3, "each page shows: {moved}");
    let (split, calls, moved) = list(2_000_000);
    assert!(split == whole);
    assert_eq!(calls, 256);
    assert!(moved >= 256, "each part shows: {moved}");
}

#[test]
fn a_damaged_block_fails_the_restore_by_name() {
    let rig = rig();
    let mut disk = numbered(4);
    rig.back_up("b-1", &disk.snapshot("snap-b-1")).unwrap();
    let checksum = Checksum::of(&disk.data()[1024..1536]);
    let wrong = block::encode(Compression::Lz4, &[9; 512]).unwrap();
    rig.time.run(rig.memory.put(&layout().block(&checksum), wrong)).unwrap();
    let error = rig.time.run(restore(&rig.store, "b-1", Image::blank(4 * 512))).unwrap_err();
    assert_eq!(error.category(), "BlockDamaged");
    assert!(error.to_string().starts_with(&format!("block {checksum} at byte 1024 of volume vol-1 is damaged")), "{error}");
}

#[test]
fn a_damaged_config_stops_collection_and_foreign_files_stay() {
    let rig = rig();
    let mut disk = numbered(4);
    rig.back_up("b-1", &disk.snapshot("snap-b-1")).unwrap();
    disk.data_mut().fill(9);
    rig.back_up("b-2", &disk.snapshot("snap-b-2")).unwrap();
    let damaged = layout().backup(&name("b-3"));
    let foreign = StorePath::parse(&format!("{}/blocks/notes.txt", layout().folder())).unwrap();
    for path in [&damaged, &foreign] {
        rig.time.run(rig.memory.put(path, bytes::Bytes::from_static(b"{\"Blocks\":7}"))).unwrap();
    }
    let deleted = rig.time.run(rig.store.delete_backup(&volume(), &name("b-1"))).unwrap();
    assert!(deleted.skipped.unwrap().to_string().contains("config of backup b-3 is damaged"));
    assert_eq!(deleted.blocks_removed, 0);
    let deleted = rig.time.run(rig.store.delete_backup(&volume(), &name("b-3"))).unwrap();
    assert_eq!((deleted.blocks_removed, deleted.skipped), (4, None));
    assert!(read(&rig.memory, &foreign).is_some());
    rig.time.run(rig.store.delete_volume(&volume())).unwrap();
    assert_eq!(objects(&rig.memory), []);
}

#[test]
fn a_volume_whose_size_is_no_multiple_of_the_block_size_is_refused() {
    let rig = rig();
    let error = rig.back_up("b-1", &Disk::new(700).snapshot("x")).unwrap_err();
    assert_eq!(error.to_string(), "volume vol-1 has 700 bytes: a multiple of the block size, 512, is needed");
    assert_eq!(objects(&rig.memory), []);
}

#[test]
fn a_cancelled_backup_leaves_neither_mark_nor_lock() {
    let rig = rig();
    let cancel = CancellationToken::new();
    let progress = Arc::new(Progress::default());
    let source = numbered(8).snapshot("snap-b-1");
    let transfer = rig.store.create_blocks_of(512, request("b-1", &rig.time.clock), source, progress, cancel.clone());
    let gate = async {
        // The protocol's wait is where a caller has time to think again.
        let before = rig.time.clock.clone();
        super::super::clock::Clock::sleep(&before, std::time::Duration::from_secs(1)).await;
        cancel.cancel();
    };
    let (result, ()) = rig.time.run(futures::future::join(transfer, gate));
    assert_eq!(result.unwrap_err().category(), "Cancelled");
    assert_eq!(objects(&rig.memory), []);
}

#[test]
fn operations_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let rig = rig();
    is_send(&create(&rig.store, 512, request("b-1", &rig.time.clock), Disk::new(512).snapshot("x")));
    is_send(&restore(&rig.store, "b-1", Image::blank(512)));
    is_send(&rig.store.delete_backup(&volume(), &name("b-1")));
    is_send(&rig.store.delete_volume(&volume()));
    is_send(&rig.store.list_volumes());
}

//! Snapshots are one instant of the volume, whatever is written meanwhile, and what changed between two is never missed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::single_range_in_vec_init)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use drover::engine::{Content, Engine, Error, Freeze, Reflink};
use drover::names::{SnapshotName, VolumeName};

use crate::support::pool::{Aligned, Disk, Kind, command, content, on_every_pool, open_direct, run, scramble};

const MI: u64 = 1 << 20;

on_every_pool!(
    a_snapshot_keeps_its_bytes_and_its_name_can_be_used_again,
    reverting_puts_the_volume_back_and_keeps_what_it_grew,
    only_what_is_proved_equal_is_left_out_of_the_changes,
    under_a_writer_of_ordered_counters_every_snapshot_is_an_exact_prefix_of_its_writes,
    a_mounted_file_system_is_clean_and_complete_in_its_snapshot,
    a_file_system_that_somebody_else_froze_stays_frozen,
);

fn volume() -> VolumeName {
    "vol-1".parse().unwrap()
}

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn attached(kind: Kind, size: u64) -> (Disk, Reflink, std::path::PathBuf) {
    let disk = Disk::new(kind, 1 << 30);
    let engine = disk.engine();
    engine.create(&volume(), size, Content::Blank).unwrap();
    let device = engine.attach(&volume()).unwrap().device;
    (disk, engine, device)
}

fn write(device: &Path, offset: u64, byte: u8, length: u64) {
    let mut bytes = Aligned::new(length as usize);
    bytes.fill(byte);
    open_direct(device).write_all_at(&bytes, offset).unwrap();
}

fn a_snapshot_keeps_its_bytes_and_its_name_can_be_used_again(kind: Kind) {
    let (disk, engine, device) = attached(kind, 8 * MI);
    write(&device, 0, 1, MI);
    let first = engine.snapshot(&volume(), &snapshot("daily"), Freeze::WhenMounted).unwrap();
    assert_eq!((first.size, first.allocated, first.frozen), (8 * MI, MI, false));
    write(&device, 0, 2, MI);
    assert_eq!(engine.snapshot(&volume(), &snapshot("daily"), Freeze::WhenMounted).unwrap(), first);
    let second = engine.snapshot(&volume(), &snapshot("other"), Freeze::WhenMounted).unwrap();
    assert_eq!(disk.engine().snapshots(&volume()).unwrap(), [first.clone(), second.clone()]);

    let reader = engine.open_snapshot(&volume(), &first.name).unwrap();
    assert!(content(&*reader)[..MI as usize].iter().all(|byte| *byte == 1));
    assert!(matches!(engine.delete_snapshot(&volume(), &first.name), Err(Error::InUse { .. })));
    drop(reader);
    engine.delete_snapshot(&volume(), &first.name).unwrap();
    engine.delete_snapshot(&volume(), &first.name).unwrap();
    assert!(matches!(engine.open_snapshot(&volume(), &first.name).map(drop), Err(Error::NoSnapshot { .. })));

    let again = engine.snapshot(&volume(), &snapshot("daily"), Freeze::WhenMounted).unwrap();
    assert_ne!(again.id, first.id);
    assert_eq!(engine.snapshots(&volume()).unwrap(), [second, again]);
    // A finished image cannot be changed by mistake.
    assert!(fs::write(disk.config().dir.join("volumes/vol-1/snapshots/daily.img"), "x").is_err());
}

fn reverting_puts_the_volume_back_and_keeps_what_it_grew(kind: Kind) {
    let (_disk, engine, device) = attached(kind, 4 * MI);
    write(&device, MI, 1, MI);
    engine.snapshot(&volume(), &snapshot("s1"), Freeze::Never).unwrap();
    write(&device, MI, 2, MI);
    engine.expand(&volume(), 6 * MI).unwrap();
    write(&device, 5 * MI, 3, MI);
    engine.snapshot(&volume(), &snapshot("s2"), Freeze::Never).unwrap();
    assert!(matches!(engine.revert(&volume(), &snapshot("s1")), Err(Error::InUse { .. })));
    engine.detach(&volume()).unwrap();
    assert!(matches!(engine.revert(&volume(), &snapshot("s9")), Err(Error::NoSnapshot { .. })));
    engine.revert(&volume(), &snapshot("s1")).unwrap();
    engine.snapshot(&volume(), &snapshot("s3"), Freeze::Never).unwrap();

    let mut expected = vec![0; 6 * MI as usize];
    expected[MI as usize..2 * MI as usize].fill(1);
    let reverted = engine.open_snapshot(&volume(), &snapshot("s3")).unwrap();
    assert!(content(&*reverted) == expected);
    expected[MI as usize..2 * MI as usize].fill(2);
    expected[5 * MI as usize..].fill(3);
    let kept = engine.open_snapshot(&volume(), &snapshot("s2")).unwrap();
    assert!(content(&*kept) == expected);
    assert_eq!(reverted.changed_since(&kept.info().id).unwrap(), Some(vec![MI..2 * MI, 5 * MI..6 * MI]));
}

fn only_what_is_proved_equal_is_left_out_of_the_changes(kind: Kind) {
    let (disk, engine, device) = attached(kind, 8 * MI);
    write(&device, 0, 1, 4 * MI);
    let base = engine.snapshot(&volume(), &snapshot("s1"), Freeze::Never).unwrap();
    write(&device, MI, 1, 4096);
    run(command("blkdiscard", &["--offset", "2097152", "--length", "65536"]).arg(&device));
    engine.expand(&volume(), 10 * MI).unwrap();
    let next = engine.snapshot(&volume(), &snapshot("s2"), Freeze::Never).unwrap();
    let reader = engine.open_snapshot(&volume(), &next.name).unwrap();
    let changes = vec![MI..MI + 65536, 2 * MI..2 * MI + 65536, 8 * MI..10 * MI];
    assert_eq!(reader.changed_since(&base.id).unwrap(), Some(changes));
    assert_eq!(reader.changed_since(&next.id).unwrap(), Some(Vec::new()));
    assert_eq!(reader.changed_since("never made").unwrap(), None);
    // An older one can be asked what it has that a newer one lacks.
    let older = engine.open_snapshot(&volume(), &base.name).unwrap();
    assert_eq!(older.changed_since(&next.id).unwrap(), Some(vec![MI..MI + 65536, 2 * MI..2 * MI + 65536]));
    drop(older);

    // The name is there, the id is not; then the id is there, but on another file.
    engine.delete_snapshot(&volume(), &base.name).unwrap();
    let namesake = engine.snapshot(&volume(), &base.name, Freeze::Never).unwrap();
    assert_eq!(reader.changed_since(&base.id).unwrap(), None);
    let image = disk.config().dir.join("volumes/vol-1/snapshots/s1.img");
    run(command("chattr", &["-i"]).arg(&image));
    run(command("cp", &[]).arg(&image).arg(image.with_extension("copy")));
    fs::rename(image.with_extension("copy"), &image).unwrap();
    assert_eq!(reader.changed_since(&namesake.id).unwrap(), None);
    assert!(matches!(engine.open_snapshot(&volume(), &base.name).map(drop), Err(Error::NoSnapshot { .. })));
}

/// Slots of 4 KiB; write `n` puts `n` into the slot that `n` scrambles to.
const SLOTS: u64 = 4096;

fn slot(n: u64) -> u64 {
    scramble(n) % SLOTS
}

fn under_a_writer_of_ordered_counters_every_snapshot_is_an_exact_prefix_of_its_writes(kind: Kind) {
    let (_disk, engine, device) = attached(kind, SLOTS * 4096);
    let file = open_direct(&device);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let bounds = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut bytes = Aligned::new(4096);
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // Both ends of the slot, so that a torn one shows.
                bytes[..8].copy_from_slice(&n.to_le_bytes());
                bytes[4088..].copy_from_slice(&n.to_le_bytes());
                file.write_all_at(&bytes, slot(n) * 4096).unwrap();
                written.store(n, Ordering::SeqCst);
            }
        });
        let mut bounds = Vec::new();
        for round in 0..10 {
            let enough = written.load(Ordering::SeqCst) + 200;
            while written.load(Ordering::SeqCst) < enough && !writer.is_finished() {
                thread::yield_now();
            }
            let before = written.load(Ordering::SeqCst);
            let name = snapshot(&format!("s{round}"));
            engine.snapshot(&volume(), &name, Freeze::WhenMounted).unwrap();
            // One write may be under way that is not counted yet.
            bounds.push((name, before, written.load(Ordering::SeqCst) + 1));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        bounds
    });
    for (name, before, after) in bounds {
        let reader = engine.open_snapshot(&volume(), &name).unwrap();
        let bytes = content(&*reader);
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let found: Vec<u64> = (0..SLOTS as usize).map(|slot| number(slot * 4096)).collect();
        assert!((0..SLOTS as usize).all(|slot| number(slot * 4096 + 4088) == found[slot]), "{name}: torn slot");
        let newest = *found.iter().max().unwrap();
        assert!((before..=after).contains(&newest), "{name}: {before} <= {newest} <= {after}");
        let mut expected = vec![0; SLOTS as usize];
        for n in 1..=newest {
            expected[slot(n) as usize] = n;
        }
        assert!(found == expected, "{name}: not a prefix of the writes");
    }
}

fn a_mounted_file_system_is_clean_and_complete_in_its_snapshot(kind: Kind) {
    let (disk, engine, device) = attached(kind, 64 * MI);
    run(command("mkfs.ext4", &["-q"]).arg(&device));
    let point = disk.outside("guest with blank");
    run(command("mount", &[]).arg(&device).arg(&point));
    fs::write(point.join("file"), vec![7; 5 * MI as usize]).unwrap();
    let frozen = engine.snapshot(&volume(), &snapshot("frozen"), Freeze::WhenMounted).unwrap();
    assert!(frozen.frozen && !frozen.stall.is_zero(), "{frozen:?}");
    fs::write(point.join("later"), "written after the thaw").unwrap();
    assert!(!engine.snapshot(&volume(), &snapshot("running"), Freeze::Never).unwrap().frozen);
    assert!(!disk.config().dir.join("volumes/vol-1/freeze.json").exists());

    let image = disk.config().dir.join("volumes/vol-1/snapshots/frozen.img");
    run(command("e2fsck", &["-f", "-n"]).arg(&image));
    let features = run(command("dumpe2fs", &["-h"]).arg(&image));
    assert!(!features.contains("needs_recovery"), "{features}");
    let file = run(command("debugfs", &["-R", "cat /file"]).arg(&image));
    assert!(file.len() == 5 * MI as usize && file.bytes().all(|byte| byte == 7));
}

fn a_file_system_that_somebody_else_froze_stays_frozen(kind: Kind) {
    let (disk, engine, device) = attached(kind, 64 * MI);
    run(command("mkfs.ext4", &["-q"]).arg(&device));
    let point = disk.outside("guest");
    run(command("mount", &[]).arg(&device).arg(&point));
    run(command("fsfreeze", &["--freeze"]).arg(&point));
    let taken = engine.snapshot(&volume(), &snapshot("s1"), Freeze::WhenMounted).unwrap();
    assert!(!taken.frozen);
    assert!(!disk.config().dir.join("volumes/vol-1/freeze.json").exists());
    // Fails when it is not frozen.
    run(command("fsfreeze", &["--unfreeze"]).arg(&point));
}

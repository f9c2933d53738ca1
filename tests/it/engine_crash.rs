//! A crash between any two steps leaves nothing that the next start does not mend: made by hand step by step, and by kill -9 at random.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use drover::engine::{Content, Engine, Freeze, PoolConfig, Reflink};
use drover::names::{SnapshotName, VolumeName};

use crate::support::pool::{Disk, Kind, Random, command, on_every_pool, run};

const MI: u64 = 1 << 20;

on_every_pool!(
    half_made_and_half_removed_things_are_gone_after_the_next_start,
    a_growth_cut_short_is_finished,
    links_to_devices_are_made_right,
    exactly_the_file_system_named_by_an_intent_is_thawed,
    a_damaged_volume_is_not_touched_and_does_not_keep_the_others,
    an_abandoned_freeze_is_thawed_by_looking_at_the_volume,
    killed_at_random_nothing_is_lost_left_over_or_left_frozen,
);

fn volume() -> VolumeName {
    "vol-1".parse().unwrap()
}

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

/// A pool with one volume that has the finished snapshot `whole`, and the volume's folder.
fn pool(kind: Kind) -> (Disk, PathBuf) {
    let disk = Disk::new(kind, 1 << 30);
    let engine = disk.engine();
    engine.create(&volume(), 64 * MI, Content::Blank).unwrap();
    engine.snapshot(&volume(), &snapshot("whole"), Freeze::Never).unwrap();
    let folder = disk.config().dir.join("volumes/vol-1");
    (disk, folder)
}

fn is_immutable(path: &Path) -> bool {
    run(command("lsattr", &["-d"]).arg(path)).split(' ').next().unwrap().contains('i')
}

/// Every path below a folder, sorted.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn half_made_and_half_removed_things_are_gone_after_the_next_start(kind: Kind) {
    let (disk, folder) = pool(kind);
    let root = disk.config().dir;
    let whole = tree(&root);
    let snapshots = folder.join("snapshots");

    // A volume being made.
    fs::create_dir_all(root.join("volumes/.tmp-1/snapshots")).unwrap();
    fs::write(root.join("volumes/.tmp-1/volume.img"), "x").unwrap();
    // A volume being removed, with a finished snapshot.
    fs::create_dir_all(root.join("trash/1/snapshots")).unwrap();
    fs::write(root.join("trash/1/snapshots/s.img"), "x").unwrap();
    run(command("chattr", &["+i"]).arg(root.join("trash/1/snapshots/s.img")));
    // A snapshot being prepared; one renamed but not described yet; one whose description was being written.
    fs::write(snapshots.join(".tmp-1"), "x").unwrap();
    fs::write(snapshots.join("renamed.img"), "x").unwrap();
    fs::write(snapshots.join(".tmp-2"), "{").unwrap();
    // One being removed: its description is gone, its image is still immutable.
    fs::write(snapshots.join("removed.img"), "x").unwrap();
    run(command("chattr", &["+i"]).arg(snapshots.join("removed.img")));
    // A finished one whose flag was not set yet.
    run(command("chattr", &["-i"]).arg(snapshots.join("whole.img")));
    // A revert before its rename, and the checkpoints of a restore that has ended.
    fs::write(folder.join(".tmp-3"), "x").unwrap();
    fs::write(folder.join("checkpoint"), "x").unwrap();
    fs::write(folder.join("checkpoint.new"), "x").unwrap();

    let engine = disk.engine();
    assert_eq!(tree(&root), whole);
    assert!(is_immutable(&snapshots.join("whole.img")));
    let found: Vec<_> = engine.snapshots(&volume()).unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(found, [snapshot("whole")]);
    // A name of something half made is free.
    engine.snapshot(&volume(), &snapshot("renamed"), Freeze::Never).unwrap();
}

fn a_growth_cut_short_is_finished(kind: Kind) {
    let (disk, folder) = pool(kind);
    let device = disk.engine().attach(&volume()).unwrap().loop_device;
    fs::File::options().write(true).open(folder.join("volume.img")).unwrap().set_len(96 * MI).unwrap();
    let engine = disk.engine();
    assert_eq!(run(command("blockdev", &["--getsize64"]).arg(&device)).trim(), (96 * MI).to_string());
    assert_eq!(engine.volume(&volume()).unwrap().unwrap().size, 96 * MI);
}

fn links_to_devices_are_made_right(kind: Kind) {
    let (disk, _folder) = pool(kind);
    let engine = disk.engine();
    let attachment = engine.attach(&volume()).unwrap();
    fs::remove_file(&attachment.device).unwrap();
    std::os::unix::fs::symlink("/dev/null", &attachment.device).unwrap();
    let engine = disk.engine();
    assert_eq!(fs::read_link(&attachment.device).unwrap(), attachment.loop_device);
    engine.detach(&volume()).unwrap();
    // What a restart of the machine leaves: the link, but no device.
    std::os::unix::fs::symlink(&attachment.loop_device, &attachment.device).unwrap();
    drop(disk.engine());
    assert!(fs::symlink_metadata(&attachment.device).is_err());
}

fn a_damaged_volume_is_not_touched_and_does_not_keep_the_others(kind: Kind) {
    let (disk, folder) = pool(kind);
    let damaged = folder.with_file_name("damaged");
    disk.engine().create(&"damaged".parse().unwrap(), 4 * MI, Content::Blank).unwrap();
    fs::write(damaged.join("volume.json"), "{").unwrap();
    let before = tree(&damaged);
    let engine = disk.engine();
    let listed: Vec<_> = engine.volumes().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(listed, [volume()]);
    let told = engine.volume(&"damaged".parse().unwrap()).unwrap_err().to_string();
    assert!(told.contains("damaged/volume.json"), "{told}");
    assert!(engine.create(&"damaged".parse().unwrap(), 4 * MI, Content::Blank).is_err());
    assert_eq!(tree(&damaged), before);
    engine.delete(&"damaged".parse().unwrap()).unwrap();
    assert!(!damaged.exists());
}

/// Attaches the volume, mounts an ext4 on it, and gives mount point, device number and mount id.
fn mounted(disk: &Disk, engine: &Reflink) -> (PathBuf, u64, u64) {
    let attachment = engine.attach(&volume()).unwrap();
    let point = disk.outside("guest");
    run(command("mkfs.ext4", &["-q"]).arg(&attachment.device));
    run(command("mount", &[]).arg(&attachment.device).arg(&point));
    let device = rustix::fs::stat(&attachment.loop_device).unwrap().st_rdev;
    let id = run(command("findmnt", &["--noheadings", "--output", "ID"]).arg(&point)).trim().parse().unwrap();
    (point, device, id)
}

fn write_intent(folder: &Path, boot_id: &str, device: u64, mount_id: u64) {
    let text = format!(r#"{{"boot_id":"{}","device":{device},"mount_id":{mount_id}}}"#, boot_id.trim());
    fs::write(folder.join("freeze.json"), text).unwrap();
}

/// By trying to freeze it: a write would block for good, and could not even be killed.
fn is_frozen(point: &Path) -> bool {
    let freeze = |how| command("fsfreeze", &[how]).arg(point).output().unwrap().status.success();
    let was_frozen = !freeze("--freeze");
    assert!(was_frozen || freeze("--unfreeze"));
    was_frozen
}

fn exactly_the_file_system_named_by_an_intent_is_thawed(kind: Kind) {
    let (disk, folder) = pool(kind);
    let (point, device, mount_id) = mounted(&disk, &disk.engine());
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();

    // Somebody else's freeze: named with another boot, with another device, or not at all.
    run(command("fsfreeze", &["--freeze"]).arg(&point));
    for (boot_id, device) in [("another boot", device), (&*boot_id, device + 1)] {
        write_intent(&folder, boot_id, device, mount_id);
        drop(disk.engine());
        assert!(!folder.join("freeze.json").exists());
    }
    drop(disk.engine());
    assert!(is_frozen(&point));

    write_intent(&folder, &boot_id, device, mount_id);
    drop(disk.engine());
    assert!(!folder.join("freeze.json").exists());
    assert!(!is_frozen(&point));

    // A crash before the freeze: nothing is frozen, nothing is to be done.
    write_intent(&folder, &boot_id, device, mount_id);
    drop(disk.engine());
    assert!(!folder.join("freeze.json").exists() && !is_frozen(&point));
}

fn an_abandoned_freeze_is_thawed_by_looking_at_the_volume(kind: Kind) {
    let (disk, folder) = pool(kind);
    let engine = disk.engine();
    let (point, device, mount_id) = mounted(&disk, &engine);
    run(command("fsfreeze", &["--freeze"]).arg(&point));
    write_intent(&folder, &fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap(), device, mount_id);
    engine.volumes().unwrap();
    assert!(!is_frozen(&point));
}

const CHURN: &str = "engine_crash::churn_until_killed";
const CHURN_DIR: &str = "DROVER_CHURN_DIR";

/// The process that is killed: works on the pool as fast as it can.
#[test]
#[ignore = "not a test: the process that killed_at_random_… starts and kills"]
fn churn_until_killed() {
    let root = PathBuf::from(std::env::var(CHURN_DIR).unwrap());
    let config = PoolConfig { device_dir: root.join("dev"), ..PoolConfig::new(root.join("mnt/pool")) };
    let engine = Reflink::open(config).unwrap();
    let other: VolumeName = "vol-2".parse().unwrap();
    for n in 0u64.. {
        let name = snapshot(&format!("s{}", n % 4));
        engine.delete_snapshot(&volume(), &name).unwrap();
        engine.snapshot(&volume(), &name, Freeze::WhenMounted).unwrap();
        match n % 5 {
            0 => drop(engine.create(&other, 4 * MI, Content::Blank).unwrap()),
            1 => drop(engine.attach(&other).unwrap()),
            2 => drop(engine.snapshot(&other, &name, Freeze::WhenMounted).unwrap()),
            3 => engine.detach(&other).and_then(|()| engine.revert(&other, &snapshot("s2"))).unwrap_or_default(),
            _ => engine.delete(&other).unwrap(),
        }
    }
}

fn churn(disk: &Disk) -> Child {
    let exe = std::env::current_exe().unwrap();
    Command::new(exe)
        .args([CHURN, "--exact", "--ignored"])
        .env(CHURN_DIR, disk.path().parent().unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn killed_at_random_nothing_is_lost_left_over_or_left_frozen(kind: Kind) {
    let (disk, folder) = pool(kind);
    let mut random = Random::seeded("killed_at_random");
    let (point, ..) = mounted(&disk, &disk.engine());
    let mut frozen_deaths = 0;
    for round in 0..10 {
        fs::write(point.join("round"), format!("{round}")).unwrap();
        let mut child = churn(&disk);
        wait_for_work(&folder, &mut child);
        // Half of the deaths are sought while the file system is frozen.
        if round % 2 == 0 {
            let deadline = Instant::now() + Duration::from_secs(2);
            while !folder.join("freeze.json").exists() && Instant::now() < deadline {
                thread::yield_now();
            }
        } else {
            thread::sleep(Duration::from_micros(random.below(50_000)));
        }
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        frozen_deaths += u32::from(folder.join("freeze.json").exists());

        let engine = disk.engine();
        assert!(!is_frozen(&point), "round {round}");
        let left: Vec<_> = tree(&disk.config().dir)
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".tmp-") || path.ends_with("freeze.json"))
            .collect();
        assert_eq!(left, [""; 0].map(PathBuf::from), "round {round}");
        check_snapshots(&engine, &folder, round);
    }
    println!("{frozen_deaths} of 10 deaths came with an intent");
    assert!(frozen_deaths > 0);
}

/// Until the first snapshot of this child's is there.
fn wait_for_work(folder: &Path, child: &mut Child) {
    let first = folder.join("snapshots/s0.json");
    let before = fs::metadata(&first).and_then(|meta| meta.modified()).ok();
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&first).and_then(|meta| meta.modified()).ok().is_none_or(|now| Some(now) == before) {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "the child does not work");
        thread::sleep(Duration::from_millis(1));
    }
}

fn check_snapshots(engine: &Reflink, folder: &Path, round: u32) {
    let found = engine.snapshots(&volume()).unwrap();
    // One at most can have been between its removal and its making.
    assert!(found.iter().any(|info| info.name == snapshot("whole")) && found.len() >= 2, "round {round}: {found:?}");
    for info in found.iter().filter(|info| info.frozen) {
        let image = folder.join(format!("snapshots/{}.img", info.name));
        run(command("e2fsck", &["-f", "-n"]).arg(&image));
        assert!(is_immutable(&image));
        engine.open_snapshot(&volume(), &info.name).unwrap().allocated().unwrap();
    }
}

//! Pools: where they can lie, what a full one does, and the pool image for hosts whose file system cannot clone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::single_range_in_vec_init, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use drover::engine::{Content, Engine, Error, Freeze, PoolConfig, PoolImageConfig, Reflink};
use drover::names::{SnapshotName, VolumeName};

use crate::support::pool::{Aligned, Disk, Kind, command, content, on_every_pool, open_direct, run};

const MI: u64 = 1 << 20;

on_every_pool!(a_full_pool_gives_the_guest_an_error_and_no_more);

fn volume() -> VolumeName {
    "vol-1".parse().unwrap()
}

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

/// Writes through the device, from 64 MiB on, until the pool has no room.
fn fill(device: &std::path::Path) -> std::io::Error {
    let file = open_direct(device);
    let mut bytes = Aligned::new(MI as usize);
    bytes.fill(0xA5);
    for at in 64.. {
        if let Err(error) = file.write_all_at(&bytes, at * MI) {
            return error;
        }
    }
    unreachable!()
}

fn a_full_pool_gives_the_guest_an_error_and_no_more(kind: Kind) {
    let disk = Disk::new(kind, 400 * MI);
    let engine = disk.engine();
    engine.create(&volume(), 1 << 30, Content::Blank).unwrap();
    let device = engine.attach(&volume()).unwrap().device;
    let mut bytes = Aligned::new(16 * MI as usize);
    bytes.fill(1);
    open_direct(&device).write_all_at(&bytes, 0).unwrap();
    let kept = engine.snapshot(&volume(), &snapshot("kept"), Freeze::Never).unwrap();
    engine.snapshot(&volume(), &snapshot("large"), Freeze::Never).unwrap();
    let other: VolumeName = "vol-2".parse().unwrap();
    engine.create(&other, 4 * MI, Content::Blank).unwrap();

    let error = fill(&device);
    println!("the guest got: {error}");
    // The last blocks, so that not even a small file finds room.
    let mut filler = File::create(disk.path().join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).and_then(|()| filler.sync_data()).is_ok() {}
    let space = engine.space().unwrap();
    assert!(space.available < space.total / 20, "{space:?}");

    // A start finds everything again, and what needs room says so.
    let engine = disk.engine();
    assert_eq!(engine.volumes().unwrap().len(), 2);
    let results = [
        engine.create(&"vol-3".parse().unwrap(), 4 * MI, Content::Blank).map(drop),
        engine.snapshot(&volume(), &snapshot("one-more"), Freeze::Never).map(drop),
    ];
    for result in results {
        assert!(matches!(result, Ok(()) | Err(Error::Full { .. })), "{result:?}");
    }
    let reader = engine.open_snapshot(&volume(), &kept.name).unwrap();
    assert!(content(&*reader)[..16 * MI as usize].iter().all(|byte| *byte == 1));

    // Removing works without room, and makes room.
    engine.delete(&other).unwrap();
    engine.delete_snapshot(&volume(), &snapshot("large")).unwrap();
    engine.delete_snapshot(&volume(), &snapshot("one-more")).unwrap();
    fs::remove_file(disk.path().join("filler")).unwrap();
    run(command("blkdiscard", &["--offset", "67108864"]).arg(&device));
    engine.detach(&volume()).unwrap();
    engine.revert(&volume(), &kept.name).unwrap();
    let device = engine.attach(&volume()).unwrap().device;
    open_direct(&device).write_all_at(&bytes, 64 * MI).unwrap();
    engine.detach(&volume()).unwrap();
    drop(reader);
    engine.delete(&volume()).unwrap();
    assert_eq!(engine.volumes().unwrap(), []);
}

#[test]
fn a_full_pool_refuses_with_its_own_error() {
    let disk = Disk::new(Kind::Xfs, 400 * MI);
    let engine = disk.engine();
    engine.create(&volume(), 1 << 30, Content::Restoring).unwrap();
    let writer = engine.open_restore(&volume()).unwrap();
    let bytes = Aligned::new(8 * MI as usize);
    let refusal = (0..128).find_map(|at| writer.write_at(at * 8 * MI, &bytes).err()).unwrap();
    // The writer does not know the pool; its answer still tells why.
    assert!(refusal.is_transient() && refusal.to_string().contains("No space left"), "{refusal}");
}

fn image_config(disk: &Disk, size: u64) -> PoolConfig {
    PoolConfig { pool_image: Some(PoolImageConfig { path: disk.path().join("images/pool.img"), size }), ..disk.config() }
}

#[test]
fn a_host_that_cannot_clone_needs_a_pool_image_and_is_told_so() {
    let disk = Disk::new(Kind::Ext4, 256 * MI);
    let refusal = Reflink::open(disk.config()).unwrap_err();
    assert!(matches!(&refusal, Error::Pool { .. }) && refusal.to_string().contains("reflink=1"), "{refusal}");
    let small = Reflink::open(image_config(&disk, 100 * MI)).unwrap_err();
    assert!(small.to_string().contains("at least"), "{small}");
}

#[test]
fn a_pool_image_is_made_once_found_again_and_grown_while_in_use() {
    let disk = Disk::new(Kind::Ext4, 512 * MI);
    // A crash while it was being made: never used, made anew.
    fs::write(disk.outside("mnt/images").join("pool.img.drover-unfinished"), "half").unwrap();
    let config = image_config(&disk, 320 * MI);
    let engine = Reflink::open(config.clone()).unwrap();
    engine.create(&volume(), 64 * MI, Content::Blank).unwrap();
    let attachment = engine.attach(&volume()).unwrap();
    assert!(attachment.direct_io);
    let mut bytes = Aligned::new(4096);
    bytes.fill(3);
    let device = open_direct(&attachment.device);
    device.write_all_at(&bytes, 0).unwrap();
    let before = engine.space().unwrap();
    drop(engine);

    // Found mounted, by several at once, and grown because the configuration says so.
    let config = image_config(&disk, 400 * MI);
    let engines: Vec<Reflink> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Reflink::open(config.clone()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(disk.loop_devices().len(), 2);
    let engine = &engines[0];
    assert!(engine.space().unwrap().total > before.total + 60 * MI);
    assert!(engine.grow_pool(480 * MI).unwrap().total > before.total + 140 * MI);
    // A smaller size changes nothing.
    assert!(engine.grow_pool(320 * MI).unwrap().total > before.total + 140 * MI);
    device.write_all_at(&bytes, 4096).unwrap();
    drop(device);
    engine.detach(&volume()).unwrap();

    // What a restart of the machine leaves: nothing mounted, nothing attached.
    rustix::mount::unmount(&config.dir, rustix::mount::UnmountFlags::empty()).unwrap();
    for device in disk.loop_devices() {
        run(&mut command("losetup", &["--detach", &device]));
    }
    let engine = Reflink::open(config).unwrap();
    engine.snapshot(&volume(), &snapshot("s1"), Freeze::Never).unwrap();
    let reader = engine.open_snapshot(&volume(), &snapshot("s1")).unwrap();
    assert!(content(&*reader)[..8192].iter().all(|byte| *byte == 3));
}

#[test]
fn nothing_foreign_is_formatted_or_hidden_by_a_pool_image() {
    let disk = Disk::new(Kind::Ext4, 512 * MI);
    let config = image_config(&disk, 320 * MI);
    let path = config.pool_image.clone().unwrap().path;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for foreign in [vec![7; 8192], vec![0; 8192], Vec::new()] {
        fs::write(&path, &foreign).unwrap();
        let refusal = Reflink::open(config.clone()).unwrap_err();
        assert!(refusal.to_string().contains("not touched"), "{refusal}");
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(&config.dir).unwrap();
    fs::write(config.dir.join("letter"), "mine").unwrap();
    let refusal = Reflink::open(config.clone()).unwrap_err();
    assert!(refusal.to_string().contains("letter"), "{refusal}");
    assert_eq!(fs::read_to_string(config.dir.join("letter")).unwrap(), "mine");
}

#[test]
fn on_a_disk_of_4096_byte_sectors_direct_io_is_given_up_not_the_block_size() {
    let disk = Disk::new(Kind::Xfs4k, 512 * MI);
    let engine = disk.engine();
    engine.create(&volume(), 16 * MI, Content::Blank).unwrap();
    let attachment = engine.attach(&volume()).unwrap();
    assert!(!attachment.direct_io);
    let mut bytes = Aligned::new(512);
    bytes.fill(9);
    open_direct(&attachment.device).write_all_at(&bytes, 512).unwrap();
    engine.snapshot(&volume(), &snapshot("s1"), Freeze::Never).unwrap();
    let reader = engine.open_snapshot(&volume(), &snapshot("s1")).unwrap();
    assert_eq!(content(&*reader)[..1536], [[0; 512], [9; 512], [0; 512]].concat());
}

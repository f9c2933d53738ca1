//! Volumes and their devices: found again after any loss of the engine, never attached twice, never taken from a user.

#![allow(clippy::unwrap_used, clippy::panic, clippy::single_range_in_vec_init)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use drover::engine::{Content, Engine, Error, Freeze, Reflink};
use drover::names::VolumeName;

use crate::support::pool::{Aligned, Disk, Kind, command, content, on_every_pool, open_direct, run};

const MI: u64 = 1 << 20;

on_every_pool!(
    sizes_are_rounded_up_and_creating_again_changes_nothing,
    a_device_has_512_byte_blocks_direct_io_and_its_bytes_survive_a_detach,
    a_restarted_engine_finds_its_devices_and_their_users_notice_nothing,
    an_image_is_never_attached_twice,
    a_volume_grows_while_it_is_written,
    a_device_in_use_is_not_detached_and_stays_as_it_was,
    a_volume_in_use_is_not_deleted,
    a_restored_volume_is_whole_only_when_finished_and_resumes_from_its_checkpoint,
    checkpoints_are_saved_while_others_mend_the_volume,
);

fn volume() -> VolumeName {
    "vol-1".parse().unwrap()
}

fn attached(kind: Kind, size: u64) -> (Disk, Reflink, std::path::PathBuf) {
    let disk = Disk::new(kind, 1 << 30);
    let engine = disk.engine();
    engine.create(&volume(), size, Content::Blank).unwrap();
    let device = engine.attach(&volume()).unwrap().device;
    (disk, engine, device)
}

/// Bytes of a block device.
fn device_size(device: &std::path::Path) -> u64 {
    run(command("blockdev", &["--getsize64"]).arg(device)).trim().parse().unwrap()
}

fn sizes_are_rounded_up_and_creating_again_changes_nothing(kind: Kind) {
    let disk = Disk::new(kind, 1 << 30);
    let engine = disk.engine();
    let made = engine.create(&volume(), 3 * MI, Content::Blank).unwrap();
    assert_eq!((made.size, made.ready, made.attachment.is_none()), (4 * MI, true, true));
    assert_eq!(engine.create(&volume(), MI, Content::Blank).unwrap(), made);
    assert!(matches!(engine.create(&volume(), 8 * MI, Content::Blank), Err(Error::NotAllowed { .. })));
    assert!(matches!(engine.create(&volume(), 0, Content::Blank), Err(Error::NotAllowed { .. })));
    assert_eq!(engine.volumes().unwrap(), [made]);
    engine.delete(&volume()).unwrap();
    engine.delete(&volume()).unwrap();
    assert_eq!(engine.volumes().unwrap(), []);
    assert!(engine.volume(&volume()).unwrap().is_none());
    assert!(matches!(engine.attach(&volume()), Err(Error::NoVolume(_))));
}

fn a_device_has_512_byte_blocks_direct_io_and_its_bytes_survive_a_detach(kind: Kind) {
    let (disk, engine, device) = attached(kind, 16 * MI);
    assert!(engine.attach(&volume()).unwrap().direct_io);
    assert_eq!(run(command("blockdev", &["--getss"]).arg(&device)).trim(), "512");
    assert_eq!(device_size(&device), 16 * MI);
    let mut bytes = Aligned::new(512);
    bytes.fill(7);
    open_direct(&device).write_all_at(&bytes, 512).unwrap();
    engine.detach(&volume()).unwrap();
    assert!(fs::symlink_metadata(&device).is_err());
    assert_eq!(disk.loop_devices(), [""; 0]);
    engine.detach(&volume()).unwrap();
    let again = engine.attach(&volume()).unwrap();
    let mut read = [0; 1024];
    File::open(&again.device).unwrap().read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read[..512], [0; 512]);
    assert_eq!(read[512..], [7; 512]);
}

fn a_restarted_engine_finds_its_devices_and_their_users_notice_nothing(kind: Kind) {
    let (disk, engine, device) = attached(kind, 16 * MI);
    let before = engine.volume(&volume()).unwrap().unwrap().attachment;
    let file = open_direct(&device);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let bytes = Aligned::new(4096);
            while !stop.load(Ordering::Relaxed) {
                let slot = written.fetch_add(1, Ordering::Relaxed) % 4096;
                file.write_all_at(&bytes, slot * 4096).unwrap();
            }
        });
        let wait_for_more = || {
            let enough = written.load(Ordering::Relaxed) + 50;
            while written.load(Ordering::Relaxed) < enough && !writer.is_finished() {
                thread::yield_now();
            }
        };
        wait_for_more();
        drop(engine);
        wait_for_more();
        // What an upgrade sees: the link is gone with the old container's /dev, the device is not.
        fs::remove_file(&device).unwrap();
        let engine = disk.engine();
        assert_eq!(engine.volume(&volume()).unwrap().unwrap().attachment, before);
        assert_eq!(engine.volumes().unwrap()[0].attachment, before);
        assert_eq!(Some(engine.attach(&volume()).unwrap()), before);
        assert_eq!(fs::canonicalize(&device).unwrap(), before.unwrap().loop_device);
        wait_for_more();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

fn an_image_is_never_attached_twice(kind: Kind) {
    let disk = Disk::new(kind, 1 << 30);
    disk.engine().create(&volume(), 4 * MI, Content::Blank).unwrap();
    let engines: Vec<Reflink> = (0..8).map(|_| disk.engine()).collect();
    let devices: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = engines.iter().map(|engine| scope.spawn(|| engine.attach(&volume()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
    assert_eq!(disk.loop_devices().len(), 1);
}

fn a_volume_grows_while_it_is_written(kind: Kind) {
    let (_disk, engine, device) = attached(kind, 16 * MI);
    let file = open_direct(&device);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let bytes = Aligned::new(4096);
            while !stop.load(Ordering::Relaxed) {
                file.write_all_at(&bytes, 4096).unwrap();
            }
        });
        assert_eq!(engine.expand(&volume(), 31 * MI).unwrap().size, 32 * MI);
        assert_eq!(device_size(&device), 32 * MI);
        assert_eq!(engine.expand(&volume(), 32 * MI).unwrap().size, 32 * MI);
        assert!(matches!(engine.expand(&volume(), 16 * MI), Err(Error::NotAllowed { .. })));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    file.write_all_at(&Aligned::new(4096), 32 * MI - 4096).unwrap();
}

fn refused_holder(result: Result<(), Error>) -> String {
    match result {
        Err(Error::InUse { holder, .. }) => holder,
        other => panic!("not refused as in use: {other:?}"),
    }
}

fn a_device_in_use_is_not_detached_and_stays_as_it_was(kind: Kind) {
    let (disk, engine, device) = attached(kind, 32 * MI);
    let before = engine.volume(&volume()).unwrap();
    let file = File::open(&device).unwrap();
    assert!(refused_holder(engine.detach(&volume())).contains(&format!("process {}", std::process::id())));
    drop(file);

    run(command("mkfs.ext4", &["-q"]).arg(&device));
    let point = disk.outside("guest");
    run(command("mount", &[]).arg(&device).arg(&point));
    assert!(refused_holder(engine.detach(&volume())).contains(point.to_str().unwrap()));

    // A copy of the mount in a namespace of somebody else keeps the device busy when ours is gone.
    let mut other = command("unshare", &["--mount", "--propagation", "private", "sleep", "600"]).spawn().unwrap();
    let has_own_namespace = || {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let name = fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap_or_default();
        name.trim() == "sleep" && namespace(&other.id().to_string()) != namespace("self")
    };
    while !has_own_namespace() {
        thread::yield_now();
    }
    run(command("umount", &[]).arg(&point));
    let holder = refused_holder(engine.detach(&volume()));
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(holder.contains(&format!("process {}", other.id())), "{holder}");
    assert_eq!(engine.volume(&volume()).unwrap().unwrap().attachment, before.unwrap().attachment);

    engine.detach(&volume()).unwrap();
    assert_eq!(disk.loop_devices(), [""; 0]);
}

fn a_volume_in_use_is_not_deleted(kind: Kind) {
    let (disk, engine, _device) = attached(kind, 4 * MI);
    let snapshot = engine.snapshot(&volume(), &"s1".parse().unwrap(), Freeze::Never).unwrap().name;
    assert!(refused_holder(engine.delete(&volume())).contains("attached as"));
    engine.detach(&volume()).unwrap();
    let reader = engine.open_snapshot(&volume(), &snapshot).unwrap();
    // Another process would have an engine of its own.
    refused_holder(disk.engine().delete(&volume()));
    refused_holder(disk.engine().delete_snapshot(&volume(), &snapshot));
    drop(reader);
    engine.delete(&volume()).unwrap();
    assert_eq!(fs::read_dir(disk.config().dir.join("trash")).unwrap().count(), 0);
}

fn a_restored_volume_is_whole_only_when_finished_and_resumes_from_its_checkpoint(kind: Kind) {
    let disk = Disk::new(kind, 1 << 30);
    let engine = disk.engine();
    assert!(!engine.create(&volume(), 8 * MI, Content::Restoring).unwrap().ready);
    assert!(matches!(engine.attach(&volume()), Err(Error::NotAllowed { .. })));
    assert!(matches!(engine.snapshot(&volume(), &"s1".parse().unwrap(), Freeze::Never), Err(Error::NotAllowed { .. })));

    let writer = engine.open_restore(&volume()).unwrap();
    assert_eq!(writer.load_checkpoint().unwrap(), None);
    let mut bytes = Aligned::new(2 * MI as usize);
    bytes.fill(9);
    writer.write_at(2 * MI, &bytes).unwrap();
    writer.write_at(4 * MI + 1, &[5; 1000]).unwrap();
    writer.sync().unwrap();
    writer.save_checkpoint(b"half").unwrap();
    assert!(matches!(writer.write_at(8 * MI - 1, &[0; 2]), Err(Error::NotAllowed { .. })));
    refused_holder(engine.open_restore(&volume()).map(drop));
    refused_holder(engine.finish_restore(&volume()));
    refused_holder(engine.delete(&volume()));
    drop((writer, engine));

    let engine = disk.engine();
    let writer = engine.open_restore(&volume()).unwrap();
    assert_eq!(writer.load_checkpoint().unwrap().as_deref(), Some(b"half".as_slice()));
    writer.zero(2 * MI..3 * MI).unwrap();
    writer.sync().unwrap();
    drop(writer);
    engine.finish_restore(&volume()).unwrap();
    engine.finish_restore(&volume()).unwrap();
    assert!(engine.volume(&volume()).unwrap().unwrap().ready);
    assert!(matches!(engine.open_restore(&volume()).map(drop), Err(Error::NotAllowed { .. })));

    let snapshot = engine.snapshot(&volume(), &"s1".parse().unwrap(), Freeze::Never).unwrap();
    let reader = engine.open_snapshot(&volume(), &snapshot.name).unwrap();
    let mut expected = vec![0; 8 * MI as usize];
    expected[3 * MI as usize..4 * MI as usize].fill(9);
    expected[4 * MI as usize + 1..4 * MI as usize + 1001].fill(5);
    assert!(content(&*reader) == expected);
    assert_eq!(reader.allocated().unwrap(), [3 * MI..4 * MI + 65536]);
}

/// Another agent that starts, and a snapshot that is deleted, mend a volume whose restore goes on.
fn checkpoints_are_saved_while_others_mend_the_volume(kind: Kind) {
    let disk = Disk::new(kind, 1 << 30);
    let engine = disk.engine();
    engine.create(&volume(), 4 * MI, Content::Restoring).unwrap();
    // What a process that died while it saved left behind.
    fs::write(disk.config().dir.join("volumes/vol-1/checkpoint.new"), "half").unwrap();
    let writer = engine.open_restore(&volume()).unwrap();
    let stop = AtomicBool::new(false);
    let saves = thread::scope(|scope| {
        let saver = scope.spawn(|| {
            let mut saves = 0u64;
            while !stop.load(Ordering::Relaxed) || saves < 50 {
                writer.save_checkpoint(&saves.to_le_bytes())?;
                saves += 1;
            }
            Ok::<_, Error>(saves)
        });
        for _ in 0..50 {
            engine.delete_snapshot(&volume(), &"none".parse().unwrap()).unwrap();
            drop(disk.engine());
        }
        stop.store(true, Ordering::Relaxed);
        saver.join().unwrap().unwrap()
    });
    assert_eq!(writer.load_checkpoint().unwrap().unwrap(), (saves - 1).to_le_bytes());
}

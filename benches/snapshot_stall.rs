//! How long a snapshot makes a volume's I/O wait: a plain clone beside the engine's, in one run, under a steady random writer.
//!
//! `make bench` as root. Needs mkfs.xfs, mkfs.btrfs and 4 GiB of room in the temporary folder.
//! `DROVER_BENCH_EXTENTS` sets the number of extents (default 200000). Fails when XFS misses what is promised.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/support/mod.rs"]
#[allow(unused_imports, unused_macros, missing_docs)]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use drover::engine::{Content, Engine, Freeze};
use drover::names::VolumeName;

use self::support::pool::{Aligned, Disk, Kind, command, open_direct, run, scramble};

const GI: u64 = 1 << 30;
const VOLUME_SIZE: u64 = 100 * GI;

/// Promised on XFS.
const TARGET: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let extents = std::env::var("DROVER_BENCH_EXTENTS").ok().map_or(200_000, |text| text.parse().unwrap());
    println!("{extents} extents of 4 KiB in a volume of 100 GiB, one random 4 KiB direct writer");
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!("{:<6} {:>24} {:>24} {:>10} {:>9}", "pool", "plain clone: took/waited", "engine: took/waited", "stall", "ratio");
    let mut kept = true;
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let row = measure(kind, extents);
        row.print(kind);
        kept &= kind != Kind::Xfs || row.is_within_target();
    }
    println!("load average after: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How long a call took, and the longest that one write waited meanwhile.
#[derive(Clone, Copy)]
struct Measured {
    took: Duration,
    waited: Duration,
}

struct Row {
    plain: Measured,
    engine: Measured,
    stall: Duration,
}

impl Row {
    fn is_within_target(&self) -> bool {
        self.engine.waited.max(self.stall) <= TARGET
    }

    fn print(&self, kind: Kind) {
        let both = |measured: Measured| format!("{:.2?} / {:.2?}", measured.took, measured.waited);
        let verdict = match kind {
            Kind::Xfs if self.is_within_target() => "within 500 ms",
            Kind::Xfs => "MISSED: more than 500 ms",
            _ => "no promise",
        };
        println!(
            "{:<6} {:>24} {:>24} {:>10} {:>8.1}x  {verdict}",
            format!("{kind:?}"),
            both(self.plain),
            both(self.engine),
            format!("{:.2?}", self.stall),
            self.plain.waited.as_secs_f64() / self.engine.waited.as_secs_f64(),
        );
    }
}

fn measure(kind: Kind, extents: u64) -> Row {
    let disk = Disk::new(kind, 16 * GI);
    let engine = disk.engine();
    let volume: VolumeName = "bench".parse().unwrap();
    engine.create(&volume, VOLUME_SIZE, Content::Blank).unwrap();
    let device = engine.attach(&volume).unwrap().device;
    fragment(&device, extents);
    let image = disk.config().dir.join("volumes/bench/volume.img");
    let plain = under_writer(&device, extents, || plain_clone(&image, &disk.config().dir.join("plain.img")));
    // Gone for good before the second measurement: both find a volume that shares nothing.
    std::fs::remove_file(disk.config().dir.join("plain.img")).unwrap();
    run(command("sync", &["--file-system"]).arg(disk.path()));
    let mut stall = Duration::ZERO;
    let engine = under_writer(&device, extents, || {
        stall = engine.snapshot(&volume, &"snapshot".parse().unwrap(), Freeze::WhenMounted).unwrap().stall;
    });
    Row { plain, engine, stall }
}

fn place(n: u64) -> u64 {
    scramble(n) % (VOLUME_SIZE / 4096) * 4096
}

fn fragment(device: &Path, extents: u64) {
    let file = open_direct(device);
    thread::scope(|scope| {
        for part in 0..8 {
            let file = &file;
            scope.spawn(move || {
                let bytes = Aligned::new(4096);
                (part..extents).step_by(8).for_each(|n| file.write_all_at(&bytes, place(n)).unwrap());
            });
        }
    });
}

fn plain_clone(source: &Path, destination: &Path) {
    let destination = File::create_new(destination).unwrap();
    if let Ok(flags) = rustix::fs::ioctl_getflags(File::open(source).unwrap()) {
        // btrfs clones only between files that are alike in this.
        let _ = rustix::fs::ioctl_setflags(&destination, flags & rustix::fs::IFlags::NOCOW);
    }
    rustix::fs::ioctl_ficlone(&destination, File::open(source).unwrap()).unwrap();
}

/// Runs `work` while one thread overwrites random places of those that are written already.
fn under_writer(device: &Path, extents: u64, work: impl FnOnce()) -> Measured {
    let file = open_direct(device);
    let (stop, longest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = Aligned::new(4096);
            let mut worst = Duration::ZERO;
            for n in 0.. {
                let began = Instant::now();
                file.write_all_at(&bytes, place(scramble(n + (1 << 40)) % extents)).unwrap();
                worst = worst.max(began.elapsed());
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            *longest.lock().unwrap() = worst;
        });
        thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        work();
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        took
    });
    Measured { took, waited: longest.into_inner().unwrap() }
}

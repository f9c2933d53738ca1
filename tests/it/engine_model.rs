//! Random rounds against a model in memory: every snapshot has exactly the model's bytes, and no changed block is ever missed.
//!
//! `DROVER_SOAK_ROUNDS` sets the number of rounds, `DROVER_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use drover::engine::{Content, Engine, Freeze, Reflink};
use drover::names::{SnapshotName, VolumeName};
use rustix::fs::FallocateFlags;

use crate::support::pool::{Aligned, Disk, Kind, Random, command, content, on_every_pool, open_direct, run};

on_every_pool!(no_changed_block_is_ever_missed);

const SIZE: u64 = 32 << 20;
const BLOCK: usize = 64 << 10;

/// A snapshot as the model knows it.
struct Known {
    name: SnapshotName,
    id: String,
    bytes: Vec<u8>,
}

struct Run {
    random: Random,
    engine: Reflink,
    volume: VolumeName,
    device: PathBuf,
    bytes: Vec<u8>,
    snapshots: Vec<Known>,
    made: u64,
}

fn no_changed_block_is_ever_missed(kind: Kind) {
    let rounds = std::env::var("DROVER_SOAK_ROUNDS").ok().map_or(20, |rounds| rounds.parse().unwrap());
    // Small, so that freed space is soon used again: that is where a wrong "unchanged" would come from.
    let disk = Disk::new(kind, 512 << 20);
    let engine = disk.engine();
    let volume: VolumeName = "vol-1".parse().unwrap();
    engine.create(&volume, SIZE, Content::Blank).unwrap();
    let device = engine.attach(&volume).unwrap().device;
    let random = Random::seeded("no_changed_block_is_ever_missed");
    let mut run = Run { random, engine, volume, device, bytes: vec![0; SIZE as usize], snapshots: Vec::new(), made: 0 };
    let mut seen = Seen::default();
    for round in 0..rounds {
        for _ in 0..40 {
            run.step();
        }
        run.snapshot(&mut seen, round);
        match run.random.below(6) {
            0 | 1 => run.delete_one(),
            2 => run.revert(),
            _ => {}
        }
    }
    println!("{seen:?}");
    assert!(seen.pairs > rounds / 2 && seen.changed > 0 && seen.reported < seen.compared, "{seen:?}");
}

/// Blocks, over all pairs of snapshots.
#[derive(Debug, Default)]
struct Seen {
    pairs: u64,
    compared: u64,
    changed: u64,
    reported: u64,
}

impl Run {
    /// One write of some kind, through the page cache or past it.
    fn step(&mut self) {
        let unit = 512 << self.random.below(6);
        let length = (self.random.below(64) + 1) * unit;
        let offset = self.random.below(SIZE / unit) * unit;
        let length = length.min(SIZE - offset);
        let range = offset as usize..(offset + length) as usize;
        match self.random.below(8) {
            0 => self.change(range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            1 => self.change(range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE),
            2 => self.discard(range),
            3 => self.write(range, |bytes, _| bytes.fill(0)),
            // The same bytes again.
            4 => self.write(range, |_, _| {}),
            _ => self.write(range, |bytes, random| bytes.fill(random.below(256) as u8)),
        }
    }

    fn write(&mut self, range: std::ops::Range<usize>, fill: impl FnOnce(&mut [u8], &mut Random)) {
        let mut buffer = Aligned::new(range.len());
        buffer.copy_from_slice(&self.bytes[range.clone()]);
        fill(&mut buffer, &mut self.random);
        let is_direct = self.random.below(2) == 0;
        let file = if is_direct { open_direct(&self.device) } else { File::options().write(true).open(&self.device).unwrap() };
        file.write_all_at(&buffer, range.start as u64).unwrap();
        if !is_direct {
            // What the guest's page cache holds is not in the volume yet.
            file.sync_data().unwrap();
        }
        self.bytes[range].copy_from_slice(&buffer);
    }

    fn change(&mut self, range: std::ops::Range<usize>, flags: FallocateFlags) {
        let file = File::options().write(true).open(&self.device).unwrap();
        rustix::fs::fallocate(&file, flags, range.start as u64, range.len() as u64).unwrap();
        self.bytes[range].fill(0);
    }

    fn discard(&mut self, range: std::ops::Range<usize>) {
        // Loop devices discard whole blocks of the pool's file system and zero the rest of nothing: so only those.
        let range = range.start.next_multiple_of(4096)..range.end / 4096 * 4096;
        if range.start < range.end {
            let (offset, length) = (range.start.to_string(), range.len().to_string());
            run(command("blkdiscard", &["--offset", &offset, "--length", &length]).arg(&self.device));
            self.bytes[range].fill(0);
        }
    }

    fn snapshot(&mut self, seen: &mut Seen, round: u64) {
        let name: SnapshotName = format!("s{}", self.made).parse().unwrap();
        self.made += 1;
        let info = self.engine.snapshot(&self.volume, &name, Freeze::WhenMounted).unwrap();
        let reader = self.engine.open_snapshot(&self.volume, &name).unwrap();
        assert!(content(&*reader) == self.bytes, "round {round}: {name} is not what was written");
        let allocated = covered(&reader.allocated().unwrap());
        for (block, bytes) in self.bytes.chunks(BLOCK).enumerate() {
            assert!(allocated[block] || bytes.iter().all(|byte| *byte == 0), "round {round}: block {block} is not all zeros");
        }
        for base in &self.snapshots {
            let changed = covered(&reader.changed_since(&base.id).unwrap().unwrap());
            seen.pairs += 1;
            for (block, (old, new)) in base.bytes.chunks(BLOCK).zip(self.bytes.chunks(BLOCK)).enumerate() {
                assert!(changed[block] || old == new, "round {round}: block {block} changed from {} to {name}", base.name);
                seen.compared += 1;
                seen.changed += u64::from(old != new);
                seen.reported += u64::from(changed[block]);
            }
        }
        drop(reader);
        self.snapshots.push(Known { name, id: info.id, bytes: self.bytes.clone() });
        if self.snapshots.len() > 5 {
            self.delete_one();
        }
    }

    fn delete_one(&mut self) {
        let chosen = self.random.below(self.snapshots.len() as u64) as usize;
        let known = self.snapshots.remove(chosen);
        self.engine.delete_snapshot(&self.volume, &known.name).unwrap();
        if self.snapshots.is_empty() {
            return;
        }
        let reader = self.engine.open_snapshot(&self.volume, &self.snapshots[0].name).unwrap();
        assert_eq!(reader.changed_since(&known.id).unwrap(), None);
    }

    fn revert(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let chosen = self.random.below(self.snapshots.len() as u64) as usize;
        self.engine.detach(&self.volume).unwrap();
        self.engine.revert(&self.volume, &self.snapshots[chosen].name).unwrap();
        self.device = self.engine.attach(&self.volume).unwrap().device;
        self.bytes = self.snapshots[chosen].bytes.clone();
    }
}

/// Which blocks the ranges touch.
fn covered(ranges: &[std::ops::Range<u64>]) -> Vec<bool> {
    let mut blocks = vec![false; SIZE as usize / BLOCK];
    for range in ranges {
        blocks[range.start as usize / BLOCK..(range.end as usize).div_ceil(BLOCK)].fill(true);
    }
    blocks
}

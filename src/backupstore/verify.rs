//! Proof that backups are good: every block that they need is in the store, and holds what its name says.
//!
//! Reads only and takes no lock, so it also works with credentials that may not write, and nobody waits for it. A deletion removes a
//! backup's config before any block: what is missing counts only if the config is there still.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::Store;
use super::block::{self, Checksum, Compression, Corrupt};
use super::config::{BackupConfig, Block};
use super::driver::DriverError;
use super::error::{DriverContext, Error, Result};
use super::layout::VolumeLayout;
use super::list::BackupInfo;
use super::progress::{Phase, Progress};
use super::workers::{Buffers, in_flight};
use crate::names::{BackupName, VolumeName};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// That every block is there and not empty. One listing of the volume's blocks.
    #[default]
    Presence,
    /// That every block has the content its checksum stands for. One GET for each different block.
    ReadData,
}

/// What is wrong with a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not in the store.
    Missing,
    /// It is there and holds something else.
    Damaged(Corrupt),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing from the store"),
            Self::Damaged(how) => write!(f, "damaged: {how}"),
        }
    }
}

/// One block that a backup cannot have back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The block.
    pub checksum: Checksum,
    /// What is wrong with it.
    pub fault: Fault,
    /// Bytes of the volume that it holds, ascending; neighbours are one range.
    pub ranges: Vec<Range<u64>>,
}

/// One backup, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its name.
    pub backup: BackupName,
    /// Why its config cannot be read: then nothing of it can be restored.
    pub unreadable: Option<String>,
    /// What is wrong, in the order of the volume.
    pub damage: Vec<Damage>,
}

impl Verified {
    /// Whether all of it can be restored.
    pub fn is_good(&self) -> bool {
        self.unreadable.is_none() && self.damage.is_empty()
    }
}

/// The backups of one volume, looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of their names.
    pub backups: Vec<Verified>,
    /// Different blocks that were looked at.
    pub blocks: u64,
    /// Bytes read from the store.
    pub bytes_read: u64,
}

/// What one block should be.
#[derive(Debug, Clone, Copy)]
struct Expected {
    compression: Compression,
    size: u64,
}

impl Store {
    /// Looks at the complete backups of a volume: those named in `backups`, or all. One that is deleted meanwhile is left out.
    ///
    /// A store that does not answer is an error; what is wrong with a backup is in the report.
    pub async fn verify(
        &self,
        volume: &VolumeName,
        backups: &[BackupName],
        depth: Depth,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Report> {
        let verification = Verification { store: self, layout: VolumeLayout::new(volume), volume, progress };
        tokio::select! {
            result = verification.run(backups, depth) => result,
            () = cancel.cancelled() => Err(Error::Cancelled),
        }
    }
}

struct Verification<'a> {
    store: &'a Store,
    layout: VolumeLayout,
    volume: &'a VolumeName,
    progress: &'a Progress,
}

impl Verification<'_> {
    async fn run(&self, wanted: &[BackupName], depth: Depth) -> Result<Report> {
        self.progress.enter(Phase::Scanning);
        let mut names = match wanted {
            [] => self.store.list_backups(self.volume).await?,
            names => names.to_vec(),
        };
        names.sort();
        let mut report = Report::default();
        let mut expected = HashMap::new();
        for backup in names {
            match self.read(&backup).await {
                Ok(Some(info)) => {
                    expect(&info, &mut expected);
                    report.backups.push(Verified { backup, unreadable: None, damage: Vec::new() });
                }
                Ok(None) if wanted.is_empty() => {}
                Ok(None) => return Err(Error::NoBackup { volume: self.volume.clone(), backup }),
                Err(Error::Config { reason, .. }) => {
                    report.backups.push(Verified { backup, unreadable: Some(reason), damage: Vec::new() });
                }
                Err(error) => return Err(error),
            }
        }
        report.blocks = expected.len() as u64;
        let faults = self.find_faults(expected, depth, &mut report).await?;
        if !faults.is_empty() {
            self.assign(&faults, &mut report).await?;
        }
        self.progress.enter(Phase::Done);
        Ok(report)
    }

    /// A complete backup; `None` when there is none, or it is in progress.
    async fn read(&self, backup: &BackupName) -> Result<Option<BackupInfo>> {
        let path = self.layout.backup(backup);
        let config = self.store.read::<BackupConfig>(&path).await?.filter(|config| !config.is_in_progress());
        config.map(|config| BackupInfo::new(config, None, &path)).transpose()
    }

    async fn find_faults(
        &self,
        mut expected: HashMap<Checksum, Expected>,
        depth: Depth,
        report: &mut Report,
    ) -> Result<HashMap<Checksum, Fault>> {
        let stored = self.store.list_blocks(&self.layout, expected.len() as u64, &|| self.progress.moved()).await?;
        // An object without bytes is no block, whatever its name.
        let stored: HashSet<Checksum> =
            stored.into_iter().filter(|(_, meta)| meta.size > 0).map(|(checksum, _)| checksum).collect();
        let mut faults = HashMap::new();
        expected.retain(|checksum, _| {
            let is_there = stored.contains(checksum);
            if !is_there {
                faults.insert(*checksum, Fault::Missing);
            }
            is_there
        });
        drop(stored);
        if depth == Depth::ReadData {
            faults.extend(self.read_blocks(expected, report).await?);
        }
        Ok(faults)
    }

    async fn read_blocks(&self, expected: HashMap<Checksum, Expected>, report: &mut Report) -> Result<Vec<(Checksum, Fault)>> {
        self.progress.enter(Phase::Verifying);
        self.progress.expect(expected.len() as u64, expected.values().map(|expected| expected.size).sum());
        let mut by_size: BTreeMap<u64, Vec<(Checksum, Compression)>> = BTreeMap::new();
        for (checksum, Expected { compression, size }) in expected {
            by_size.entry(size).or_default().push((checksum, compression));
        }
        let mut faults = Vec::new();
        for (size, blocks) in by_size {
            let buffers = Arc::new(Buffers::new(usize::try_from(size).unwrap_or(usize::MAX)));
            let looks =
                stream::iter(blocks).map(|(checksum, compression)| self.look(checksum, compression, size, buffers.clone()));
            let mut looks = looks.buffer_unordered(in_flight(size));
            while let Some((checksum, read, fault)) = looks.try_next().await? {
                report.bytes_read += read;
                faults.extend(fault.map(|fault| (checksum, fault)));
            }
        }
        Ok(faults)
    }

    /// One block: bytes read, and what is wrong with it.
    async fn look(
        &self,
        checksum: Checksum,
        compression: Compression,
        size: u64,
        buffers: Arc<Buffers>,
    ) -> Result<(Checksum, u64, Option<Fault>)> {
        let stored = match self.store.driver().get(&self.layout.block(&checksum)).await {
            Err(DriverError::NotFound { .. }) => return Ok((checksum, 0, Some(Fault::Missing))),
            other => other.context(|| format!("read block {checksum} of volume {}", self.volume))?,
        };
        let read = stored.len() as u64;
        self.progress.read(read);
        let decode = move || buffers.with(|buffer| block::decode(compression, &stored, checksum, buffer));
        let decoded = self.store.workers.run(decode).await?;
        self.progress.done(1, size);
        Ok((checksum, read, decoded.err().map(Fault::Damaged)))
    }

    /// Says of each backup that is there still which of its bytes the faults take.
    async fn assign(&self, faults: &HashMap<Checksum, Fault>, report: &mut Report) -> Result<()> {
        let mut assigned = Vec::with_capacity(report.backups.len());
        for verified in report.backups.drain(..) {
            if verified.unreadable.is_some() {
                assigned.push(verified);
                continue;
            }
            if let Some(info) = self.read(&verified.backup).await? {
                assigned.push(Verified { damage: damage_of(&info.config.blocks, info.block_size, faults), ..verified });
            }
        }
        report.backups = assigned;
        Ok(())
    }
}

/// Adds the blocks of a backup, those of zeros left out: readers make them up.
fn expect(info: &BackupInfo, expected: &mut HashMap<Checksum, Expected>) {
    let zeros = Checksum::of_zeros(info.block_size);
    // Only a first guess of the reader.
    let compression = info.config.compression().unwrap_or(Compression::Lz4);
    let blocks = info.config.blocks.iter().filter(|block| block.checksum != zeros);
    expected.extend(blocks.map(|block| (block.checksum, Expected { compression, size: info.block_size })));
}

/// The faults that a backup with these blocks has, in the order of the volume.
fn damage_of(blocks: &[Block], block_size: u64, faults: &HashMap<Checksum, Fault>) -> Vec<Damage> {
    let mut hit: Vec<&Block> = blocks.iter().filter(|block| faults.contains_key(&block.checksum)).collect();
    hit.sort_unstable_by_key(|block| block.offset);
    let mut damage: Vec<Damage> = Vec::new();
    let mut places: HashMap<Checksum, usize> = HashMap::new();
    for Block { offset, checksum } in hit {
        let Some(fault) = faults.get(checksum) else { continue };
        let place = *places.entry(*checksum).or_insert_with(|| {
            damage.push(Damage { checksum: *checksum, fault: fault.clone(), ranges: Vec::new() });
            damage.len() - 1
        });
        let ranges = &mut damage[place].ranges;
        match ranges.last_mut() {
            Some(last) if last.end == *offset => last.end = offset + block_size,
            _ => ranges.push(Range { start: *offset, end: offset + block_size }),
        }
    }
    damage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_every_place_of_a_block_is_named() {
        let (bad, good) = (Checksum::of(b"bad"), Checksum::of(b"good"));
        let at = |offset, checksum| Block { offset, checksum };
        let blocks = [at(512, bad), at(0, bad), at(1024, good), at(2048, bad)];
        let faults = HashMap::from([(bad, Fault::Missing)]);
        let damage = damage_of(&blocks, 512, &faults);
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].ranges, [0..1024, 2048..2560]);
        assert!(damage_of(&blocks[2..3], 512, &faults).is_empty());
    }
}

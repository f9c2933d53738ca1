//! A volume in memory: what a backup reads and a restore writes, in the unit tests of the store and in the integration tests.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use drover::backupstore::io::{Sink, Source};

/// What `changed_since` and `allocated` are exact to.
const SECTOR: usize = 512;

/// A volume that can be written and snapshotted.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    data: Vec<u8>,
    snapshots: Vec<(String, Arc<Vec<u8>>)>,
}

impl Disk {
    /// `size` bytes of zeros.
    pub fn new(size: usize) -> Self {
        Self { data: vec![0; size], snapshots: Vec::new() }
    }

    /// Its bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Its bytes, to be changed.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Grows by zeros.
    pub fn grow(&mut self, size: usize) {
        self.data.resize(size.max(self.data.len()), 0);
    }

    /// Keeps the bytes of now under a random id.
    pub fn snapshot(&mut self, id: &str) -> Arc<Snapshot> {
        let data = Arc::new(self.data.clone());
        let earlier = self.snapshots.clone();
        self.snapshots.push((id.to_owned(), data.clone()));
        Arc::new(Snapshot { data, earlier, reads: Mutex::default() })
    }

    /// Removes a snapshot: later ones cannot be compared with it.
    pub fn forget(&mut self, id: &str) {
        self.snapshots.retain(|(known, _)| known != id);
    }
}

/// One snapshot of a [`Disk`].
#[derive(Debug)]
pub struct Snapshot {
    data: Arc<Vec<u8>>,
    earlier: Vec<(String, Arc<Vec<u8>>)>,
    reads: Mutex<Vec<u64>>,
}

impl Snapshot {
    /// Its bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Offsets that were read, ascending.
    pub fn reads(&self) -> Vec<u64> {
        let mut reads = self.reads.lock().unwrap().clone();
        reads.sort_unstable();
        reads
    }
}

/// Ranges of sectors for which `wanted` holds.
fn sectors(size: usize, wanted: impl Fn(Range<usize>) -> bool) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for start in (0..size).step_by(SECTOR) {
        let sector = start..(start + SECTOR).min(size);
        if !wanted(sector.clone()) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == sector.start as u64 => last.end = sector.end as u64,
            _ => ranges.push(sector.start as u64..sector.end as u64),
        }
    }
    ranges
}

impl Source for Snapshot {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert_eq!(buf.as_ptr() as usize % 4096, 0, "the buffer is not aligned");
        assert_eq!((offset % 512, buf.len() % 512), (0, 0));
        self.reads.lock().unwrap().push(offset);
        let start = offset as usize;
        buf.copy_from_slice(&self.data[start..start + buf.len()]);
        Ok(())
    }

    fn allocated(&self) -> io::Result<Vec<Range<u64>>> {
        Ok(sectors(self.data.len(), |sector| self.data[sector].iter().any(|byte| *byte != 0)))
    }

    fn changed_since(&self, snapshot_id: &str) -> io::Result<Option<Vec<Range<u64>>>> {
        let Some((_, old)) = self.earlier.iter().find(|(id, _)| id == snapshot_id) else { return Ok(None) };
        Ok(Some(sectors(self.data.len(), |sector| old.get(sector.clone()) != Some(&self.data[sector]))))
    }
}

/// What a restore writes to. What was not made durable is lost by [`Image::crash`].
#[derive(Debug)]
pub struct Image {
    blank: bool,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    data: Vec<u8>,
    durable: Vec<u8>,
    checkpoint: Option<Vec<u8>>,
    /// Writes that still succeed.
    writes_left: u64,
}

impl Image {
    /// A new sparse file.
    pub fn blank(size: usize) -> Arc<Self> {
        Self::with(vec![0; size], true)
    }

    /// A device full of something else.
    pub fn used(size: usize) -> Arc<Self> {
        Self::with(vec![0xa5; size], false)
    }

    fn with(data: Vec<u8>, blank: bool) -> Arc<Self> {
        let state = State { durable: data.clone(), data, checkpoint: None, writes_left: u64::MAX };
        Arc::new(Self { blank, state: Mutex::new(state) })
    }

    /// Every write after `writes` more fails.
    pub fn fail_after(&self, writes: u64) {
        self.state.lock().unwrap().writes_left = writes;
    }

    /// Back to what was durable; writes succeed again.
    pub fn crash(&self) {
        let mut state = self.state.lock().unwrap();
        state.data = state.durable.clone();
        state.writes_left = u64::MAX;
    }

    /// Its bytes.
    pub fn data(&self) -> Vec<u8> {
        self.state.lock().unwrap().data.clone()
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or_else(|| io::Error::other("the test's sink is broken"))?;
        Ok(())
    }
}

impl Sink for Image {
    fn is_blank(&self) -> bool {
        self.blank
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        let start = offset as usize;
        state.data[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.spend()?;
        state.data[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.durable = state.data.clone();
        Ok(())
    }

    fn load_checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.lock().unwrap().checkpoint.clone())
    }

    fn save_checkpoint(&self, state: &[u8]) -> io::Result<()> {
        self.state.lock().unwrap().checkpoint = Some(state.to_vec());
        Ok(())
    }
}

//! Reading and writing past the page cache.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use drover::engine::SnapshotReader;

/// Bytes at an address that direct I/O takes.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// `length` zeros.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Self { bytes, start, length }
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Opens a device for reading and writing past the page cache.
pub fn open_direct(path: &Path) -> File {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    File::options().read(true).write(true).custom_flags(direct).open(path).unwrap()
}

/// The whole content of a snapshot.
pub fn content(reader: &dyn SnapshotReader) -> Vec<u8> {
    const STEP: usize = 2 << 20;
    let size = reader.info().size as usize;
    let mut all = Vec::with_capacity(size);
    let mut buffer = Aligned::new(STEP);
    while all.len() < size {
        reader.read_at(all.len() as u64, &mut buffer).unwrap();
        all.extend_from_slice(&buffer);
    }
    all
}

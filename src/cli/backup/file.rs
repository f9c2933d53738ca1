//! A plain image file as the source of a backup and the sink of a restore.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::backupstore::io::{Sink, Source};

/// An image file that nobody writes while it is backed up.
pub struct ImageSource {
    file: File,
    /// Bytes of the file.
    length: u64,
    /// Bytes of the volume: the file's, rounded up to whole blocks. What is past the file reads as zeros.
    size: u64,
}

impl ImageSource {
    /// Opens `path`; the volume's size is rounded up to `block_size`.
    pub fn open(path: &Path, block_size: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length, size: length.next_multiple_of(block_size) })
    }
}

impl Source for ImageSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inside = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let (data, past) = buf.split_at_mut(inside);
        self.file.read_exact_at(data, offset)?;
        past.fill(0);
        Ok(())
    }

    fn allocated(&self) -> io::Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        let mut offset = 0;
        while offset < self.length {
            let start = match seek(&self.file, SeekFrom::Data(offset)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                // A file system that cannot tell holes: everything counts as data.
                Err(Errno::INVAL) => return Ok(std::iter::once(0..self.length).collect()),
                Err(error) => return Err(error.into()),
            };
            let end = seek(&self.file, SeekFrom::Hole(start))?;
            ranges.push(start..end);
            offset = end;
        }
        Ok(ranges)
    }

    fn changed_since(&self, _snapshot_id: &str) -> io::Result<Option<Vec<Range<u64>>>> {
        // A file has no snapshots to compare with: every block is compared with the store's list.
        Ok(None)
    }
}

/// A new image file, or one that an interrupted restore left.
pub struct ImageSink {
    file: File,
    checkpoint: PathBuf,
}

impl ImageSink {
    /// Makes `path` with `size` bytes. An existing file is refused unless an interrupted restore of ours left it.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let checkpoint = checkpoint_path(path);
        let resuming = checkpoint.exists();
        let file = if resuming {
            OpenOptions::new().read(true).write(true).open(path)?
        } else {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            std::fs::write(&checkpoint, b"")?;
            file
        };
        file.set_len(size)?;
        Ok(Self { file, checkpoint })
    }

    /// The restore ended well: the file is no longer one that a later restore may go on with.
    pub fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::remove_file(&self.checkpoint)
    }
}

fn checkpoint_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".drover-restore");
    path.with_file_name(name)
}

impl Sink for ImageSink {
    fn is_blank(&self) -> bool {
        // Made by us and sparse: what no restore has written reads as zeros.
        true
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range.start, range.end - range.start)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn load_checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        let state = std::fs::read(&self.checkpoint)?;
        Ok((!state.is_empty()).then_some(state))
    }

    fn save_checkpoint(&self, state: &[u8]) -> io::Result<()> {
        let mut new = self.checkpoint.clone().into_os_string();
        new.push(".new");
        std::fs::write(&new, state)?;
        File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn holes_are_not_read_and_the_tail_reads_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len((5 << 20) + 512).unwrap();
        file.write_all_at(&[7; 4096], 3 << 20).unwrap();
        let source = ImageSource::open(&path, 2 << 20).unwrap();
        assert_eq!(source.size(), 6 << 20);
        assert!(source.allocated().unwrap().iter().any(|r| r.contains(&(3 << 20))));
        let mut buf = vec![1; 1 << 20];
        source.read_at(5 << 20, &mut buf).unwrap();
        assert!(buf.iter().all(|b| *b == 0));
    }

    #[test]
    fn a_file_that_is_not_ours_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, b"precious").unwrap();
        assert_eq!(ImageSink::create(&path, 4096).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn an_interrupted_restore_goes_on_and_a_finished_one_is_protected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let sink = ImageSink::create(&path, 4096).unwrap();
        assert_eq!(sink.load_checkpoint().unwrap(), None);
        sink.save_checkpoint(b"half").unwrap();
        drop(sink);
        let sink = ImageSink::create(&path, 4096).unwrap();
        assert_eq!(sink.load_checkpoint().unwrap().as_deref(), Some(&b"half"[..]));
        sink.finish().unwrap();
        assert!(ImageSink::create(&path, 4096).is_err());
    }
}

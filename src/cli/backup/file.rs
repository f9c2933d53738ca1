//! A plain image file as the source of a backup and the sink of a restore.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::sidecar::{Identity, Sidecar};
use crate::backupstore::io::{Sink, Source};

/// An image file or block device that nobody writes while it is backed up.
pub struct ImageSource {
    file: File,
    /// Bytes of the file or device.
    length: u64,
    /// Bytes of the volume: the file's, rounded up to whole blocks. What is past the file reads as zeros.
    size: u64,
}

impl ImageSource {
    /// Opens `path`; the volume's size is rounded up to `block_size`.
    pub fn open(path: &Path, block_size: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"));
        }
        // The metadata of a device do not tell its size.
        let length = file.seek(io::SeekFrom::End(0))?;
        Ok(Self { file, length, size: length.next_multiple_of(block_size) })
    }

    /// Bytes of the image itself.
    pub fn length(&self) -> u64 {
        self.length
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

/// In the place of a restore's state: no restore knows it, so one that finds it takes nothing in the image for granted.
const NO_STATE: &[u8] = b"unknown";

/// A new image file, or one that an interrupted restore left.
pub struct ImageSink {
    file: File,
    identity: Identity,
    sidecar: Sidecar,
}

impl ImageSink {
    /// Makes `path` with `size` bytes. An existing file is refused unless it is the very one that an interrupted restore of ours left.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let sidecar = Sidecar::beside(path);
        let left = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Some(Self { identity: Identity::of(&file)?, file, sidecar }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let sink = match left {
            Some(sink) if sink.sidecar.load(&sink.identity)?.is_some() => sink.distrusted_if_resized(size)?,
            Some(_) => return Err(foreign()),
            None => Self::begin(path)?,
        };
        sink.file.set_len(size)?;
        Ok(sink)
    }

    /// Of another length it was emptied by somebody, or is another backup's: what its state calls done may not be there.
    fn distrusted_if_resized(self, size: u64) -> io::Result<Self> {
        if self.file.metadata()?.len() != size {
            self.sidecar.save(&self.identity, NO_STATE)?;
        }
        Ok(self)
    }

    /// A new file; a sidecar that an earlier one of its name left is no longer any's.
    fn begin(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let sink = Self { identity: Identity::of(&file)?, file, sidecar: Sidecar::beside(path) };
        sink.sidecar.save(&sink.identity, b"")?;
        Ok(sink)
    }

    /// The restore ended well: the file gets its `length`, and is no longer one that a later restore may go on with.
    pub fn finish(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()?;
        self.sidecar.remove()
    }
}

fn foreign() -> io::Error {
    let advice = "there is a file of that name that no interrupted restore left; move it away or name another";
    io::Error::new(io::ErrorKind::AlreadyExists, advice)
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
        Ok(self.sidecar.load(&self.identity)?.filter(|state| !state.is_empty()))
    }

    fn save_checkpoint(&self, state: &[u8]) -> io::Result<()> {
        self.sidecar.save(&self.identity, state)
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
        sink.finish(4000).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4000);
        assert!(ImageSink::create(&path, 4096).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_restore_goes_on_only_in_the_file_it_began_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        ImageSink::create(&path, 4096).unwrap().save_checkpoint(b"all of it").unwrap();

        // Removed: it begins anew, in a file that often has the same inode number.
        std::fs::remove_file(&path).unwrap();
        let sink = ImageSink::create(&path, 4096).unwrap();
        assert_eq!(sink.load_checkpoint().unwrap(), None);
        sink.save_checkpoint(b"all of it").unwrap();

        // Emptied: nothing of what was done counts.
        File::options().write(true).truncate(true).open(&path).unwrap();
        let sink = ImageSink::create(&path, 4096).unwrap();
        assert_eq!(sink.load_checkpoint().unwrap().as_deref(), Some(NO_STATE));

        // Made by somebody else: not ours to write.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"precious").unwrap();
        assert_eq!(ImageSink::create(&path, 4096).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_folder_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ImageSource::open(dir.path(), 4096).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}

//! A snapshot as the source of a backup, a volume under restore as the sink of one.

use std::io;
use std::ops::Range;

use crate::backupstore::io::{Sink, Source};
use crate::engine::{self, RestoreWriter, SnapshotReader};

/// Reads a snapshot for a backup. While it lives, the snapshot cannot be deleted.
pub struct SnapshotSource(pub Box<dyn SnapshotReader>);

impl Source for SnapshotSource {
    fn size(&self) -> u64 {
        self.0.info().size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).map_err(into_io)
    }

    fn allocated(&self) -> io::Result<Vec<Range<u64>>> {
        self.0.allocated().map_err(into_io)
    }

    fn changed_since(&self, snapshot_id: &str) -> io::Result<Option<Vec<Range<u64>>>> {
        self.0.changed_since(snapshot_id).map_err(into_io)
    }
}

/// Fills a volume from a backup.
pub struct RestoreSink(pub Box<dyn RestoreWriter>);

impl Sink for RestoreSink {
    fn is_blank(&self) -> bool {
        // The engine makes a volume for a restore as an empty sparse file; what an earlier, interrupted pass wrote is told by the checkpoint.
        true
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data).map_err(into_io)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.0.zero(range).map_err(into_io)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync().map_err(into_io)
    }

    fn load_checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        self.0.load_checkpoint().map_err(into_io)
    }

    fn save_checkpoint(&self, state: &[u8]) -> io::Result<()> {
        self.0.save_checkpoint(state).map_err(into_io)
    }
}

/// Keeps the kind, so that a full pool is told from a broken disk.
fn into_io(error: engine::Error) -> io::Error {
    let kind = match &error {
        engine::Error::Io { source, .. } => source.kind(),
        engine::Error::Full { .. } => io::ErrorKind::StorageFull,
        engine::Error::InUse { .. } => io::ErrorKind::ResourceBusy,
        engine::Error::NoVolume(_) | engine::Error::NoSnapshot { .. } => io::ErrorKind::NotFound,
        engine::Error::NotAllowed { .. } | engine::Error::Pool { .. } => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backupstore::Error;

    #[test]
    fn a_restore_waits_for_room_and_gives_up_on_a_broken_disk() {
        let sink = |error| Error::Sink { context: "write".to_owned(), source: into_io(error) };
        let full = engine::Error::Full { pool: "/pool".into(), context: "failed to write".to_owned() };
        let in_use = engine::Error::InUse { what: "volume vol-1".to_owned(), holder: "somebody".to_owned() };
        assert!(sink(full).is_transient());
        assert!(sink(in_use).is_transient());
        let broken = |errno: i32| engine::Error::Io { context: "write".to_owned(), source: io::Error::from_raw_os_error(errno) };
        assert!(sink(broken(rustix::io::Errno::DQUOT.raw_os_error())).is_transient());
        assert!(!sink(broken(rustix::io::Errno::IO.raw_os_error())).is_transient());
    }
}

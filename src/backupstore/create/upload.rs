//! The pipeline of a backup: read, compare with zeros, checksum, compress, put. Bounded by blocks in flight.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::plan::{Plan, Read};
use super::{Job, Mode};
use crate::backupstore::block::{self, Checksum, Compression};
use crate::backupstore::config::Block;
use crate::backupstore::driver::Driver;
use crate::backupstore::error::{DriverContext, Error, Result};
use crate::backupstore::io::Source;
use crate::backupstore::layout::VolumeLayout;
use crate::backupstore::progress::Progress;
use crate::backupstore::workers::{Buffers, Workers, in_flight};
use crate::names::VolumeName;

/// The blocks of a backup, all in the store.
#[derive(Debug)]
pub struct Uploaded {
    /// Ascending.
    pub blocks: Vec<Block>,
    /// Blocks that were not in the store.
    pub new_blocks: u64,
    /// Bytes written for them.
    pub new_bytes: u64,
    /// Bytes written for blocks that were.
    pub again_bytes: u64,
}

/// Runs the pipeline for one job.
pub struct Upload<'a> {
    job: &'a Job<'a>,
    shared: Arc<Shared>,
}

/// What the tasks of the pipeline share.
struct Shared {
    volume: VolumeName,
    layout: VolumeLayout,
    driver: Arc<dyn Driver>,
    workers: Workers,
    source: Arc<dyn Source>,
    buffers: Buffers,
    compression: Compression,
    mode: Mode,
    block_size: u64,
    progress: Arc<Progress>,
    blocks: Mutex<Known>,
    new_blocks: AtomicU64,
    new_bytes: AtomicU64,
    again_bytes: AtomicU64,
}

struct Known {
    /// In the store before this backup.
    stored: HashSet<Checksum>,
    /// Sent by this backup: the second of two equal blocks is not sent again.
    sent: HashSet<Checksum>,
}

/// A block after the blocking half of its way.
enum Prepared {
    Zeros,
    Stored(Checksum),
    ToPut { checksum: Checksum, data: Bytes, again: bool },
}

impl<'a> Upload<'a> {
    pub fn new(job: &'a Job<'a>, stored: HashSet<Checksum>) -> Self {
        let shared = Shared {
            volume: job.request.volume.name.clone(),
            layout: job.layout.clone(),
            driver: job.store.context.driver.clone(),
            workers: job.store.workers.clone(),
            source: job.source.clone(),
            buffers: Buffers::new(usize::try_from(job.block_size).unwrap_or(usize::MAX)),
            compression: job.request.compression,
            mode: job.request.mode,
            block_size: job.block_size,
            progress: job.progress.clone(),
            blocks: Mutex::new(Known { stored, sent: HashSet::new() }),
            new_blocks: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            again_bytes: AtomicU64::new(0),
        };
        Self { job, shared: Arc::new(shared) }
    }

    /// Brings every block of the plan into the store.
    pub async fn run(self, plan: Plan) -> Result<Uploaded> {
        let Plan { keep: mut blocks, read, zeros } = plan;
        self.job.progress.expect(read.len() as u64, read.len() as u64 * self.job.block_size);
        let mut say_zeros = zeros;
        let mut reads = read.into_iter();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < in_flight(self.job.block_size)
                && let Some(read) = reads.next()
            {
                tasks.spawn(self.shared.clone().transfer(read));
            }
            let Some(ended) = tasks.join_next().await else { break };
            let died = |error: tokio::task::JoinError| Error::Internal { context: "upload a block", reason: error.to_string() };
            match ended.map_err(died)?? {
                (read, Some(checksum)) => blocks.push(Block { offset: read.offset, checksum }),
                (read, None) if read.say_zeros => say_zeros.push(read.offset),
                _ => {}
            }
        }
        self.put_zeros(&say_zeros).await?;
        blocks.extend(say_zeros.into_iter().map(|offset| self.job.zero_block(offset)));
        blocks.sort_by_key(|block| block.offset);
        Ok(self.uploaded(blocks))
    }

    /// Makes sure that the explicit block of zeros is there when one of `offsets` needs it.
    async fn put_zeros(&self, offsets: &[u64]) -> Result<()> {
        let checksum = Checksum::of_zeros(self.job.block_size);
        if !offsets.is_empty()
            && let Some(again) = self.shared.claim(checksum)
        {
            let size = self.job.put_zero_block().await?;
            self.shared.count(size, again);
        }
        Ok(())
    }

    fn uploaded(&self, blocks: Vec<Block>) -> Uploaded {
        Uploaded {
            blocks,
            new_blocks: self.shared.new_blocks.load(Relaxed),
            new_bytes: self.shared.new_bytes.load(Relaxed),
            again_bytes: self.shared.again_bytes.load(Relaxed),
        }
    }
}

impl Shared {
    /// One block's whole way; its checksum, or `None` when it is zeros.
    async fn transfer(self: Arc<Self>, read: Read) -> Result<(Read, Option<Checksum>)> {
        let this = self.clone();
        let prepared = self.workers.run(move || this.prepare(read.offset)).await?;
        let prepared = prepared.map_err(|source| Error::Source { volume: self.volume.clone(), offset: read.offset, source })?;
        let checksum = match prepared {
            Prepared::Zeros => None,
            Prepared::Stored(checksum) => Some(checksum),
            Prepared::ToPut { checksum, data, again } => {
                let size = data.len() as u64;
                let path = self.layout.block(&checksum);
                self.driver.put(&path, data).await.context(|| format!("write block {checksum} of volume {}", self.volume))?;
                self.progress.uploaded(size);
                self.count(size, again);
                Some(checksum)
            }
        };
        self.progress.done(1, self.block_size);
        Ok((read, checksum))
    }

    /// The blocking half: read, compare with zeros, checksum, and compress what the store does not have.
    fn prepare(&self, offset: u64) -> io::Result<Prepared> {
        self.buffers.with(|buffer| {
            self.source.read_at(offset, buffer)?;
            self.progress.read(self.block_size);
            if block::is_zero(buffer) {
                return Ok(Prepared::Zeros);
            }
            let checksum = Checksum::of(buffer);
            let Some(again) = self.claim(checksum) else { return Ok(Prepared::Stored(checksum)) };
            let data = block::encode(self.compression, buffer)?;
            Ok(Prepared::ToPut { checksum, data, again })
        })
    }

    /// Whether this block must be put, and if so, whether it is there already. The caller that is told so puts it, or the backup fails.
    fn claim(&self, checksum: Checksum) -> Option<bool> {
        let mut known = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = known.stored.contains(&checksum);
        let wanted = !stored || self.mode == Mode::Full;
        (wanted && known.sent.insert(checksum)).then_some(stored)
    }

    fn count(&self, bytes: u64, again: bool) {
        if again {
            self.again_bytes.fetch_add(bytes, Relaxed);
        } else {
            self.new_blocks.fetch_add(1, Relaxed);
            self.new_bytes.fetch_add(bytes, Relaxed);
        }
    }
}

//! Where blocking and computing work is done: never on the async threads, never more than the cores can use.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::error::{Error, Result};

/// Memory pages, and what direct I/O wants buffers aligned to.
const ALIGNMENT: usize = 4096;

/// Blocks on their way at once: with 2 MiB blocks 8, which hides a server's latency, and bounds memory for larger ones.
pub fn in_flight(block_size: u64) -> usize {
    usize::try_from((16 << 20) / block_size).unwrap_or(2).clamp(2, 8)
}

/// A bounded set of threads.
#[derive(Debug, Clone)]
pub struct Workers(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Threads(Arc<Semaphore>),
    /// In the caller's task: keeps a test on a paused clock in one known order.
    #[cfg(test)]
    Inline,
}

impl Workers {
    /// One thread per core, two at least: one reads while one computes.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self(Kind::Threads(Arc::new(Semaphore::new(cores.clamp(2, 8)))))
    }

    /// Work is done in the caller's task.
    #[cfg(test)]
    pub fn inline() -> Self {
        Self(Kind::Inline)
    }

    /// Runs `work` to its end, also when the returned future is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let died = |reason: String| Error::Internal { context: "run a worker", reason };
        match &self.0 {
            Kind::Threads(threads) => {
                let permit = threads.clone().acquire_owned().await.map_err(|error| died(error.to_string()))?;
                let work = move || {
                    let _permit = permit;
                    work()
                };
                tokio::task::spawn_blocking(work).await.map_err(|error| died(error.to_string()))
            }
            #[cfg(test)]
            Kind::Inline => Ok(work()),
        }
    }
}

/// Buffers of one size that are used again: as many as were in use at once.
#[derive(Debug)]
pub struct Buffers {
    size: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Buffers of `size` bytes, none yet.
    pub fn new(size: usize) -> Self {
        Self { size, free: Mutex::default() }
    }

    /// Runs `work` with a buffer, aligned to 4096 bytes in address. What is in it is left from an earlier use.
    pub fn with<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = self.free().pop().unwrap_or_else(|| vec![0; self.size + ALIGNMENT]);
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let result = work(&mut buffer[start..start + self.size]);
        self.free().push(buffer);
        result
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let buffers = Buffers::new(8192);
        for _ in 0..3 {
            buffers.with(|outer| {
                buffers.with(|inner| {
                    for buffer in [&outer, &inner] {
                        assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
                        assert_eq!(buffer.len(), 8192);
                    }
                });
            });
        }
        assert_eq!(buffers.free().len(), 2);
    }

    #[tokio::test]
    async fn a_panic_in_a_worker_is_an_error() {
        let error = Workers::new().run(|| panic!("boom")).await.unwrap_err();
        assert_eq!(error.category(), "Internal");
    }
}

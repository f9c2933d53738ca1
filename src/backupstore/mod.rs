//! The backupstore: Longhorn's on-store format over any driver.
//!
//! Knows neither Kubernetes nor how a volume is stored on a node. A crash at any point leaves a store that is valid: at worst
//! with blocks that no backup refers to, which the next delete removes.

pub mod block;
pub mod clock;
pub mod config;
pub mod create;
pub mod credentials;
pub mod delete;
pub mod driver;
pub mod error;
mod gc;
pub mod io;
mod json;
mod layout;
pub mod list;
pub mod lock;
mod lz4;
pub mod marker;
pub mod probe;
pub mod progress;
pub mod restore;
pub mod target_url;
#[cfg(test)]
mod tests;
pub mod verify;
mod workers;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::clock::BootClock;
use self::driver::{Driver, DriverError, StorePath};
use self::error::DriverContext;
pub use self::error::{Error, Result};
use self::lock::{Context, Timings};
use self::workers::Workers;

/// Bytes and blocks of a config that takes no time worth mentioning to read, to write or to go through: that of 16 GiB or so.
const SMALL_CONFIG: usize = 1 << 20;
const FEW_BLOCKS: usize = SMALL_CONFIG / 100;

/// One backupstore. Cheap to clone; clones share their worker threads.
#[derive(Clone)]
pub struct Store {
    context: Context,
    workers: Workers,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("driver", &self.context.driver).finish_non_exhaustive()
    }
}

impl Store {
    /// The store in the place that `driver` speaks to. Sends no request.
    pub fn new(driver: Arc<dyn Driver>, timings: Timings) -> Self {
        Self { context: Context { driver, clock: Arc::new(BootClock), timings }, workers: Workers::new() }
    }

    fn driver(&self) -> &dyn Driver {
        &*self.context.driver
    }

    /// Reads a config; `None` when there is none.
    async fn read<T: DeserializeOwned + Send + 'static>(&self, path: &StorePath) -> Result<Option<T>> {
        let bytes = match self.driver().get(path).await {
            Err(DriverError::NotFound { .. }) => return Ok(None),
            other => other.context(|| format!("read {path}"))?,
        };
        let is_small = bytes.len() <= SMALL_CONFIG;
        let parsed = self.compute(is_small, move || json::from_slice(&bytes)).await?;
        parsed.map(Some).map_err(|error| Error::Config { path: path.to_string(), reason: error.to_string() })
    }

    /// Runs `work`: here when it is small, else where it does not keep this thread's other tasks waiting.
    async fn compute<T: Send + 'static>(&self, is_small: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        if is_small { Ok(work()) } else { self.workers.run(work).await }
    }
}

/// A config's bytes.
fn encode(config: &impl Serialize) -> Result<Bytes> {
    let bytes =
        json::to_vec(config).map_err(|error| Error::Internal { context: "encode a config", reason: error.to_string() })?;
    Ok(bytes.into())
}

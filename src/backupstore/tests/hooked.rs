//! A driver that asks the test what becomes of every call.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::backupstore::driver::fence::Fence;
use crate::backupstore::driver::memory::Memory;
use crate::backupstore::driver::{Depth, Driver, DriverError, Listed, Meta, Result, StorePath};

/// A change of the store.
#[derive(Debug, Clone)]
pub enum Write {
    Put(StorePath, Bytes),
    Delete(Vec<StorePath>),
}

impl Write {
    /// Makes the change, which takes no time in memory.
    pub fn apply(&self, memory: &Memory) {
        let result = match self {
            Self::Put(path, data) => memory.put(path, data.clone()).now_or_never(),
            Self::Delete(paths) => memory.delete(paths).now_or_never(),
        };
        result.unwrap().unwrap();
    }
}

/// One call of the driver.
#[derive(Debug, Clone)]
pub struct Call {
    pub verb: &'static str,
    pub path: String,
    /// What it changes.
    pub write: Option<Write>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out and answered.
    Go,
    /// It fails, without effect.
    FailBefore,
    /// It is carried out, and no answer comes.
    FailAfter,
    /// It is carried out and answered at a second attempt. What becomes of the first is the hook's business.
    GoAgain,
}

/// Decides about calls, in its own time.
pub trait Hook: Send + Sync + 'static {
    fn call(&self, call: Call) -> BoxFuture<'_, Verdict>;
}

/// The driver. Dropping a call drops the hook's future.
pub struct Hooked<H> {
    pub memory: Arc<Memory>,
    pub hook: H,
}

impl<H> fmt::Debug for Hooked<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl<H: Hook> Hooked<H> {
    async fn write(&self, verb: &'static str, path: String, write: Write) -> Result<()> {
        let verdict = self.hook.call(Call { verb, path: path.clone(), write: Some(write.clone()) }).await;
        if verdict != Verdict::FailBefore {
            write.apply(&self.memory);
        }
        if verdict == Verdict::GoAgain {
            Fence::note_sent_again();
        }
        answer(verdict, verb, path)
    }

    async fn read(&self, verb: &'static str, path: String) -> Result<()> {
        answer(self.hook.call(Call { verb, path: path.clone(), write: None }).await, verb, path)
    }
}

fn answer(verdict: Verdict, operation: &'static str, path: String) -> Result<()> {
    match verdict {
        Verdict::Go | Verdict::GoAgain => Ok(()),
        _ => Err(DriverError::Unavailable { operation, path, message: "no answer".to_owned() }),
    }
}

#[async_trait]
impl<H: Hook> Driver for Hooked<H> {
    async fn put(&self, path: &StorePath, data: Bytes) -> Result<()> {
        self.write("put", path.to_string(), Write::Put(path.clone(), data)).await
    }

    async fn get(&self, path: &StorePath) -> Result<Bytes> {
        self.read("get", path.to_string()).await?;
        self.memory.get(path).await
    }

    async fn get_range(&self, path: &StorePath, range: Range<u64>) -> Result<Bytes> {
        self.read("get", path.to_string()).await?;
        self.memory.get_range(path, range).await
    }

    fn list<'a>(&'a self, prefix: Option<&StorePath>, depth: Depth) -> BoxStream<'a, Result<Listed>> {
        let prefix = prefix.cloned();
        let listing = async move {
            self.read("list", prefix.as_ref().map(ToString::to_string).unwrap_or_default()).await?;
            let rows: Vec<Listed> = self.memory.list(prefix.as_ref(), depth).try_collect().await?;
            Ok::<_, DriverError>(stream::iter(rows.into_iter().map(Ok)))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn delete(&self, paths: &[StorePath]) -> Result<()> {
        let path = paths.first().map(ToString::to_string).unwrap_or_default();
        self.write("delete", path, Write::Delete(paths.to_vec())).await
    }

    async fn stat(&self, path: &StorePath) -> Result<Option<Meta>> {
        self.read("stat", path.to_string()).await?;
        self.memory.stat(path).await
    }

    async fn server_time(&self) -> Result<Timestamp> {
        self.read("stat", "clock".to_owned()).await?;
        self.memory.server_time().await
    }
}

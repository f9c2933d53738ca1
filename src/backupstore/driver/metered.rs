//! Counts what a driver is asked to do, for metrics and for tests that bound the number of requests.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;

use super::{Depth, Driver, Listed, Meta, Result, StorePath};

/// What a request does, whatever the protocol calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Writes one object.
    Put,
    /// Reads one object or a range of it.
    Get,
    /// Reads one page of a listing.
    List,
    /// Removes one or many objects.
    Delete,
    /// Asks for size and time of one object, or for the server's clock.
    Stat,
}

impl Verb {
    /// Every verb, in the order of its declaration.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::List, Self::Delete, Self::Stat];

    /// Lower case, as metrics and errors show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Stat => "stat",
        }
    }
}

/// Counters that only grow, shared between a driver and who shows them.
#[derive(Debug, Default)]
pub struct Counters {
    verbs: [VerbCounters; Verb::ALL.len()],
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

#[derive(Debug, Default)]
struct VerbCounters {
    calls: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
}

/// One verb's counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerbSnapshot {
    /// Calls of the driver.
    pub calls: u64,
    /// Requests sent to the server: every page of a listing and every retry counts. One per call where there is no server.
    pub requests: u64,
    /// Calls that failed. An object that is not there counts as well.
    pub errors: u64,
}

/// All counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    verbs: [VerbSnapshot; Verb::ALL.len()],
    /// Object bytes of successful reads.
    pub bytes_read: u64,
    /// Object bytes of successful writes, retries not counted.
    pub bytes_written: u64,
}

impl Snapshot {
    /// The counters of one verb.
    pub fn verb(&self, verb: Verb) -> VerbSnapshot {
        self.verbs[verb as usize]
    }

    /// Requests of all verbs.
    pub fn requests(&self) -> u64 {
        self.verbs.iter().map(|verb| verb.requests).sum()
    }
}

impl Counters {
    /// Reads all counters, each by itself: concurrent calls may show in one and not yet in another.
    pub fn snapshot(&self) -> Snapshot {
        let verb = |verb: &VerbCounters| VerbSnapshot {
            calls: verb.calls.load(Relaxed),
            requests: verb.requests.load(Relaxed),
            errors: verb.errors.load(Relaxed),
        };
        Snapshot {
            verbs: self.verbs.each_ref().map(verb),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
        }
    }

    /// Notes one request on its way to a server.
    pub(super) fn request(&self, verb: Verb) {
        self.verbs[verb as usize].requests.fetch_add(1, Relaxed);
    }

    fn call(&self, verb: Verb) {
        self.verbs[verb as usize].calls.fetch_add(1, Relaxed);
    }

    fn outcome<T>(&self, verb: Verb, result: &Result<T>) {
        if result.is_err() {
            self.verbs[verb as usize].errors.fetch_add(1, Relaxed);
        }
    }
}

/// Who counts requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// This wrapper: a call is a request.
    OnePerCall,
    /// The driver below, which sees retries and pages.
    ByDriver,
}

/// A driver whose calls are counted.
#[derive(Debug)]
pub struct Metered {
    driver: Arc<dyn Driver>,
    counters: Arc<Counters>,
    requests: Requests,
}

impl Metered {
    /// Counts every call of `driver` as one request.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self { driver, counters: Arc::default(), requests: Requests::OnePerCall }
    }

    /// Counts calls into `counters`, where `driver` itself notes its requests.
    pub(super) fn over_network(driver: Arc<dyn Driver>, counters: Arc<Counters>) -> Self {
        Self { driver, counters, requests: Requests::ByDriver }
    }

    /// The counters, which live on as long as anybody holds them.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn start(&self, verb: Verb) {
        self.counters.call(verb);
        if self.requests == Requests::OnePerCall {
            self.counters.request(verb);
        }
    }

    async fn counted<T>(&self, verb: Verb, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.start(verb);
        let result = call.await;
        self.counters.outcome(verb, &result);
        result
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Driver for Metered {
    async fn put(&self, path: &StorePath, data: Bytes) -> Result<()> {
        let size = data.len() as u64;
        let result = self.counted(Verb::Put, self.driver.put(path, data)).await;
        if result.is_ok() {
            self.counters.bytes_written.fetch_add(size, Relaxed);
        }
        result
    }

    async fn get(&self, path: &StorePath) -> Result<Bytes> {
        let result = self.counted(Verb::Get, self.driver.get(path)).await;
        self.note_read(&result);
        result
    }

    async fn get_range(&self, path: &StorePath, range: Range<u64>) -> Result<Bytes> {
        let result = self.counted(Verb::Get, self.driver.get_range(path, range)).await;
        self.note_read(&result);
        result
    }

    fn list<'a>(&'a self, prefix: Option<&StorePath>, depth: Depth) -> BoxStream<'a, Result<Listed>> {
        self.start(Verb::List);
        let counters = &self.counters;
        self.driver.list(prefix, depth).inspect(|row| counters.outcome(Verb::List, row)).boxed()
    }

    async fn delete(&self, paths: &[StorePath]) -> Result<()> {
        self.counted(Verb::Delete, self.driver.delete(paths)).await
    }

    async fn stat(&self, path: &StorePath) -> Result<Option<Meta>> {
        self.counted(Verb::Stat, self.driver.stat(path)).await
    }

    async fn server_time(&self) -> Result<Timestamp> {
        self.counted(Verb::Stat, self.driver.server_time()).await
    }
}

impl Metered {
    fn note_read(&self, result: &Result<Bytes>) {
        if let Ok(data) = result {
            self.counters.bytes_read.fetch_add(data.len() as u64, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::super::memory::Memory;
    use super::*;

    #[tokio::test]
    async fn calls_errors_and_bytes_are_counted_by_verb() {
        let store = Metered::new(Arc::new(Memory::new()));
        let (path, missing) = (StorePath::parse("a/b").unwrap(), StorePath::parse("a/c").unwrap());

        store.put(&path, Bytes::from_static(b"12345")).await.unwrap();
        store.get(&path).await.unwrap();
        store.get_range(&path, 1..3).await.unwrap();
        store.get(&missing).await.unwrap_err();
        store.list(None, Depth::All).try_collect::<Vec<_>>().await.unwrap();
        store.stat(&missing).await.unwrap();
        store.delete(&[path, missing]).await.unwrap();

        let seen = store.counters().snapshot();
        assert_eq!(seen.verb(Verb::Put), VerbSnapshot { calls: 1, requests: 1, errors: 0 });
        assert_eq!(seen.verb(Verb::Get), VerbSnapshot { calls: 3, requests: 3, errors: 1 });
        assert_eq!(seen.verb(Verb::List).requests, 1);
        assert_eq!(seen.verb(Verb::Stat).requests, 1);
        assert_eq!(seen.verb(Verb::Delete).requests, 1);
        assert_eq!((seen.bytes_written, seen.bytes_read), (5, 7));
        assert_eq!(seen.requests(), 7);
    }
}

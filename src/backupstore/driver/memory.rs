//! Objects in memory: the driver under model tests, with a clock that the test moves.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::{Depth, Driver, DriverError, Listed, Meta, Result, StorePath};

/// Objects of one page of a listing, as many as S3 gives.
const PAGE: usize = 1000;

/// The server's clock.
type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A store that ends with the process.
pub struct Memory {
    objects: Mutex<BTreeMap<String, Object>>,
    clock: Clock,
}

#[derive(Clone)]
struct Object {
    data: Bytes,
    modified: Timestamp,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("objects", &self.objects().len()).finish()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store whose server clock is this machine's.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(Timestamp::now))
    }

    /// An empty store with a server clock of its own.
    pub fn with_clock(clock: Clock) -> Self {
        Self { objects: Mutex::new(BTreeMap::new()), clock }
    }

    // No code panics while it holds the lock, so a poisoned map is still whole.
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, path: &StorePath) -> Result<Object> {
        self.objects().get(path.as_str()).cloned().ok_or_else(|| DriverError::NotFound { path: path.to_string() })
    }

    /// The next page behind `after`, and where the one behind it starts (`None`: this was the last).
    ///
    /// Like a server, looks at the objects anew for every page: what changes meanwhile may or may not show.
    fn page(&self, folder: &str, depth: Depth, after: Bound<String>) -> (Vec<Listed>, Option<Bound<String>>) {
        let objects = self.objects();
        let mut rows = Vec::new();
        let mut next = after;
        while rows.len() < PAGE {
            let found = objects.range((next.clone(), Bound::Unbounded)).next().filter(|(key, _)| key.starts_with(folder));
            let Some((key, object)) = found else { return (rows, None) };
            let subfolder = match depth {
                Depth::All => None,
                Depth::Children => key[folder.len()..].find('/').map(|i| &key[..folder.len() + i]),
            };
            if let Some(subfolder) = subfolder {
                rows.extend(StorePath::parse(subfolder).map(Listed::Folder));
                // '0' follows '/': everything below the folder is skipped in one step.
                next = Bound::Included(format!("{subfolder}0"));
            } else {
                let meta = Meta { size: object.data.len() as u64, modified: object.modified };
                rows.extend(StorePath::parse(key).map(|path| Listed::Object(path, meta)));
                next = Bound::Excluded(key.clone());
            }
        }
        (rows, Some(next))
    }
}

#[async_trait]
impl Driver for Memory {
    async fn put(&self, path: &StorePath, data: Bytes) -> Result<()> {
        let object = Object { data, modified: (self.clock)() };
        self.objects().insert(path.to_string(), object);
        Ok(())
    }

    async fn get(&self, path: &StorePath) -> Result<Bytes> {
        Ok(self.object(path)?.data)
    }

    async fn get_range(&self, path: &StorePath, range: Range<u64>) -> Result<Bytes> {
        let data = self.object(path)?.data;
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
        let (start, end) = (clamp(range.start), clamp(range.end));
        Ok(data.slice(start..end.max(start)))
    }

    fn list<'a>(&'a self, prefix: Option<&StorePath>, depth: Depth) -> BoxStream<'a, Result<Listed>> {
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let first = Some(Bound::Included(folder.clone()));
        stream::unfold(first, move |after| {
            let page = after.map(|after| self.page(&folder, depth, after));
            async move {
                let (rows, next) = page?;
                Some((Ok::<_, DriverError>(stream::iter(rows.into_iter().map(Ok))), next))
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn delete(&self, paths: &[StorePath]) -> Result<()> {
        let mut objects = self.objects();
        for path in paths {
            objects.remove(path.as_str());
        }
        Ok(())
    }

    async fn stat(&self, path: &StorePath) -> Result<Option<Meta>> {
        let meta = |object: &Object| Meta { size: object.data.len() as u64, modified: object.modified };
        Ok(self.objects().get(path.as_str()).map(meta))
    }

    async fn server_time(&self) -> Result<Timestamp> {
        Ok((self.clock)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_carry_the_time_of_the_clock_that_was_given() {
        let now = Arc::new(Mutex::new(Timestamp::UNIX_EPOCH));
        let clock = now.clone();
        let store = Memory::with_clock(Arc::new(move || *clock.lock().unwrap()));
        let path = StorePath::parse("a/b").unwrap();
        let later: Timestamp = "2026-11-23T01:00:00Z".parse().unwrap();

        *now.lock().unwrap() = later;
        store.put(&path, Bytes::from_static(b"x")).await.unwrap();

        assert_eq!(store.stat(&path).await.unwrap(), Some(Meta { size: 1, modified: later }));
        assert_eq!(store.server_time().await.unwrap(), later);
    }
}

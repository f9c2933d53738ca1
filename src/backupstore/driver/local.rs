//! Objects as files below a folder of this machine, laid out as Longhorn lays them out on a file system.
//!
//! A file appears under its name only when it is whole and on disk: it is written beside as `NAME.tmp.{nanoseconds}`, which
//! listings skip. A folder exists as long as something is in it.
//!
//! A thread in the kernel cannot be called back. So it looks, right before it changes what others see, whether its caller still
//! waits and may still write: one that comes too late undoes its own work and changes nothing.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::fence::Fence;
use super::{Depth, Driver, DriverError, Listed, Meta, Result, StorePath};
use crate::backupstore::clock::{BootClock, Clock};

/// A call that the kernel has not finished by then is given up; its thread goes on waiting, and changes nothing any more.
const DEADLINE: Duration = Duration::from_secs(50);

/// Folders are made for their owner only, as Longhorn makes them.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// How often a write starts again because a delete removed its folder meanwhile.
const PUT_ATTEMPTS: usize = 16;

/// A folder of this machine.
#[derive(Debug)]
pub struct Local {
    root: Arc<Path>,
}

/// What a call's thread needs to change anything.
#[derive(Debug)]
struct Permit {
    /// By a clock that counts the time that this machine or process did not run.
    began: Duration,
    given_up: Arc<AtomicBool>,
    fence: Option<Arc<Fence>>,
}

impl Permit {
    /// That of a call that begins now in this task.
    fn new() -> Self {
        Self { began: BootClock.now(), given_up: Arc::default(), fence: Fence::current() }
    }

    /// Fails when the change that follows would come too late.
    fn check(&self) -> io::Result<()> {
        let holds = self.fence.as_ref().is_none_or(|fence| fence.holds());
        let in_time = BootClock.now().saturating_sub(self.began) < DEADLINE;
        match holds && in_time && !self.given_up.load(SeqCst) {
            true => Ok(()),
            false => Err(io::Error::new(ErrorKind::TimedOut, "it took so long that it was given up before it changed anything")),
        }
    }
}

/// Gives a call up when its future is dropped.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl Local {
    /// The store below `root`, which must exist when it is used.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into().into() }
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: String,
        work: impl FnOnce(&Path, &Permit) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.root.clone();
        let permit = Permit::new();
        let _give_up = GiveUp(permit.given_up.clone());
        let task = tokio::task::spawn_blocking(move || work(&root, &permit).map_err(|error| (error, root.is_dir())));
        let unavailable = |message: String| DriverError::Unavailable { operation, path: path.clone(), message };
        match tokio::time::timeout(DEADLINE, task).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err((_, false)))) => Err(no_root(&self.root)),
            Ok(Ok(Err((error, true)))) => Err(classify(operation, path, &error)),
            Ok(Err(lost)) => Err(unavailable(format!("the thread of this call ended early: {lost}"))),
            Err(_) => Err(unavailable(format!("no answer from the file system within {} s", DEADLINE.as_secs()))),
        }
    }
}

fn no_root(root: &Path) -> DriverError {
    DriverError::NoRoot { root: root.display().to_string(), message: "no such folder".to_owned() }
}

fn classify(operation: &'static str, path: String, error: &io::Error) -> DriverError {
    let message = error.to_string();
    match error.kind() {
        // A folder is no object, and below an object there is none.
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory if operation != "put" => {
            DriverError::NotFound { path }
        }
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidFilename | ErrorKind::InvalidInput => {
            DriverError::Invalid { operation, path, message }
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => DriverError::Denied { path, message },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DriverError::NoSpace { message },
        _ => DriverError::Unavailable { operation, path, message },
    }
}

#[async_trait]
impl Driver for Local {
    async fn put(&self, path: &StorePath, data: Bytes) -> Result<()> {
        let key = path.clone();
        self.blocking("put", path.to_string(), move |root, permit| put(root, &key, &data, permit)).await
    }

    async fn get(&self, path: &StorePath) -> Result<Bytes> {
        let key = path.clone();
        self.blocking("get", path.to_string(), move |root, _| fs::read(root.join(key.as_str())).map(Bytes::from)).await
    }

    async fn get_range(&self, path: &StorePath, range: Range<u64>) -> Result<Bytes> {
        let key = path.clone();
        self.blocking("get", path.to_string(), move |root, _| {
            let mut file = File::open(root.join(key.as_str()))?;
            if file.metadata()?.is_dir() {
                return Err(ErrorKind::IsADirectory.into());
            }
            file.seek(SeekFrom::Start(range.start))?;
            let mut data = Vec::new();
            file.take(range.end.saturating_sub(range.start)).read_to_end(&mut data)?;
            Ok(Bytes::from(data))
        })
        .await
    }

    fn list<'a>(&'a self, prefix: Option<&StorePath>, depth: Depth) -> BoxStream<'a, Result<Listed>> {
        // One folder is one page: those still to be read wait on the stack.
        let stack = vec![prefix.cloned()];
        stream::try_unfold(stack, move |mut stack| async move {
            let Some(folder) = stack.pop() else { return Ok::<_, DriverError>(None) };
            let shown = folder.as_ref().map(ToString::to_string).unwrap_or_default();
            let (rows, below) = self.blocking("list", shown, move |root, _| read_folder(root, folder.as_ref(), depth)).await?;
            stack.extend(below.into_iter().map(Some));
            Ok(Some((stream::iter(rows.into_iter().map(Ok)), stack)))
        })
        .try_flatten()
        .boxed()
    }

    async fn delete(&self, paths: &[StorePath]) -> Result<()> {
        let shown = paths.first().map(ToString::to_string).unwrap_or_default();
        let paths = paths.to_vec();
        self.blocking("delete", shown, move |root, permit| delete(root, &paths, permit)).await
    }

    async fn stat(&self, path: &StorePath) -> Result<Option<Meta>> {
        let key = path.clone();
        let found = self.blocking("stat", path.to_string(), move |root, _| {
            let metadata = fs::metadata(root.join(key.as_str()))?;
            if metadata.is_file() { meta(&metadata).map(Some) } else { Ok(None) }
        });
        match found.await {
            Err(DriverError::NotFound { .. }) => Ok(None),
            other => other,
        }
    }

    /// The time that a file written now gets: on a network file system that is the file server's clock.
    async fn server_time(&self) -> Result<Timestamp> {
        self.blocking("put", "the clock's probe file".to_owned(), |root, _| {
            let (path, mut file) = create_beside(&root.join("drover-clock"))?;
            let written = file.write_all(b"now").and_then(|()| file.sync_all()).and_then(|()| file.metadata());
            fs::remove_file(path)?;
            Ok(meta(&written?)?.modified)
        })
        .await
    }
}

fn put(root: &Path, key: &StorePath, data: &[u8], permit: &Permit) -> io::Result<()> {
    let target = root.join(key.as_str());
    let folder = target.parent().unwrap_or(root);
    for _ in 1..PUT_ATTEMPTS {
        match make_folders(root, folder).and_then(|()| put_file(folder, &target, data, permit)) {
            // Somebody removed the folder when its last file went, between our making it and our writing to it.
            Err(error) if error.kind() == ErrorKind::NotFound && root.is_dir() => {}
            done => return done,
        }
    }
    make_folders(root, folder).and_then(|()| put_file(folder, &target, data, permit))
}

fn put_file(folder: &Path, target: &Path, data: &[u8], permit: &Permit) -> io::Result<()> {
    let (temporary, mut file) = create_beside(target)?;
    let written = file.write_all(data).and_then(|()| file.sync_all());
    let renamed = written.and_then(|()| permit.check()).and_then(|()| fs::rename(&temporary, target));
    if renamed.is_err() {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&temporary);
    }
    renamed.and_then(|()| sync_folder(folder))
}

/// Makes what is missing of `folder`, durably. The root itself is never made: a missing one is a missing mount.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(root);
    make_folders(root, parent)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(parent),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates a new file `TARGET.tmp.{nanoseconds}`.
fn create_beside(target: &Path) -> io::Result<(PathBuf, File)> {
    let mut nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    loop {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".tmp.{nanoseconds}"));
        match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => nanoseconds += 1,
            result => return result.map(|file| (name.into(), file)),
        }
    }
}

fn is_stray(name: &str) -> bool {
    name.rsplit_once(".tmp.").is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The rows of one folder, and with [`Depth::All`] its folders. A folder that is not there is empty, unless the root is missing too.
fn read_folder(root: &Path, folder: Option<&StorePath>, depth: Depth) -> io::Result<(Vec<Listed>, Vec<StorePath>)> {
    let (mut rows, mut below) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(folder.map_or(root.to_owned(), |folder| root.join(folder.as_str()))) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) && root.is_dir() => {
            return Ok((rows, below));
        }
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(path) = child(folder, &entry.file_name()) else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() && depth == Depth::All {
            below.push(path);
        } else if kind.is_dir() {
            rows.push(Listed::Folder(path));
        } else if kind.is_file() {
            match entry.metadata() {
                // Removed since the folder was read.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                metadata => rows.push(Listed::Object(path, meta(&metadata?)?)),
            }
        }
    }
    Ok((rows, below))
}

/// The key of a folder's entry; `None` when it cannot be one of ours.
fn child(folder: Option<&StorePath>, name: &OsStr) -> Option<StorePath> {
    let name = name.to_str().filter(|name| !is_stray(name))?;
    match folder {
        Some(folder) => StorePath::parse(&format!("{folder}/{name}")),
        None => StorePath::parse(name),
    }
}

fn meta(metadata: &fs::Metadata) -> io::Result<Meta> {
    let modified = Timestamp::try_from(metadata.modified()?).map_err(io::Error::other)?;
    Ok(Meta { size: metadata.len(), modified })
}

/// Removes the files, then their folders as far as they are empty, and makes that durable: what a later call removes must not
/// stay away after a crash while what an earlier one removed comes back.
fn delete(root: &Path, paths: &[StorePath], permit: &Permit) -> io::Result<()> {
    let mut folders = std::collections::BTreeSet::new();
    for path in paths {
        let target = root.join(path.as_str());
        permit.check()?;
        match fs::remove_file(&target) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) && root.is_dir() => {}
            Err(error) if error.kind() == ErrorKind::IsADirectory => {}
            removed => removed?,
        }
        folders.extend(target.parent().map(Path::to_owned));
    }
    let remaining: std::collections::BTreeSet<_> = folders.iter().map(|folder| prune(root, folder)).collect();
    for folder in remaining {
        match sync_folder(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound && root.is_dir() => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Removes `folder` and its parents below `root` as far as they are empty; the first one that stays.
fn prune<'a>(root: &'a Path, folder: &'a Path) -> &'a Path {
    let mut folder = folder;
    while folder != root {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => break,
            _ => folder = folder.parent().unwrap_or(root),
        }
    }
    folder
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use tokio::sync::mpsc;

    use super::*;

    fn path(key: &str) -> StorePath {
        StorePath::parse(key).unwrap()
    }

    async fn keys(store: &Local) -> Vec<String> {
        let rows: Vec<_> = store.list(None, Depth::All).try_collect().await.unwrap();
        rows.into_iter().map(|row| format!("{row:?}")).collect()
    }

    #[tokio::test]
    async fn a_missing_root_is_told_apart_from_a_missing_object() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("not-mounted");
        let store = Local::new(&root);
        let key = path("a/b");
        let no_root = |error: DriverError| assert!(matches!(error, DriverError::NoRoot { .. }), "{error:?}");

        no_root(store.get(&key).await.unwrap_err());
        no_root(store.put(&key, Bytes::new()).await.unwrap_err());
        no_root(store.stat(&key).await.unwrap_err());
        no_root(store.delete(std::slice::from_ref(&key)).await.unwrap_err());
        no_root(store.list(Some(&key), Depth::All).try_collect::<Vec<_>>().await.unwrap_err());
        no_root(store.server_time().await.unwrap_err());
        assert!(!root.exists());
    }

    #[tokio::test]
    async fn strays_of_dead_writers_are_not_listed() {
        let root = tempfile::tempdir().unwrap();
        let store = Local::new(root.path());
        store.put(&path("a/whole"), Bytes::from_static(b"x")).await.unwrap();
        fs::write(root.path().join("a/whole.tmp.1700000000000000000"), "half").unwrap();

        let rows = keys(&store).await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!(rows[0].contains("a/whole"));
    }

    #[tokio::test]
    async fn folders_are_private_and_go_with_their_last_file() {
        let root = tempfile::tempdir().unwrap();
        let store = Local::new(root.path());
        store.put(&path("a/b/c"), Bytes::new()).await.unwrap();
        store.put(&path("a/d"), Bytes::new()).await.unwrap();
        assert_eq!(fs::metadata(root.path().join("a/b")).unwrap().permissions().mode() & 0o777, FOLDER_MODE);

        store.delete(&[path("a/b/c")]).await.unwrap();
        assert!(!root.path().join("a/b").exists());
        store.delete(&[path("a/d")]).await.unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_write_and_a_delete_that_removes_its_folder_do_not_meet() {
        let root = tempfile::tempdir().unwrap();
        let store = Local::new(root.path());
        let (ours, theirs) = (path("a/b/ours"), path("a/b/theirs"));
        for round in 0..200 {
            store.put(&theirs, Bytes::new()).await.unwrap();
            let (put, delete) =
                tokio::join!(store.put(&ours, Bytes::from(format!("{round}"))), store.delete(std::slice::from_ref(&theirs)));
            put.unwrap();
            delete.unwrap();
            assert_eq!(store.get(&ours).await.unwrap(), format!("{round}"));
            store.delete(std::slice::from_ref(&ours)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn server_time_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        Local::new(root.path()).server_time().await.unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    /// A fence that ends when it was asked `times` times.
    fn holds(times: usize) -> Arc<Fence> {
        let left = Mutex::new(times);
        Fence::new(move || {
            let mut left = left.lock().unwrap();
            let holds = *left > 0;
            *left = left.saturating_sub(1);
            holds
        })
    }

    #[tokio::test]
    async fn a_write_changes_nothing_behind_its_fence() {
        let root = tempfile::tempdir().unwrap();
        let store = Local::new(root.path());
        let (first, second) = (path("a/first"), path("a/second"));
        for key in [&first, &second] {
            store.put(key, Bytes::from_static(b"old")).await.unwrap();
        }
        let refused = |result: Result<()>| assert!(matches!(result, Err(DriverError::Unavailable { .. })), "{result:?}");
        refused(holds(0).around(store.put(&first, Bytes::from_static(b"new"))).await);
        assert_eq!(store.get(&first).await.unwrap(), "old");
        refused(holds(1).around(store.delete(&[first.clone(), second.clone()])).await);
        assert_eq!(store.stat(&first).await.unwrap(), None, "removed while it held");
        assert_eq!(store.get(&second).await.unwrap(), "old");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1, "no temporary file is left");
    }

    /// A fence that stops a call's thread before its change: what tells that it is there, what lets it go on, what tells that it is gone.
    fn gate() -> (Arc<Fence>, mpsc::UnboundedReceiver<()>, std::sync::mpsc::Sender<()>) {
        let (arrived, at_gate) = mpsc::unbounded_channel();
        let (open, opened) = std::sync::mpsc::channel();
        let opened = Mutex::new(opened);
        let fence = Fence::new(move || {
            let _ = arrived.send(());
            let _ = opened.lock().unwrap().recv();
            true
        });
        (fence, at_gate, open)
    }

    #[tokio::test]
    async fn a_write_that_was_given_up_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = Local::new(root.path());
        let (new, old) = ([path("a/new")], [path("a/old")]);
        store.put(&old[0], Bytes::from_static(b"old")).await.unwrap();
        let calls = [store.put(&new[0], Bytes::from_static(b"new")), store.delete(&old)];
        for call in calls {
            let (fence, mut at_gate, open) = gate();
            let mut call = Box::pin(fence.around(call));
            tokio::select! {
                result = &mut call => panic!("done before it was let: {result:?}"),
                arrived = at_gate.recv() => arrived.unwrap(),
            }
            drop((call, fence));
            open.send(()).unwrap();
            assert_eq!(at_gate.recv().await, None, "the thread has ended");
        }
        assert_eq!(keys(&store).await.len(), 1);
        assert_eq!(store.get(&old[0]).await.unwrap(), "old");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_write_whose_process_stood_still_too_long_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let began = BootClock.now().checked_sub(DEADLINE).unwrap_or_default();
        let late = Permit { began, ..Permit::new() };
        let error = put(root.path(), &path("a/b"), b"x", &late).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 0);
    }
}

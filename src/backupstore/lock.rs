//! Longhorn's lock files, and the proof that ours still holds at the moment something irreversible is sent.
//!
//! A lock is a file that its holder writes again every minute. Whoever sees one older than the expiry, by the server's clock, may
//! go over it; so a holder that was suspended, or cut off from the store, must find that out before it writes. The age of one's own
//! lock is counted from before the request that refreshed it, so that it is never younger here than on the server.

mod contest;

use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::contest::{Contender, strongest_rival};
use super::clock::Clock;
use super::driver::fence::Fence;
use super::driver::{Depth, Driver, DriverError, Listed, StorePath};
use super::error::{DriverContext, Error, Result};
use super::json;
use super::layout::VolumeLayout;
use crate::names::VolumeName;

/// The times of the lock protocol. The defaults are Longhorn's; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Between writing one's own lock and looking at those of others.
    pub settle: Duration,
    /// Between two refreshes of a lock.
    pub refresh: Duration,
    /// A lock that was refreshed longer ago proves nothing any more to its holder.
    pub fence: Duration,
    /// A lock that is older does not bind others. All implementations on one store must agree on it.
    pub expiry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { settle: seconds(2), refresh: seconds(60), fence: seconds(90), expiry: seconds(150) }
    }
}

impl Timings {
    /// How long after its refresh a lock may cover a request under way: what is left of its life is for a server that still works
    /// on a request whose sender has given up.
    fn deadline(&self) -> Duration {
        self.expiry - self.grace()
    }

    /// After this, a request that got no answer no longer takes effect.
    pub(super) fn grace(&self) -> Duration {
        self.expiry / 10
    }
}

/// What a lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Create or restore a backup. Any number of them go together.
    Transfer,
    /// Delete a backup or the volume, collect garbage.
    Delete,
}

impl LockKind {
    fn number(self) -> u8 {
        match self {
            Self::Transfer => 1,
            Self::Delete => 2,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Transfer => Self::Delete,
            Self::Delete => Self::Transfer,
        }
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transfer => "backup or restore",
            Self::Delete => "deletion",
        })
    }
}

/// `lock-` and some letters, digits or `-`; Longhorn and we write 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(String);

/// Text that names no lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a lock")]
pub struct InvalidLockName(String);

impl LockName {
    fn random() -> Result<Self> {
        let mut bytes = [0u8; 8];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::Internal { context: "get random bytes for a lock's name", reason: error.to_string() })?;
        Ok(Self(format!("lock-{}", hex::encode(bytes))))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LockName {
    type Err = InvalidLockName;

    fn from_str(name: &str) -> Result<Self, InvalidLockName> {
        let rest = name.strip_prefix("lock-").unwrap_or("");
        let sound = (1..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if sound { Ok(Self(name.to_owned())) } else { Err(InvalidLockName(name.to_owned())) }
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lock file's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    #[serde(alias = "name", default)]
    name: String,
    #[serde(rename = "Type", alias = "type")]
    kind: u8,
    #[serde(alias = "acquired", default)]
    acquired: bool,
}

/// What a lock needs to live.
#[derive(Clone)]
pub(super) struct Context {
    pub driver: Arc<dyn Driver>,
    pub clock: Arc<dyn Clock>,
    pub timings: Timings,
}

/// A lock of ours, refreshed in the background until it is released or dropped.
pub(super) struct Lock {
    file: Arc<File>,
    /// The server's time and ours when the lock was written first.
    written: (Timestamp, Duration),
    lost: CancellationToken,
    stop: CancellationToken,
    refresher: AbortOnDropHandle<()>,
    /// A request that must not outlive the lock was sent and may yet take effect.
    in_doubt: AtomicBool,
    /// Another lock of this kind was alive when this one was taken.
    shared: bool,
}

/// What taking a lock told.
struct Taken {
    /// The server's time and ours when the lock was written first.
    written: (Timestamp, Duration),
    /// Another lock of this kind is alive.
    shared: bool,
}

/// A lock that was written.
struct Written {
    /// It was sent more than once: an earlier attempt may yet land.
    again: bool,
}

/// What became of a request.
struct Sent<T> {
    /// `None`: the lock's life ended first.
    answer: Option<Result<T, DriverError>>,
    /// It was sent more than once.
    again: bool,
}

impl<T> Sent<T> {
    /// Whether it has taken effect or never will.
    fn is_decided(&self) -> bool {
        match &self.answer {
            Some(Ok(_)) => !self.again,
            Some(Err(error)) => !self.again && !matches!(error, DriverError::Unavailable { .. }),
            None => false,
        }
    }
}

/// The lock's object.
struct File {
    context: Context,
    volume: VolumeName,
    name: LockName,
    path: StorePath,
    kind: LockKind,
    /// Our clock in nanoseconds before the last write that succeeded.
    refreshed: AtomicU64,
}

impl Lock {
    /// Takes a lock on `volume`, or says who holds one that excludes it. Takes [`Timings::settle`] and five requests.
    pub async fn acquire(context: &Context, volume: &VolumeName, kind: LockKind, cancel: &CancellationToken) -> Result<Self> {
        let layout = VolumeLayout::new(volume);
        let name = LockName::random()?;
        let path = layout.lock(&name);
        let file = File { context: context.clone(), volume: volume.clone(), name, path, kind, refreshed: AtomicU64::new(0) };
        let result = file.contend(&layout, cancel).await;
        match result {
            Ok(taken) => Ok(Self::hold(file, taken)),
            Err(error) => {
                file.remove().await;
                Err(error)
            }
        }
    }

    fn hold(file: File, taken: Taken) -> Self {
        let Taken { written, shared } = taken;
        let file = Arc::new(file);
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let refresher = tokio::spawn(refresh(file.clone(), lost.clone(), stop.clone()));
        let in_doubt = AtomicBool::new(false);
        Self { file, written, lost, stop, refresher: AbortOnDropHandle::new(refresher), in_doubt, shared }
    }

    /// Its name.
    pub fn name(&self) -> &LockName {
        &self.file.name
    }

    /// The server's clock now, by ours since the lock was written. Never ahead of the server's.
    pub fn server_now(&self) -> Timestamp {
        let (server, own) = self.written;
        server.saturating_add(to_signed(self.file.context.clock.now().saturating_sub(own))).unwrap_or(server)
    }

    /// Ends when the lock can no longer be refreshed.
    pub async fn lost(&self) -> Error {
        self.lost.cancelled().await;
        self.file.lost("it could not be refreshed in time")
    }

    /// Sends a request that must not take effect once the lock has expired. `context` completes "failed to ...".
    ///
    /// First proves that the lock is fresh and still there. The request is dropped when the lock's life is nearly over, also when
    /// this process did not run for a while.
    pub async fn fenced<T>(
        &self,
        context: impl FnOnce() -> String,
        request: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T> {
        let context = context();
        let found =
            self.file.context.driver.stat(&self.file.path).await.context(|| format!("look at lock {}", self.file.name))?;
        if found.is_none() {
            return Err(self.file.lost("somebody removed it"));
        }
        self.bounded(context, request).await
    }

    /// As [`Lock::fenced`], without a look at the store.
    pub async fn bounded<T>(&self, context: String, request: impl Future<Output = Result<T, DriverError>>) -> Result<T> {
        if self.file.age() >= self.file.context.timings.fence {
            return Err(self.file.lost("it was not refreshed for too long"));
        }
        // It stays in doubt also when this future is dropped, and an answer to this request decides nothing about an earlier one.
        let before = self.in_doubt.swap(true, SeqCst);
        let sent = self.file.before_deadline(request).await;
        if sent.is_decided() {
            self.in_doubt.store(before, SeqCst);
        }
        sent.answer.ok_or_else(|| self.file.lost("it would have expired before the store answered"))?.context(|| context)
    }

    /// If a fenced request may yet take effect, holds the lock until it no longer can: neither a later write of ours nor anybody who
    /// waits for the lock may meet it.
    pub async fn settle(&self) {
        if self.in_doubt.load(SeqCst) {
            let timings = self.file.context.timings;
            self.file.context.clock.sleep(timings.grace()).await;
            // Not before: one who stops waiting leaves the doubt to whoever releases the lock.
            self.in_doubt.store(false, SeqCst);
        }
    }

    /// Waits until no request of an earlier holder that died can take effect any more.
    ///
    /// A holder that is killed while it [settles](Lock::settle) leaves its lock, so without another lock there is nothing to wait for.
    /// With one, be it of another cluster's restore, what was in doubt at its death is decided a grace after ours was written.
    pub async fn outlive_the_dead(&self) {
        let held = self.file.context.clock.now().saturating_sub(self.written.1);
        if let (true, Some(left)) = (self.shared, self.file.context.timings.grace().checked_sub(held)) {
            self.file.context.clock.sleep(left).await;
        }
    }

    /// Gives the lock back, [settled](Lock::settle).
    pub async fn release(self) {
        self.settle().await;
        self.stop.cancel();
        // A refresh under way is waited for: cut off, it could write the lock again behind its removal.
        if let Err(error) = self.refresher.await {
            tracing::warn!(lock = %self.file.name, %error, "the lock's refresher died");
        }
        self.file.remove().await;
    }
}

impl File {
    /// Writes the lock, waits, and compares it with all others.
    async fn contend(&self, layout: &VolumeLayout, cancel: &CancellationToken) -> Result<Taken> {
        if self.write(false).await?.again {
            // An attempt that was given up could otherwise say "not acquired" again of a lock that is.
            self.wait(self.context.timings.grace(), cancel).await?;
        }
        let written = self.context.clock.now();
        self.wait(self.context.timings.settle, cancel).await?;
        let locks = self.list(layout).await?;
        let own = locks.iter().find(|(path, _)| *path == self.path).map(|(_, modified)| *modified);
        let own = own.ok_or_else(|| self.lost("somebody removed it"))?;
        let now = own.saturating_add(to_signed(self.context.clock.now().saturating_sub(written))).unwrap_or(own);
        let rivals = self.read_rivals(layout, locks, now).await?;
        let me = Contender { name: self.name.clone(), kind: self.kind, acquired: false, modified: own };
        if let Some(rival) = strongest_rival(&me, &rivals) {
            return Err(Error::LockHeld {
                volume: self.volume.clone(),
                holder: rival.name.clone(),
                kind: rival.kind,
                age: Duration::try_from(now.duration_since(rival.modified)).unwrap_or_default(),
            });
        }
        self.write(true).await?;
        Ok(Taken { written: (own, written), shared: rivals.iter().any(|rival| rival.kind == self.kind) })
    }

    async fn wait(&self, duration: Duration, cancel: &CancellationToken) -> Result<()> {
        tokio::select! {
            () = self.context.clock.sleep(duration) => Ok(()),
            () = cancel.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Every lock of the volume with the server's time of its last write.
    async fn list(&self, layout: &VolumeLayout) -> Result<Vec<(StorePath, Timestamp)>> {
        let listing = self.context.driver.list(Some(&layout.locks()), Depth::Children);
        let locks = listing.try_filter_map(|row| async move {
            Ok(match row {
                Listed::Object(path, meta) if layout.lock_of(&path).is_some() => Some((path, meta.modified)),
                _ => None,
            })
        });
        locks.try_collect().await.context(|| format!("list the locks of volume {}", self.volume))
    }

    /// The locks of others that have not expired at the server's time `now`.
    async fn read_rivals(
        &self,
        layout: &VolumeLayout,
        locks: Vec<(StorePath, Timestamp)>,
        now: Timestamp,
    ) -> Result<Vec<Contender>> {
        let alive = |modified: Timestamp| now.duration_since(modified) <= to_signed(self.context.timings.expiry);
        let rivals = locks.into_iter().filter(|(path, modified)| *path != self.path && alive(*modified));
        let read = stream::iter(rivals).map(|(path, modified)| async move { self.read_rival(layout, &path, modified).await });
        let read: Vec<Option<Contender>> = read.buffer_unordered(8).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_rival(&self, layout: &VolumeLayout, path: &StorePath, modified: Timestamp) -> Result<Option<Contender>> {
        let Some(name) = layout.lock_of(path) else { return Ok(None) };
        let bytes = match self.context.driver.get(path).await {
            Err(DriverError::NotFound { .. }) => return Ok(None),
            other => other.context(|| format!("read lock {name}"))?,
        };
        let (kind, acquired) = match json::from_slice::<Body>(&bytes) {
            Ok(body) if body.kind == LockKind::Transfer.number() => (LockKind::Transfer, body.acquired),
            Ok(body) if body.kind == LockKind::Delete.number() => (LockKind::Delete, body.acquired),
            // Nobody can tell what it is for: it may exclude us.
            _ => (self.kind.other(), true),
        };
        Ok(Some(Contender { name, kind, acquired, modified }))
    }

    /// Writes the lock while it has not expired.
    async fn write(&self, acquired: bool) -> Result<Written> {
        let sent = self.context.clock.now();
        let body = Body { name: self.name.to_string(), kind: self.kind.number(), acquired };
        let body =
            json::to_vec(&body).map_err(|error| Error::Internal { context: "encode a lock", reason: error.to_string() })?;
        let put = self.context.driver.put(&self.path, Bytes::from(body));
        let Sent { answer, again } = match acquired {
            true => self.before_deadline(put).await,
            false => self.within(&Fence::new(|| true), put).await,
        };
        answer
            .ok_or_else(|| self.lost("it was not refreshed in time"))?
            .context(|| format!("write lock {} of volume {}", self.name, self.volume))?;
        self.refreshed.store(u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX), SeqCst);
        Ok(Written { again })
    }

    /// Runs `request` while the lock lives.
    async fn before_deadline<T>(&self, request: impl Future<Output = Result<T, DriverError>>) -> Sent<T> {
        let (clock, deadline) = (self.context.clock.clone(), self.context.timings.deadline());
        let refreshed = Duration::from_nanos(self.refreshed.load(SeqCst));
        let left = deadline.saturating_sub(clock.now().saturating_sub(refreshed));
        let ends = self.context.clock.sleep(left);
        let fence = Fence::new(move || clock.now().saturating_sub(refreshed) < deadline);
        tokio::select! {
            biased;
            sent = self.within(&fence, request) => sent,
            () = ends => Sent { answer: None, again: fence.sent_again() },
        }
    }

    /// Runs `request` while the fence holds, which is looked at before every step: a process that wakes up after the lock's end sends
    /// nothing more.
    async fn within<T>(&self, fence: &Arc<Fence>, request: impl Future<Output = Result<T, DriverError>>) -> Sent<T> {
        let mut request = pin!(fence.around(request));
        let guarded = std::future::poll_fn(|task| match fence.holds() {
            true => request.as_mut().poll(task).map(Some),
            false => Poll::Ready(None),
        });
        let answer = guarded.await;
        Sent { answer, again: fence.sent_again() }
    }

    /// Since before the last write that succeeded.
    fn age(&self) -> Duration {
        self.context.clock.now().saturating_sub(Duration::from_nanos(self.refreshed.load(SeqCst)))
    }

    async fn remove(&self) {
        if let Err(error) = self.context.driver.delete(std::slice::from_ref(&self.path)).await {
            // It expires by itself.
            tracing::warn!(lock = %self.name, volume = %self.volume, %error, "failed to remove a lock of ours");
        }
    }

    fn lost(&self, reason: &str) -> Error {
        Error::LockLost { volume: self.volume.clone(), reason: reason.to_owned() }
    }
}

/// Writes the lock again and again, sooner after a failure, until it is stopped or too late.
async fn refresh(file: Arc<File>, lost: CancellationToken, stop: CancellationToken) {
    let timings = file.context.timings;
    let mut pause = timings.refresh;
    loop {
        tokio::select! {
            () = file.context.clock.sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = match file.write(true).await {
            Ok(_) => timings.refresh,
            Err(error) => {
                tracing::warn!(lock = %file.name, volume = %file.volume, %error, "failed to refresh a lock");
                timings.refresh / 12
            }
        };
        if file.age() >= timings.deadline() {
            lost.cancel();
            return;
        }
    }
}

fn to_signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

//! Transfers of this process: who runs, who waits, how each ended.
//!
//! Nothing here needs to survive the process. What a transfer is for stands in its object, how far it is in the store or the pool; a
//! new process begins it again and finds what is done already.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backupstore;
use crate::backupstore::progress::{Progress, Seen};
use crate::controllers::Error;
use crate::controllers::requeue::jittered;

/// The longest wait between two attempts.
const RETRY_CAP: Duration = Duration::from_secs(30);
/// How soon the store's lock is tried again.
const LOCK_RETRY: Duration = Duration::from_secs(5);
/// How long an attempt may take to end after it was told to: what hangs elsewhere must not hold its slot for ever.
const GRACE: Duration = Duration::from_secs(30);
/// How often a running attempt is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// What a transfer does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// Too many others run.
    Queued,
    /// Another transfer or a deletion holds the store's lock, in these words.
    Locked(String),
    /// Bytes move.
    Moving,
    /// The last attempt failed with these words; the next one follows.
    Retrying(String),
}

/// How a transfer ended.
#[derive(Debug)]
pub enum End<T> {
    /// Well.
    Done(T),
    /// For good.
    Failed(Error),
    /// It was told to stop.
    Stopped,
}

/// A transfer, seen from outside.
#[derive(Debug)]
pub struct View<T> {
    /// How far it is.
    pub progress: Arc<Progress>,
    /// What it does.
    pub activity: Activity,
    /// How it ended, once it has.
    pub end: Option<Arc<End<T>>>,
    /// When it began in this process.
    pub since: Instant,
}

/// The transfers of one kind, by the uid of their object.
pub struct Transfers<T> {
    by_uid: Mutex<HashMap<String, Entry<T>>>,
    slots: Arc<Slots>,
    /// The name of the object whose transfer ended. As many at most as there are transfers.
    ended: mpsc::UnboundedSender<String>,
    patience: Option<Duration>,
    grace: Duration,
    tasks: TaskTracker,
}

struct Entry<T> {
    volume: String,
    cancel: CancellationToken,
    state: Arc<State<T>>,
}

struct State<T> {
    since: Instant,
    now: Mutex<Now<T>>,
}

struct Now<T> {
    /// Of the attempt that runs, or ran last.
    progress: Arc<Progress>,
    activity: Activity,
    end: Option<Arc<End<T>>>,
}

/// What a transfer is for.
#[derive(Debug, Clone)]
pub struct Job {
    /// The object's uid.
    pub uid: String,
    /// The object's name.
    pub name: String,
    /// The volume whose bytes move.
    pub volume: String,
    /// How many transfers of this node may run at once.
    pub limit: usize,
}

impl<T: Send + Sync + 'static> Transfers<T> {
    /// No transfers yet, and the names of those that will have ended. With `patience`, one that moves nothing for so long fails,
    /// its waits for a slot or for the store's lock not counted; without, it is tried until it is stopped.
    pub fn new(slots: Arc<Slots>, patience: Option<Duration>) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (ended, receiver) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        let transfers = Self { by_uid: Mutex::default(), slots, ended, patience, grace: GRACE, tasks };
        (Arc::new(transfers), receiver)
    }

    /// Begins a transfer unless the object has one. `attempt` moves the bytes once, from the start or from where an earlier one got to.
    pub fn start<F, Fut>(self: &Arc<Self>, job: Job, attempt: F)
    where
        F: Fn(Arc<Progress>, CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Error>> + Send,
    {
        let mut by_uid = self.lock();
        if by_uid.contains_key(&job.uid) {
            return;
        }
        let now = Now { progress: Arc::default(), activity: Activity::Queued, end: None };
        let state = Arc::new(State { since: Instant::now(), now: Mutex::new(now) });
        let cancel = CancellationToken::new();
        by_uid.insert(job.uid.clone(), Entry { volume: job.volume, cancel: cancel.clone(), state: state.clone() });
        self.slots.resize(job.limit);
        let this = self.clone();
        self.tasks.spawn(async move {
            let end = this.run(&state, &cancel, attempt).await;
            state.finish(end);
            // The receiver goes only when the process ends.
            let _ = this.ended.send(job.name);
        });
    }

    /// The object's transfer.
    pub fn view(&self, uid: &str) -> Option<View<T>> {
        let state = self.lock().get(uid)?.state.clone();
        let now = state.lock();
        Some(View { progress: now.progress.clone(), activity: now.activity.clone(), end: now.end.clone(), since: state.since })
    }

    /// Tells the object's transfer to stop.
    pub fn stop(&self, uid: &str) {
        if let Some(entry) = self.lock().get(uid) {
            entry.cancel.cancel();
        }
    }

    /// Tells the volume's transfers to stop.
    pub fn stop_volume(&self, volume: &str) {
        self.lock().values().filter(|entry| entry.volume == volume).for_each(|entry| entry.cancel.cancel());
    }

    /// Whether a transfer of the volume has not ended.
    pub fn is_busy(&self, volume: &str) -> bool {
        self.lock().values().any(|entry| entry.volume == volume && entry.state.lock().end.is_none())
    }

    /// Drops a transfer that has ended, once its object says so.
    pub fn forget(&self, uid: &str) {
        let mut by_uid = self.lock();
        if by_uid.get(uid).is_some_and(|entry| entry.state.lock().end.is_some()) {
            by_uid.remove(uid);
        }
    }

    /// Tells the transfers of objects that are gone to stop, and drops those of them that have ended. `existing`, the uids of all
    /// objects, is asked for when no transfer can begin: the object of each one that has begun was there before.
    pub fn sweep(&self, existing: impl FnOnce() -> HashSet<String>) {
        let mut by_uid = self.lock();
        if by_uid.is_empty() {
            return;
        }
        let existing = existing();
        by_uid.retain(|uid, entry| {
            let gone = !existing.contains(uid);
            if gone {
                entry.cancel.cancel();
            }
            !gone || entry.state.lock().end.is_none()
        });
    }

    /// Stops all and waits until they have ended, `within` at most.
    pub async fn shut_down(&self, within: Duration) {
        self.lock().values().for_each(|entry| entry.cancel.cancel());
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            tracing::warn!(?within, "transfers did not stop in time; the store's locks run out by themselves");
        }
    }

    async fn run<F, Fut>(&self, state: &State<T>, cancel: &CancellationToken, attempt: F) -> End<T>
    where
        F: Fn(Arc<Progress>, CancellationToken) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut pulse = Pulse::default();
        let mut failures = 0u32;
        loop {
            let slot = tokio::select! {
                biased;
                () = cancel.cancelled() => return End::Stopped,
                slot = self.slots.take() => slot,
            };
            if failures == 0 {
                state.lock().activity = Activity::Moving;
                pulse.at = Instant::now();
            }
            let result = self.watched(state, cancel.child_token(), &mut pulse, &attempt).await;
            drop(slot);
            let error = match result {
                Ok(done) => return End::Done(done),
                Err(_) if cancel.is_cancelled() => return End::Stopped,
                Err(error) => error,
            };
            let (activity, wait) = match self.next_attempt(&error, failures, pulse.at.elapsed()) {
                Next::Lock => {
                    failures = 0;
                    (Activity::Locked(error.to_string()), LOCK_RETRY)
                }
                Next::Retry(wait) => {
                    tracing::warn!(%error, again_in = ?wait, "a transfer was interrupted");
                    failures += 1;
                    (Activity::Retrying(error.to_string()), wait)
                }
                Next::GiveUp => return End::Failed(error),
            };
            state.lock().activity = activity;
            tokio::select! {
                () = cancel.cancelled() => return End::Stopped,
                () = tokio::time::sleep(jittered(wait)) => {}
            }
        }
    }

    /// One attempt, cancelled when nothing moves for too long, and dropped when it does not end then.
    async fn watched<F, Fut>(
        &self,
        state: &State<T>,
        cancel: CancellationToken,
        pulse: &mut Pulse,
        attempt: &F,
    ) -> Result<T, Error>
    where
        F: Fn(Arc<Progress>, CancellationToken) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let progress = Arc::<Progress>::default();
        state.lock().progress = progress.clone();
        pulse.uploaded = 0;
        let mut watch = tokio::time::interval(WATCH);
        let work = attempt(progress.clone(), cancel.clone());
        tokio::pin!(work);
        let overdue = async {
            cancel.cancelled().await;
            tokio::time::sleep(self.grace).await;
        };
        tokio::pin!(overdue);
        let mut stalled = None;
        loop {
            tokio::select! {
                result = &mut work => return match (result, stalled) {
                    // What it says after it was cancelled here tells nothing new.
                    (Err(_), Some(idle)) => Err(stalled_for(idle)),
                    (result, _) => result,
                },
                () = &mut overdue => {
                    tracing::warn!("a transfer did not stop in time and was dropped");
                    return Err(stalled.map_or_else(|| backupstore::Error::Cancelled.into(), stalled_for));
                }
                _ = watch.tick() => {}
            }
            let seen = progress.snapshot();
            if pulse.feel(&seen) {
                state.lock().activity = Activity::Moving;
            }
            if self.patience.is_some_and(|patience| seen.idle >= patience) && stalled.is_none() {
                stalled = Some(seen.idle);
                cancel.cancel();
            }
        }
    }

    fn next_attempt(&self, error: &Error, failures: u32, idle: Duration) -> Next {
        if matches!(error, Error::Store(backupstore::Error::LockHeld { .. })) {
            return Next::Lock;
        }
        if error.is_transient() && self.patience.is_none_or(|patience| idle < patience) {
            return Next::Retry(Duration::from_secs(1).saturating_mul(1 << failures.min(8)).min(RETRY_CAP));
        }
        Next::GiveUp
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry<T>>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    Lock,
    Retry(Duration),
    GiveUp,
}

/// When bytes last moved that had not moved before: an attempt that only repeats what an earlier one did is no progress.
struct Pulse {
    at: Instant,
    done: u64,
    /// By the attempt that runs.
    uploaded: u64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { at: Instant::now(), done: 0, uploaded: 0 }
    }
}

impl Pulse {
    fn feel(&mut self, seen: &Seen) -> bool {
        let beats = seen.bytes_done > self.done || seen.bytes_uploaded > self.uploaded;
        if beats {
            *self = Self { at: Instant::now(), done: seen.bytes_done.max(self.done), uploaded: seen.bytes_uploaded };
        }
        beats
    }
}

fn stalled_for(idle: Duration) -> Error {
    Error::Invalid(format!("nothing moved for {} s: the transfer was given up", idle.as_secs()))
}

impl<T> State<T> {
    fn finish(&self, end: End<T>) {
        self.lock().end = Some(Arc::new(end));
    }

    fn lock(&self) -> MutexGuard<'_, Now<T>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places for the transfers of a node. The number can change while some are taken.
pub struct Slots {
    free: Arc<Semaphore>,
    /// Places that exist, taken ones included.
    total: Mutex<usize>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(0)), total: Mutex::new(0) }
    }
}

impl Slots {
    fn resize(&self, wanted: usize) {
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *total {
            self.free.add_permits(wanted - *total);
            *total = wanted;
        } else {
            // Taken places go when the next transfer begins after they came free.
            *total -= self.free.forget_permits(*total - wanted);
        }
    }

    /// In the order in which they ask.
    async fn take(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.free.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
#[path = "transfers_tests.rs"]
mod tests;

//! Time that stands still until everything waits for it, or until the test moves it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use jiff::{SignedDuration, Timestamp};

use crate::backupstore::clock::Clock;

/// A clock, shared by its clones.
#[derive(Clone, Default)]
pub struct VirtualClock(Arc<Mutex<Alarms>>);

#[derive(Default)]
struct Alarms {
    now: Duration,
    next_id: u64,
    sleepers: BTreeMap<(Duration, u64), Waker>,
}

impl VirtualClock {
    /// Some day, and what this clock has moved since.
    pub fn timestamp(&self) -> Timestamp {
        let start: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        start + SignedDuration::try_from(self.now()).unwrap()
    }

    /// Moves on by `duration`.
    pub fn advance(&self, duration: Duration) {
        let to = self.now() + duration;
        self.advance_to(to);
    }

    /// When the next sleeper wakes up.
    pub fn next_alarm(&self) -> Option<Duration> {
        self.0.lock().unwrap().sleepers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Moves on to the next alarm; false when nobody sleeps.
    pub fn advance_to_next(&self) -> bool {
        self.next_alarm().map(|at| self.advance_to(at)).is_some()
    }

    fn advance_to(&self, to: Duration) {
        let mut alarms = self.0.lock().unwrap();
        alarms.now = alarms.now.max(to);
        let now = alarms.now;
        let later = alarms.sleepers.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut alarms.sleepers, later);
        drop(alarms);
        due.into_values().for_each(Waker::wake);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut alarms = self.0.lock().unwrap();
        alarms.next_id += 1;
        let key = (alarms.now + duration, alarms.next_id);
        Sleep { clock: self.clone(), key }.boxed()
    }
}

struct Sleep {
    clock: VirtualClock,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let mut alarms = self.clock.0.lock().unwrap();
        if alarms.now >= self.key.0 {
            return Poll::Ready(());
        }
        alarms.sleepers.insert(self.key, task.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.0.lock().unwrap().sleepers.remove(&self.key);
    }
}

/// A runtime of one thread that says when all its tasks wait.
pub struct Time {
    runtime: tokio::runtime::Runtime,
    idle: Arc<Idle>,
    /// The clock that moves when they do.
    pub clock: VirtualClock,
}

#[derive(Default)]
struct Idle {
    times: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

impl Time {
    pub fn new() -> Self {
        let idle = Arc::new(Idle::default());
        let parked = idle.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || {
                parked.times.fetch_add(1, SeqCst);
                if let Some(waker) = parked.waiting.lock().unwrap().take() {
                    waker.wake();
                }
            })
            .build()
            .unwrap();
        Self { runtime, idle, clock: VirtualClock::default() }
    }

    /// Runs `future`; whenever everything waits, the clock moves to the next alarm.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_with(future, || self.clock.advance_to_next())
    }

    /// Runs `future`; whenever everything waits, `step` makes something go on, or says that nothing can.
    pub fn run_with<T>(&self, future: impl Future<Output = T>, mut step: impl FnMut() -> bool) -> T {
        self.runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                tokio::select! {
                    biased;
                    result = &mut future => return result,
                    () = self.idle.next() => assert!(step(), "everything waits for ever"),
                }
            }
        })
    }
}

impl Idle {
    /// Ends when all tasks wait.
    async fn next(&self) {
        let seen = self.times.load(SeqCst);
        std::future::poll_fn(|task| {
            if self.times.load(SeqCst) > seen {
                return Poll::Ready(());
            }
            *self.waiting.lock().unwrap() = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

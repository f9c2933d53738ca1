//! A clock that goes on while the machine sleeps: by it a process that was suspended knows how old its lock is.
//!
//! All waiting of the lock protocol goes through it, so that a test can have a clock of its own.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use rustix::time::{ClockId, clock_gettime};

/// Time since some fixed point. Never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Time since this clock's fixed point.
    fn now(&self) -> Duration;

    /// Ends at least `duration` from now.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Time since boot, suspended time included.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

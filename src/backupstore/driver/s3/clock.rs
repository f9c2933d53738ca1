//! The server's clock, as its answers tell it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// A reading older than this is not used: local and remote clocks do not run at one speed.
const FRESH: Duration = Duration::from_secs(10);

/// The `Date` of the newest answer and when it came.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    newest: Mutex<Option<Reading>>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    date: Timestamp,
    /// Local time since boot, time asleep included.
    received: Duration,
}

impl ServerClock {
    /// Notes the `Date` header of an answer that has just come.
    pub(super) fn note(&self, date: &str) {
        let Ok(date) = jiff::fmt::rfc2822::parse(date) else { return };
        let reading = Reading { date: date.timestamp(), received: since_boot() };
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// The server's time now; `None` when no answer came lately.
    ///
    /// Never ahead of the server, and behind it by less than one second and the time the answer travelled: a lock seems at most
    /// that much younger than it is.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let reading = (*self.newest.lock().unwrap_or_else(PoisonError::into_inner))?;
        now_from(reading, since_boot())
    }
}

fn now_from(reading: Reading, now: Duration) -> Option<Timestamp> {
    let elapsed = now.checked_sub(reading.received).filter(|elapsed| *elapsed < FRESH)?;
    reading.date.checked_add(SignedDuration::try_from(elapsed).ok()?).ok()
}

/// CLOCK_BOOTTIME goes on while the machine sleeps, unlike `Instant`.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_runs_on_and_ages() {
        let date = jiff::fmt::rfc2822::parse("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().timestamp();
        let reading = Reading { date, received: Duration::from_secs(100) };
        let at = |seconds| now_from(reading, Duration::from_secs(seconds)).map(|time| time.to_string());
        assert_eq!(at(100).as_deref(), Some("1994-11-06T08:49:37Z"));
        assert_eq!(at(103).as_deref(), Some("1994-11-06T08:49:40Z"));
        assert_eq!(at(110), None, "too old");
        assert_eq!(at(99), None, "from the future");
    }

    #[test]
    fn a_date_that_is_none_changes_nothing() {
        let clock = ServerClock::default();
        clock.note("Sun, 06 Nov 1994 08:49:37 GMT");
        clock.note("yesterday");
        assert!(clock.now().unwrap().to_string().starts_with("1994-11-06T08:49:3"));
    }
}

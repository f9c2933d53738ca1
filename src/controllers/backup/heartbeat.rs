//! Whether the agent of a Backup is still there, judged by our own clock alone.
//!
//! A heartbeat's value is never compared with our wall clock, because two nodes' clocks may differ by more than the bound: what counts
//! is for how long it has not changed since we first saw it. A new leader begins to count anew, which only delays.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The heartbeats seen last, by object uid.
#[derive(Debug)]
pub struct Heartbeats {
    timeout: Duration,
    seen: Mutex<HashMap<String, (String, Instant)>>,
}

/// What a look at a heartbeat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It may still move; look again after this time: changes of a heartbeat are not told, so it is looked at ten times in the bound.
    Beating(Duration),
    /// It has not moved for the whole bound.
    Lost,
}

impl Heartbeats {
    /// An agent counts as away after `timeout` without a change.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, seen: Mutex::default() }
    }

    /// The bound.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Notes the sign of life `beat` of object `uid` as seen at `now`.
    pub fn look(&self, uid: &str, beat: &str, now: Instant) -> Pulse {
        let mut seen = self.lock();
        let since = match seen.get(uid) {
            Some((last, since)) if last == beat => *since,
            _ => {
                seen.insert(uid.to_owned(), (beat.to_owned(), now));
                now
            }
        };
        match self.timeout.checked_sub(now.saturating_duration_since(since)) {
            Some(left) if !left.is_zero() => Pulse::Beating(left.min(self.timeout / 10)),
            _ => Pulse::Lost,
        }
    }

    /// The object is gone or ended.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (String, Instant)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_away_when_its_heartbeat_stands_still_for_the_bound_on_our_clock() {
        let hearts = Heartbeats::new(Duration::from_secs(300));
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        // Values far in the past or the future of our wall clock are all the same.
        assert_eq!(hearts.look("u", "1999", at(0)), Pulse::Beating(Duration::from_secs(30)));
        assert_eq!(hearts.look("u", "1999", at(299)), Pulse::Beating(Duration::from_secs(1)));
        assert_eq!(hearts.look("u", "2099", at(299)), Pulse::Beating(Duration::from_secs(30)));
        assert_eq!(hearts.look("u", "2099", at(598)), Pulse::Beating(Duration::from_secs(1)));
        assert_eq!(hearts.look("u", "2099", at(599)), Pulse::Lost);
        hearts.forget("u");
        assert_eq!(hearts.look("u", "2099", at(600)), Pulse::Beating(Duration::from_secs(30)));
    }

    #[test]
    fn a_lost_agent_is_noticed_at_most_a_tenth_of_the_bound_late() {
        let hearts = Heartbeats::new(Duration::from_secs(300));
        let start = Instant::now();
        // The last beat comes right after a look.
        let mut now = start;
        let mut looks = 0;
        while let Pulse::Beating(next) = hearts.look("u", if looks == 0 { "1" } else { "2" }, now) {
            now += next;
            looks += 1;
        }
        assert!(now - start <= Duration::from_secs(330), "{:?}", now - start);
    }
}

//! When a target is probed and listed: pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// An alias setting's edit of the URL is followed by one of the Secret, or the other way round: between them, old credentials would
/// meet the new endpoint.
pub const COMPANION_WAIT: Duration = Duration::from_secs(2);

/// The place and the credentials that a target names, and since when they are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `spec.backupTargetURL`.
    pub url: String,
    /// `spec.credentialSecret`.
    pub secret: String,
    /// Since when, `None` where the status was made with them: they stood still long enough already.
    pub since: Option<Instant>,
}

impl Seen {
    /// How long to wait for the companion edit yet.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.since?);
        COMPANION_WAIT.checked_sub(waited).filter(|left| !left.is_zero())
    }
}

/// When the store is listed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Now.
    Now,
    /// After this time.
    In(Duration),
    /// Only when asked.
    WhenAsked,
}

/// What decides when the store is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The last listing.
    pub last: Option<Timestamp>,
    /// `spec.syncRequestedAt`.
    pub requested: Option<Timestamp>,
    /// The request that was last answered.
    pub answered: Option<Timestamp>,
    /// `spec.pollInterval`; zero: only when asked.
    pub poll: Duration,
}

/// Decides when the store is listed next.
pub fn sync(times: Times, now: Timestamp) -> Sync {
    let Some(last) = times.last else { return Sync::Now };
    if times.requested.is_some() && times.requested != times.answered {
        return Sync::Now;
    }
    if times.poll.is_zero() {
        return Sync::WhenAsked;
    }
    // A clock that was put back must not stop the polling.
    let since = Duration::try_from(now.duration_since(last)).unwrap_or(times.poll);
    match times.poll.checked_sub(since) {
        Some(left) if !left.is_zero() => Sync::In(left),
        _ => Sync::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    #[test]
    fn a_target_is_listed_first_when_asked_and_by_its_interval() {
        let minute = Duration::from_secs(60);
        for (last, requested, answered, poll, now, wanted) in [
            (None, None, None, Duration::ZERO, 100, Sync::Now),
            (Some(100), None, None, minute, 130, Sync::In(Duration::from_secs(30))),
            (Some(100), None, None, minute, 160, Sync::Now),
            (Some(100), None, None, Duration::ZERO, 100_000, Sync::WhenAsked),
            (Some(100), Some(99), None, Duration::ZERO, 102, Sync::Now),
            (Some(100), Some(100), Some(99), Duration::ZERO, 102, Sync::Now),
            (Some(100), Some(99_999), Some(99_999), Duration::ZERO, 102, Sync::WhenAsked),
            (Some(100), None, None, minute, 50, Sync::Now),
        ] {
            let times = Times { last: last.map(at), requested: requested.map(at), answered: answered.map(at), poll };
            assert_eq!(sync(times, at(now)), wanted, "{times:?} {now}");
        }
    }

    #[test]
    fn a_changed_place_waits_for_its_companion_and_an_old_one_does_not() {
        let now = Instant::now();
        let seen = |since| Seen { url: "u".into(), secret: "s".into(), since };
        assert_eq!(seen(Some(now)).wait(now), Some(COMPANION_WAIT));
        assert_eq!(seen(Some(now)).wait(now + COMPANION_WAIT), None);
        assert_eq!(seen(None).wait(now), None);
    }
}

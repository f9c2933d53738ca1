//! When an object is looked at again: the only back-off of the reconcilers.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use super::error::Error;

const FIRST: Duration = Duration::from_millis(500);
const CAP_TRANSIENT: Duration = Duration::from_secs(60);
/// Nothing but a change helps; the change is watched, this only covers what no watch sees.
const RECHECK_PERMANENT: Duration = Duration::from_secs(300);
/// Our copy was old: the watch brings the new one within moments.
const CONFLICT: Duration = Duration::from_millis(200);

/// Consecutive failures by object. Losing it in a restart only means trying sooner.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// The object reached its goal.
    pub fn reset(&self, object: &str) {
        self.lock().remove(object);
    }

    /// How long to wait after `error`: doubling from half a second to a minute with jitter, five minutes when only a change can help.
    pub fn after(&self, object: &str, error: &Error) -> Duration {
        if error.is_conflict() {
            return CONFLICT;
        }
        let mut failures = self.lock();
        let count = failures.entry(object.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        if error.is_transient() { jittered(exponential(*count)) } else { jittered(RECHECK_PERMANENT) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn exponential(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(CAP_TRANSIENT)
}

/// 75 % to 125 % of `duration`, so that objects that failed together do not come back together.
pub fn jittered(duration: Duration) -> Duration {
    let mut byte = [128u8];
    // Without random bytes the middle is as good as any.
    let _ = getrandom::fill(&mut byte);
    duration.mul_f64(0.75 + f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_over_after_success() {
        let backoff = Backoff::default();
        let error = || Error::NotYet("x".into());
        let waits: Vec<_> = (0..12).map(|_| backoff.after("a", &error())).collect();
        assert!(waits[0] >= Duration::from_millis(375) && waits[0] <= Duration::from_millis(625), "{waits:?}");
        assert!(waits[11] >= Duration::from_secs(45) && waits[11] <= Duration::from_secs(75), "{waits:?}");
        backoff.reset("a");
        assert!(backoff.after("a", &error()) <= Duration::from_millis(625));
    }

    #[test]
    fn an_error_that_only_a_change_can_mend_is_not_hammered() {
        assert!(Backoff::default().after("a", &Error::Invalid("x".into())) >= Duration::from_secs(200));
    }
}

//! Which scheduled time a job has to deal with now. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::schedule::Schedule;

/// A missed time older than this is given up: a backup made that late stands for another day.
pub const CATCH_UP: SignedDuration = SignedDuration::from_hours(24);
/// A run this late is said to be late; below it is the usual delay of a change of leader.
const LATE: SignedDuration = SignedDuration::from_secs(60);
/// Missed times are counted up to here: a day of every minute.
const COUNTED: u32 = 1440;

/// What the status of a job remembers of its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The time of the last run.
    pub last: Option<Timestamp>,
    /// The next time as computed with the schedule of then.
    pub next: Option<Timestamp>,
    /// When the job was made.
    pub created: Timestamp,
    /// The schedule could not be read until now: nothing was missed.
    pub was_invalid: bool,
}

/// The decision, with the next time to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do now.
    pub due: Due,
    /// The first time after now; `None` when the schedule never fires again.
    pub next: Option<Timestamp>,
}

/// What there is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// The run of time `at`; `missed` says in words that it is late or that earlier times were given up.
    Run {
        /// The scheduled time.
        at: Timestamp,
        /// Words for an Event.
        missed: Option<String>,
    },
    /// Every missed time is too old.
    GivenUp {
        /// The newest of them.
        newest: Timestamp,
        /// Words for an Event.
        words: String,
    },
}

/// Decides. Of several missed times the newest one is run, when it is at most [`CATCH_UP`] old.
///
/// A schedule that was edited since `memory.next` was computed counts from now: times of the new schedule in the past were never promised.
pub fn decide(schedule: &Schedule, memory: &Memory, now: Timestamp) -> Decision {
    // A clock that was set back must not bring a time twice.
    let next = schedule.next_after(memory.last.map_or(now, |last| last.max(now)));
    let nothing = Decision { due: Due::Nothing, next };
    let first = match memory.next {
        Some(recorded) if recorded > now => return nothing,
        Some(recorded) if fires_at(schedule, recorded) => recorded,
        Some(_) => return nothing,
        None if memory.was_invalid => return nothing,
        None => match schedule.next_after(memory.last.unwrap_or(memory.created)) {
            Some(first) if first <= now => first,
            _ => return nothing,
        },
    };
    let missed = Missed::between(schedule, first, now);
    let due = if now.duration_since(missed.newest) > CATCH_UP {
        Due::GivenUp {
            newest: missed.newest,
            words: format!(
                "{} scheduled since {first} passed while no manager led; none is less than 24 h old, so none is run",
                missed.count_in_words(0)
            ),
        }
    } else {
        Due::Run { at: missed.newest, missed: missed.words(first, now) }
    };
    Decision { due, next }
}

fn fires_at(schedule: &Schedule, time: Timestamp) -> bool {
    time.checked_sub(SignedDuration::from_secs(1)).ok().and_then(|before| schedule.next_after(before)) == Some(time)
}

/// The times from the first one not dealt with up to now.
struct Missed {
    newest: Timestamp,
    /// At most [`COUNTED`].
    count: u32,
    more: bool,
}

impl Missed {
    fn between(schedule: &Schedule, first: Timestamp, now: Timestamp) -> Self {
        let newest = schedule.last_in(first, now).unwrap_or(first);
        let (mut last, mut count) = (first, 1);
        while count < COUNTED
            && let Some(time) = schedule.next_after(last).filter(|time| *time <= now)
        {
            last = time;
            count += 1;
        }
        Self { newest, count, more: last < newest }
    }

    fn words(&self, first: Timestamp, now: Timestamp) -> Option<String> {
        let late = now.duration_since(self.newest);
        match (self.count, self.more) {
            (1, false) if late <= LATE => None,
            (1, false) => Some(format!("the run of {} begins {} s late", self.newest, late.as_secs())),
            _ => Some(format!(
                "the run of {} begins {} s late; {} before it, since {first}, were missed and are given up",
                self.newest,
                late.as_secs(),
                self.count_in_words(1)
            )),
        }
    }

    fn count_in_words(&self, without: u32) -> String {
        match (self.count - without, self.more) {
            (count, true) => format!("more than {count} times"),
            (1, false) => "1 time".to_owned(),
            (count, false) => format!("{count} times"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str) -> Schedule {
        Schedule::parse(cron, "UTC").expect("schedule")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("timestamp")
    }

    fn memory(last: Option<&str>, next: Option<&str>) -> Memory {
        Memory { last: last.map(at), next: next.map(at), created: at("2026-01-01T00:00:00Z"), was_invalid: false }
    }

    fn run_at(decision: &Decision) -> Option<Timestamp> {
        match decision.due {
            Due::Run { at, .. } => Some(at),
            _ => None,
        }
    }

    #[test]
    fn a_time_is_due_once_it_is_reached_and_not_before() {
        let every_minute = schedule("* * * * *");
        let seen = memory(Some("2026-01-02T10:00:00Z"), Some("2026-01-02T10:01:00Z"));
        assert_eq!(decide(&every_minute, &seen, at("2026-01-02T10:00:59.9Z")).due, Due::Nothing);
        let due = decide(&every_minute, &seen, at("2026-01-02T10:01:00.2Z"));
        assert_eq!(due.due, Due::Run { at: at("2026-01-02T10:01:00Z"), missed: None });
        assert_eq!(due.next, Some(at("2026-01-02T10:02:00Z")));
    }

    #[test]
    fn the_first_sight_of_a_job_counts_from_its_creation() {
        let hourly = schedule("0 * * * *");
        assert_eq!(decide(&hourly, &memory(None, None), at("2026-01-01T00:59:00Z")).due, Due::Nothing);
        let late = decide(&hourly, &memory(None, None), at("2026-01-01T01:30:00Z"));
        assert_eq!(run_at(&late), Some(at("2026-01-01T01:00:00Z")));
    }

    #[test]
    fn of_many_missed_times_the_newest_is_run_once_and_the_rest_given_up_in_words() {
        let seen = memory(Some("2026-01-02T10:00:00Z"), Some("2026-01-02T10:01:00Z"));
        let late = decide(&schedule("* * * * *"), &seen, at("2026-01-02T10:30:20Z"));
        let Due::Run { at: time, missed: Some(words) } = late.due else { panic!("{late:?}") };
        assert_eq!(time, at("2026-01-02T10:30:00Z"));
        assert!(words.contains("29 times"), "{words}");
    }

    #[test]
    fn a_missed_time_over_a_day_old_is_given_up_visibly() {
        let seen = memory(Some("2026-01-01T02:00:00Z"), Some("2026-01-04T02:00:00Z"));
        let decision = decide(&schedule("0 2 */3 * *"), &seen, at("2026-01-05T02:00:01Z"));
        assert!(matches!(&decision.due, Due::GivenUp { words, .. } if words.starts_with("1 time")), "{decision:?}");
        assert_eq!(decision.next, Some(at("2026-01-07T02:00:00Z")));
    }

    #[test]
    fn a_year_of_missed_minutes_costs_a_bounded_walk_and_ends_at_the_newest() {
        let seen = memory(Some("2025-01-02T10:00:00Z"), Some("2025-01-02T10:01:00Z"));
        let decision = decide(&schedule("* * * * *"), &seen, at("2026-01-02T10:30:20Z"));
        assert_eq!(run_at(&decision), Some(at("2026-01-02T10:30:00Z")));
        assert!(matches!(&decision.due, Due::Run { missed: Some(words), .. } if words.contains("more than")), "{decision:?}");
    }

    #[test]
    fn an_edited_schedule_counts_from_now() {
        // Was daily at 02:00, is every minute at noon: the minutes since 02:00 were never promised.
        let seen = memory(Some("2026-01-02T02:00:00Z"), Some("2026-01-03T02:00:00Z"));
        let decision = decide(&schedule("* * * * *"), &seen, at("2026-01-02T12:00:30Z"));
        assert_eq!(decision, Decision { due: Due::Nothing, next: Some(at("2026-01-02T12:01:00Z")) });
        // The recorded time is over and the new schedule does not fire at it.
        let seen = memory(Some("2026-01-02T02:00:00Z"), Some("2026-01-03T02:00:00Z"));
        assert_eq!(decide(&schedule("30 5 * * *"), &seen, at("2026-01-03T06:00:00Z")).due, Due::Nothing);
    }

    #[test]
    fn a_schedule_that_was_invalid_missed_nothing() {
        let seen = Memory { was_invalid: true, ..memory(None, None) };
        assert_eq!(decide(&schedule("* * * * *"), &seen, at("2026-01-02T12:00:30Z")).due, Due::Nothing);
    }

    #[test]
    fn a_clock_set_back_brings_no_time_twice() {
        let seen = memory(Some("2026-01-02T10:00:00Z"), None);
        let decision = decide(&schedule("* * * * *"), &seen, at("2026-01-02T09:58:30Z"));
        assert_eq!(decision, Decision { due: Due::Nothing, next: Some(at("2026-01-02T10:01:00Z")) });
    }

    #[test]
    fn a_schedule_that_never_fires_is_no_error_here() {
        assert_eq!(
            decide(&schedule("0 0 30 2 *"), &memory(None, None), at("2026-01-02T09:58:30Z")),
            Decision { due: Due::Nothing, next: None }
        );
    }
}

//! Cron exactly as Kubernetes CronJob reads it, in any time zone.
//!
//! The `cron` crate finds the next match on a plain wall clock. It reads numbers of weekdays and two restricted day fields differently from
//! Kubernetes and is not steady where clocks are set back, so it gets values that cannot be misread and never sees a time zone.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use super::cron_fields::Field;
use super::cron_fields::Values;

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields.
    #[error(
        "cron {cron:?} has {found} fields, but five are wanted: minute, hour, day of month, month, day of week{}",
        if *.found == 6 { " (there is no field for seconds)" } else { "" }
    )]
    FieldCount {
        /// The line.
        cron: String,
        /// How many it has.
        found: usize,
    },
    /// A field cannot be read.
    #[error("cron field {field} {text:?}: {problem}; allowed are {allowed}, *, lists (1,2), ranges (1-5) and steps (*/5)")]
    Field {
        /// Which one.
        field: Field,
        /// What it says.
        text: String,
        /// What is wrong.
        problem: String,
        /// Which values it takes.
        allowed: &'static str,
    },
    /// The time zone is in the line.
    #[error("cron {cron:?}: the time zone does not belong here: write spec.timeZone: {zone:?} and spec.cron: {rest:?}")]
    TimeZonePrefix {
        /// The line.
        cron: String,
        /// The zone it names.
        zone: String,
        /// What is left without it.
        rest: String,
    },
    /// `@every`
    #[error(
        "cron {0:?}: intervals are not taken, since a run's time must not depend on when the manager started: write five fields, such as \"*/15 * * * *\", or @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Every(String),
    /// Another `@` word.
    #[error("cron {0:?} is no known word: allowed are @hourly, @daily (@midnight), @weekly, @monthly, @yearly (@annually)")]
    UnknownWord(String),
    /// No such time zone.
    #[error("timeZone {0:?} is not known: write an IANA name, such as \"Europe/Berlin\" or \"UTC\"")]
    UnknownTimeZone(String),
    /// The wall-clock search refused what was parsed.
    #[error("cron {cron:?} cannot be used: {reason}")]
    Unusable {
        /// The line.
        cron: String,
        /// Why.
        reason: String,
    },
}

/// When a job runs.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Matches of any of these are due.
    walls: Vec<::cron::Schedule>,
    zone: TimeZone,
}

impl Schedule {
    /// Reads five fields or one of the `@` words, meant in the zone with that IANA name; `""` is UTC.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, CronError> {
        let zone = match time_zone {
            "" => TimeZone::UTC,
            // `Local` would be the zone of whichever machine leads.
            "Local" => return Err(CronError::UnknownTimeZone(time_zone.to_owned())),
            name => TimeZone::get(name).map_err(|_| CronError::UnknownTimeZone(name.to_owned()))?,
        };
        let fields: Vec<&str> = without_words(cron)?.split_whitespace().collect();
        let &[minute, hour, day_of_month, month, day_of_week] = fields.as_slice() else {
            return Err(CronError::FieldCount { cron: cron.to_owned(), found: fields.len() });
        };
        let minute = Values::parse(Field::Minute, minute)?.spelled_out();
        let hour = Values::parse(Field::Hour, hour)?.spelled_out();
        let day_of_month = Values::parse(Field::DayOfMonth, day_of_month)?;
        let month = Values::parse(Field::Month, month)?.spelled_out();
        let day_of_week = Values::parse(Field::DayOfWeek, day_of_week)?;
        let wall = |dom: &str, dow: &str| {
            let spelled = format!("0 {minute} {hour} {dom} {month} {dow}");
            ::cron::Schedule::from_str(&spelled)
                .map_err(|error| CronError::Unusable { cron: cron.to_owned(), reason: error.to_string() })
        };
        // With both day fields restricted, a day that fits either is due.
        let walls = if day_of_month.star || day_of_week.star {
            vec![wall(&day_of_month.spelled_out(), &day_of_week.spelled_out())?]
        } else {
            vec![wall(&day_of_month.spelled_out(), "*")?, wall("*", &day_of_week.spelled_out())?]
        };
        Ok(Self { walls, zone })
    }

    /// The first time after `after` at which the zone's clock shows a match; `None` when there is none, as for 30 February.
    ///
    /// A time that the clock skips does not happen that day, one that it shows twice happens twice.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after.as_second();
        let mut offset = self.zone.to_offset(after);
        let mut changes = self.zone.following(after);
        // Between two changes of the clock, wall time and true time run in parallel.
        loop {
            let wall = self.next_wall(from + i64::from(offset.seconds()))?;
            let due = wall - i64::from(offset.seconds());
            match changes.next() {
                Some(change) if change.timestamp().as_second() <= due => {
                    // A match may fall on the very moment of the change.
                    from = change.timestamp().as_second() - 1;
                    offset = change.offset();
                }
                _ => return Timestamp::from_second(due).ok(),
            }
        }
    }

    /// The newest time `t` with `after < t <= until`.
    pub fn last_in(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let until = Timestamp::from_second(until.as_second()).ok()?;
        let due_from = |from| self.next_after(from).filter(|due| *due <= until);
        // `low` is a match, and none lies between `high` and `until`.
        let (mut low, mut high) = (due_from(after)?.as_second(), until.as_second());
        while low < high {
            let middle = low + (high - low) / 2;
            match due_from(Timestamp::from_second(middle).ok()?) {
                Some(due) => low = due.as_second(),
                None => high = middle,
            }
        }
        Timestamp::from_second(low).ok()
    }

    /// The one run to catch up on: the newest time since `last` that has passed, if it is not longer ago than `bound`. Earlier ones are given up.
    pub fn missed_since(&self, last: Timestamp, now: Timestamp, bound: Duration) -> Option<Timestamp> {
        let oldest = now.checked_sub(bound).unwrap_or(Timestamp::MIN);
        self.last_in(last.max(oldest), now)
    }

    /// The first match after `after` on a clock that is never changed, in seconds as if that clock showed UTC.
    fn next_wall(&self, after: i64) -> Option<i64> {
        let after: DateTime<Utc> = DateTime::from_timestamp(after, 0)?;
        self.walls.iter().filter_map(|wall| wall.after(&after).next()).map(|due| due.timestamp()).min()
    }
}

/// Puts five fields in the place of an `@` word.
fn without_words(cron: &str) -> Result<&str, CronError> {
    let line = cron.trim();
    for prefix in ["TZ=", "CRON_TZ="] {
        if let Some(rest) = line.strip_prefix(prefix) {
            let (zone, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let (zone, rest) = (zone.to_owned(), rest.trim().to_owned());
            return Err(CronError::TimeZonePrefix { cron: cron.to_owned(), zone, rest });
        }
    }
    match line {
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        "@monthly" => Ok("0 0 1 * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@hourly" => Ok("0 * * * *"),
        every if every.starts_with("@every") => Err(CronError::Every(cron.to_owned())),
        word if word.starts_with('@') => Err(CronError::UnknownWord(cron.to_owned())),
        fields => Ok(fields),
    }
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;

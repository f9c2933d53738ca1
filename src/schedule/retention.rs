//! Which results of a job are kept, and why.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// One snapshot or backup that a job made for one volume. Those on their way out are not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// The instant it shows: the snapshot's time.
    pub created_at: Timestamp,
    /// How far it is.
    pub state: ItemState,
    /// Whether it is known that it cannot be restored whole.
    pub known_damaged: bool,
}

/// How far an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// It is whole.
    Completed,
    /// It failed.
    Failed {
        /// When.
        at: Timestamp,
    },
    /// Neither yet.
    InProgress,
}

/// Whether one item is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The item.
    pub name: String,
    /// Whether it stays.
    pub keep: bool,
    /// Why, in words by `Display`.
    pub reason: Reason,
}

/// Why an item is kept or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Kept: one of the newest completed ones.
    AmongNewest {
        /// 1 is the newest.
        rank: usize,
        /// How many are kept.
        retain: usize,
    },
    /// Kept: no newer one is known to be good.
    NewestGood,
    /// Kept: not finished.
    InProgress,
    /// Kept: failed ones stay for a while.
    FailedRecently {
        /// When it may go.
        until: Timestamp,
    },
    /// Kept: failed ones stay for ever.
    FailedKeptForever,
    /// Removed: enough newer ones are complete.
    BeyondRetain {
        /// How many completed ones are newer.
        newer: usize,
        /// How many are kept.
        retain: usize,
    },
    /// Removed: it failed, and its time is up.
    FailedExpired {
        /// How long failed ones stay.
        ttl: Duration,
    },
}

impl Reason {
    /// Whether it is a reason to keep.
    pub const fn keeps(self) -> bool {
        !matches!(self, Self::BeyondRetain { .. } | Self::FailedExpired { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AmongNewest { rank: 1, retain } => write!(f, "kept: it is the newest; retain is {retain}"),
            Self::AmongNewest { rank, retain } => write!(f, "kept: it is number {rank} from the newest; retain is {retain}"),
            Self::NewestGood => f.write_str("kept: every newer one is known to be damaged"),
            Self::InProgress => f.write_str("kept: it is not finished"),
            Self::FailedRecently { until } => {
                write!(f, "kept: it failed, and failed ones stay for a while, this one until {until}")
            }
            Self::FailedKeptForever => f.write_str("kept: it failed, and failed-backup-ttl is 0, so failed ones stay"),
            Self::BeyondRetain { newer, retain } => {
                let plural = if *newer == 1 { "newer one is" } else { "newer ones are" };
                write!(f, "removed: {newer} {plural} complete; retain is {retain}")
            }
            Self::FailedExpired { ttl } => {
                write!(f, "removed: it failed longer ago than failed-backup-ttl, {} minutes", ttl.as_secs() / 60)
            }
        }
    }
}

/// Decides about all results of one job for one volume, in the order given.
///
/// Only completed items count for `keep` (at least 1), ordered by the instant they show, then by name. The newest one that is not known to be damaged
/// stays beyond that. Failed ones stay for `failed_ttl` after they failed; `None` is for ever. The answer depends on the set only, not on its order.
pub fn retain(items: &[Item], keep: usize, now: Timestamp, failed_ttl: Option<Duration>) -> Vec<Decision> {
    let keep = keep.max(1);
    let mut completed: Vec<&Item> = items.iter().filter(|item| item.state == ItemState::Completed).collect();
    completed.sort_by(|a, b| (b.created_at, &b.name).cmp(&(a.created_at, &a.name)));
    let newest_good = completed.iter().position(|item| !item.known_damaged);
    let reason = |item: &Item| match item.state {
        ItemState::InProgress => Reason::InProgress,
        ItemState::Failed { at } => failed_reason(at, now, failed_ttl),
        ItemState::Completed => {
            let newer = completed.iter().take_while(|other| other.name != item.name).count();
            if newer < keep {
                Reason::AmongNewest { rank: newer + 1, retain: keep }
            } else if Some(newer) == newest_good {
                Reason::NewestGood
            } else {
                Reason::BeyondRetain { newer, retain: keep }
            }
        }
    };
    items
        .iter()
        .map(|item| {
            let reason = reason(item);
            Decision { name: item.name.clone(), keep: reason.keeps(), reason }
        })
        .collect()
}

fn failed_reason(at: Timestamp, now: Timestamp, ttl: Option<Duration>) -> Reason {
    let Some(ttl) = ttl else { return Reason::FailedKeptForever };
    match at.checked_add(ttl) {
        Ok(until) if until <= now => Reason::FailedExpired { ttl },
        Ok(until) => Reason::FailedRecently { until },
        Err(_) => Reason::FailedKeptForever,
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;

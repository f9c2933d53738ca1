//! Conditions: what an object is like now, in the form of the Kubernetes API conventions.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::string_enum::string_enum;
use super::time::Time;

string_enum! {
    /// Whether a condition holds.
    open ConditionStatus {
        /// It holds.
        True = "True",
        /// It does not.
        False = "False",
    } else
        /// Nobody can tell.
        #[default]
        Unknown = "Unknown"
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The condition types of this project's kinds; Longhorn's names where it has one.
pub mod condition_type {
    /// Volume: a node holds it.
    pub const SCHEDULED: &str = "Scheduled";
    /// Volume: its content comes from a backup; reasons [`super::reason::RESTORE_IN_PROGRESS`], [`super::reason::RESTORE_FAILURE`].
    pub const RESTORE: &str = "Restore";
    /// Volume: it is at its limit of snapshots.
    pub const TOO_MANY_SNAPSHOTS: &str = "TooManySnapshots";
    /// BackupTarget: it cannot be used.
    pub const UNAVAILABLE: &str = "Unavailable";
    /// Node: the agent is well.
    pub const READY: &str = "Ready";
    /// Node: it can take new volumes.
    pub const SCHEDULABLE: &str = "Schedulable";
    /// Node and Volume: the pool fills up.
    pub const POOL_PRESSURE: &str = "PoolPressure";
    /// RecurringJob: its spec can be carried out.
    pub const VALID: &str = "Valid";
    /// RecurringJob: the last run succeeded for every volume.
    pub const LAST_RUN_SUCCEEDED: &str = "LastRunSucceeded";
    /// Volume: device I/O bypasses the page cache.
    pub const DIRECT_IO: &str = "DirectIO";
}

/// Reasons that clients of Longhorn look for.
pub mod reason {
    /// BackupTarget, condition `Unavailable`.
    pub const UNAVAILABLE: &str = "Unavailable";
    /// Volume, condition `Restore`: under way.
    pub const RESTORE_IN_PROGRESS: &str = "RestoreInProgress";
    /// Volume, condition `Restore`: it failed.
    pub const RESTORE_FAILURE: &str = "RestoreFailure";
}

/// One condition of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about; one of each type in an object.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds: True, False or Unknown.
    #[serde(default)]
    pub status: ConditionStatus,
    /// Why, as one CamelCase word.
    #[serde(default)]
    pub reason: String,
    /// Why, for people.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    #[serde(default)]
    pub last_transition_time: Time,
    /// The generation of the object that this was seen at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition as seen at `now` on generation `generation`.
    pub fn new(
        type_: &str,
        status: impl Into<ConditionStatus>,
        reason: &str,
        message: impl Into<String>,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Self {
        Self {
            type_: type_.to_owned(),
            status: status.into(),
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: now.into(),
            observed_generation: generation,
        }
    }
}

/// Puts `new` in the place of the condition of its type, or at the end. While the status stays, so does the old transition time.
///
/// Returns whether the status changed: the moment for an Event. A condition that was not there counts as changed.
pub fn set_condition(conditions: &mut Vec<Condition>, new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    let changed = old.status != new.status;
    let since = if changed || old.last_transition_time.is_unset() { new.last_transition_time } else { old.last_transition_time };
    *old = Condition { last_transition_time: since, ..new };
    changed
}

/// The condition of that type.
pub fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of that type is there and True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find_condition(conditions, type_).is_some_and(|c| c.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: bool, second: i64) -> Condition {
        let now = Timestamp::from_second(second).unwrap_or_default();
        Condition::new(condition_type::READY, status, "Because", format!("at {second}"), Some(second), now)
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, seen(true, 1)));
        assert!(!set_condition(&mut conditions, seen(true, 2)));
        assert_eq!(conditions[0].last_transition_time, seen(true, 1).last_transition_time);
        assert_eq!(conditions[0].message, "at 2");
        assert_eq!(conditions[0].observed_generation, Some(2));
        assert!(set_condition(&mut conditions, seen(false, 3)));
        assert_eq!(conditions, [seen(false, 3)]);
        assert!(!is_true(&conditions, condition_type::READY));
    }

    #[test]
    fn other_conditions_stay_as_they_are() {
        let other = Condition { type_: "Other".to_owned(), ..seen(true, 1) };
        let mut conditions = vec![other.clone(), seen(true, 1)];
        set_condition(&mut conditions, seen(false, 2));
        assert_eq!(conditions, [other, seen(false, 2)]);
    }
}

//! What the manager does about a Backup that is not being deleted: pure, from facts that were read a moment ago.
//!
//! The manager readies a Backup (labels, checks, waiting) until it is handed to the agent of the volume's node by the node label.
//! From then on the agent writes its status, until it ends or the agent stays away.

use std::time::Duration;

/// The time that a Backup waits for what it names and is not there: one `kubectl apply` makes all of it, in any order.
pub const GRACE: Duration = Duration::from_secs(5);

/// The time that a Backup made by a schedule waits for its target. Less than its run waits for it, so that the run ends with the reason;
/// and an end, since each time of the schedule would add one more Backup, and the snapshot it holds, to those that wait.
pub const SCHEDULED_WAIT: Duration = Duration::from_secs(9 * 60);

/// The Snapshot that the Backup names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotFact {
    /// There is none.
    Missing,
    /// It cannot be backed up: it is being removed or failed.
    Unusable(String),
    /// Not ready yet.
    NotReady {
        /// Its volume.
        volume: String,
    },
    /// Ready.
    Ready {
        /// Its volume.
        volume: String,
    },
}

impl SnapshotFact {
    /// The volume, where it is known.
    pub fn volume(&self) -> Option<&str> {
        match self {
            Self::NotReady { volume } | Self::Ready { volume } => Some(volume),
            Self::Missing | Self::Unusable(_) => None,
        }
    }
}

/// The Volume of the Snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeFact {
    /// There is none.
    Missing,
    /// It is there.
    Present {
        /// The target its backups go to.
        target: String,
        /// The node that holds its bytes; `None` until it is placed.
        node: Option<String>,
    },
}

/// The BackupTarget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetFact {
    /// There is none, or it is being deleted.
    Missing,
    /// It cannot be used now.
    Unavailable(String),
    /// It can be used.
    Available,
}

/// What is known about a Backup that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// `spec.snapshotName`.
    pub snapshot_name: &'a str,
    /// Since the object was made.
    pub age: Duration,
    /// Whether a RecurringJob made it: the next time of the schedule makes another.
    pub by_job: bool,
    /// Label `backup-volume`, as applied.
    pub label_volume: Option<&'a str>,
    /// Label `backup-target`, as applied.
    pub label_target: Option<&'a str>,
    /// The Snapshot.
    pub snapshot: SnapshotFact,
    /// The Volume.
    pub volume: VolumeFact,
    /// The name of the target that `target` is about.
    pub target_name: &'a str,
    /// The BackupTarget.
    pub target: TargetFact,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The Backup cannot be made: state Error with these words.
    Fail(String),
    /// State Pending with these words.
    Wait(String),
    /// Everything is there: give it to the agent of this node.
    HandOver {
        /// The node.
        node: String,
    },
}

/// Decides by the facts, in the order in which a user would look.
pub fn plan(facts: &Facts<'_>) -> Step {
    let name = facts.snapshot_name;
    let missing = |words: String| if facts.age < GRACE { Step::Wait(words) } else { Step::Fail(words) };
    if name.is_empty() {
        return Step::Fail("snapshot \"\" is invalid: spec.snapshotName must name a Snapshot".to_owned());
    }
    let volume = match &facts.snapshot {
        SnapshotFact::Missing => {
            return missing(format!("Failed to get the Snapshot {name}: there is none, and a Backup does not make one"));
        }
        SnapshotFact::Unusable(why) => return missing(format!("snapshot {name} cannot be backed up: {why}")),
        SnapshotFact::NotReady { volume } | SnapshotFact::Ready { volume } => volume,
    };
    if let Some(label) = facts.label_volume
        && label != volume
    {
        return Step::Fail(format!("snapshot volume name {volume} and label volume name {label} does not match"));
    }
    let VolumeFact::Present { target, node } = &facts.volume else {
        return missing(format!("failed to get volume {volume} of snapshot {name}: there is none"));
    };
    if let Some(label) = facts.label_target
        && label != target
    {
        return Step::Fail(format!("volume backup target {target} and label backup target {label} does not match"));
    }
    match &facts.target {
        TargetFact::Missing => {
            return missing(format!("failed to get backup target {0}: there is no BackupTarget {0}", facts.target_name));
        }
        TargetFact::Unavailable(why) => {
            let words = format!("backup target {} is not available: {why}", facts.target_name);
            return if facts.by_job && facts.age >= SCHEDULED_WAIT { Step::Fail(words) } else { Step::Wait(words) };
        }
        TargetFact::Available => {}
    }
    match (&facts.snapshot, node) {
        (SnapshotFact::Ready { .. }, Some(node)) => Step::HandOver { node: node.clone() },
        (SnapshotFact::Ready { .. }, None) => Step::Wait(format!("Waiting for the volume {volume} to be placed on a node")),
        _ => Step::Wait(format!("Waiting for the snapshot {name} to be ready")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Facts<'static> {
        Facts {
            snapshot_name: "s1",
            age: Duration::from_secs(60),
            by_job: false,
            label_volume: None,
            label_target: None,
            snapshot: SnapshotFact::Ready { volume: "v1".into() },
            volume: VolumeFact::Present { target: "default".into(), node: Some("n1".into()) },
            target_name: "default",
            target: TargetFact::Available,
        }
    }

    fn failure(facts: &Facts<'_>) -> String {
        match plan(facts) {
            Step::Fail(words) => words,
            other => panic!("{other:?}"),
        }
    }

    fn wait(facts: &Facts<'_>) -> String {
        match plan(facts) {
            Step::Wait(words) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_backup_goes_to_the_node_of_its_volume_once_all_is_there() {
        assert_eq!(plan(&ready()), Step::HandOver { node: "n1".into() });
        assert_eq!(
            plan(&Facts { label_volume: Some("v1"), label_target: Some("default"), ..ready() }),
            Step::HandOver { node: "n1".into() }
        );
    }

    #[test]
    fn b5_a_missing_snapshot_is_an_error_and_never_made() {
        let missing = Facts { snapshot: SnapshotFact::Missing, volume: VolumeFact::Missing, ..ready() };
        assert!(failure(&missing).starts_with("Failed to get the Snapshot s1"));
        assert!(wait(&Facts { age: Duration::from_secs(1), ..missing.clone() }).contains("the Snapshot s1: there is none"));
        assert!(failure(&Facts { snapshot_name: "", age: Duration::ZERO, ..missing }).contains("spec.snapshotName"));
    }

    #[test]
    fn what_cannot_come_right_is_an_error() {
        for (facts, words) in [
            (
                Facts { snapshot: SnapshotFact::Unusable("it is being deleted".into()), ..ready() },
                "cannot be backed up: it is being deleted",
            ),
            (Facts { volume: VolumeFact::Missing, ..ready() }, "failed to get volume v1"),
            (Facts { label_volume: Some("v2"), ..ready() }, "snapshot volume name v1 and label volume name v2 does not match"),
            (
                Facts { label_target: Some("t2"), ..ready() },
                "volume backup target default and label backup target t2 does not match",
            ),
            (Facts { target: TargetFact::Missing, ..ready() }, "failed to get backup target default"),
        ] {
            assert!(failure(&facts).contains(words), "{:?}", plan(&facts));
        }
    }

    #[test]
    fn while_a_target_is_away_a_schedules_backups_end_with_the_reason_and_a_users_waits() {
        let away = Facts { target: TargetFact::Unavailable("no route".into()), ..ready() };
        let scheduled = Facts { by_job: true, ..away.clone() };
        let words = "backup target default is not available: no route";
        assert_eq!(wait(&Facts { age: SCHEDULED_WAIT - Duration::from_secs(1), ..scheduled.clone() }), words);
        assert_eq!(failure(&Facts { age: SCHEDULED_WAIT, ..scheduled.clone() }), words);
        assert_eq!(wait(&Facts { age: Duration::from_secs(864_000), ..away }), words);
        let back = Facts { age: SCHEDULED_WAIT, target: TargetFact::Available, ..scheduled };
        assert_eq!(plan(&back), Step::HandOver { node: "n1".into() }, "a target that came back in time is used");
    }

    #[test]
    fn a_schedules_backup_ends_before_its_run_gives_it_up() {
        let run_waits = Duration::try_from(crate::controllers::recurring_job::TAKEN_UP_WITHIN).expect("duration");
        assert!(SCHEDULED_WAIT < run_waits && run_waits - SCHEDULED_WAIT <= Duration::from_secs(60));
    }

    #[test]
    fn what_can_come_right_is_waited_for_in_words() {
        for (facts, words) in [
            (
                Facts { snapshot: SnapshotFact::NotReady { volume: "v1".into() }, ..ready() },
                "Waiting for the snapshot s1 to be ready",
            ),
            (
                Facts { target: TargetFact::Unavailable("no route".into()), ..ready() },
                "backup target default is not available: no route",
            ),
            (
                Facts { volume: VolumeFact::Present { target: "default".into(), node: None }, ..ready() },
                "Waiting for the volume v1 to be placed",
            ),
        ] {
            assert!(wait(&facts).contains(words), "{:?}", plan(&facts));
        }
    }
}

//! What comes next for a Backup whose volume is on this node: pure, from facts that were read a moment ago.

use std::time::Duration;

use crate::crd::BackupState;

/// An agent that comes back within this time goes on with a transfer it had begun.
pub const RESUME_WITHIN: Duration = Duration::from_secs(300);
/// The time that a Backup waits for a Snapshot that is not there: one `kubectl apply` makes both, in any order.
pub const SNAPSHOT_GRACE: Duration = Duration::from_secs(5);

/// The transfer in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// There is none.
    Idle,
    /// It runs or waits for its turn.
    Running,
    /// It ended, and the object does not say so yet.
    Ended,
}

/// The Snapshot that the Backup names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// There is none.
    Missing,
    /// It is not ready; with the reason where it has one.
    NotReady(String),
    /// Ready, with its random id.
    Ready(String),
}

/// The Volume of the Snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// There is none, or the Snapshot does not tell which.
    Missing,
    /// A deletion was asked for.
    Deleting,
    /// It is there.
    Present,
}

/// What is known about a Backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// A deletion was asked for.
    pub deleting: bool,
    /// It was made from what the store holds.
    pub from_store: bool,
    /// `status.state`.
    pub state: BackupState,
    /// Time since this node last said that it is at it; `None` when it never began, or signed off.
    pub silent_for: Option<Duration>,
    /// `status.snapshotId`: what an earlier pass began to read.
    pub begun_with: &'a str,
    /// `spec.snapshotName`.
    pub snapshot_name: &'a str,
    /// Time since the object was made.
    pub age: Duration,
    /// The Snapshot.
    pub snapshot: Snapshot,
    /// The Volume.
    pub volume: Volume,
    /// The transfer.
    pub transfer: Transfer,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Leave,
    /// End the transfer.
    Stop,
    /// Forget the transfer and take the sign of life away: whoever waits for this node may go on.
    SignOff,
    /// Write how far the transfer is.
    Report,
    /// Write how the transfer ended.
    Settle,
    /// State Pending with these words.
    Wait(String),
    /// Begin the transfer, or go on with it.
    Start,
    /// State Error with these words.
    Fail(String),
}

/// Decides by the facts.
pub fn plan(facts: &Facts<'_>) -> Step {
    if facts.deleting || facts.state.is_terminal() || facts.state == BackupState::Deleting {
        return match facts.transfer {
            Transfer::Running => Step::Stop,
            Transfer::Ended => Step::SignOff,
            Transfer::Idle if facts.deleting && facts.silent_for.is_some() => Step::SignOff,
            Transfer::Idle => Step::Leave,
        };
    }
    if facts.from_store {
        return Step::Leave;
    }
    match (facts.transfer, facts.volume) {
        (Transfer::Ended, _) => Step::Settle,
        (Transfer::Running, Volume::Present) => Step::Report,
        (Transfer::Running, Volume::Missing | Volume::Deleting) => Step::Stop,
        (Transfer::Idle, _) => plan_start(facts),
    }
}

fn plan_start(facts: &Facts<'_>) -> Step {
    let name = facts.snapshot_name;
    if name.is_empty() {
        return Step::Fail("snapshot \"\" is invalid: spec.snapshotName must name a Snapshot".to_owned());
    }
    if let Some(age) = facts.silent_for
        && age >= RESUME_WITHIN
    {
        return Step::Fail(format!(
            "the agent was away for {} s in mid-transfer, which is longer than the {} s after which a backup is given up; the next backup uploads only what is still missing",
            age.as_secs(),
            RESUME_WITHIN.as_secs()
        ));
    }
    let id = match &facts.snapshot {
        Snapshot::Missing if facts.age < SNAPSHOT_GRACE => return Step::Wait(waiting_for(name)),
        Snapshot::Missing => {
            return Step::Fail(format!("Failed to get the Snapshot {name}: there is none, and a Backup does not make one"));
        }
        Snapshot::NotReady(why) if why.is_empty() => return Step::Wait(waiting_for(name)),
        Snapshot::NotReady(why) => return Step::Wait(format!("{}: {why}", waiting_for(name))),
        Snapshot::Ready(id) => id,
    };
    match facts.volume {
        Volume::Missing => return Step::Fail(format!("failed to get the volume of snapshot {name}: there is none")),
        Volume::Deleting => return Step::Fail(format!("the volume of snapshot {name} is being deleted")),
        Volume::Present => {}
    }
    if !facts.begun_with.is_empty() && facts.begun_with != id {
        return Step::Fail(format!("snapshot {name} is another one than when this backup began: it was removed and made anew"));
    }
    Step::Start
}

fn waiting_for(snapshot: &str) -> String {
    format!("Waiting for the snapshot {snapshot} to be ready")
}

/// Whether a status that differs only in how far the transfer is should be written now: never more often than every 2 s, and at least
/// every 15 s as a sign of life.
pub fn report_is_due(since_heartbeat: Option<Duration>, changed: bool) -> bool {
    let Some(since) = since_heartbeat else { return true };
    since >= Duration::from_secs(if changed { 2 } else { 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Facts<'static> {
        Facts {
            deleting: false,
            from_store: false,
            state: BackupState::New,
            silent_for: None,
            begun_with: "",
            snapshot_name: "s1",
            age: Duration::from_secs(60),
            snapshot: Snapshot::Ready("id1".into()),
            volume: Volume::Present,
            transfer: Transfer::Idle,
        }
    }

    fn in_progress(transfer: Transfer) -> Facts<'static> {
        Facts { state: BackupState::InProgress, silent_for: Some(Duration::from_secs(4)), begun_with: "id1", transfer, ..ready() }
    }

    #[test]
    fn table() {
        let deleting = |facts| Facts { deleting: true, ..facts };
        let state = |state, facts| Facts { state, ..facts };
        for (what, facts, wanted) in [
            ("all is there", ready(), Step::Start),
            ("it runs", in_progress(Transfer::Running), Step::Report),
            ("it ended", in_progress(Transfer::Ended), Step::Settle),
            ("a restarted agent goes on", in_progress(Transfer::Idle), Step::Start),
            ("made from the store", Facts { from_store: true, ..ready() }, Step::Leave),
            ("completed", state(BackupState::Completed, ready()), Step::Leave),
            ("failed", state(BackupState::Error, ready()), Step::Leave),
            ("called failed by the manager while it runs", state(BackupState::Error, in_progress(Transfer::Running)), Step::Stop),
            ("then it ended", state(BackupState::Error, in_progress(Transfer::Ended)), Step::SignOff),
            ("deleted while it runs", deleting(in_progress(Transfer::Running)), Step::Stop),
            ("deleted, the transfer ended", deleting(in_progress(Transfer::Ended)), Step::SignOff),
            ("deleted, an earlier agent's sign of life is left", deleting(in_progress(Transfer::Idle)), Step::SignOff),
            ("deleted, nothing of ours is left", deleting(ready()), Step::Leave),
            ("marked as being deleted", state(BackupState::Deleting, in_progress(Transfer::Running)), Step::Stop),
            ("the volume goes", Facts { volume: Volume::Deleting, ..in_progress(Transfer::Running) }, Step::Stop),
        ] {
            assert_eq!(plan(&facts), wanted, "{what}");
        }
    }

    #[test]
    fn what_cannot_come_right_is_an_error_and_what_can_is_waited_for() {
        for (facts, words) in [
            (Facts { snapshot: Snapshot::Missing, ..ready() }, "Failed to get the Snapshot s1"),
            (Facts { snapshot_name: "", ..ready() }, "spec.snapshotName"),
            (Facts { volume: Volume::Missing, ..ready() }, "failed to get the volume"),
            (Facts { volume: Volume::Deleting, ..ready() }, "is being deleted"),
            (Facts { begun_with: "id0", ..ready() }, "another one than when this backup began"),
            (Facts { silent_for: Some(RESUME_WITHIN), ..in_progress(Transfer::Idle) }, "away for 300 s"),
        ] {
            assert!(matches!(plan(&facts), Step::Fail(message) if message.contains(words)), "{words}");
        }
        for (facts, words) in [
            (Facts { snapshot: Snapshot::NotReady(String::new()), ..ready() }, "Waiting for the snapshot s1 to be ready"),
            (Facts { snapshot: Snapshot::NotReady("pool full".into()), ..ready() }, "to be ready: pool full"),
            (Facts { snapshot: Snapshot::Missing, age: Duration::from_secs(1), ..ready() }, "Waiting for the snapshot s1"),
        ] {
            assert!(matches!(plan(&facts), Step::Wait(message) if message.contains(words)), "{words}");
        }
    }

    #[test]
    fn a_resume_counts_from_the_last_sign_of_life() {
        let just = Facts { silent_for: Some(RESUME_WITHIN - Duration::from_secs(1)), ..in_progress(Transfer::Idle) };
        assert_eq!(plan(&just), Step::Start);
    }

    #[test]
    fn reports_come_every_two_seconds_while_something_moves() {
        let s = |n| Some(Duration::from_secs(n));
        assert!(report_is_due(None, false));
        assert!(!report_is_due(s(1), true) && report_is_due(s(2), true));
        assert!(!report_is_due(s(9), false) && report_is_due(s(10), false));
    }
}

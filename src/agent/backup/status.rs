//! The statuses of a Backup: pure, each from the one before.

use kube::ResourceExt;

use super::transfer::Outcome;
use crate::agent::transfers::{Activity, View};
use crate::backupstore::progress::{Phase, Seen};
use crate::crd::{BackupPhase, BackupState, BackupStatus, Bytes, Snapshot, Time, Volume};

const INFO: &str = "info";
const ERROR: &str = "error";

/// It waits, for what `words` say.
pub fn pending(mut status: BackupStatus, words: &str) -> BackupStatus {
    status.state = BackupState::Pending;
    status.messages.insert(INFO.to_owned(), words.to_owned());
    status
}

/// This node is about to begin, or to go on.
pub fn begun(mut status: BackupStatus, node: &str, snapshot: &Snapshot, volume: &Volume, target: &str) -> BackupStatus {
    if status.state == BackupState::New {
        status.state = BackupState::Pending;
    }
    let of_snapshot = snapshot.status.clone().unwrap_or_default();
    status.messages.remove(INFO);
    node.clone_into(&mut status.node_id);
    node.clone_into(&mut status.owner_id);
    status.snapshot_name = snapshot.name_any();
    status.snapshot_id = of_snapshot.snapshot_id;
    status.snapshot_created_at = of_snapshot.creation_time;
    status.volume_name = volume.name_any();
    status.volume_size = Bytes(of_snapshot.restore_size.unsigned_abs());
    status.volume_created = volume.metadata.creation_timestamp.as_ref().map(|time| time.0).into();
    target.clone_into(&mut status.backup_target_name);
    if status.started_at.is_unset() {
        status.started_at = Time::now();
    }
    status.phase = BackupPhase::Locking;
    alive(status)
}

/// How far the transfer is. Percent never goes down, also when an attempt begins anew.
pub fn running(mut status: BackupStatus, view: &View<Outcome>) -> BackupStatus {
    let seen = view.progress.snapshot();
    status.messages.remove(INFO);
    status.messages.remove(ERROR);
    let (state, message) = match &view.activity {
        Activity::Queued => (BackupState::Pending, Some((INFO, "waiting for other backups of this node to end".to_owned()))),
        Activity::Locked(words) => (BackupState::Pending, Some((INFO, words.clone()))),
        Activity::Moving => (BackupState::InProgress, None),
        Activity::Retrying(words) => (BackupState::InProgress, Some((ERROR, words.clone()))),
    };
    status.state = state;
    status.messages.extend(message.map(|(key, words)| (key.to_owned(), words)));
    status.phase = phase(&view.activity, seen.phase);
    count(&mut status, &seen);
    status
}

fn phase(activity: &Activity, phase: Phase) -> BackupPhase {
    match (activity, phase) {
        // Never none while there is a transfer: none tells the manager that this node is done with it.
        (Activity::Locked(_) | Activity::Queued, _) | (_, Phase::Locking | Phase::Waiting) => BackupPhase::Locking,
        (_, Phase::Scanning) => BackupPhase::Scanning,
        (_, Phase::Uploading | Phase::Restoring | Phase::Verifying) => BackupPhase::Uploading,
        (_, Phase::Committing | Phase::Done) => BackupPhase::Committing,
    }
}

fn count(status: &mut BackupStatus, seen: &Seen) {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    status.progress = status.progress.max(i64::from(seen.percent().min(99)));
    status.bytes_read = signed(seen.bytes_read);
    status.bytes_total = signed(seen.bytes_total);
    status.bytes_uploaded = signed(seen.bytes_uploaded);
}

/// With a sign of life of now.
pub fn alive(mut status: BackupStatus) -> BackupStatus {
    status.last_heartbeat_at = Time::now();
    status
}

/// The backup is whole in the store.
pub fn completed(status: BackupStatus, outcome: &Outcome) -> BackupStatus {
    let receipt = &outcome.receipt;
    let mut status = ended(status);
    status.state = BackupState::Completed;
    status.progress = 100;
    status.error = String::new();
    status.url = outcome.url.to_string();
    status.size = Bytes(receipt.size);
    status.newly_upload_data_size = Bytes(receipt.newly_uploaded);
    status.re_uploaded_data_size = Bytes(receipt.re_uploaded);
    status.backup_created_at = receipt.created_at.into();
    status.compression_method = outcome.compression.as_str().into();
    status.labels.clone_from(&outcome.labels);
    status.last_synced_at = Time::now();
    status
}

/// It failed for good, for the reason in `words`.
pub fn failed(status: BackupStatus, words: &str) -> BackupStatus {
    let mut status = ended(status);
    status.state = BackupState::Error;
    words.clone_into(&mut status.error);
    status.messages.insert(ERROR.to_owned(), words.to_owned());
    status
}

fn ended(mut status: BackupStatus) -> BackupStatus {
    status.messages.clear();
    status.phase = BackupPhase::None;
    status.completed_at = Time::now();
    status
}

/// Nothing of this Backup runs on this node any more.
pub fn signed_off(mut status: BackupStatus) -> BackupStatus {
    status.last_heartbeat_at = Time::UNSET;
    status.phase = BackupPhase::None;
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_never_goes_down_and_is_100_only_when_completed() {
        let at = |bytes_done| Seen {
            phase: Phase::Uploading,
            bytes_total: 100,
            bytes_done,
            bytes_read: bytes_done,
            bytes_uploaded: 0,
            blocks_total: 0,
            blocks_done: 0,
            idle: std::time::Duration::ZERO,
        };
        let mut status = BackupStatus::default();
        let mut seen = Vec::new();
        for done in [10, 60, 0, 30, 100] {
            count(&mut status, &at(done));
            seen.push(status.progress);
        }
        assert!(seen.is_sorted() && seen[1] > seen[0], "{seen:?}");
        assert!(seen[4] < 100, "{seen:?}");
    }

    #[test]
    fn what_ended_says_so_and_nothing_of_its_waits_is_left() {
        let waiting = pending(BackupStatus::default(), "Waiting for the snapshot s1 to be ready");
        assert_eq!(waiting.messages[INFO], "Waiting for the snapshot s1 to be ready");
        let failed = failed(alive(waiting), "no such bucket");
        assert_eq!((failed.state, failed.error.as_str()), (BackupState::Error, "no such bucket"));
        assert_eq!(failed.messages.len(), 1);
        assert!(!failed.completed_at.is_unset());
        assert!(signed_off(failed).last_heartbeat_at.is_unset());
    }

    #[test]
    fn only_what_has_no_transfer_has_no_phase() {
        let activities = [Activity::Queued, Activity::Locked(String::new()), Activity::Moving, Activity::Retrying(String::new())];
        let phases = [Phase::Waiting, Phase::Locking, Phase::Scanning, Phase::Uploading, Phase::Committing, Phase::Done];
        for activity in &activities {
            for at in phases {
                assert_ne!(phase(activity, at), BackupPhase::None, "{activity:?} {at:?}");
            }
        }
        assert_eq!(
            signed_off(BackupStatus { phase: BackupPhase::Uploading, ..BackupStatus::default() }).phase,
            BackupPhase::None
        );
    }
}

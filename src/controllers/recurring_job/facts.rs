//! What a pass over a RecurringJob knows of the world, in the terms its decisions use.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

/// An object that nobody has touched for this long counts as not taken up: its node is away, or its agent stuck.
pub const TAKEN_UP_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// A volume that carries the job's label or one of its groups'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its uid: a volume of the same name made later is another one.
    pub uid: String,
    /// The node that holds it.
    pub node: Option<String>,
    /// Whether that node's agent is alive.
    pub node_ready: bool,
    /// Whether a device is there.
    pub attached: bool,
    /// Why no backup of it can be made at all now: it is being restored, or a standby.
    pub unusable: Option<&'static str>,
    /// The backup target it uses.
    pub target: String,
}

/// A snapshot of any maker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its volume.
    pub volume: String,
    /// The job that made it.
    pub job: Option<String>,
    /// Whether the spec is the one a job writes.
    pub takes_snapshot: bool,
    /// How far it is.
    pub state: SnapshotState,
    /// The instant it stands for, once taken, else when the object was made.
    pub taken_at: Timestamp,
    /// When the object was made.
    pub created: Timestamp,
    /// A deletion was asked for.
    pub deleting: bool,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// Not taken yet.
    Waiting,
    /// Taken.
    Ready,
    /// Failed, with the reason.
    Failed(String),
}

/// A backup of any maker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its volume.
    pub volume: String,
    /// The snapshot it is of.
    pub snapshot: String,
    /// The job that made it.
    pub job: Option<String>,
    /// Whether this object was made in this cluster, rather than from what the store holds.
    pub made_here: bool,
    /// The uid of the job that made it, as kept in the store.
    pub job_uid: Option<String>,
    /// How far it is.
    pub state: BackupState,
    /// What it says that it waits for.
    pub waits_for: Option<String>,
    /// The instant its snapshot stands for, else when the object was made.
    pub snapshot_at: Timestamp,
    /// The last time anybody wrote of progress, else when the object was made.
    pub moved_at: Timestamp,
    /// A deletion was asked for.
    pub deleting: bool,
    /// Some volume is being restored from it.
    pub being_restored: bool,
}

/// How far a backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupState {
    /// Not at its end.
    Unfinished,
    /// Restorable.
    Completed,
    /// Failed, with the reason.
    Failed(String),
}

/// Everything a pass reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The selected volumes by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Snapshots by name: of the selected volumes and of those that a run holds.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Backups by name, of the same volumes.
    pub backups: BTreeMap<String, Backup>,
    /// Setting `allow-recurring-job-while-volume-detached`.
    pub detached_too: bool,
    /// Setting `auto-cleanup-recurring-job-backup-snapshot`.
    pub drop_used_snapshots: bool,
}

impl Facts {
    /// The work of `job` on `volume` that is under way, whichever run began it. What was never taken up does not count.
    pub fn under_way(&self, job: &str, volume: &str, now: Timestamp) -> Option<String> {
        let fresh = |since: Timestamp| now.duration_since(since) < TAKEN_UP_WITHIN;
        let of_job = |of: &Option<String>| of.as_deref() == Some(job);
        let backup = self.backups.iter().find(|(_, b)| {
            b.volume == volume
                && of_job(&b.job)
                && b.made_here
                && !b.deleting
                && b.state == BackupState::Unfinished
                && fresh(b.moved_at)
        });
        if let Some((name, _)) = backup {
            return Some(format!("backup {name}"));
        }
        let snapshot = self.snapshots.iter().find(|(_, s)| {
            s.volume == volume
                && of_job(&s.job)
                && s.takes_snapshot
                && !s.deleting
                && s.state == SnapshotState::Waiting
                && fresh(s.created)
        });
        snapshot.map(|(name, _)| format!("snapshot {name}"))
    }

    /// Snapshots that a backup which has not ended is made of.
    pub fn read_by_backups(&self) -> BTreeSet<&str> {
        self.backups.values().filter(|b| b.state == BackupState::Unfinished).map(|b| b.snapshot.as_str()).collect()
    }
}

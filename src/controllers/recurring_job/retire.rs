//! What retention removes of a job's own snapshots and backups. Pure.
//!
//! Only what this job made for a volume that it still serves: nothing of a user, of another job or of another cluster. An object that
//! was made anew from what the store holds counts when the job's uid is kept with the backup, since names are other clusters' too. A
//! backup goes only when `retain` newer ones are complete; failed ones are left to `failed-backup-ttl`.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::facts::{Backup, BackupState, Facts, Snapshot, SnapshotState};
use super::run::Run;
use super::spec::{Job, Task};
use crate::schedule::{Item, ItemState, retain};

/// The kind of a removed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Backup, with its data in the store.
    Backup,
    /// A Snapshot, with its file in the pool.
    Snapshot,
}

/// One object to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The volume it is of.
    pub volume: String,
    /// Why, for the Event: `removed: ...`.
    pub reason: String,
}

/// Everything to remove now, for every volume of the job.
pub fn removals(job: &Job, facts: &Facts, run: Option<&Run>, now: Timestamp) -> Vec<Removal> {
    let held = held_snapshots(facts, run);
    let mut all = Vec::new();
    for volume in facts.volumes.keys() {
        if job.task == Task::Backup {
            all.extend(old_backups(job, facts, volume, now));
            if facts.drop_used_snapshots {
                all.extend(used_snapshots(job, facts, volume, &held));
            }
        } else {
            all.extend(old_snapshots(job, facts, volume, &held, now));
        }
        all.extend(failed_snapshots(job, facts, volume, &held));
    }
    all
}

/// Snapshots that something still needs: a transfer, or a run that has not come to its end.
fn held_snapshots<'a>(facts: &'a Facts, run: Option<&'a Run>) -> BTreeSet<&'a str> {
    let mut held = facts.read_by_backups();
    held.extend(
        run.into_iter()
            .flat_map(|run| &run.entries)
            .filter(|entry| !entry.stage.is_over())
            .filter_map(|entry| entry.snapshot.as_deref()),
    );
    held
}

fn own_snapshots<'a>(job: &'a Job, facts: &'a Facts, volume: &'a str) -> impl Iterator<Item = (&'a String, &'a Snapshot)> {
    facts
        .snapshots
        .iter()
        .filter(move |(_, s)| s.volume == volume && s.job.as_deref() == Some(&job.name) && s.takes_snapshot && !s.deleting)
}

fn completed<'a>(facts: &'a Facts, volume: &'a str) -> impl Iterator<Item = (&'a String, &'a Backup)> {
    facts.backups.iter().filter(move |(_, b)| b.volume == volume && b.state == BackupState::Completed && !b.deleting)
}

fn is_own(job: &Job, backup: &Backup) -> bool {
    backup.job.as_deref() == Some(&job.name) && (backup.made_here || backup.job_uid.as_deref() == Some(&job.uid))
}

fn old_backups(job: &Job, facts: &Facts, volume: &str, now: Timestamp) -> Vec<Removal> {
    let own = completed(facts, volume).filter(|(_, b)| is_own(job, b));
    let old = beyond(job, own.map(|(name, b)| (name, b.snapshot_at)), now);
    let free = old.into_iter().filter(|(name, _)| !facts.backups.get(name).is_some_and(|b| b.being_restored));
    free.map(|(name, reason)| Removal { kind: Kind::Backup, name, volume: volume.to_owned(), reason }).collect()
}

fn old_snapshots(job: &Job, facts: &Facts, volume: &str, held: &BTreeSet<&str>, now: Timestamp) -> Vec<Removal> {
    let ready = own_snapshots(job, facts, volume).filter(|(_, s)| s.state == SnapshotState::Ready);
    let old = beyond(job, ready.map(|(name, s)| (name, s.taken_at)), now);
    let free = old.into_iter().filter(|(name, _)| !held.contains(name.as_str()));
    free.map(|(name, reason)| Removal { kind: Kind::Snapshot, name, volume: volume.to_owned(), reason }).collect()
}

/// The whole results that `retain` gives up, each with the reason.
fn beyond<'a>(job: &Job, whole: impl Iterator<Item = (&'a String, Timestamp)>, now: Timestamp) -> Vec<(String, String)> {
    let items: Vec<Item> = whole
        .map(|(name, created_at)| Item { name: name.clone(), created_at, state: ItemState::Completed, known_damaged: false })
        .collect();
    let removed = retain(&items, job.retain, now, None).into_iter().filter(|decision| !decision.keep);
    removed.map(|decision| (decision.name, decision.reason.to_string())).collect()
}

/// Snapshots of a backup job that served their purpose. The one of the volume's newest backup stays: the next backup reads only what
/// changed since it.
fn used_snapshots(job: &Job, facts: &Facts, volume: &str, held: &BTreeSet<&str>) -> Vec<Removal> {
    let base =
        completed(facts, volume).max_by_key(|(name, b)| (b.snapshot_at, (*name).clone())).map(|(_, b)| b.snapshot.as_str());
    own_snapshots(job, facts, volume)
        .filter(|(name, s)| s.state == SnapshotState::Ready && !held.contains(name.as_str()) && base != Some(name.as_str()))
        .map(|(name, _)| Removal {
            kind: Kind::Snapshot,
            name: name.clone(),
            volume: volume.to_owned(),
            reason: match base {
                Some(base) => format!("removed: the next backup starts from snapshot {base}"),
                None => "removed: no backup came of it".to_owned(),
            },
        })
        .collect()
}

/// Failed snapshots that a newer good one has made uninteresting.
fn failed_snapshots(job: &Job, facts: &Facts, volume: &str, held: &BTreeSet<&str>) -> Vec<Removal> {
    let newest_good =
        own_snapshots(job, facts, volume).filter(|(_, s)| s.state == SnapshotState::Ready).map(|(_, s)| s.created).max();
    let Some(newest_good) = newest_good else { return Vec::new() };
    own_snapshots(job, facts, volume)
        .filter(|(name, s)| {
            matches!(s.state, SnapshotState::Failed(_)) && s.created < newest_good && !held.contains(name.as_str())
        })
        .map(|(name, _)| Removal {
            kind: Kind::Snapshot,
            name: name.clone(),
            volume: volume.to_owned(),
            reason: "removed: it failed and a newer one is good".to_owned(),
        })
        .collect()
}

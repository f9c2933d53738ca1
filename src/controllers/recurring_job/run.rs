//! One run of a job: its volumes, how each gets on, and when it is over. Pure.
//!
//! A run is written down in the job's status, with every volume it is for, before anything is made: whoever leads next reads there
//! what is left to do. The objects' names are a function of (job, volume, time), so doing it again changes nothing.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::facts::{BackupState, Facts, SnapshotState, TAKEN_UP_WITHIN, Volume};
use super::spec::{Job, Task};
use crate::crd::names;

/// A run under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The scheduled time.
    pub scheduled_at: Timestamp,
    /// When it began.
    pub started_at: Timestamp,
    /// Its volumes, in the order of their turns.
    pub entries: Vec<Entry>,
}

/// One volume of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The volume.
    pub volume: String,
    /// How far it is.
    pub stage: Stage,
    /// The snapshot that is made for it; empty when none is.
    pub snapshot: Option<String>,
    /// The backup, once its object was made.
    pub backup: Option<String>,
}

/// How far one volume of a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Its turn has not come.
    Waiting,
    /// Its snapshot was asked for.
    Running,
    /// Done.
    Succeeded,
    /// Over without success.
    Failed(String),
    /// Left out.
    Skipped(String),
}

impl Stage {
    /// Whether nothing more happens.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every volume that was not left out succeeded.
    Succeeded,
    /// Some volumes succeeded, some failed.
    PartiallyFailed,
    /// No volume succeeded, some failed.
    Failed,
    /// Every volume was left out, or there was none.
    Skipped,
}

/// What the beginning of a run changes beside making it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The run.
    pub run: Run,
    /// Volumes left out, with the reason: one count and one Event each. Those whose last run goes on are among them.
    pub skipped: Vec<(String, String)>,
    /// Volumes that failed before anything was made.
    pub failed: Vec<(String, String)>,
}

/// Begins the run of time `at`.
///
/// Volumes that `previous` never came to go first, so that a schedule shorter than its work still reaches every volume. One whose
/// work of an earlier time is under way sits this time out and is watched on as part of this run.
pub fn begin(job: &Job, facts: &Facts, previous: Option<&Run>, at: Timestamp, now: Timestamp) -> Begun {
    let mut begun =
        Begun { run: Run { scheduled_at: at, started_at: now, entries: Vec::new() }, skipped: Vec::new(), failed: Vec::new() };
    for entry in previous.into_iter().flat_map(|run| &run.entries).filter(|entry| has_begun(entry, facts)) {
        if facts.volumes.contains_key(&entry.volume) {
            let what = entry.backup.as_ref().map_or_else(|| "its snapshot".to_owned(), |backup| format!("backup {backup}"));
            begun.skipped.push((entry.volume.clone(), format!("{what} of an earlier time is still in progress")));
        }
        begun.run.entries.push(Entry { stage: Stage::Running, ..entry.clone() });
    }
    let carried: BTreeSet<String> = begun.run.entries.iter().map(|entry| entry.volume.clone()).collect();
    let overdue: BTreeSet<&str> = previous
        .into_iter()
        .flat_map(|run| &run.entries)
        .filter(|entry| entry.stage == Stage::Waiting)
        .map(|entry| entry.volume.as_str())
        .collect();
    let mut selected: Vec<&Volume> = facts.volumes.values().filter(|volume| !carried.contains(&volume.name)).collect();
    selected.sort_by_key(|volume| (!overdue.contains(volume.name.as_str()), &volume.name));
    for volume in selected {
        let stage = first_stage(job, facts, volume, now);
        match &stage {
            Stage::Skipped(reason) => begun.skipped.push((volume.name.clone(), reason.clone())),
            Stage::Failed(reason) => begun.failed.push((volume.name.clone(), reason.clone())),
            Stage::Waiting | Stage::Running | Stage::Succeeded => {}
        }
        let snapshot = (stage == Stage::Waiting).then(|| names::run_names(&job.uid, &volume.uid, at).snapshot);
        begun.run.entries.push(Entry { volume: volume.name.clone(), stage, snapshot, backup: None });
    }
    begun
}

/// Whether anything was made for it, noted or not.
fn has_begun(entry: &Entry, facts: &Facts) -> bool {
    match entry.stage {
        Stage::Running => true,
        Stage::Waiting => entry.snapshot.as_ref().is_some_and(|name| facts.snapshots.contains_key(name)),
        Stage::Succeeded | Stage::Failed(_) | Stage::Skipped(_) => false,
    }
}

fn first_stage(job: &Job, facts: &Facts, volume: &Volume, now: Timestamp) -> Stage {
    if let Some(why) = volume.unusable {
        return Stage::Skipped(format!("the volume {why}"));
    }
    let Some(node) = &volume.node else {
        return Stage::Skipped("the volume is on no node yet".to_owned());
    };
    if !volume.attached && !facts.detached_too {
        return Stage::Skipped(
            "the volume is detached and setting allow-recurring-job-while-volume-detached is not true".to_owned(),
        );
    }
    if let Some(what) = facts.under_way(&job.name, &volume.name, now) {
        return Stage::Skipped(format!("{what} of an earlier time is still in progress"));
    }
    if !volume.node_ready {
        return Stage::Failed(format!("node {node}, which holds the volume, is not ready"));
    }
    Stage::Waiting
}

/// An object that the run wants made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The volume.
    pub volume: String,
    /// The Snapshot to make first, or to find as it should be.
    pub snapshot: String,
    /// Whether the Snapshot is to be made too, or only the Backup.
    pub make_snapshot: bool,
    /// The Backup to make of it; `None` for a job of snapshots.
    pub backup: Option<String>,
}

/// What one step over a run gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Volumes that came to their end in this step, with the index of their entry.
    pub ended: Vec<usize>,
    /// Objects to make now.
    pub wanted: Vec<Wanted>,
    /// When to look again, though nothing changes.
    pub look_at: Option<Timestamp>,
}

/// Moves every entry as far as the facts allow, and says what is to be made: no more than `job.concurrency` volumes at once.
pub fn step(run: &mut Run, job: &Job, facts: &Facts, now: Timestamp) -> Step {
    let mut step = Step::default();
    for (index, entry) in run.entries.iter_mut().enumerate().filter(|(_, entry)| entry.stage == Stage::Running) {
        match judge(entry, job, facts, now) {
            Judgement::Over(stage) => {
                entry.stage = stage;
                step.ended.push(index);
            }
            Judgement::Make(wanted) => step.wanted.push(wanted),
            Judgement::Until(deadline) => step.look_at = Some(step.look_at.map_or(deadline, |at| at.min(deadline))),
        }
    }
    let running = run.entries.iter().filter(|entry| entry.stage == Stage::Running).count();
    let mut free = job.concurrency.saturating_sub(running);
    for (index, entry) in run.entries.iter_mut().enumerate().filter(|(_, entry)| entry.stage == Stage::Waiting) {
        if free == 0 {
            break;
        }
        match (&entry.snapshot, facts.volumes.contains_key(&entry.volume)) {
            (Some(snapshot), true) => {
                step.wanted.push(Wanted {
                    volume: entry.volume.clone(),
                    snapshot: snapshot.clone(),
                    make_snapshot: true,
                    backup: backup_name(job, snapshot),
                });
                free -= 1;
            }
            _ => {
                entry.stage = Stage::Skipped("the volume was deleted or lost its label before its turn".to_owned());
                step.ended.push(index);
            }
        }
    }
    step
}

fn backup_name(job: &Job, snapshot: &str) -> Option<String> {
    // Both names end in the same digits: `crd::names::run_names`.
    (job.task == Task::Backup).then(|| format!("backup-{}", snapshot.strip_prefix("snapshot-").unwrap_or(snapshot)))
}

enum Judgement {
    Over(Stage),
    Make(Wanted),
    Until(Timestamp),
}

fn judge(entry: &Entry, job: &Job, facts: &Facts, now: Timestamp) -> Judgement {
    let failed = |reason: String| Judgement::Over(Stage::Failed(reason));
    let Some(name) = &entry.snapshot else { return failed("no snapshot was named for it".to_owned()) };
    if let Some(backup) = &entry.backup {
        return judge_backup(backup, facts, now);
    }
    let Some(snapshot) = facts.snapshots.get(name) else {
        return failed(format!("snapshot {name} was deleted before it was of use"));
    };
    if snapshot.deleting {
        return failed(format!("snapshot {name} is being deleted"));
    }
    match (&snapshot.state, backup_name(job, name)) {
        (SnapshotState::Failed(reason), _) => failed(format!("snapshot {name}: {reason}")),
        (_, Some(backup)) => Judgement::Make(Wanted {
            volume: entry.volume.clone(),
            snapshot: name.clone(),
            make_snapshot: false,
            backup: Some(backup),
        }),
        (SnapshotState::Ready, None) => Judgement::Over(Stage::Succeeded),
        (SnapshotState::Waiting, None) => until(&format!("snapshot {name}"), None, snapshot.created, now),
    }
}

fn judge_backup(name: &str, facts: &Facts, now: Timestamp) -> Judgement {
    let failed = |reason: String| Judgement::Over(Stage::Failed(reason));
    let Some(backup) = facts.backups.get(name) else {
        return failed(format!("backup {name} was deleted before it was complete"));
    };
    match &backup.state {
        BackupState::Completed => Judgement::Over(Stage::Succeeded),
        BackupState::Failed(reason) => failed(format!("backup {name}: {reason}")),
        BackupState::Unfinished if backup.deleting => failed(format!("backup {name} is being deleted")),
        BackupState::Unfinished => until(&format!("backup {name}"), backup.waits_for.as_deref(), backup.moved_at, now),
    }
}

/// `waits_for`: what it says itself, which is a better reason than any guess.
fn until(what: &str, waits_for: Option<&str>, since: Timestamp, now: Timestamp) -> Judgement {
    let deadline = since.saturating_add(TAKEN_UP_WITHIN).unwrap_or(since);
    if deadline > now {
        return Judgement::Until(deadline);
    }
    let minutes = TAKEN_UP_WITHIN.as_mins();
    Judgement::Over(Stage::Failed(match waits_for {
        Some(words) => format!("{what} has not got on for {minutes} minutes: {words}"),
        None => format!("nobody has worked on {what} for {minutes} minutes: is its node up?"),
    }))
}

/// What became of making one entry's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// All that was wanted is there.
    All,
    /// The Snapshot is there, the Backup could not be made now.
    SnapshotOnly,
    /// Nothing could be made now.
    Nothing,
    /// It will never work, for this reason.
    Refused(String),
}

/// Notes in the run what was made. Returns the index of the entry when it came to its end by that.
pub fn note_made(run: &mut Run, wanted: &Wanted, made: &Made) -> Option<usize> {
    let (index, entry) =
        run.entries.iter_mut().enumerate().find(|(_, entry)| entry.volume == wanted.volume && !entry.stage.is_over())?;
    match made {
        Made::All => {
            entry.stage = Stage::Running;
            entry.backup.clone_from(&wanted.backup);
            None
        }
        Made::SnapshotOnly => {
            entry.stage = Stage::Running;
            None
        }
        Made::Nothing => None,
        Made::Refused(reason) => {
            entry.stage = Stage::Failed(reason.clone());
            Some(index)
        }
    }
}

/// How the run ended; `None` while an entry is not over.
pub fn outcome(run: &Run) -> Option<Outcome> {
    if !run.entries.iter().all(|entry| entry.stage.is_over()) {
        return None;
    }
    let any = |wanted: fn(&Stage) -> bool| run.entries.iter().any(|entry| wanted(&entry.stage));
    let succeeded = any(|stage| matches!(stage, Stage::Succeeded));
    let failed = any(|stage| matches!(stage, Stage::Failed(_)));
    Some(match (succeeded, failed) {
        (true, false) => Outcome::Succeeded,
        (true, true) => Outcome::PartiallyFailed,
        (false, true) => Outcome::Failed,
        (false, false) => Outcome::Skipped,
    })
}

//! A RecurringJob's spec, parsed into what a run needs.

use std::num::NonZeroU32;

use kube::ResourceExt;

use crate::crd::{JobTask, Map, RecurringJob, RetentionPolicy, names};
use crate::schedule::Schedule;

/// A job that can be carried out.
#[derive(Debug, Clone)]
pub struct Job {
    /// The object's name: what labels of volumes and results carry.
    pub name: String,
    /// The object's uid: part of every result's name.
    pub uid: String,
    /// What is made.
    pub task: Task,
    /// When.
    pub schedule: Schedule,
    /// How many results of a volume are kept.
    pub retain: usize,
    /// Volumes at work at once.
    pub concurrency: usize,
    /// Groups it serves.
    pub groups: Vec<String>,
    /// Labels of what it makes.
    pub labels: Map,
    /// Every how many runs the backups are full.
    pub full_every: Option<NonZeroU32>,
}

/// What a job makes for each of its volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A snapshot.
    Snapshot,
    /// A snapshot and a backup of it.
    Backup,
}

const FULL_BACKUP_INTERVAL: &str = "full-backup-interval";

impl Job {
    /// Parses. The error says which field holds what, and what is allowed.
    pub fn parse(object: &RecurringJob, max_retain: usize) -> Result<Self, String> {
        let spec = &object.spec;
        let task = match spec.task {
            // "Force" tells Longhorn not to skip a volume without new data: nothing is skipped for that here.
            JobTask::Snapshot | JobTask::SnapshotForceCreate => Task::Snapshot,
            JobTask::Backup | JobTask::BackupForceCreate => Task::Backup,
            other @ (JobTask::SnapshotCleanup | JobTask::SnapshotDelete | JobTask::FilesystemTrim | JobTask::SystemBackup) => {
                return Err(format!("spec.task {other} is not supported yet: supported are {SUPPORTED}"));
            }
            JobTask::Unknown => return Err(format!("spec.task is not known: supported are {SUPPORTED}")),
        };
        let schedule = Schedule::parse(&spec.cron, &spec.time_zone).map_err(|error| format!("spec.{error}"))?;
        Ok(Self {
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            task,
            schedule,
            retain: retain(object, max_retain)?,
            concurrency: spec.effective_concurrency(),
            groups: spec.groups.clone(),
            labels: spec.labels.clone(),
            full_every: full_every(&spec.parameters)?,
        })
    }

    /// Whether a volume with these labels is served.
    pub fn serves(&self, labels: &Map) -> bool {
        let on = |label: String| labels.get(&label).is_some_and(|value| value == names::ENABLED);
        on(names::job_label(&self.name)) || self.groups.iter().any(|group| on(names::group_label(group)))
    }
}

const SUPPORTED: &str = "snapshot, snapshot-force-create, backup, backup-force-create";

fn retain(object: &RecurringJob, max_retain: usize) -> Result<usize, String> {
    let spec = &object.spec;
    if spec.retention_policy == RetentionPolicy::AgeBased {
        return Err("spec.retentionPolicy age-based is not supported yet: use count-based with spec.retain".to_owned());
    }
    match usize::try_from(spec.retain) {
        Ok(retain @ 1..) if retain <= max_retain => Ok(retain),
        _ => Err(format!("spec.retain is {}: allowed are 1 to {max_retain} (setting recurring-job-max-retention)", spec.retain)),
    }
}

fn full_every(parameters: &Map) -> Result<Option<NonZeroU32>, String> {
    match parameters.get(FULL_BACKUP_INTERVAL) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(every) => Ok(NonZeroU32::new(every)),
            Err(_) => Err(format!("spec.parameters {FULL_BACKUP_INTERVAL} is {text:?}: a whole number is wanted, 0 for never")),
        },
    }
}

#[cfg(test)]
impl Job {
    /// A job of that name that runs each minute.
    pub fn for_tests(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            task: Task::Backup,
            schedule: Schedule::parse("* * * * *", "UTC").expect("schedule"),
            retain: 2,
            concurrency: 10,
            groups: Vec::new(),
            labels: Map::new(),
            full_every: None,
        }
    }
}

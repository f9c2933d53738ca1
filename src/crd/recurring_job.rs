//! RecurringJob: what to do with which volumes when, and how many results to keep.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::string_enum::string_enum;
use super::time::Time;
use super::{Map, Other, is_zero, rules};

string_enum! {
    /// What a job does with each of its volumes.
    closed JobTask {
        /// Takes a snapshot, removes the ones beyond `retain`.
        #[default]
        Snapshot = "snapshot",
        /// The same, whatever else was done meanwhile.
        SnapshotForceCreate = "snapshot-force-create",
        /// Removes snapshots that nobody asked for.
        SnapshotCleanup = "snapshot-cleanup",
        /// Removes snapshots beyond `retain`, whoever made them.
        SnapshotDelete = "snapshot-delete",
        /// Takes a snapshot and backs it up, removes the backups beyond `retain`.
        Backup = "backup",
        /// The same, whatever else was done meanwhile.
        BackupForceCreate = "backup-force-create",
        /// Gives unused blocks of the file system back.
        FilesystemTrim = "filesystem-trim",
        /// Backs up the objects of the system.
        SystemBackup = "system-backup",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// What `retain` counts.
    closed RetentionPolicy {
        /// Results.
        #[default]
        CountBased = "count-based" | "",
        /// Time since the result, by `retainAge`.
        AgeBased = "age-based",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// How a run ended.
    open RunOutcome {
        /// It has not.
        #[default]
        Running = "Running",
        /// Well for every volume.
        Succeeded = "Succeeded",
        /// Well for some volumes, badly for others.
        PartiallyFailed = "PartiallyFailed",
        /// Badly for every volume.
        Failed = "Failed",
        /// Every volume was left out, or there was none.
        Skipped = "Skipped",
        /// It was not made: its time had passed.
        Missed = "Missed",
    } else
        /// Another value.
        Unknown = "Unknown"
}

string_enum! {
    /// How a run ended for one volume.
    open VolumeOutcome {
        /// It has not begun.
        #[default]
        Waiting = "Waiting",
        /// It is under way.
        Running = "Running",
        /// Well.
        Succeeded = "Succeeded",
        /// Badly; the reason says why.
        Failed = "Failed",
        /// It was left out; the reason says why.
        Skipped = "Skipped",
    } else
        /// Another value.
        Unknown = "Unknown"
}

impl VolumeOutcome {
    /// Whether nothing more will happen for the volume in this run.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped)
    }
}

/// What to do, when, and how many results to keep.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "RecurringJob",
    plural = "recurringjobs",
    shortname = "lhrj",
    namespaced,
    status = "RecurringJobStatus",
    derive = "Default",
    derive = "PartialEq",
    validation = rules::recurring_job::object_name(),
    doc = "Snapshots or backups by schedule, for the volumes that a label gives the job or one of its groups. One missed run is caught up.",
    printcolumn(name = "Groups", type_ = "string", json_path = ".spec.groups", description = "Groups of volumes it works for"),
    printcolumn(name = "Task", type_ = "string", json_path = ".spec.task", description = "What it does"),
    printcolumn(name = "Cron", type_ = "string", json_path = ".spec.cron", description = "When, by the five fields of cron"),
    printcolumn(
        name = "RetentionPolicy",
        type_ = "string",
        json_path = ".spec.retentionPolicy",
        description = "What retain counts",
        priority = 1
    ),
    printcolumn(
        name = "RetainCount",
        type_ = "integer",
        json_path = ".spec.retain",
        description = "How many results are kept for each volume"
    ),
    printcolumn(
        name = "RetainAge",
        type_ = "string",
        json_path = ".spec.retainAge",
        description = "How long results are kept",
        priority = 1
    ),
    printcolumn(
        name = "Concurrency",
        type_ = "integer",
        json_path = ".spec.concurrency",
        description = "Volumes at work at once"
    ),
    printcolumn(
        name = "LastRun",
        type_ = "string",
        json_path = ".status.lastRun.outcome",
        description = "How the last run ended"
    ),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextScheduleAt", description = "When the next run is due"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Labels",
        type_ = "string",
        json_path = ".spec.labels",
        description = "Labels of what it makes",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::recurring_job::retain())]
pub struct RecurringJobSpec {
    /// The job's name; the object's when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::recurring_job::name())]
    pub name: String,
    /// Groups of volumes it works for, beside the ones that name it. `default` is every volume that has no job label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    #[x_kube(validation = rules::recurring_job::groups())]
    pub groups: Vec<String>,
    /// What it does.
    pub task: JobTask,
    /// When: minute, hour, day of month, month, day of week, as Kubernetes reads them; or @hourly, @daily, @weekly, @monthly, @yearly.
    #[schemars(length(max = 256))]
    #[x_kube(
        validation = rules::recurring_job::no_zone_in_cron(),
        validation = rules::recurring_job::no_interval(),
        validation = rules::recurring_job::five_fields(),
        validation = rules::recurring_job::minute(),
        validation = rules::recurring_job::hour(),
        validation = rules::recurring_job::day_of_month(),
        validation = rules::recurring_job::month(),
        validation = rules::recurring_job::day_of_week()
    )]
    pub cron: String,
    /// IANA name of the time zone that `cron` is meant in; UTC when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::recurring_job::time_zone())]
    pub time_zone: String,
    /// How many results are kept for each volume.
    #[serde(default = "default_retain")]
    #[schemars(range(min = 0, max = 250))]
    pub retain: i64,
    /// How long results are kept (age-based).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::go_duration("retainAge"))]
    pub retain_age: String,
    /// What `retain` counts.
    #[serde(default, skip_serializing_if = "RetentionPolicy::is_default")]
    #[x_kube(validation = rules::recurring_job::count_based())]
    pub retention_policy: RetentionPolicy,
    /// How many volumes are at work at once; 0 is 10.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 0))]
    pub concurrency: i64,
    /// Labels of the snapshots and backups it makes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(with = "LabelValues", extend("maxProperties" = 32))]
    #[x_kube(validation = rules::recurring_job::label_keys(), validation = rules::recurring_job::labels())]
    pub labels: Map,
    /// `full-backup-interval`: every how many backups of a volume one is full; 0 is never. `volume-backup-policy`: system backups.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(with = "LabelValues", extend("maxProperties" = 8))]
    #[x_kube(
        validation = rules::recurring_job::parameter_keys(),
        validation = rules::recurring_job::full_backup_interval(),
        validation = rules::recurring_job::volume_backup_policy()
    )]
    pub parameters: Map,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

fn default_retain() -> i64 {
    1
}

fn default_concurrency() -> i64 {
    DEFAULT_CONCURRENCY
}

const DEFAULT_CONCURRENCY: i64 = 10;
/// Key of `parameters`: every how many backups of a volume one is full.
const FULL_BACKUP_INTERVAL: &str = "full-backup-interval";

impl RecurringJobSpec {
    /// How many volumes are at work at once: at least 1.
    pub fn effective_concurrency(&self) -> usize {
        match usize::try_from(self.concurrency) {
            Ok(0) | Err(_) => DEFAULT_CONCURRENCY as usize,
            Ok(wanted) => wanted,
        }
    }

    /// Every how many backups of a volume one is full; `None` is never.
    pub fn full_backup_interval(&self) -> Option<u64> {
        self.parameters.get(FULL_BACKUP_INTERVAL)?.parse().ok().filter(|every| *every > 0)
    }
}

impl Default for RecurringJobSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            groups: Vec::new(),
            task: JobTask::default(),
            cron: String::new(),
            time_zone: String::new(),
            retain: default_retain(),
            retain_age: String::new(),
            retention_policy: RetentionPolicy::default(),
            concurrency: default_concurrency(),
            labels: Map::new(),
            parameters: Map::new(),
            other: Other::new(),
        }
    }
}

/// What the job has done and will do.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecurringJobStatus {
    /// Runs so far.
    #[serde(default)]
    pub execution_count: i64,
    /// The process that wrote this last.
    #[serde(default, rename = "ownerID", skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// The time of the newest run that was begun or given up.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_scheduled_at: Time,
    /// When the next run is due.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub next_schedule_at: Time,
    /// The newest run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LastRun")]
    pub last_run: Option<LastRun>,
    /// What it is like now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Results so far, by volume and run.
    #[serde(default)]
    pub counts: RunCounts,
}

/// One run.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// The time it stands for.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub scheduled_at: Time,
    /// When it began.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub started_at: Time,
    /// When the last volume was done.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub finished_at: Time,
    /// How it ended.
    #[serde(default)]
    pub outcome: RunOutcome,
    /// How it ended for each volume.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["volume".into()]))]
    pub volumes: Vec<VolumeRun>,
}

/// One run for one volume.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRun {
    /// The volume.
    pub volume: String,
    /// How it ended.
    #[serde(default)]
    pub outcome: VolumeOutcome,
    /// Why it failed or was left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The Backup it made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backup: String,
    /// The Snapshot it made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
}

/// Results so far, by volume and run.
#[derive(KubeSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunCounts {
    /// Ended well.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub succeeded: i64,
    /// Ended badly.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: i64,
    /// Left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: i64,
}

/// The schema of a map whose values a rule looks at.
struct LabelValues;

impl schemars::JsonSchema for LabelValues {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LabelValues".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object", "additionalProperties": { "type": "string", "maxLength": 253 } })
    }
}

//! Counters and gauges of a process, in OpenMetrics. Label values come from closed sets, never from error texts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of a volume's gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VolumeLabels {
    /// The volume.
    pub volume: String,
    /// The node that holds it.
    pub node: String,
}

/// Labels of a backup's gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BackupLabels {
    /// The volume.
    pub volume: String,
    /// The backup.
    pub backup: String,
    /// The job that made it, or nothing.
    pub recurring_job: String,
}

/// Labels of a snapshot's gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SnapshotLabels {
    /// The snapshot.
    pub snapshot: String,
    /// The volume.
    pub volume: String,
    /// Whether a user, not a job, made it.
    pub user_created: String,
}

/// Labels of a backup target's gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TargetLabels {
    /// The target.
    pub backup_target: String,
}

/// Labels of a backup volume's gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BackupVolumeLabels {
    /// The backup volume.
    pub backup_volume: String,
}

/// Labels of request counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The target.
    pub backup_target: String,
    /// put, get, list, delete, stat.
    pub verb: String,
}

/// Labels of run counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunLabels {
    /// The job.
    pub recurring_job: String,
    /// succeeded, failed, skipped.
    pub outcome: String,
}

/// Labels of transfer counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransferLabels {
    /// backup, restore.
    pub operation: String,
    /// completed, error.
    pub outcome: String,
}

/// Labels of reconcile failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    /// The object's kind.
    pub kind: String,
    /// The error's category.
    pub category: String,
}

type GaugeU64 = Gauge<u64, AtomicU64>;

/// Every metric of a process. Gauges that describe objects are set by the reconciler that sees the object and removed with it.
pub struct Metrics {
    registry: Registry,
    /// 0 new, 1 pending, 2 in progress, 3 completed, 4 error, 5 unknown.
    pub backup_state: Family<BackupLabels, Gauge>,
    /// Size of the volume's data at the backup.
    pub backup_actual_size: Family<BackupLabels, GaugeU64>,
    /// Bytes newly uploaded for the backup, before compression.
    pub backup_uploaded: Family<BackupLabels, GaugeU64>,
    /// Backups in a backup volume.
    pub backup_volume_backups: Family<BackupVolumeLabels, GaugeU64>,
    /// Backup volumes in a target.
    pub target_backup_volumes: Family<TargetLabels, GaugeU64>,
    /// 1 when the target can be used.
    pub target_available: Family<TargetLabels, Gauge>,
    /// Bytes a snapshot takes.
    pub snapshot_actual_size: Family<SnapshotLabels, GaugeU64>,
    /// Bytes a volume takes.
    pub volume_actual_size: Family<VolumeLabels, GaugeU64>,
    /// Bytes a volume can take.
    pub volume_capacity: Family<VolumeLabels, GaugeU64>,
    /// 0 creating, 1 attached, 2 detached, 3 attaching, 4 detaching, 5 deleting.
    pub volume_state: Family<VolumeLabels, Gauge>,
    /// 0 unknown, 1 healthy, 2 degraded, 3 faulted.
    pub volume_robustness: Family<VolumeLabels, Gauge>,
    /// Unix seconds of the snapshot of the newest completed backup, 0 = never.
    pub volume_last_backup_at: Family<VolumeLabels, Gauge>,
    /// Runs by job and outcome, one per volume.
    pub runs: Family<RunLabels, Counter>,
    /// Transfers that ended.
    pub transfers: Family<TransferLabels, Counter>,
    /// How long transfers took.
    pub transfer_duration: Family<TransferLabels, Histogram>,
    /// Bytes read from volumes for backups.
    pub bytes_read: Counter,
    /// Bytes sent to stores.
    pub bytes_uploaded: Counter,
    /// Requests to stores by verb.
    pub requests: Family<RequestLabels, Counter>,
    /// Reconciles that failed.
    failures: Family<FailureLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set, all at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            backup_state: Family::default(),
            backup_actual_size: Family::default(),
            backup_uploaded: Family::default(),
            backup_volume_backups: Family::default(),
            target_backup_volumes: Family::default(),
            target_available: Family::default(),
            snapshot_actual_size: Family::default(),
            volume_actual_size: Family::default(),
            volume_capacity: Family::default(),
            volume_state: Family::default(),
            volume_robustness: Family::default(),
            volume_last_backup_at: Family::default(),
            runs: Family::default(),
            transfers: Family::default(),
            transfer_duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.5, 2.0, 16))),
            bytes_read: Counter::default(),
            bytes_uploaded: Counter::default(),
            requests: Family::default(),
            failures: Family::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register(
            "longhorn_backup_state",
            "State of the backup: 0 new, 1 pending, 2 in progress, 3 completed, 4 error, 5 unknown",
            self.backup_state.clone(),
        );
        r.register("longhorn_backup_actual_size_bytes", "Size of the backup", self.backup_actual_size.clone());
        r.register(
            "longhorn_backup_uploaded_data_size_bytes",
            "Bytes newly uploaded for the backup",
            self.backup_uploaded.clone(),
        );
        r.register("longhorn_backup_volume_backups_count", "Backups in the backup volume", self.backup_volume_backups.clone());
        r.register(
            "longhorn_backup_target_backup_volume_count",
            "Backup volumes in the target",
            self.target_backup_volumes.clone(),
        );
        r.register("drover_backup_target_available", "1 when the target can be used", self.target_available.clone());
        r.register(
            "longhorn_snapshot_actual_size_bytes",
            "Bytes the snapshot takes in the pool",
            self.snapshot_actual_size.clone(),
        );
        r.register("longhorn_volume_actual_size_bytes", "Bytes the volume takes in the pool", self.volume_actual_size.clone());
        r.register("longhorn_volume_capacity_bytes", "Size of the volume", self.volume_capacity.clone());
        r.register(
            "longhorn_volume_state",
            "State of the volume: 0 creating, 1 attached, 2 detached, 3 attaching, 4 detaching, 5 deleting",
            self.volume_state.clone(),
        );
        r.register(
            "longhorn_volume_robustness",
            "Robustness: 0 unknown, 1 healthy, 2 degraded, 3 faulted",
            self.volume_robustness.clone(),
        );
        r.register(
            "longhorn_volume_last_backup_at",
            "Unix time of the snapshot of the volume's newest good backup in any target, 0 = never",
            self.volume_last_backup_at.clone(),
        );
        r.register("drover_recurring_job_volume_runs", "Volumes handled by runs of the job, by outcome", self.runs.clone());
        r.register("drover_transfers", "Transfers that ended, by outcome", self.transfers.clone());
        r.register("drover_transfer_duration_seconds", "Duration of transfers", self.transfer_duration.clone());
        r.register("drover_backup_read_bytes", "Bytes read from volumes for backups", self.bytes_read.clone());
        r.register("drover_backup_uploaded_bytes", "Bytes sent to stores", self.bytes_uploaded.clone());
        r.register("drover_store_requests", "Requests to backup stores by verb", self.requests.clone());
        r.register("drover_reconcile_failures", "Reconcile passes that failed, by category", self.failures.clone());
        self
    }

    /// Counts a failed pass.
    pub fn reconcile_failed(&self, kind: &str, category: &str) {
        self.failures.get_or_create(&FailureLabels { kind: kind.to_owned(), category: category.to_owned() }).inc();
    }

    /// The whole set as OpenMetrics text.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_shows_under_its_openmetrics_name() {
        let metrics = Metrics::new();
        metrics.reconcile_failed("Backup", "LockHeld");
        let text = metrics.render().expect("text");
        assert!(text.contains("drover_reconcile_failures_total{kind=\"Backup\",category=\"LockHeld\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}

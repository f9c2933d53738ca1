//! The kinds of `longhorn.io/v1beta2` that Drover serves, with Longhorn's field names, spellings and printer columns.
//!
//! Pure types: no client, no clock but [`Time::now`]. Specs keep fields of Longhorn that Drover does not use (`other`), statuses are
//! wholly ours. Every status field has a default, so objects in any state of completeness can be read.

#![allow(clippy::duplicated_attributes, reason = "printer columns have attributes of the same names")]

mod backup;
mod backup_target;
mod backup_volume;
mod condition;
pub mod definitions;
mod manifest;
pub mod names;
mod node;
mod quantity;
mod recurring_job;
mod rules;
mod setting;
mod snapshot;
mod string_enum;
mod time;
mod volume;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use backup::{Backup, BackupBlockSize, BackupMode, BackupPhase, BackupSpec, BackupState, BackupStatus, CompressionMethod};
pub use backup_target::{BackupTarget, BackupTargetSpec, BackupTargetStatus, parse_target_url};
pub use backup_volume::{BackupVolume, BackupVolumeSpec, BackupVolumeStatus};
pub use condition::{Condition, ConditionStatus, condition_type, find_condition, is_true, reason, set_condition};
pub use manifest::{Manifest, manifests};
pub use node::{DiskSpec, DiskStatus, DiskType, Node, NodeSpec, NodeStatus};
pub use quantity::{Bytes, GoDuration, InvalidDuration};
pub use recurring_job::{
    JobTask, LastRun, RecurringJob, RecurringJobSpec, RecurringJobStatus, RetentionPolicy, RunCounts, RunOutcome, VolumeOutcome,
    VolumeRun,
};
pub use setting::{Setting, SettingStatus};
pub use snapshot::{Snapshot, SnapshotSpec, SnapshotStatus};
pub use time::Time;
pub use volume::{
    AccessMode, DataEngine, Frontend, KubernetesStatus, RestoreProgress, RestoreRecurringJob, Robustness, Switch, Volume,
    VolumeSpec, VolumeState, VolumeStatus, WorkloadStatus,
};

/// String to string, as labels are.
pub type Map = BTreeMap<String, String>;
/// Fields of Longhorn that Drover does not use; kept as they are.
pub type Other = BTreeMap<String, serde_json::Value>;

/// The definitions of all kinds.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        Backup::crd(),
        BackupTarget::crd(),
        BackupVolume::crd(),
        Node::crd(),
        RecurringJob::crd(),
        Setting::crd(),
        Snapshot::crd(),
        Volume::crd(),
    ]
}

/// For `skip_serializing_if`.
fn is_false(value: &bool) -> bool {
    !value
}

/// For `skip_serializing_if`.
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_not_used_here_are_kept() {
        let json = serde_json::json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Volume", "metadata": {"name": "vol"},
            "spec": {"size": "1073741824", "numberOfReplicas": 3, "image": "longhornio/longhorn-engine", "replicaAutoBalance": "ignored",
                     "backupTargetName": "default"},
            "status": {"state": "attached", "robustness": "healthy", "cloneStatus": {"state": ""}, "lastBackupAt": ""},
        });
        let volume: Volume = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(volume.spec.size, Bytes(1 << 30));
        assert_eq!(volume.status.as_ref().map(|s| s.last_backup_at), Some(Time::UNSET));
        assert_eq!(serde_json::to_value(&volume).unwrap()["spec"], json["spec"]);
    }

    #[test]
    fn an_odd_value_does_not_stop_a_watch() {
        let backup: Backup = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "backup-1"},
            "spec": {"backupMode": "sideways", "syncRequestedAt": null, "labels": {}},
            "status": {"state": "Imagined", "size": "", "snapshotCreatedAt": "", "compressionMethod": "zstd"},
        }))
        .unwrap();
        assert_eq!(backup.spec.backup_mode, BackupMode::Unknown);
        assert_eq!(
            backup.status.map(|s| (s.state, s.compression_method)),
            Some((BackupState::Unknown, CompressionMethod::Unknown))
        );
    }

    #[test]
    fn a_setting_names_its_kind_on_the_wire() {
        let setting = Setting::new("backup-target", "s3://backupbucket@us-east-1/");
        let json = serde_json::to_value(&setting).unwrap();
        assert_eq!((&json["apiVersion"], &json["kind"]), (&"longhorn.io/v1beta2".into(), &"Setting".into()));
        assert_eq!(serde_json::from_value::<Setting>(json).unwrap(), setting);
    }
}

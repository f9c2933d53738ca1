//! Labels, annotations, the finalizer, and the names of objects that are made rather than given.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// The group of every kind.
pub const GROUP: &str = "longhorn.io";
/// The one served and stored version.
pub const VERSION: &str = "v1beta2";
/// The finalizer of every kind.
pub const FINALIZER: &str = "longhorn.io";

/// Volume, Snapshot, Backup: the node that holds the volume's bytes.
pub const LABEL_NODE: &str = "longhornnode";
/// Snapshot: its volume.
pub const LABEL_VOLUME: &str = "longhornvolume";
/// Backup, BackupVolume: the volume, as the store names it.
pub const LABEL_BACKUP_VOLUME: &str = "backup-volume";
/// Backup, BackupVolume: the backup target.
pub const LABEL_BACKUP_TARGET: &str = "backup-target";
/// Snapshot, Backup: the RecurringJob that made it; on the object and in its `spec.labels`.
pub const LABEL_RECURRING_JOB: &str = "RecurringJob";
/// Backup, in its `spec.labels` and so in the store: the uid of the RecurringJob that made it. A job's name can be another cluster's too.
pub const LABEL_RECURRING_JOB_UID: &str = "drover.io/recurring-job-uid";
/// Backup, BackupVolume: deleting the object leaves the store as it is.
pub const LABEL_DELETE_OBJECT_ONLY: &str = "longhorn.io/delete-custom-resource-only";
/// Backup: made from what the store holds, not to be uploaded.
pub const LABEL_FROM_STORE: &str = "drover.io/from-store";
/// Objects that this project manages.
pub const LABEL_MANAGED_BY: &str = "longhorn.io/managed-by";
/// Snapshot, Backup content: the access mode of the volume.
pub const LABEL_ACCESS_MODE: &str = "longhorn.io/volume-access-mode";
/// Snapshot, Backup content: the volume's workload, as JSON.
pub const LABEL_KUBERNETES_STATUS: &str = "KubernetesStatus";
/// The value that switches a label on.
pub const ENABLED: &str = "enabled";
/// The value of [`LABEL_DELETE_OBJECT_ONLY`] and [`LABEL_FROM_STORE`].
pub const TRUE: &str = "true";

/// Setting: the value that was last mirrored with the backup target.
pub const ANNOTATION_LAST_MIRRORED: &str = "drover.io/last-mirrored-value";
/// BackupTarget: the user's word that the store with this id (`none`: the one without an id) is the right one from now on.
pub const ANNOTATION_CONFIRM_STORE: &str = "drover.io/confirm-store-id";

/// The backup target that always exists.
pub const DEFAULT_BACKUP_TARGET: &str = "default";
/// The group of volumes that no job label names.
pub const DEFAULT_JOB_GROUP: &str = "default";

const JOB_LABEL_PREFIX: &str = "recurring-job.longhorn.io/";
const GROUP_LABEL_PREFIX: &str = "recurring-job-group.longhorn.io/";

/// Volume: the label that gives it the job.
pub fn job_label(job: &str) -> String {
    format!("{JOB_LABEL_PREFIX}{job}")
}

/// Volume: the label that gives it the jobs of the group.
pub fn group_label(group: &str) -> String {
    format!("{GROUP_LABEL_PREFIX}{group}")
}

/// The job that a volume's label names.
pub fn job_of_label(label: &str) -> Option<&str> {
    // The source label of a PVC has the same prefix and names no job.
    label.strip_prefix(JOB_LABEL_PREFIX).filter(|job| *job != "source")
}

/// The job group that a volume's label names.
pub fn group_of_label(label: &str) -> Option<&str> {
    label.strip_prefix(GROUP_LABEL_PREFIX)
}

/// The names of what one run of a job makes for one volume: the same whoever computes them, so that making them twice is no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNames {
    /// `snapshot-{16 hex}`
    pub snapshot: String,
    /// `backup-{16 hex}`
    pub backup: String,
}

/// Names by (job, volume, scheduled instant). Uids, not names: an object made anew under an old name has runs of its own.
pub fn run_names(job_uid: &str, volume_uid: &str, scheduled: Timestamp) -> RunNames {
    let digest = hex::encode(Sha256::digest(format!("{job_uid}\n{volume_uid}\n{scheduled}")));
    RunNames { snapshot: format!("snapshot-{}", &digest[..16]), backup: format!("backup-{}", &digest[..16]) }
}

/// The name of a volume's BackupVolume: `<volume>-<8 hex of sha256("<volume>-<target>")>`, as Longhorn has named them since it knows several targets.
pub fn backup_volume_name(volume: &str, target: &str) -> String {
    let digest = hex::encode(Sha256::digest(format!("{volume}-{target}")));
    format!("{volume}-{}", &digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_name_and_every_other_run_another() {
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        let names = run_names("job", "volume", at(1_767_789_240));
        // printf 'job\nvolume\n2026-01-07T12:34:00Z' | sha256sum
        assert_eq!(
            names,
            RunNames { snapshot: "snapshot-3fef198bf1dceaaf".to_owned(), backup: "backup-3fef198bf1dceaaf".to_owned() }
        );
        assert_eq!(names, run_names("job", "volume", at(1_767_789_240)));
        for other in [
            run_names("job2", "volume", at(1_767_789_240)),
            run_names("job", "volume2", at(1_767_789_240)),
            run_names("job", "volume", at(1_767_789_300)),
            run_names("jobvolume", "", at(1_767_789_240)),
        ] {
            assert_ne!(names, other);
        }
    }

    #[test]
    fn a_backup_volume_is_named_as_longhorn_names_it() {
        // printf 'pvc-1-default' | sha256sum
        assert_eq!(backup_volume_name("pvc-1", "default"), "pvc-1-5e6cec46");
    }

    #[test]
    fn job_labels_read_back() {
        assert_eq!(job_of_label(&job_label("nightly")), Some("nightly"));
        assert_eq!(group_of_label(&group_label("db")), Some("db"));
        assert_eq!(job_of_label("recurring-job.longhorn.io/source"), None);
        assert_eq!(job_of_label(&group_label("db")), None);
    }
}

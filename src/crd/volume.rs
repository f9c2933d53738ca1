//! Volume: a block device whose bytes live on one node.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::{BackupBlockSize, CompressionMethod};
use super::condition::Condition;
use super::names::DEFAULT_BACKUP_TARGET;
use super::quantity::Bytes;
use super::string_enum::string_enum;
use super::time::Time;
use super::{Other, is_false, is_zero, rules};

string_enum! {
    /// What the volume looks like on its node.
    closed Frontend {
        /// A block device.
        #[default]
        Blockdev = "blockdev" | "",
        /// An iSCSI target.
        Iscsi = "iscsi",
        /// An NVMe-oF target.
        Nvmf = "nvmf",
        /// A user-space block device.
        Ublk = "ublk",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// Who may use the volume at once.
    closed AccessMode {
        /// One node.
        #[default]
        Rwo = "rwo" | "",
        /// One pod.
        Rwop = "rwop",
        /// Many nodes.
        Rwx = "rwx",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// Longhorn's data engine; the same engine serves both here.
    closed DataEngine {
        /// v1
        #[default]
        V1 = "v1" | "",
        /// v2
        V2 = "v2",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// A choice for one volume over a setting for all.
    closed Switch {
        /// As the setting says.
        #[default]
        Ignored = "ignored" | "",
        /// Yes.
        Enabled = "enabled",
        /// No.
        Disabled = "disabled",
    } else
        /// Another value.
        Unknown = "unknown"
}

/// Whether a restored volume gets the jobs that are stored with its backup.
pub type RestoreRecurringJob = Switch;

string_enum! {
    /// What is done with the volume.
    open VolumeState {
        /// It is being made.
        #[default]
        Creating = "creating",
        /// Its device is there.
        Attached = "attached",
        /// It has no device.
        Detached = "detached",
        /// Its device is being made.
        Attaching = "attaching",
        /// Its device is being taken away.
        Detaching = "detaching",
        /// It is being removed.
        Deleting = "deleting",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// How safe the volume's content is.
    open Robustness {
        /// As many copies as asked for.
        Healthy = "healthy",
        /// Fewer copies than asked for.
        Degraded = "degraded",
        /// The content cannot be used.
        Faulted = "faulted",
    } else
        /// Nobody has looked.
        #[default]
        Unknown = "unknown"
}

/// What the volume should be.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "Volume",
    plural = "volumes",
    shortname = "lhv",
    namespaced,
    status = "VolumeStatus",
    derive = "Default",
    derive = "PartialEq",
    validation = rules::object_name(2, 63),
    doc = "A block device whose bytes live on one node.",
    printcolumn(
        name = "Data Engine",
        type_ = "string",
        json_path = ".spec.dataEngine",
        description = "Longhorn's data engine",
        priority = 1
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "What is done with it"),
    printcolumn(
        name = "Robustness",
        type_ = "string",
        json_path = ".status.robustness",
        description = "How safe its content is"
    ),
    printcolumn(
        name = "Scheduled",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Scheduled')].status",
        description = "Whether a node holds it"
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.size", description = "Bytes"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.currentNodeID", description = "Where it is attached"),
    printcolumn(
        name = "LastBackupAt",
        type_ = "string",
        json_path = ".status.lastBackupAt",
        description = "When its newest backup was made"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::volume::size_given(),
    validation = rules::volume::never_shrinks(),
    validation = rules::immutable("fromBackup"),
    validation = rules::block_size_set_once()
)]
pub struct VolumeSpec {
    /// Bytes, as a string. Can grow, never shrink. With `fromBackup`, the backup's when empty.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    #[x_kube(validation = rules::volume::bytes("size"))]
    pub size: Bytes,
    /// Copies asked for. One is kept; above it the volume works and is `degraded`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 20))]
    pub number_of_replicas: i64,
    /// What it looks like on its node.
    #[serde(default, skip_serializing_if = "Frontend::is_default")]
    #[x_kube(validation = rules::volume::frontend())]
    pub frontend: Frontend,
    /// URL of the backup that the content comes from. Cannot be changed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::volume::backup_url())]
    pub from_backup: String,
    /// Whether a restored volume gets the jobs that are stored with its backup; never here.
    #[serde(default, skip_serializing_if = "Switch::is_default")]
    #[x_kube(validation = rules::volume::no_restored_jobs())]
    pub restore_volume_recurring_job: RestoreRecurringJob,
    /// Another volume or snapshot that the content comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = rules::volume::no_source("dataSource"))]
    pub data_source: String,
    /// Whether it follows a backup volume of another cluster.
    #[serde(default, rename = "Standby", skip_serializing_if = "is_false")]
    #[x_kube(validation = rules::volume::not_standby())]
    pub standby: bool,
    /// The node to attach it to; empty is detached.
    #[serde(default, rename = "nodeID", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub node_id: String,
    /// Longhorn's, in minutes; not used here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stale_replica_timeout: i64,
    /// Who may use it at once.
    #[serde(default, skip_serializing_if = "AccessMode::is_default")]
    pub access_mode: AccessMode,
    /// The target of its backups.
    #[serde(default = "default_backup_target")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::required("backupTargetName"))]
    pub backup_target_name: String,
    /// How its backups are compressed.
    #[serde(default, skip_serializing_if = "CompressionMethod::is_default")]
    pub backup_compression_method: CompressionMethod,
    /// Block size of its backups in bytes. Cannot be changed once set.
    #[serde(default, skip_serializing_if = "BackupBlockSize::is_default")]
    pub backup_block_size: BackupBlockSize,
    /// How many snapshots it may have: 2 to 250; 0 is the setting's.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 250))]
    #[x_kube(validation = rules::volume::snapshot_max_count())]
    pub snapshot_max_count: i64,
    /// Longhorn's limit of the bytes of its snapshots; only 0, no limit, is served here.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    #[x_kube(validation = rules::volume::no_snapshot_max_size())]
    pub snapshot_max_size: Bytes,
    /// Whether a mounted file system is frozen for the instant of a snapshot. `ignored` is the setting's, and yes where there is none.
    #[serde(default, skip_serializing_if = "Switch::is_default")]
    pub freeze_filesystem_for_snapshot: Switch,
    /// Longhorn's data engine; the same engine serves both here.
    #[serde(default, skip_serializing_if = "DataEngine::is_default")]
    pub data_engine: DataEngine,
    /// Whether the content is encrypted.
    #[serde(default, skip_serializing_if = "is_false")]
    #[x_kube(validation = rules::volume::not_encrypted())]
    pub encrypted: bool,
    /// The backing image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::volume::no_source("backingImage"))]
    pub backing_image: String,
    /// Tags that the node must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selector: Vec<String>,
    /// Tags that the disk must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_selector: Vec<String>,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

fn one() -> i64 {
    1
}

fn default_backup_target() -> String {
    DEFAULT_BACKUP_TARGET.to_owned()
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self {
            size: Bytes::default(),
            number_of_replicas: one(),
            frontend: Frontend::default(),
            from_backup: String::new(),
            restore_volume_recurring_job: Switch::default(),
            data_source: String::new(),
            standby: false,
            node_id: String::new(),
            stale_replica_timeout: 0,
            access_mode: AccessMode::default(),
            backup_target_name: default_backup_target(),
            backup_compression_method: CompressionMethod::default(),
            backup_block_size: BackupBlockSize::default(),
            snapshot_max_count: 0,
            snapshot_max_size: Bytes::default(),
            freeze_filesystem_for_snapshot: Switch::default(),
            data_engine: DataEngine::default(),
            encrypted: false,
            backing_image: String::new(),
            node_selector: Vec::new(),
            disk_selector: Vec::new(),
            other: Other::new(),
        }
    }
}

/// What the volume is.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// creating, attached, detached, attaching, detaching or deleting.
    #[serde(default)]
    pub state: VolumeState,
    /// healthy, degraded, faulted or unknown.
    #[serde(default)]
    pub robustness: Robustness,
    /// Where it is attached.
    #[serde(default, rename = "currentNodeID", skip_serializing_if = "String::is_empty")]
    pub current_node_id: String,
    /// What it is like now.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Its newest backup.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_backup: String,
    /// When its newest backup was made.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_backup_at: Time,
    /// Whether its content still has to come from a backup.
    #[serde(default)]
    pub restore_required: bool,
    /// Whether that has begun.
    #[serde(default)]
    pub restore_initiated: bool,
    /// Whether it follows a backup volume of another cluster.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_standby: bool,
    /// Bytes it takes in the pool, snapshots included.
    #[serde(default)]
    pub actual_size: i64,
    /// The workload that uses it.
    #[serde(default)]
    pub kubernetes_status: KubernetesStatus,
    /// Whether it is attached without a device.
    #[serde(default, skip_serializing_if = "is_false")]
    pub frontend_disabled: bool,
    /// Longhorn's; not used here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub share_endpoint: String,
    /// The process that wrote this last.
    #[serde(default, rename = "ownerID", skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// The block device on its node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device_path: String,
    /// How far the restore is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RestoreProgress")]
    pub restore_progress: Option<RestoreProgress>,
}

/// How far a restore is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreProgress {
    /// The backup it comes from.
    #[serde(default)]
    pub backup: String,
    /// Percent, 0 to 100.
    #[serde(default)]
    pub progress: i64,
    /// Bytes written so far.
    #[serde(default)]
    pub bytes_restored: i64,
    /// Bytes there are to write.
    #[serde(default)]
    pub bytes_total: i64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The workload that uses a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesStatus {
    /// PersistentVolume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pv_name: String,
    /// Its phase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pv_status: String,
    /// Namespace of the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pvc_name: String,
    /// When a claim was last seen.
    #[serde(default, rename = "lastPVCRefAt", skip_serializing_if = "Time::is_unset")]
    pub last_pvc_ref_at: Time,
    /// Pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads_status: Vec<WorkloadStatus>,
    /// When a pod was last seen.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_pod_ref_at: Time,
}

/// One pod that uses a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// The pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
    /// Its phase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_status: String,
    /// What the pod belongs to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload_name: String,
    /// The kind of that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload_type: String,
}

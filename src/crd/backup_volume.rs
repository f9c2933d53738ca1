//! BackupVolume: what one store holds of one volume.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::quantity::Bytes;
use super::time::Time;
use super::{Map, Other, rules};

/// Which volume in which store.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "BackupVolume",
    plural = "backupvolumes",
    shortname = "lhbv",
    namespaced,
    status = "BackupVolumeStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What one backupstore holds of one volume.",
    printcolumn(name = "BackupTarget", type_ = "string", json_path = ".spec.backupTargetName", description = "The store"),
    printcolumn(name = "CreatedAt", type_ = "string", json_path = ".status.createdAt", description = "When the volume was made"),
    printcolumn(
        name = "LastBackupName",
        type_ = "string",
        json_path = ".status.lastBackupName",
        description = "The newest backup in the store"
    ),
    printcolumn(
        name = "LastBackupAt",
        type_ = "string",
        json_path = ".status.lastBackupAt",
        description = "When the newest backup was made"
    ),
    printcolumn(
        name = "LastSyncedAt",
        type_ = "string",
        json_path = ".status.lastSyncedAt",
        description = "When it was last compared with the store"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::immutable("backupTargetName"), validation = rules::immutable("volumeName"))]
pub struct BackupVolumeSpec {
    /// The backup target.
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::required("backupTargetName"))]
    pub backup_target_name: String,
    /// The volume, as the store names it.
    #[schemars(length(max = 250))]
    #[x_kube(validation = rules::required("volumeName"))]
    pub volume_name: String,
    /// A new time here asks for a comparison with the store.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    #[schemars(extend("format" = "date-time"))]
    pub sync_requested_at: Time,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

/// What the store says about the volume.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupVolumeStatus {
    /// The volume's size in bytes.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    pub size: Bytes,
    /// Blocks in the store times their size.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    pub data_stored: Bytes,
    /// When the volume was made.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub created_at: Time,
    /// The newest backup.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_backup_name: String,
    /// When the newest backup was made.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_backup_at: Time,
    /// When the volume's config in the store last changed.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_modification_time: Time,
    /// When it was last compared with the store.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_synced_at: Time,
    /// Labels stored with the volume.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub labels: Map,
    /// For people: what could not be read.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub messages: Map,
    /// The volume's backing image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backing_image_name: String,
    /// That image's checksum.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backing_image_checksum: String,
    /// The storage class that the volume was made with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub storage_class_name: String,
    /// The process that wrote this last.
    #[serde(default, rename = "ownerID", skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
}

//! Snapshot: a volume's content at one instant, on its node.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::time::Time;
use super::{Map, Other, is_false, is_zero, rules};

/// What to take a snapshot of.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "Snapshot",
    plural = "snapshots",
    shortname = "lhsnap",
    namespaced,
    status = "SnapshotStatus",
    derive = "Default",
    derive = "PartialEq",
    validation = rules::object_name(2, 250),
    doc = "A volume's content at one instant.",
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.volume", description = "Its volume"),
    printcolumn(
        name = "CreationTime",
        type_ = "string",
        json_path = ".status.creationTime",
        description = "The instant it shows"
    ),
    printcolumn(
        name = "ReadyToUse",
        type_ = "boolean",
        json_path = ".status.readyToUse",
        description = "Whether it can be used"
    ),
    printcolumn(
        name = "RestoreSize",
        type_ = "string",
        json_path = ".status.restoreSize",
        description = "Bytes of a volume made from it"
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size", description = "Bytes it takes in the pool"),
    printcolumn(
        name = "Stall",
        type_ = "integer",
        json_path = ".status.stallMilliseconds",
        description = "The longest wait of the volume's I/O for it, in milliseconds",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::immutable("volume"))]
pub struct SnapshotSpec {
    /// The volume. Cannot be changed.
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::required("volume"))]
    pub volume: String,
    /// Whether to take one now; false is an object for a snapshot that is there already.
    #[serde(default)]
    pub create_snapshot: bool,
    /// Labels that are kept with the snapshot.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub labels: Map,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

/// What the pool holds of it.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Longhorn's; empty here, where each snapshot is whole by itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// Longhorn's; empty here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub children: BTreeMap<String, bool>,
    /// Whether it is being removed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mark_removed: bool,
    /// Whether a user or a schedule asked for it.
    #[serde(default)]
    pub user_created: bool,
    /// The instant it shows.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub creation_time: Time,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub requested_time: Time,
    /// Bytes it takes in the pool, shared ones included.
    #[serde(default)]
    pub size: i64,
    /// Bytes of a volume made from it.
    #[serde(default)]
    pub restore_size: i64,
    /// Labels kept with it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub labels: Map,
    /// Whether it can be used.
    #[serde(default)]
    pub ready_to_use: bool,
    /// Longhorn's; not used here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checksum: String,
    /// Longhorn's; not used here.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub checksum_calculated_at: Time,
    /// Why it could not be taken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The process that wrote this last.
    #[serde(default, rename = "ownerID", skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// Random id made with it: names can be used twice, this cannot.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot_id: String,
    /// The longest time the volume's I/O can have waited for it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stall_milliseconds: i64,
    /// Whether a mounted file system was frozen for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub frozen: bool,
}

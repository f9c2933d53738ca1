//! Node: one machine's pool and agent.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Other;
use super::condition::Condition;
use super::string_enum::string_enum;
use super::time::Time;

string_enum! {
    /// What a disk is.
    closed DiskType {
        /// A folder in a file system.
        #[default]
        Filesystem = "filesystem" | "",
        /// A block device.
        Block = "block",
    } else
        /// Another value.
        Unknown = "unknown"
}

/// How a node may be used.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "Node",
    plural = "nodes",
    shortname = "lhn",
    namespaced,
    status = "NodeStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "One machine's pool of volumes, and its agent.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether the agent is well"
    ),
    printcolumn(
        name = "AllowScheduling",
        type_ = "boolean",
        json_path = ".spec.allowScheduling",
        description = "Whether new volumes may be placed here"
    ),
    printcolumn(
        name = "Schedulable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Schedulable')].status",
        description = "Whether new volumes can be placed here"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The node's name; the object's when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Disks by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks: BTreeMap<String, DiskSpec>,
    /// Whether new volumes may be placed here.
    #[serde(default = "yes")]
    pub allow_scheduling: bool,
    /// Longhorn's; not used here.
    #[serde(default)]
    pub eviction_requested: bool,
    /// For `nodeSelector` of volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

fn yes() -> bool {
    true
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            disks: BTreeMap::new(),
            allow_scheduling: true,
            eviction_requested: false,
            tags: Vec::new(),
            other: Other::new(),
        }
    }
}

/// One disk.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// What it is.
    #[serde(default, skip_serializing_if = "DiskType::is_default")]
    pub disk_type: DiskType,
    /// Where it is.
    #[serde(default)]
    pub path: String,
    /// Whether new volumes may be placed on it.
    #[serde(default)]
    pub allow_scheduling: bool,
    /// Longhorn's; not used here.
    #[serde(default)]
    pub eviction_requested: bool,
    /// Bytes that are kept free of volumes.
    #[serde(default)]
    pub storage_reserved: i64,
    /// For `diskSelector` of volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

/// What the agent says about its node.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// What it is like now.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Disks by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk_status: BTreeMap<String, DiskStatus>,
    /// When the agent last said that it lives.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_heartbeat_at: Time,
    /// Region, by the Kubernetes node's label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Zone, by the Kubernetes node's label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// One disk's state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// Bytes left for new data.
    #[serde(default)]
    pub storage_available: i64,
    /// Bytes of all volumes placed on it, as their guests see them.
    #[serde(default)]
    pub storage_scheduled: i64,
    /// Bytes of the file system.
    #[serde(default)]
    pub storage_maximum: i64,
    /// The file system's id.
    #[serde(default, rename = "diskUUID", skip_serializing_if = "String::is_empty")]
    pub disk_uuid: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub disk_path: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "DiskType::is_default")]
    #[schemars(with = "String")]
    pub disk_type: DiskType,
    /// `xfs` or `btrfs`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filesystem_type: String,
    /// Volumes placed on it, with their sizes in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scheduled_replica: BTreeMap<String, i64>,
    /// What it is like now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

//! BackupTarget: a store and how to reach it.

use std::time::Duration;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::quantity::GoDuration;
use super::time::Time;
use super::{Other, rules};

/// Where the store is.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "BackupTarget",
    plural = "backuptargets",
    shortname = "lhbt",
    namespaced,
    status = "BackupTargetStatus",
    derive = "Default",
    derive = "PartialEq",
    validation = rules::object_name(1, 63),
    doc = "A backupstore and how to reach it. The one named default always exists.",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.backupTargetURL", description = "Where the store is"),
    printcolumn(
        name = "Credential",
        type_ = "string",
        json_path = ".spec.credentialSecret",
        description = "The Secret that holds the credentials"
    ),
    printcolumn(
        name = "PollInterval",
        type_ = "string",
        json_path = ".spec.pollInterval",
        description = "How often the store is read"
    ),
    printcolumn(name = "Available", type_ = "boolean", json_path = ".status.available", description = "Whether it can be used"),
    printcolumn(
        name = "LastSyncedAt",
        type_ = "string",
        json_path = ".status.lastSyncedAt",
        description = "When the store was last read"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct BackupTargetSpec {
    /// For example `s3://backupbucket@us-east-1/`; empty is no store.
    #[serde(default, rename = "backupTargetURL")]
    #[schemars(length(max = 1024))]
    #[x_kube(
        validation = rules::backup_target::no_blank(),
        validation = rules::backup_target::known_protocol(),
        validation = rules::backup_target::bucket(),
        validation = rules::backup_target::region(),
        validation = rules::backup_target::final_slash(),
        validation = rules::backup_target::characters(),
        validation = rules::backup_target::parts(),
        validation = rules::backup_target::absolute(),
        validation = rules::backup_target::nfs_form()
    )]
    pub backup_target_url: String,
    /// Name of the Secret with the credentials, in the same namespace.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::backup_target::secret_name())]
    pub credential_secret: String,
    /// How often the store is read, such as `5m0s`; `0` is never.
    #[serde(default = "default_poll_interval")]
    #[x_kube(validation = rules::go_duration("pollInterval"))]
    pub poll_interval: GoDuration,
    /// A new time here asks for the store to be read now.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    #[schemars(extend("format" = "date-time"))]
    pub sync_requested_at: Time,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

fn default_poll_interval() -> GoDuration {
    GoDuration(Duration::from_secs(300))
}

impl Default for BackupTargetSpec {
    fn default() -> Self {
        Self {
            backup_target_url: String::new(),
            credential_secret: String::new(),
            poll_interval: default_poll_interval(),
            sync_requested_at: Time::UNSET,
            other: Other::new(),
        }
    }
}

/// Whether the store can be used.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupTargetStatus {
    /// Whether it can be used.
    #[serde(default)]
    pub available: bool,
    /// Type `Unavailable` says why not, and what to do about it.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// When the store was last read.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_synced_at: Time,
    /// The process that wrote this last.
    #[serde(default, rename = "ownerID", skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// The id that the store's marker carries.
    #[serde(default, rename = "storeID", skip_serializing_if = "String::is_empty")]
    pub store_id: String,
    /// The URL at which that store was found.
    #[serde(default, rename = "storeURL", skip_serializing_if = "String::is_empty")]
    pub store_url: String,
    /// The `syncRequestedAt` that was last answered.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub sync_answered_at: Time,
}

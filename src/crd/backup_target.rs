//! BackupTarget: a store and how to reach it.

use std::time::Duration;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::quantity::GoDuration;
use super::time::Time;
use super::{Other, rules};
use crate::backupstore::target_url::{Target, TargetUrlError};

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
        validation = rules::backup_target::no_folder(),
        validation = rules::backup_target::no_nfs(),
        validation = rules::backup_target::known_protocol(),
        validation = rules::backup_target::bucket(),
        validation = rules::backup_target::region(),
        validation = rules::backup_target::final_slash(),
        validation = rules::backup_target::characters(),
        validation = rules::backup_target::parts()
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

/// The place that the URL of a BackupTarget names, else what to write instead.
///
/// Of the places that the command line takes, a folder is refused: every node has a folder of its own, so that the manager would find an
/// empty store where the agents wrote backups.
pub fn parse_target_url(url: &str) -> Result<Target, String> {
    match url.parse::<Target>() {
        Ok(target @ Target::S3 { .. }) => Ok(target),
        Ok(Target::File { .. }) | Err(TargetUrlError::NotAbsolute { .. }) => {
            Err(format!("target URL {url:?} names a folder, and every node has its own: {}", rules::backup_target::ALLOWED))
        }
        Err(TargetUrlError::UnsupportedScheme { scheme, .. }) if scheme == "nfs" => {
            Err(format!("target URL {url:?}: nfs is not served yet: {}", rules::backup_target::ALLOWED))
        }
        Err(TargetUrlError::UnsupportedScheme { scheme, .. }) => {
            Err(format!("target URL {url:?} has the unsupported protocol {scheme:?}: {}", rules::backup_target::ALLOWED))
        }
        Err(TargetUrlError::NoScheme { .. }) => {
            Err(format!("target URL {url:?} has no protocol: {}", rules::backup_target::ALLOWED))
        }
        Err(TargetUrlError::MissingBucket { .. }) => {
            Err(format!("target URL {url:?} names no bucket: {}", rules::backup_target::ALLOWED))
        }
        Err(error) => Err(error.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_place_that_every_node_shares_and_a_refusal_says_which_are() {
        assert!(parse_target_url("s3://backupbucket@us-east-1/").is_ok());
        for (url, why) in [
            ("file:///var/backups/", "every node has its own"),
            ("file://server/folder/", "every node has its own"),
            ("nfs://server:/path", "nfs is not served yet"),
            ("gs://bucket/", "unsupported protocol \"gs\""),
            ("backupbucket", "no protocol"),
            ("s3://@us-east-1/", "names no bucket"),
        ] {
            let words = parse_target_url(url).expect_err(url);
            assert!(words.contains(why) && words.ends_with(rules::backup_target::ALLOWED), "{words}");
            assert!(words.contains(url) && !words.contains("file:///folder/"), "{words}");
        }
        let words = parse_target_url("s3://backupbucket@us-east-1").expect_err("no slash");
        assert!(words.contains("write s3://backupbucket@us-east-1/"), "{words}");
    }
}

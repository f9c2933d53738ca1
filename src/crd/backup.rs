//! Backup: one snapshot's content in a store.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::quantity::Bytes;
use super::string_enum::string_enum;
use super::time::Time;
use super::{Map, Other, is_zero, rules};

string_enum! {
    /// What a backup reads.
    closed BackupMode {
        /// What changed since the newest backup of the volume.
        #[default]
        Incremental = "incremental" | "",
        /// Everything; blocks in the store are written anew.
        Full = "full",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// Size of the blocks in the store.
    closed BackupBlockSize {
        /// The volume's, or else the setting's.
        #[default]
        Inherit = "-1" | "",
        /// 2 MiB.
        Mi2 = "2097152",
        /// 16 MiB.
        Mi16 = "16777216",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// How blocks are compressed in the store.
    closed CompressionMethod {
        /// The setting's.
        #[default]
        Inherit = "",
        /// LZ4 frames.
        Lz4 = "lz4",
        /// Gzip.
        Gzip = "gzip",
        /// Not at all.
        None = "none",
    } else
        /// Another value.
        Unknown = "unknown"
}

string_enum! {
    /// How far a backup is.
    open BackupState {
        /// Nobody has looked at it.
        #[default]
        New = "",
        /// It waits: for its snapshot, its target or the store's lock.
        Pending = "Pending",
        /// Its data moves.
        InProgress = "InProgress",
        /// It is whole in the store. Stays so.
        Completed = "Completed",
        /// It failed. Stays so.
        Error = "Error",
        /// Its data is being removed from the store.
        Deleting = "Deleting",
    } else
        /// Not known.
        Unknown = "Unknown"
}

impl BackupState {
    /// Whether the transfer is over, well or badly.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }

    /// Whether a backup in this state may go on to `next`; staying is always allowed.
    ///
    /// A finished backup never moves again except to be deleted: looking at it once more must not turn a good backup into a failed one. Data that
    /// moves may have to wait once more, since an agent that comes back takes the store's lock anew.
    pub const fn can_become(self, next: Self) -> bool {
        use BackupState::{Completed, Deleting, Error, InProgress, New, Pending, Unknown};
        match (self, next) {
            (New, New)
            | (Pending, Pending)
            | (InProgress, InProgress)
            | (Completed, Completed)
            | (Error, Error)
            | (Deleting, Deleting)
            | (Unknown, _) => true,
            (Deleting, _) | (_, New | Unknown) => false,
            (_, Deleting) => true,
            (Completed | Error, _) => false,
            (New | Pending | InProgress, Pending | InProgress | Completed | Error) => true,
        }
    }
}

string_enum! {
    /// What a backup in progress is doing.
    open BackupPhase {
        /// Nothing yet, or nothing any more.
        #[default]
        None = "",
        /// Finding out which ranges changed.
        Scanning = "Scanning",
        /// Waiting for the store's lock.
        Locking = "Locking",
        /// Reading, and sending what the store lacks.
        Uploading = "Uploading",
        /// Writing the backup's config.
        Committing = "Committing",
    } else
        /// Another value.
        Unknown = "Unknown"
}

/// What to back up.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "longhorn.io",
    version = "v1beta2",
    kind = "Backup",
    plural = "backups",
    shortname = "lhb",
    namespaced,
    status = "BackupStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "One snapshot's content in a backupstore.",
    validation = rules::object_name(2, 243),
    printcolumn(
        name = "SnapshotName",
        type_ = "string",
        json_path = ".status.snapshotName",
        description = "The snapshot it was made from"
    ),
    printcolumn(name = "SnapshotSize", type_ = "string", json_path = ".status.size", description = "Bytes of the backup"),
    printcolumn(
        name = "SnapshotCreatedAt",
        type_ = "string",
        json_path = ".status.snapshotCreatedAt",
        description = "When the snapshot was taken"
    ),
    printcolumn(
        name = "BackupTarget",
        type_ = "string",
        json_path = ".status.backupTargetName",
        description = "Where it is kept"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "How far it is"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress", description = "Percent", priority = 1),
    printcolumn(
        name = "LastSyncedAt",
        type_ = "string",
        json_path = ".status.lastSyncedAt",
        description = "When it was last compared with the store"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::immutable("snapshotName"),
    validation = rules::backup::mode_stays(),
    validation = rules::block_size_set_once()
)]
pub struct BackupSpec {
    /// The snapshot to back up. Backups that were found in the store have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub snapshot_name: String,
    /// Labels that are stored with the backup.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub labels: Map,
    /// What is read: incremental (what changed) or full (everything, blocks in the store are written anew).
    #[serde(default, skip_serializing_if = "BackupMode::is_default")]
    pub backup_mode: BackupMode,
    /// Block size in bytes; -1 is the volume's.
    #[serde(default, skip_serializing_if = "BackupBlockSize::is_default")]
    pub backup_block_size: BackupBlockSize,
    /// A new time here asks for a comparison with the store.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    #[schemars(extend("format" = "date-time"))]
    pub sync_requested_at: Time,
    /// Fields of Longhorn that are not used here.
    #[serde(flatten)]
    pub other: Other,
}

/// How far a backup is, and what the store holds of it.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// "", Pending, InProgress, Completed, Error, Deleting or Unknown. Completed and Error are final.
    #[serde(default, skip_serializing_if = "BackupState::is_default")]
    pub state: BackupState,
    /// Percent, 0 to 100; never goes down.
    #[serde(default)]
    pub progress: i64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Its URL, as `fromBackup` of a volume takes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The snapshot it was made from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot_name: String,
    /// When that snapshot was taken.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub snapshot_created_at: Time,
    /// When the backup was finished, as the store says.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub backup_created_at: Time,
    /// Bytes of all its blocks.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    pub size: Bytes,
    /// Labels stored with it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub labels: Map,
    /// For people: `info` says what it waits for, `error` what went wrong.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub messages: Map,
    /// The volume it was made from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume_name: String,
    /// That volume's size in bytes.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    pub volume_size: Bytes,
    /// When that volume was made.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub volume_created: Time,
    /// That volume's backing image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume_backing_image_name: String,
    /// When it was last compared with the store.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_synced_at: Time,
    /// lz4, gzip or none.
    #[serde(default, skip_serializing_if = "CompressionMethod::is_default")]
    #[schemars(with = "String")]
    pub compression_method: CompressionMethod,
    /// Bytes that the store did not have.
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    pub newly_upload_data_size: Bytes,
    /// Bytes that the store had and that were written anew (mode full).
    #[serde(default, skip_serializing_if = "Bytes::is_zero")]
    pub re_uploaded_data_size: Bytes,
    /// The target that keeps it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backup_target_name: String,
    /// Longhorn's; not used here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replica_address: String,
    /// The process that wrote this last.
    #[serde(default, rename = "ownerID", skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// Random id of the snapshot: names can be used twice, this cannot.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot_id: String,
    /// When the transfer began.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub started_at: Time,
    /// When the transfer ended, well or badly.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub completed_at: Time,
    /// When the agent last said that it is at work on this.
    #[serde(default, skip_serializing_if = "Time::is_unset")]
    pub last_heartbeat_at: Time,
    /// Bytes read from the volume so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_read: i64,
    /// Bytes there are to read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_total: i64,
    /// Bytes sent to the store so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_uploaded: i64,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "BackupPhase::is_default")]
    pub phase: BackupPhase,
    /// The node that does the transfer.
    #[serde(default, rename = "nodeID", skip_serializing_if = "String::is_empty")]
    pub node_id: String,
}

#[cfg(test)]
mod tests {
    use super::BackupState::{self, Completed, Deleting, Error, InProgress, New, Pending, Unknown};

    #[test]
    fn a_finished_backup_only_moves_to_be_deleted() {
        const MATRIX: [(BackupState, &[BackupState]); 7] = [
            (New, &[New, Pending, InProgress, Completed, Error, Deleting]),
            (Pending, &[Pending, InProgress, Completed, Error, Deleting]),
            (InProgress, &[Pending, InProgress, Completed, Error, Deleting]),
            (Completed, &[Completed, Deleting]),
            (Error, &[Error, Deleting]),
            (Deleting, &[Deleting]),
            (Unknown, &[New, Pending, InProgress, Completed, Error, Deleting, Unknown]),
        ];
        for (from, allowed) in MATRIX {
            for to in BackupState::ALL.iter().copied().chain([Unknown]) {
                assert_eq!(from.can_become(to), allowed.contains(&to), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn terminal_means_completed_or_error() {
        let terminal: Vec<_> = BackupState::ALL.iter().copied().filter(|s| s.is_terminal()).collect();
        assert_eq!(terminal, [Completed, Error]);
    }
}

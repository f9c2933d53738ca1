//! `drover backup ls` and `inspect`: what a store holds.

use std::collections::BTreeMap;

use clap::Args;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use super::output::{OutputArgs, Table, human};
use super::{CredentialArgs, open, volumes};
use crate::backupstore::Store;
use crate::backupstore::list::BackupInfo;
use crate::backupstore::target_url::{BackupUrl, Target};
use crate::names::{BackupName, VolumeName};

/// Configs read at once: one of a large volume takes tens of megabytes.
const PARALLEL: usize = 4;

/// Flags of `drover backup ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only the backups of this volume
    #[arg(long)]
    volume: Option<VolumeName>,
    /// Where the store is: s3://bucket@region/path/ or file:///folder/
    target: Target,
}

/// Flags of `drover backup inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The backup, as `status.url` of a Backup or `drover backup ls` prints it: TARGET?backup=NAME&volume=NAME
    url: BackupUrl,
}

/// One backup, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    volume: String,
    backup: String,
    /// Why it cannot be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
    snapshot_name: String,
    snapshot_created_at: String,
    created_at: String,
    volume_size: u64,
    size: u64,
    newly_uploaded: u64,
    incremental: bool,
    block_size: u64,
    compression: String,
    labels: BTreeMap<String, String>,
    url: String,
}

/// Prints the complete backups of a store, oldest snapshot first within each volume.
pub async fn list(args: ListArgs) -> super::super::Outcome {
    let store = open(&args.target, &args.credentials)?;
    let mut rows = Vec::new();
    for volume in volumes(&store, args.volume).await? {
        rows.extend(backups_of(&store, &args.target, &volume).await?);
    }
    args.output.print(&rows, || {
        let mut table = Table::new(&["VOLUME", "BACKUP", "SNAPSHOT TAKEN", "VOLUME SIZE", "BACKUP SIZE", "UPLOADED", "STATE"]);
        for row in &rows {
            table.row(vec![
                row.volume.clone(),
                row.backup.clone(),
                row.snapshot_created_at.clone(),
                human(row.volume_size),
                human(row.size),
                human(row.newly_uploaded),
                row.damaged.clone().map_or_else(|| "Completed".to_owned(), |reason| format!("Damaged: {reason}")),
            ]);
        }
        table
    })
}

async fn backups_of(store: &Store, target: &Target, volume: &VolumeName) -> Result<Vec<Row>, crate::backupstore::Error> {
    let backups = store.list_backups(volume).await?;
    let read = stream::iter(backups).map(|backup| async move {
        match store.backup(volume, &backup).await {
            Ok(info) => Ok(info.map(|info| row(target, volume, &backup, Ok(info)))),
            Err(crate::backupstore::Error::Config { reason, .. }) => Ok(Some(row(target, volume, &backup, Err(reason)))),
            Err(error) => Err(error),
        }
    });
    let rows: Vec<Option<Row>> = read.buffer_unordered(PARALLEL).try_collect().await?;
    let mut rows: Vec<Row> = rows.into_iter().flatten().collect();
    rows.sort_by(|a, b| (&a.snapshot_created_at, &a.backup).cmp(&(&b.snapshot_created_at, &b.backup)));
    Ok(rows)
}

fn row(target: &Target, volume: &VolumeName, backup: &BackupName, info: Result<BackupInfo, String>) -> Row {
    let url = BackupUrl { target: target.clone(), backup: backup.clone(), volume: volume.clone() };
    let (info, damaged) = match info {
        Ok(info) => (info, None),
        Err(reason) => (BackupInfo { config: Default::default(), volume_size: 0, block_size: 0 }, Some(reason)),
    };
    let config = info.config;
    Row {
        volume: volume.to_string(),
        backup: backup.to_string(),
        damaged,
        snapshot_name: config.snapshot_name,
        snapshot_created_at: config.snapshot_created_at,
        created_at: config.created_time,
        volume_size: info.volume_size,
        size: config.data_size,
        newly_uploaded: config.newly_uploaded_data_size,
        incremental: config.is_incremental,
        block_size: info.block_size,
        compression: config.compression_method,
        labels: config.labels.unwrap_or_default(),
        url: url.to_string(),
    }
}

/// Prints everything a store says about one backup.
pub async fn inspect(args: InspectArgs) -> super::super::Outcome {
    let store = open(&args.url.target, &args.credentials)?;
    let BackupUrl { target, backup, volume } = &args.url;
    let info = store
        .backup(volume, backup)
        .await?
        .ok_or_else(|| format!("there is no complete backup {backup} of volume {volume} in {target}"))?;
    let row = row(target, volume, backup, Ok(info));
    args.output.print(&row, || {
        let mut table = Table::new(&["FIELD", "VALUE"]);
        let mut line = |field: &str, value: String| table.row(vec![field.to_owned(), value]);
        line("volume", row.volume.clone());
        line("backup", row.backup.clone());
        line("snapshot", row.snapshot_name.clone());
        line("snapshot taken", row.snapshot_created_at.clone());
        line("completed", row.created_at.clone());
        line("volume size", human(row.volume_size));
        line("backup size", human(row.size));
        line("newly uploaded", human(row.newly_uploaded));
        line("incremental", row.incremental.to_string());
        line("block size", human(row.block_size));
        line("compression", row.compression.clone());
        for (key, value) in &row.labels {
            line(&format!("label {key}"), value.clone());
        }
        line("url", row.url.clone());
        table
    })
}

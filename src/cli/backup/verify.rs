//! `drover backup verify`: proof that backups can be restored, without restoring them.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::output::{OutputArgs, Table};
use super::{CredentialArgs, open, volumes, with_progress};
use crate::backupstore::Store;
use crate::backupstore::progress::Progress;
use crate::backupstore::target_url::Target;
use crate::backupstore::verify::{Depth, Verified};
use crate::names::{BackupName, VolumeName};

/// Flags of `drover backup verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only this volume; without it, every volume of the store
    #[arg(long)]
    volume: Option<VolumeName>,
    /// Only this backup of the volume; can be given more than once
    #[arg(long, requires = "volume")]
    backup: Vec<BackupName>,
    /// Read every block and compare it with its checksum; without it, only that every block is there
    #[arg(long)]
    read_data: bool,
    /// Where the store is: s3://bucket@region/path/ or file:///folder/
    target: Target,
}

/// One backup, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    volume: String,
    backup: String,
    good: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damage: Vec<DamageRow>,
}

/// One block that is lost, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DamageRow {
    checksum: String,
    fault: String,
    /// First byte of the volume and the one behind the last.
    ranges: Vec<(u64, u64)>,
}

/// Verifies and prints a row for each backup; fails when one is damaged.
pub async fn run(args: VerifyArgs) -> super::super::Outcome {
    let store = open(&args.target, &args.credentials)?;
    let depth = if args.read_data { Depth::ReadData } else { Depth::Presence };
    let mut rows = Vec::new();
    for volume in &volumes(&store, args.volume).await? {
        rows.extend(verify(&store, volume, &args.backup, depth).await?);
    }
    args.output.print(&rows, || table(&rows))?;
    let bad = rows.iter().filter(|row| !row.good).count();
    match bad {
        0 => Ok(()),
        bad => Err(format!("{bad} of {} backups cannot be restored whole", rows.len()).into()),
    }
}

async fn verify(
    store: &Store,
    volume: &VolumeName,
    backups: &[BackupName],
    depth: Depth,
) -> Result<Vec<Row>, crate::backupstore::Error> {
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let looks = store.verify(volume, backups, depth, &progress, &cancel);
    let report = with_progress("verifying", progress.clone(), cancel.clone(), looks).await?;
    Ok(report.backups.into_iter().map(|verified| row(volume, verified)).collect())
}

fn row(volume: &VolumeName, verified: Verified) -> Row {
    Row {
        volume: volume.to_string(),
        backup: verified.backup.to_string(),
        good: verified.is_good(),
        unreadable: verified.unreadable,
        damage: verified
            .damage
            .into_iter()
            .map(|damage| DamageRow {
                checksum: damage.checksum.to_string(),
                fault: damage.fault.to_string(),
                ranges: damage.ranges.into_iter().map(|range| (range.start, range.end)).collect(),
            })
            .collect(),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["VOLUME", "BACKUP", "RESULT", "BYTES OF THE VOLUME", "WHAT IS WRONG"]);
    for row in rows {
        let line = |result: &str, ranges: String, fault: String| {
            vec![row.volume.clone(), row.backup.clone(), result.to_owned(), ranges, fault]
        };
        match &row.unreadable {
            Some(reason) => table.row(line("damaged", "all".to_owned(), format!("its config is damaged: {reason}"))),
            None if row.good => table.row(line("good", String::new(), String::new())),
            None => {}
        }
        for damage in &row.damage {
            let ranges: Vec<String> = damage.ranges.iter().map(|(start, end)| format!("{start}..{end}")).collect();
            table.row(line("damaged", ranges.join(" "), format!("block {}: {}", damage.checksum, damage.fault)));
        }
    }
    table
}

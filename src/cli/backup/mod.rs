//! `drover backup`: image files to a store and back, for the night when there is no cluster.

mod create;
mod file;
mod list;
mod output;
mod restore;
mod sidecar;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::backupstore::Store;
use crate::backupstore::credentials::{self, Credentials};
use crate::backupstore::driver;
use crate::backupstore::lock::Timings;
use crate::backupstore::progress::Progress;
use crate::backupstore::target_url::Target;
use crate::names::VolumeName;

/// Label of a backup of an image whose length is no multiple of the block size: that length.
const IMAGE_SIZE: &str = "drover.io/image-size";

/// What can be done with backups from the command line.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back up an image file or block device that nobody writes meanwhile
    Create(create::CreateArgs),
    /// Restore a backup into a new sparse file; an interrupted restore goes on where it was
    Restore(restore::RestoreArgs),
    /// List the complete backups of a store
    Ls(list::ListArgs),
    /// Show everything a store says about one backup
    Inspect(list::InspectArgs),
    /// Prove that backups can be restored, without restoring them; fails when one is damaged and says which bytes are lost
    Verify(verify::VerifyArgs),
}

/// Credentials come from the environment or a file, never from an argument: arguments are seen by every process of the host.
#[derive(Debug, Args)]
struct CredentialArgs {
    /// Folder with one file per key of the credential Secret (as a mounted Secret has them); without it, the environment variables of the same names. Used for s3:// only
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
}

impl CredentialArgs {
    fn read(&self) -> Result<Option<Credentials>, Box<dyn std::error::Error>> {
        let mut values = BTreeMap::new();
        for key in credentials::KEYS {
            let value = match &self.credentials {
                Some(folder) => match std::fs::read(folder.join(key)) {
                    Ok(value) => Some(value),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(format!("failed to read {}: {error}", folder.join(key).display()).into()),
                },
                None => std::env::var_os(key).map(|value| value.into_encoded_bytes()),
            };
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                values.insert(key.to_string(), value);
            }
        }
        if values.is_empty() { Ok(None) } else { Ok(Some(Credentials::parse(&values)?)) }
    }
}

fn open(target: &Target, credentials: &CredentialArgs) -> Result<Store, Box<dyn std::error::Error>> {
    let credentials = match target {
        Target::S3 { .. } => credentials.read()?,
        // A shell's variables, a proxy for instance, are about other things: they must not keep a folder from being read.
        Target::File { .. } => None,
    };
    Ok(Store::new(driver::open(target, credentials.as_ref())?, Timings::default()))
}

/// The one volume that was asked for, or all of the store by name.
async fn volumes(store: &Store, wanted: Option<VolumeName>) -> Result<Vec<VolumeName>, crate::backupstore::Error> {
    let mut volumes = match wanted {
        Some(volume) => vec![volume],
        None => store.list_volumes().await?,
    };
    volumes.sort();
    Ok(volumes)
}

/// Runs a transfer with a progress bar (on a terminal) and stops it cleanly at Ctrl-C.
async fn with_progress<T, E>(
    verb: &'static str,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    transfer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let bar = ProgressBar::new(0).with_message(verb);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    tokio::pin!(transfer);
    let result = loop {
        tokio::select! {
            result = &mut transfer => break result,
            _ = tick.tick() => {
                let seen = progress.snapshot();
                bar.set_length(seen.bytes_total);
                bar.set_position(seen.bytes_done);
            }
            _ = tokio::signal::ctrl_c() => cancel.cancel(),
        }
    };
    bar.finish_and_clear();
    result
}

/// Runs one of the commands.
pub async fn run(command: BackupCommand) -> super::Outcome {
    match command {
        BackupCommand::Create(args) => create::run(args).await,
        BackupCommand::Restore(args) => restore::run(args).await,
        BackupCommand::Ls(args) => list::list(args).await,
        BackupCommand::Inspect(args) => list::inspect(args).await,
        BackupCommand::Verify(args) => verify::run(args).await,
    }
}

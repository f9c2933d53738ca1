//! `drover backup restore`: one backup becomes one image file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::file::ImageSink;
use super::{CredentialArgs, open, with_progress};
use crate::backupstore::progress::Progress;
use crate::backupstore::restore::RestoreRequest;
use crate::backupstore::target_url::BackupUrl;

/// Flags of `drover backup restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    credentials: CredentialArgs,
    /// The backup, as `status.url` of a Backup or `drover backup create` prints it: TARGET?backup=NAME&volume=NAME
    url: BackupUrl,
    /// The file to make
    image: PathBuf,
}

/// Restores the backup; every block's checksum is verified.
pub async fn run(args: RestoreArgs) -> super::super::Outcome {
    let store = open(&args.url.target, &args.credentials)?;
    let config = store
        .backup(&args.url.volume, &args.url.backup)
        .await?
        .ok_or_else(|| format!("there is no backup {} of volume {} in {}", args.url.backup, args.url.volume, args.url.target))?;
    let image = args.image.clone();
    let sink = tokio::task::spawn_blocking(move || ImageSink::create(&image, config.volume_size))
        .await?
        .map_err(|error| format!("failed to make {}: {error}", args.image.display()))?;
    let sink = Arc::new(sink);
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let request = RestoreRequest { volume: args.url.volume, backup: args.url.backup };
    let transfer = store.restore(request, sink.clone(), progress.clone(), cancel.clone());
    with_progress("restoring", progress, cancel, transfer).await?;
    tokio::task::spawn_blocking(move || sink.finish()).await??;
    eprintln!("{} holds the backup, every block's checksum was verified", args.image.display());
    Ok(())
}

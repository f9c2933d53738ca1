//! `drover backup restore`: one backup becomes one image file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::file::ImageSink;
use super::{CredentialArgs, IMAGE_SIZE, open, with_progress};
use crate::backupstore::list::BackupInfo;
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
    let info = store
        .backup(&args.url.volume, &args.url.backup)
        .await?
        .ok_or_else(|| format!("there is no backup {} of volume {} in {}", args.url.backup, args.url.volume, args.url.target))?;
    let (image, size, length) = (args.image.clone(), info.volume_size, image_length(&info));
    let sink = tokio::task::spawn_blocking(move || ImageSink::create(&image, size))
        .await?
        .map_err(|error| format!("failed to make {}: {error}", args.image.display()))?;
    let sink = Arc::new(sink);
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let request = RestoreRequest { volume: args.url.volume, backup: args.url.backup };
    let transfer = store.restore(request, sink.clone(), progress.clone(), cancel.clone());
    with_progress("restoring", progress, cancel, transfer).await?;
    tokio::task::spawn_blocking(move || sink.finish(length)).await??;
    eprintln!("{} holds the backup, every block's checksum was verified", args.image.display());
    Ok(())
}

/// Bytes of the image that was backed up: those of the volume, unless the backup says how many of the last block's are.
fn image_length(info: &BackupInfo) -> u64 {
    let said = info.config.label(IMAGE_SIZE).and_then(|text| text.parse::<u64>().ok());
    said.filter(|length| length.checked_next_multiple_of(info.block_size) == Some(info.volume_size)).unwrap_or(info.volume_size)
}

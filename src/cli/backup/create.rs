//! `drover backup create`: one image file becomes one backup.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::file::ImageSource;
use super::{CredentialArgs, IMAGE_SIZE, open, with_progress};
use crate::backupstore::block::Compression;
use crate::backupstore::create::{BlockSize, CreateRequest, Mode, SnapshotRef, VolumeRef};
use crate::backupstore::io::Source;
use crate::backupstore::progress::Progress;
use crate::backupstore::target_url::{BackupUrl, Target};
use crate::names::{BackupName, SnapshotName, VolumeName};

/// Flags of `drover backup create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Where the store is: s3://bucket@region/path/ or file:///folder/
    #[arg(long, value_name = "URL")]
    target: Target,
    /// The volume's name in the store
    #[arg(long)]
    volume: VolumeName,
    /// The backup's name; without it, backup- and 16 random hex digits
    #[arg(long)]
    name: Option<BackupName>,
    /// How blocks are compressed: lz4, gzip or none
    #[arg(long, default_value = "lz4")]
    compression: Compression,
    /// Size of a block: 2Mi or 16Mi
    #[arg(long, default_value = "2Mi")]
    block_size: BlockSize,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// The image file or block device
    image: PathBuf,
}

/// Backs the image up and prints the backup's URL.
pub async fn run(args: CreateArgs) -> super::super::Outcome {
    let store = open(&args.target, &args.credentials)?;
    let source = ImageSource::open(&args.image, args.block_size.bytes())
        .map_err(|error| format!("failed to open {}: {error}", args.image.display()))?;
    let name = match args.name {
        Some(name) => name,
        None => format!("backup-{}", random_hex::<8>()?).parse::<BackupName>()?,
    };
    let now = Timestamp::now();
    // The volume is as large as its blocks: what of the last one is not the image's is told by this.
    let size = (source.length() != source.size()).then(|| (IMAGE_SIZE.to_owned(), source.length().to_string()));
    let request = CreateRequest {
        volume: VolumeRef {
            name: args.volume.clone(),
            created_at: now,
            labels: Default::default(),
            storage_class: String::new(),
        },
        backup: name.clone(),
        snapshot: SnapshotRef {
            name: format!("image-{}", now.as_second()).parse::<SnapshotName>()?,
            id: random_hex::<16>()?,
            created_at: now,
        },
        block_size: args.block_size,
        compression: args.compression,
        mode: Mode::Incremental,
        labels: size.into_iter().collect(),
        parameters: Default::default(),
    };
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let transfer = store.create(request, Arc::new(source), progress.clone(), cancel.clone());
    let receipt = with_progress("backing up", progress, cancel, transfer).await?;
    eprintln!("{} of data in the backup, {} newly uploaded", bytes(receipt.size), bytes(receipt.newly_uploaded));
    writeln!(std::io::stdout(), "{}", BackupUrl { target: args.target, backup: name, volume: args.volume })?;
    Ok(())
}

fn random_hex<const N: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn bytes(count: u64) -> indicatif::HumanBytes {
    indicatif::HumanBytes(count)
}

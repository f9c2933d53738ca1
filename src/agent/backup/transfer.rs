//! The transfer of one Backup: a snapshot of this node's pool into the store of its target.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::agent::blocking::Volumes;
use crate::agent::io::SnapshotSource;
use crate::agent::measure::Meter;
use crate::agent::target::Opened;
use crate::agent::transfers::Job;
use crate::backupstore::block::Compression;
use crate::backupstore::create::{BlockSize, CreateRequest, Mode, Receipt, SnapshotRef, VolumeRef};
use crate::backupstore::progress::Progress;
use crate::backupstore::target_url::BackupUrl;
use crate::controllers::settings::Settings;
use crate::controllers::stores::Stores;
use crate::controllers::{ApiContext, Context, Error};
use crate::crd::names::{DEFAULT_BACKUP_TARGET, LABEL_ACCESS_MODE, LABEL_BACKUP_TARGET, LABEL_KUBERNETES_STATUS};
use crate::crd::{
    Backup, BackupBlockSize, BackupMode, BackupStatus, BackupTarget, CompressionMethod, KubernetesStatus, Map, Snapshot, Volume,
};
use crate::engine::SnapshotReader;

/// All that is known before the first byte moves.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The BackupTarget.
    pub target_name: String,
    request: CreateRequest,
    limit: usize,
}

/// What a transfer that ended well has to tell.
#[derive(Debug)]
pub struct Outcome {
    /// The store's receipt.
    pub receipt: Receipt,
    /// What `fromBackup` of a volume takes: the place that the bytes went to.
    pub url: BackupUrl,
    /// How its blocks are compressed.
    pub compression: Compression,
    /// Labels stored with it.
    pub labels: Map,
}

/// Resolves names and settings. [`Error::Invalid`] is final: only a new Backup helps.
pub async fn prepare(
    agent: &Agent,
    backup: &Backup,
    status: &BackupStatus,
    snapshot: &Snapshot,
    volume: &Volume,
) -> Result<Plan, Error> {
    let target_name = target_name(backup, status, volume);
    let target = read_target(&agent.context, &target_name).await?;
    // Without a place to go to, the Backup waits and nothing is begun.
    Stores::parse_url(&target)?;
    let taken = snapshot.status.clone().unwrap_or_default();
    let settings = Settings::read(&agent.context).await?;
    let compression = compression(volume.spec.backup_compression_method)
        .or_else(|| compression(settings.backup_compression()))
        .unwrap_or(Compression::Lz4);
    let setting = if settings.backup_block_size() == BlockSize::Mi16.bytes() { BlockSize::Mi16 } else { BlockSize::Mi2 };
    let block_size = block_size(backup, volume, setting, taken.restore_size.unsigned_abs())?;
    let created = volume.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    let request = CreateRequest {
        volume: VolumeRef {
            name: parse(&volume.name_any())?,
            created_at: created,
            labels: Map::new(),
            storage_class: String::new(),
        },
        backup: parse(&backup.name_any())?,
        snapshot: SnapshotRef {
            name: parse(&snapshot.name_any())?,
            id: taken.snapshot_id,
            created_at: taken.creation_time.get().unwrap_or(created),
        },
        block_size,
        compression,
        mode: match backup.spec.backup_mode {
            BackupMode::Full => Mode::Full,
            BackupMode::Incremental | BackupMode::Unknown => Mode::Incremental,
        },
        labels: labels(backup, volume),
        parameters: Map::new(),
    };
    Ok(Plan { target_name, request, limit: settings.transfers_per_node() })
}

fn parse<N: std::str::FromStr<Err = crate::names::InvalidName>>(name: &str) -> Result<N, Error> {
    name.parse().map_err(|error: crate::names::InvalidName| Error::Invalid(error.to_string()))
}

/// What was begun goes on where it began, whatever labels say since.
fn target_name(backup: &Backup, status: &BackupStatus, volume: &Volume) -> String {
    let label = backup.labels().get(LABEL_BACKUP_TARGET).cloned();
    let begun = Some(status.backup_target_name.clone()).filter(|name| !name.is_empty());
    let of_volume = Some(volume.spec.backup_target_name.clone()).filter(|name| !name.is_empty());
    begun.or(label).or(of_volume).unwrap_or_else(|| DEFAULT_BACKUP_TARGET.to_owned())
}

async fn read_target(context: &Context, name: &str) -> Result<BackupTarget, Error> {
    let target = context.api::<BackupTarget>().get_opt(name).await.context(|| format!("read backup target {name}"))?;
    target.ok_or_else(|| Error::Invalid(format!("failed to get backup target {name}: there is none of that name")))
}

fn compression(method: CompressionMethod) -> Option<Compression> {
    match method {
        CompressionMethod::Lz4 => Some(Compression::Lz4),
        CompressionMethod::Gzip => Some(Compression::Gzip),
        CompressionMethod::None => Some(Compression::None),
        CompressionMethod::Inherit | CompressionMethod::Unknown => None,
    }
}

/// The block size for a snapshot of `size` bytes, which must be a multiple of it. Where only the setting asks for a larger one, the
/// volume's size decides: every volume is a multiple of the smaller.
fn block_size(backup: &Backup, volume: &Volume, setting: BlockSize, size: u64) -> Result<BlockSize, Error> {
    let Some((asked, field)) = asked_block_size(backup, volume) else {
        return Ok(if size.is_multiple_of(setting.bytes()) { setting } else { BlockSize::Mi2 });
    };
    if size.is_multiple_of(asked.bytes()) {
        return Ok(asked);
    }
    Err(Error::Invalid(format!(
        "{field} is {}, and the volume has {size} bytes, which is no multiple of it: {} is allowed, or leave the field out",
        asked.bytes(),
        BlockSize::Mi2.bytes()
    )))
}

fn asked_block_size(backup: &Backup, volume: &Volume) -> Option<(BlockSize, &'static str)> {
    let asked = [
        (backup.spec.backup_block_size, "spec.backupBlockSize of the backup"),
        (volume.spec.backup_block_size, "spec.backupBlockSize of the volume"),
    ];
    asked.into_iter().find_map(|(size, field)| match size {
        BackupBlockSize::Mi2 => Some((BlockSize::Mi2, field)),
        BackupBlockSize::Mi16 => Some((BlockSize::Mi16, field)),
        BackupBlockSize::Inherit | BackupBlockSize::Unknown => None,
    })
}

/// What the user wrote, and what Longhorn's clients look for in a stored backup.
fn labels(backup: &Backup, volume: &Volume) -> Map {
    let mut labels = backup.spec.labels.clone();
    labels.entry(LABEL_ACCESS_MODE.to_owned()).or_insert_with(|| volume.spec.access_mode.as_str().to_owned());
    let workload = volume
        .status
        .as_ref()
        .map(|status| &status.kubernetes_status)
        .filter(|workload| **workload != KubernetesStatus::default());
    if let Some(text) = workload.and_then(|workload| serde_json::to_string(workload).ok()) {
        labels.entry(LABEL_KUBERNETES_STATUS.to_owned()).or_insert(text);
    }
    labels
}

/// Moves the bytes in the background; [`crate::agent::transfers::Transfers`] tells how far and how it ended.
pub fn begin(agent: &Agent, backup: &Backup, plan: Plan) {
    let volume = plan.request.volume.name.to_string();
    let uid = backup.meta().uid.clone().unwrap_or_default();
    let job = Job { uid, name: backup.name_any(), volume, limit: plan.limit };
    let (context, engine) = (agent.context.clone(), agent.engine.clone());
    let plan = Arc::new(plan);
    agent.backups.start(job, move |progress, cancel| {
        let (context, engine, plan) = (context.clone(), engine.clone(), plan.clone());
        async move { attempt(&context, &engine, &plan, progress, cancel).await }
    });
}

async fn attempt(
    context: &Context,
    engine: &Volumes,
    plan: &Plan,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<Outcome, Error> {
    // Read anew for each attempt: a corrected Secret or URL takes effect with the next one, and the result names the place it is in.
    let opened = Opened::to_write(context, read_target(context, &plan.target_name).await?).await?;
    let request = plan.request.clone();
    let url = BackupUrl { target: opened.place.clone(), backup: request.backup.clone(), volume: request.volume.name.clone() };
    let (labels, compression) = (request.labels.clone(), request.compression);
    let reader = open_snapshot(engine, &request).await?;
    let meter = Meter::new(context.metrics.clone(), progress.clone());
    let receipt = meter.during(opened.store.create(request, Arc::new(SnapshotSource(reader)), progress, cancel)).await?;
    // Hours may have passed: what was uploaded into a store that was swapped meanwhile is no whole backup there.
    opened.verify().await?;
    Ok(Outcome { receipt, url, compression, labels })
}

async fn open_snapshot(engine: &Volumes, request: &CreateRequest) -> Result<Box<dyn SnapshotReader>, Error> {
    let (volume, snapshot) = (request.volume.name.clone(), request.snapshot.name.clone());
    let reader = engine.call(move |engine| engine.open_snapshot(&volume, &snapshot)).await?;
    if reader.info().id != request.snapshot.id {
        return Err(Error::Invalid(format!(
            "snapshot {} in the pool is another one than its object says",
            request.snapshot.name
        )));
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{BackupSpec, VolumeSpec};

    const MI: u64 = 1 << 20;

    fn chosen(backup: BackupBlockSize, volume: BackupBlockSize, setting: BlockSize, size: u64) -> Result<BlockSize, Error> {
        let backup = Backup::new("b", BackupSpec { backup_block_size: backup, ..BackupSpec::default() });
        let volume = Volume::new("v", VolumeSpec { backup_block_size: volume, ..VolumeSpec::default() });
        block_size(&backup, &volume, setting, size)
    }

    #[test]
    fn the_settings_block_size_is_for_volumes_that_it_divides() {
        use BackupBlockSize::Inherit;
        for (setting, size, wanted) in [
            (BlockSize::Mi16, 32 * MI, BlockSize::Mi16),
            (BlockSize::Mi16, 34 * MI, BlockSize::Mi2),
            (BlockSize::Mi2, 32 * MI, BlockSize::Mi2),
        ] {
            assert_eq!(chosen(Inherit, Inherit, setting, size).ok(), Some(wanted), "{setting:?} {size}");
        }
    }

    #[test]
    fn a_block_size_that_was_asked_for_is_taken_or_refused_with_advice() {
        use BackupBlockSize::{Inherit, Mi2, Mi16};
        assert_eq!(chosen(Mi2, Mi16, BlockSize::Mi16, 34 * MI).ok(), Some(BlockSize::Mi2));
        assert_eq!(chosen(Inherit, Mi16, BlockSize::Mi2, 32 * MI).ok(), Some(BlockSize::Mi16));
        for (backup, volume, field) in [(Mi16, Mi2, "of the backup"), (Inherit, Mi16, "of the volume")] {
            let error = chosen(backup, volume, BlockSize::Mi16, 34 * MI).expect_err("no multiple");
            let words = error.to_string();
            assert!(matches!(error, Error::Invalid(_)), "{words}");
            for part in ["spec.backupBlockSize", field, "16777216", "35651584", "2097152 is allowed"] {
                assert!(words.contains(part), "{part} in {words}");
            }
        }
    }
}

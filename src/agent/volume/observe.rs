//! What is known about a volume: its object, its image, its restore, its newest backup.

use kube::ResourceExt;

use super::plan::{Facts, Image, Restore};
use crate::agent::transfers::{Activity, End, View};
use crate::agent::{Agent, snapshot};
use crate::backupstore::restore::RestoreReceipt;
use crate::controllers::settings::Settings;
use crate::controllers::{Error, meta};
use crate::crd::{BackupState, RestoreProgress, Time, Volume, VolumeState, condition_type, find_condition, reason};
use crate::engine::{PoolSpace, VolumeInfo};
use crate::names::VolumeName;

/// The newest completed backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastBackup {
    pub name: String,
    pub at: Time,
}

/// Everything that a pass looks at.
#[derive(Debug, Clone)]
pub struct Observed {
    pub facts: Facts,
    pub node: String,
    pub generation: Option<i64>,
    /// `None` when the image is not there or could not be looked at.
    pub info: Option<VolumeInfo>,
    pub space: Option<PoolSpace>,
    pub replicas: i64,
    pub from_backup: String,
    pub restore: Option<RestoreView>,
    pub last_backup: Option<LastBackup>,
    /// Snapshots, and how many there may be.
    pub snapshots: (usize, usize),
}

/// The restore, for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreView {
    pub progress: RestoreProgress,
    /// What it waits for, or why the last attempt failed.
    pub words: Option<String>,
    /// It failed for good.
    pub failed: bool,
}

impl Observed {
    /// Where the pool could not be looked at.
    pub fn unknown(agent: &Agent, volume: &Volume) -> Self {
        let facts = facts(agent, volume, None, None);
        gather(agent, volume, facts, None, None, None)
    }
}

/// Looks.
pub async fn observe(agent: &Agent, volume: &Volume) -> Result<Observed, Error> {
    if volume.metadata.deletion_timestamp.is_none() {
        refuse_unsupported(volume)?;
    }
    let name: VolumeName =
        volume.name_any().parse().map_err(|error: crate::names::InvalidName| Error::Invalid(error.to_string()))?;
    let (info, space) = agent.engine.call(move |engine| Ok((engine.volume(&name)?, engine.space()?))).await?;
    let view = volume.metadata.uid.as_deref().and_then(|uid| agent.restores.view(uid));
    let facts = facts(agent, volume, info.as_ref(), view.as_ref());
    if facts.image.is_none() && facts.size == 0 && !facts.deleting {
        return Err(Error::Invalid("spec.size is 0: give the volume's size in bytes, at least 1".to_owned()));
    }
    let restore = view.map(|view| restore_view(volume, &view));
    Ok(gather(agent, volume, facts, info, Some(space), restore))
}

/// A volume that asks for what is not done must not come into being as an empty one.
fn refuse_unsupported(volume: &Volume) -> Result<(), Error> {
    let spec = &volume.spec;
    let (field, value) = if !spec.data_source.is_empty() {
        ("dataSource", spec.data_source.as_str())
    } else if spec.standby {
        ("Standby", "true")
    } else if spec.encrypted {
        ("encrypted", "true")
    } else if !spec.backing_image.is_empty() {
        ("backingImage", spec.backing_image.as_str())
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!(
        "spec.{field} is {value:?}, which is not supported: leave it out, or use spec.fromBackup for the content"
    )))
}

fn facts(agent: &Agent, volume: &Volume, info: Option<&VolumeInfo>, view: Option<&View<RestoreReceipt>>) -> Facts {
    let status = volume.status.as_ref();
    let restore = match view.map(|view| view.end.as_deref()) {
        None => Restore::Idle,
        Some(None) => Restore::Running,
        Some(Some(End::Done(_))) => Restore::Filled,
        Some(Some(End::Failed(_))) => Restore::Failed,
        Some(Some(End::Stopped)) => Restore::Stopped,
    };
    let given_up = status
        .and_then(|status| find_condition(&status.conditions, condition_type::RESTORE))
        .is_some_and(|c| c.reason == reason::RESTORE_FAILURE && c.observed_generation == volume.metadata.generation);
    let name = volume.name_any();
    Facts {
        deleting: volume.metadata.deletion_timestamp.is_some(),
        held: meta::has_finalizer(volume),
        size: volume.spec.size.0,
        wanted_here: volume.spec.node_id == agent.node,
        from_backup: !volume.spec.from_backup.is_empty(),
        lived: status.is_some_and(|status| {
            let whole = matches!(
                status.state,
                VolumeState::Attached | VolumeState::Attaching | VolumeState::Detached | VolumeState::Detaching
            );
            whole && !status.restore_required
        }),
        image: info.map(|info| Image { size: info.size, ready: info.ready, attached: info.attachment.is_some() }),
        restore,
        restore_given_up: given_up,
        transfers: agent.backups.is_busy(&name) || agent.restores.is_busy(&name),
    }
}

fn gather(
    agent: &Agent,
    volume: &Volume,
    facts: Facts,
    info: Option<VolumeInfo>,
    space: Option<PoolSpace>,
    restore: Option<RestoreView>,
) -> Observed {
    let name = volume.name_any();
    let snapshots =
        agent.caches.snapshots.all().iter().filter(|s| s.spec.volume == name && s.metadata.deletion_timestamp.is_none()).count();
    Observed {
        facts,
        node: agent.node.clone(),
        generation: volume.metadata.generation,
        info,
        space,
        replicas: volume.spec.number_of_replicas,
        from_backup: volume.spec.from_backup.clone(),
        restore,
        last_backup: last_backup(agent, &name),
        snapshots: (snapshots, snapshot::limit_of(volume, &Settings::from_objects(agent.caches.settings.all()))),
    }
}

fn last_backup(agent: &Agent, volume: &str) -> Option<LastBackup> {
    let backups = agent.caches.backups.all();
    let completed = backups.iter().filter_map(|backup| {
        let status = backup.status.as_ref()?;
        let good = status.state == BackupState::Completed
            && status.volume_name == volume
            && backup.metadata.deletion_timestamp.is_none();
        good.then(|| LastBackup { name: backup.name_any(), at: status.snapshot_created_at })
    });
    completed.max_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)))
}

fn restore_view(volume: &Volume, view: &View<RestoreReceipt>) -> RestoreView {
    let now = view.progress.snapshot();
    let before = volume.status.as_ref().and_then(|status| status.restore_progress.clone()).unwrap_or_default();
    let mut progress = RestoreProgress {
        backup: volume.spec.from_backup.clone(),
        progress: i64::from(now.percent().min(99)).max(before.progress.min(99)),
        bytes_restored: i64::try_from(now.bytes_done).unwrap_or(i64::MAX),
        bytes_total: i64::try_from(now.bytes_total).unwrap_or(i64::MAX),
        error: String::new(),
    };
    let (words, failed) = match (view.end.as_deref(), &view.activity) {
        (Some(End::Failed(error)), _) => (Some(error.to_string()), true),
        (Some(_), _) | (None, Activity::Moving) => (None, false),
        (None, Activity::Queued) => (Some("waiting for other restores of this node to end".to_owned()), false),
        (None, Activity::Locked(words) | Activity::Retrying(words)) => (Some(words.clone()), false),
    };
    if failed || matches!(view.activity, Activity::Retrying(_)) {
        progress.error = words.clone().unwrap_or_default();
    }
    RestoreView { progress, words, failed }
}

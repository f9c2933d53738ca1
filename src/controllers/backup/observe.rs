//! Reads what a Backup waits for, from the API server and not from a copy: an error is final, so it must not come from an old copy.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::plan::{Facts, SnapshotFact, TargetFact, VolumeFact};
use crate::controllers::backup_target::unusable;
use crate::controllers::{ApiContext, Context, Error};
use crate::crd::names::{DEFAULT_BACKUP_TARGET, LABEL_BACKUP_TARGET, LABEL_BACKUP_VOLUME, LABEL_NODE, LABEL_RECURRING_JOB};
use crate::crd::{Backup, BackupTarget, Snapshot, Volume};

/// What was read.
pub struct Observed {
    snapshot: SnapshotFact,
    volume: VolumeFact,
    target: TargetFact,
    /// The target that the backup goes to.
    pub target_name: String,
}

impl Observed {
    /// The same in terms of the plan.
    pub fn facts<'a>(&'a self, backup: &'a Backup, now: Timestamp) -> Facts<'a> {
        let label = |key| backup.labels().get(key).map(String::as_str).filter(|value| !value.is_empty());
        let created = backup.creation_timestamp().map(|time| time.0).unwrap_or(now);
        Facts {
            snapshot_name: &backup.spec.snapshot_name,
            age: Duration::try_from(now.duration_since(created)).unwrap_or_default(),
            by_job: label(LABEL_RECURRING_JOB).is_some(),
            label_volume: label(LABEL_BACKUP_VOLUME),
            label_target: label(LABEL_BACKUP_TARGET),
            snapshot: self.snapshot.clone(),
            volume: self.volume.clone(),
            target_name: &self.target_name,
            target: self.target.clone(),
        }
    }

    /// The volume, where it is known.
    pub fn volume_name(&self) -> Option<&str> {
        self.snapshot.volume()
    }

    /// Whether the volume is there, so that its target is known too.
    pub fn knows_target(&self) -> bool {
        matches!(self.volume, VolumeFact::Present { .. })
    }
}

/// Reads Snapshot, Volume and BackupTarget: at most three requests.
pub async fn observe(context: &Context, backup: &Backup) -> Result<Observed, Error> {
    let snapshot = snapshot(context, &backup.spec.snapshot_name).await?;
    let volume = match snapshot.volume() {
        Some(name) => volume(context, name).await?,
        None => VolumeFact::Missing,
    };
    let label = backup.labels().get(LABEL_BACKUP_TARGET).filter(|label| !label.is_empty()).cloned();
    let target_name = match &volume {
        VolumeFact::Present { target, .. } => target.clone(),
        VolumeFact::Missing => label.unwrap_or_else(|| DEFAULT_BACKUP_TARGET.to_owned()),
    };
    let found =
        context.api::<BackupTarget>().get_opt(&target_name).await.context(|| format!("read backup target {target_name}"))?;
    let target = match found.filter(|target| target.metadata.deletion_timestamp.is_none()) {
        None => TargetFact::Missing,
        Some(target) => unusable(&target).map_or(TargetFact::Available, TargetFact::Unavailable),
    };
    Ok(Observed { snapshot, volume, target, target_name })
}

async fn snapshot(context: &Context, name: &str) -> Result<SnapshotFact, Error> {
    if name.is_empty() {
        return Ok(SnapshotFact::Missing);
    }
    let found = context.api::<Snapshot>().get_opt(name).await.context(|| format!("read snapshot {name}"))?;
    let Some(snapshot) = found else { return Ok(SnapshotFact::Missing) };
    let status = snapshot.status.unwrap_or_default();
    Ok(match snapshot.spec.volume {
        _ if snapshot.metadata.deletion_timestamp.is_some() || status.mark_removed => {
            SnapshotFact::Unusable("it is being deleted".to_owned())
        }
        volume if status.ready_to_use => SnapshotFact::Ready { volume },
        _ if !status.error.is_empty() => SnapshotFact::Unusable(status.error),
        volume => SnapshotFact::NotReady { volume },
    })
}

async fn volume(context: &Context, name: &str) -> Result<VolumeFact, Error> {
    let found = context.api::<Volume>().get_opt(name).await.context(|| format!("read volume {name}"))?;
    Ok(found.map_or(VolumeFact::Missing, |volume| {
        let target = Some(volume.spec.backup_target_name.clone()).filter(|target| !target.is_empty());
        VolumeFact::Present {
            target: target.unwrap_or_else(|| DEFAULT_BACKUP_TARGET.to_owned()),
            node: volume.labels().get(LABEL_NODE).filter(|node| !node.is_empty()).cloned(),
        }
    }))
}

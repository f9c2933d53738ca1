//! Fills a volume from a backup: `spec.fromBackup` names it, the target with that URL holds it.

use std::sync::Arc;

use kube::ResourceExt;
use kube::api::ListParams;

use crate::agent::io::RestoreSink;
use crate::agent::target::Opened;
use crate::agent::transfers::{End, Job};
use crate::agent::{Agent, measure};
use crate::backupstore::restore::RestoreRequest;
use crate::backupstore::target_url::{BackupUrl, Target};
use crate::controllers::settings::Settings;
use crate::controllers::stores::Stores;
use crate::controllers::{ApiContext, Context, Error};
use crate::crd::{BackupTarget, Volume};
use crate::names::VolumeName;

/// Begins the restore, or goes on with one that another process had begun: the checkpoint in the pool tells how far it got.
pub async fn begin(agent: &Agent, volume: &Volume, name: VolumeName) -> Result<(), Error> {
    if agent.shutdown.is_cancelled() {
        return Err(Error::NotYet("the agent is stopping".to_owned()));
    }
    let limit = Settings::read(&agent.context).await?.transfers_per_node();
    let job = Job { uid: volume.uid().unwrap_or_default(), name: volume.name_any(), volume: volume.name_any(), limit };
    let url = volume.spec.from_backup.clone();
    let (context, engine) = (agent.context.clone(), agent.engine.clone());
    agent.restores.start(job, move |progress, cancel| {
        let (context, engine, url, name) = (context.clone(), engine.clone(), url.clone(), name.clone());
        async move {
            let wanted = parse(&url)?;
            let opened = Opened::to_read(&context, target_of(&context, &wanted.target).await?).await?;
            let info = opened.store.backup(&wanted.volume, &wanted.backup).await?.ok_or_else(|| {
                Error::Invalid(format!(
                    "spec.fromBackup names backup {} of volume {}, which is not in {}",
                    wanted.backup, wanted.volume, wanted.target
                ))
            })?;
            let writer = engine.call(move |engine| {
                let size = engine.volume(&name)?.map_or(0, |info| info.size);
                Ok((size, engine.open_restore(&name)?))
            });
            let (size, writer) = writer.await?;
            if size < info.volume_size {
                return Err(Error::Invalid(format!(
                    "spec.size gives the volume {size} bytes and the backup has {}: at least that is allowed",
                    info.volume_size
                )));
            }
            let request = RestoreRequest { volume: wanted.volume, backup: wanted.backup };
            Ok(opened.store.restore(request, Arc::new(RestoreSink(writer)), progress, cancel).await?)
        }
    });
    Ok(())
}

fn parse(url: &str) -> Result<BackupUrl, Error> {
    url.parse().map_err(|error| Error::Invalid(format!("spec.fromBackup: {error}")))
}

/// The target of this namespace that leads to `wanted`. Only known targets are read from: their credentials are the ones there are.
async fn target_of(context: &Context, wanted: &Target) -> Result<BackupTarget, Error> {
    let targets =
        context.api::<BackupTarget>().list(&ListParams::default()).await.context(|| "list backup targets".to_owned())?;
    let mut known = Vec::new();
    for target in targets {
        match Stores::parse_url(&target) {
            Ok(url) if url == *wanted => return Ok(target),
            Ok(url) => known.push(format!("{} ({url})", target.name_any())),
            Err(_) => known.push(format!("{} (no usable URL)", target.name_any())),
        }
    }
    let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
    Err(Error::TargetUnavailable {
        target: wanted.to_string(),
        reason: format!(
            "spec.fromBackup leads to {wanted}, which no BackupTarget of namespace {} does: {known}",
            context.namespace
        ),
    })
}

/// Forgets a restore, and counts it if it ended by itself.
pub fn settle(agent: &Agent, volume: &Volume) {
    let Some(uid) = volume.metadata.uid.as_deref() else { return };
    if let Some(view) = agent.restores.view(uid) {
        let completed = match view.end.as_deref() {
            Some(End::Done(_)) => Some(true),
            Some(End::Failed(_)) => Some(false),
            Some(End::Stopped) | None => None,
        };
        if let Some(completed) = completed {
            measure::ended(&agent.context.metrics, "restore", completed, view.since.elapsed());
        }
    }
    agent.restores.forget(uid);
}

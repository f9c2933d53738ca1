//! Carries out the comparison of a store with the objects that describe it.
//!
//! Idle it costs one listing of the volumes and one for each volume; a config is read only where an object is missing.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};

use super::catalogue::{self, KnownBackup, KnownVolume};
use super::observe::Usable;
use super::report;
use crate::controllers::backup::from_store;
use crate::controllers::error::is_already_exists;
use crate::controllers::{ApiContext, Context, Error, backup_volume, deletion, status};
use crate::crd::names::{LABEL_BACKUP_TARGET, LABEL_BACKUP_VOLUME, LABEL_FROM_STORE, TRUE};
use crate::crd::{Backup, BackupState, BackupVolume, Map};
use crate::names::{BackupName, VolumeName};

/// Requests to the store at once.
const CONCURRENCY: usize = 8;

/// Lists the store of `target` and makes the objects describe it. Removes objects only.
pub async fn sync(context: &Context, target: &str, usable: &Usable) -> Result<(), Error> {
    // The objects first: see `catalogue`.
    let backups = list_backups(context).await?;
    let volumes = list_volumes(context, target).await?;
    let listing = list_store(usable).await?;
    let known_backups: Vec<_> = backups.iter().map(|backup| known_backup(backup, target)).collect();
    let known_volumes: Vec<_> = volumes.iter().map(known_volume).collect();
    let plan = catalogue::plan(&listing, &known_volumes, &known_backups);
    let mut touched: BTreeSet<String> = plan.gone_backups.iter().map(|(_, volume)| volume.clone()).collect();

    for volume in &plan.new_volumes {
        // A folder can be no more than a lock: of a first backup that is under way, or that failed.
        let is_there = usable
            .store
            .volume(volume)
            .await
            .map_or_else(|error| if error.is_transient() { Err(error) } else { Ok(true) }, |c| Ok(c.is_some()))?;
        if is_there {
            backup_volume::ensure(context, target, volume.as_str()).await?;
        }
    }
    let added: Vec<(VolumeName, BackupName, Added)> = stream::iter(plan.new_backups.clone())
        .map(|(volume, backup)| async move {
            let added = add_backup(context, target, usable, &volume, &backup).await?;
            Ok::<_, Error>((volume, backup, added))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut unreadable: BTreeMap<&str, Map> = listing.keys().map(|volume| (volume.as_str(), Map::new())).collect();
    for (volume, backup, added) in &added {
        match added {
            Added::Shown => {
                touched.insert(volume.as_str().to_owned());
            }
            Added::NotYet => {}
            Added::Unreadable(words) => {
                unreadable.entry(volume.as_str()).or_default().insert(backup.as_str().to_owned(), words.clone());
            }
        }
    }
    let gone: BTreeSet<&str> = plan.gone_backups.iter().map(|(name, _)| name.as_str()).collect();
    let leaving: Vec<Backup> = backups.iter().filter(|backup| gone.contains(backup.name_any().as_str())).cloned().collect();
    remove_backups(context, leaving).await?;
    for volume in volumes.iter().filter(|volume| plan.gone_volumes.contains(&volume.name_any())) {
        deletion::remove_object_only(&context.api::<BackupVolume>(), volume).await?;
    }
    for (volume, backup) in &plan.hidden {
        tracing::warn!(%volume, %backup, target, "a backup in the store cannot be shown: its name belongs to a Backup of another volume or target");
    }
    for (volume, words) in unreadable {
        let known = volumes.iter().find(|object| object.spec.volume_name == volume);
        backup_volume::show_unreadable(context, target, volume, known, words).await?;
    }
    for volume in touched {
        backup_volume::request_sync(context, target, &volume).await?;
    }
    refresh_urls(context, target, usable, &backups, &gone).await?;
    let count = u64::try_from(listing.len()).unwrap_or(u64::MAX);
    context.metrics.target_backup_volumes.get_or_create(&report::labels(target)).set(count);
    if plan != catalogue::Plan::default() {
        tracing::info!(
            target,
            new_volumes = plan.new_volumes.len(),
            new_backups = plan.new_backups.len(),
            gone_volumes = plan.gone_volumes.len(),
            gone_backups = plan.gone_backups.len(),
            "the objects describe the store again"
        );
    }
    Ok(())
}

/// Removes every object that describes a backup in the store of `target`. Objects only: the store is not asked.
///
/// Deletions that wait for that store end with it: what they were meant for is not in the store that comes next.
pub async fn forget(context: &Context, target: &str) -> Result<(), Error> {
    let backups = list_backups(context).await?;
    remove_backups(context, backups.into_iter().filter(|backup| describes_store(backup, target)).collect()).await?;
    for volume in &list_volumes(context, target).await? {
        deletion::remove_object_only(&context.api::<BackupVolume>(), volume).await?;
    }
    Ok(())
}

/// Whether any Backup says that the store of `target` holds it, or waits for its deletion there.
pub async fn has_stored_backups(context: &Context, target: &str) -> Result<bool, Error> {
    Ok(list_backups(context).await?.iter().any(|backup| describes_store(backup, target)))
}

async fn remove_backups(context: &Context, backups: Vec<Backup>) -> Result<(), Error> {
    let api = &context.api::<Backup>();
    stream::iter(backups)
        .map(|backup| async move { deletion::remove_object_only(api, &backup).await })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

async fn list_store(usable: &Usable) -> Result<BTreeMap<VolumeName, Vec<BackupName>>, Error> {
    let store = &usable.store;
    let volumes = store.list_volumes().await?;
    stream::iter(volumes)
        .map(|volume| async move {
            let backups = store.list_backups(&volume).await?;
            Ok((volume, backups))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// What became of a backup that has no object.
enum Added {
    /// It has one now.
    Shown,
    /// It is still being written, or was deleted meanwhile.
    NotYet,
    /// Its config makes no sense, in these words.
    Unreadable(String),
}

async fn add_backup(
    context: &Context,
    target: &str,
    usable: &Usable,
    volume: &VolumeName,
    backup: &BackupName,
) -> Result<Added, Error> {
    let info = match usable.store.backup(volume, backup).await {
        Ok(Some(info)) => info,
        Ok(None) => return Ok(Added::NotYet),
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => return Ok(Added::Unreadable(error.to_string())),
    };
    let api = context.api::<Backup>();
    let object = from_store::object(target, volume, backup, &info.config);
    let made = match api.create(&PostParams::default(), &object).await {
        Ok(made) => made,
        Err(error) if is_already_exists(&error) => return Ok(Added::NotYet),
        Err(error) => return Err(error).context(|| format!("create backup {backup}")),
    };
    // After a crash here the Backup's own reconciler fills the status.
    status::write(&api, &made, from_store::status(target, &usable.target, volume, backup, &info)).await?;
    Ok(Added::Shown)
}

/// The same store under a new URL: the Backups show the URL by which they can be restored now.
async fn refresh_urls(
    context: &Context,
    target: &str,
    usable: &Usable,
    backups: &[Backup],
    gone: &BTreeSet<&str>,
) -> Result<(), Error> {
    let api = context.api::<Backup>();
    for backup in backups.iter().filter(|backup| is_stored(backup, target) && !gone.contains(backup.name_any().as_str())) {
        let Some(mut next) = backup.status.clone().filter(|status| !status.url.is_empty()) else { continue };
        let (Ok(name), Ok(volume)) = (backup.name_any().parse::<BackupName>(), next.volume_name.parse::<VolumeName>()) else {
            continue;
        };
        let url = from_store::url(&usable.target, &volume, &name);
        if next.url != url {
            next.url = url;
            status::write(&api, backup, next).await?;
        }
    }
    Ok(())
}

async fn list_backups(context: &Context) -> Result<Vec<Backup>, Error> {
    Ok(context.api::<Backup>().list(&ListParams::default()).await.context(|| "list the backups".to_owned())?.items)
}

async fn list_volumes(context: &Context, target: &str) -> Result<Vec<BackupVolume>, Error> {
    let list =
        context.api::<BackupVolume>().list(&ListParams::default()).await.context(|| "list the backup volumes".to_owned())?;
    Ok(list.items.into_iter().filter(|volume| volume.spec.backup_target_name == target).collect())
}

fn target_of(backup: &Backup) -> &str {
    let status = backup.status.as_ref().map(|status| status.backup_target_name.as_str()).filter(|name| !name.is_empty());
    status.or_else(|| backup.labels().get(LABEL_BACKUP_TARGET).map(String::as_str)).unwrap_or_default()
}

fn is_stored(backup: &Backup, target: &str) -> bool {
    let known = known_backup(backup, target);
    known.ours && known.stored
}

fn describes_store(backup: &Backup, target: &str) -> bool {
    let known = known_backup(backup, target);
    known.ours && (known.stored || known.deleting)
}

fn known_backup(backup: &Backup, target: &str) -> KnownBackup {
    let labels = backup.labels();
    let status = backup.status.as_ref();
    let volume = status.map(|status| status.volume_name.clone()).filter(|name| !name.is_empty());
    let state = status.map(|status| status.state).unwrap_or_default();
    let from_store = labels.get(LABEL_FROM_STORE).is_some_and(|value| value == TRUE);
    KnownBackup {
        name: backup.name_any(),
        volume: volume.or_else(|| labels.get(LABEL_BACKUP_VOLUME).cloned()).unwrap_or_default(),
        ours: target_of(backup) == target,
        stored: state == BackupState::Completed || (from_store && state == BackupState::New),
        deleting: backup.metadata.deletion_timestamp.is_some(),
    }
}

fn known_volume(volume: &BackupVolume) -> KnownVolume {
    KnownVolume {
        name: volume.name_any(),
        volume: volume.spec.volume_name.clone(),
        deleting: volume.metadata.deletion_timestamp.is_some(),
    }
}

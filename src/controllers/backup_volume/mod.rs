//! BackupVolume: shows what the store's volume config says, and deletes the volume's folder with all its backups.

mod remove;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::backup_target::{self, unusable};
use super::error::{is_already_exists, is_conflict, is_not_found};
use super::meta::{self, Change};
use super::{ApiContext, Context, Error, drive, status};
use crate::backupstore::Store;
use crate::backupstore::config::VolumeConfig;
use crate::crd::names::{FINALIZER, LABEL_BACKUP_TARGET, LABEL_BACKUP_VOLUME, backup_volume_name};
use crate::crd::{BackupTarget, BackupVolume, BackupVolumeSpec, BackupVolumeStatus, Bytes, Map, Time};
use crate::names::VolumeName;

/// The key of `status.messages` under which what could not be read is shown.
const MESSAGE_ERROR: &str = "error";

/// The reconciler.
struct Volumes {
    context: Arc<Context>,
    waiting: super::deletion::Hourly,
}

/// Runs until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let (reader, writer) = reflector::store::<BackupVolume>();
    let volumes = watcher(context.api::<BackupVolume>(), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::labels).combine(predicates::finalizers),
            PredicateConfig::default(),
        );
    // A target that comes back lets waiting reads and deletions go on.
    let targets = watcher(context.api::<BackupTarget>(), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(backup_target::usability, PredicateConfig::default());
    let known = reader.clone();
    let controller = Controller::for_stream(volumes, reader).watches_stream(targets, move |target: BackupTarget| {
        let name = target.name_any();
        let waits = move |volume: &BackupVolume| {
            volume.spec.backup_target_name == name && (volume.metadata.deletion_timestamp.is_some() || needs_sync(volume))
        };
        known.state().into_iter().filter(|v| waits(v)).map(|v| ObjectRef::from_obj(v.as_ref())).collect::<Vec<_>>()
    });
    let worker = Arc::new(Volumes { context: context.clone(), waiting: super::deletion::Hourly::default() });
    drive(controller, context, shutdown, move |volume| {
        let worker = worker.clone();
        async move { worker.reconcile(volume.as_ref()).await }
    })
    .await;
}

impl Volumes {
    async fn reconcile(&self, volume: &BackupVolume) -> Result<Action, Error> {
        if volume.metadata.deletion_timestamp.is_some() {
            return self.remove(volume).await;
        }
        let context = &self.context;
        let api = context.api::<BackupVolume>();
        let labels = [
            (LABEL_BACKUP_TARGET, volume.spec.backup_target_name.clone()),
            (LABEL_BACKUP_VOLUME, volume.spec.volume_name.clone()),
        ];
        let volume = &meta::patch(&api, volume, &Change::missing(volume, labels)).await?;
        if !needs_sync(volume) {
            return Ok(Action::await_change());
        }
        let Ok(name) = volume.spec.volume_name.parse::<VolumeName>() else {
            let words = format!("volume name {:?} is not one that a store can hold", volume.spec.volume_name);
            return say(context, volume, words).await;
        };
        let Some(target) = target_of(context, volume).await? else {
            return say(context, volume, format!("there is no backup target {:?}", volume.spec.backup_target_name)).await;
        };
        if unusable(&target).is_some() {
            // The watch of the target goes on from here.
            return Ok(Action::requeue(Duration::from_secs(300)));
        }
        let store = context.stores.open(&target).await?;
        let next = read(&store, &name, volume.status.clone().unwrap_or_default()).await?;
        status::write(&api, volume, next).await?;
        Ok(Action::await_change())
    }
}

/// Reads the volume's config: one request.
async fn read(store: &Store, name: &VolumeName, mut next: BackupVolumeStatus) -> Result<BackupVolumeStatus, Error> {
    let now = Time::now();
    next.messages.remove(MESSAGE_ERROR);
    match store.volume(name).await {
        Ok(Some(config)) => fill(&mut next, &config),
        // The folder of a first backup that is under way, or whose last one went.
        Ok(None) => {}
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            next.messages.insert(MESSAGE_ERROR.to_owned(), error.to_string());
        }
    }
    next.last_synced_at = now;
    Ok(next)
}

/// Longhorn shows the bytes in the store as blocks of 2 MiB; a volume's config does not say its block size.
const BLOCK: u64 = 2 << 20;

fn fill(status: &mut BackupVolumeStatus, config: &VolumeConfig) {
    status.size = Bytes(config.size);
    status.data_stored = Bytes(config.block_count.saturating_mul(BLOCK));
    status.created_at = config.created_at().into();
    status.last_backup_name.clone_from(&config.last_backup_name);
    status.last_backup_at = config.last_backup_at().into();
    status.labels = config.labels.clone().unwrap_or_default();
    status.backing_image_name.clone_from(&config.backing_image_name);
    status.backing_image_checksum.clone_from(&config.backing_image_checksum);
    status.storage_class_name.clone_from(&config.storage_class_name);
}

/// Whether the config in the store may say something that the status does not.
fn needs_sync(volume: &BackupVolume) -> bool {
    let synced = volume.status.as_ref().map(|status| status.last_synced_at).unwrap_or_default();
    synced.is_unset() || volume.spec.sync_requested_at >= synced
}

async fn say(context: &Context, volume: &BackupVolume, words: String) -> Result<Action, Error> {
    let mut next = volume.status.clone().unwrap_or_default();
    next.messages.insert(MESSAGE_ERROR.to_owned(), words);
    status::write(&context.api::<BackupVolume>(), volume, next).await?;
    Ok(Action::await_change())
}

async fn target_of(context: &Context, volume: &BackupVolume) -> Result<Option<BackupTarget>, Error> {
    let name = &volume.spec.backup_target_name;
    context.api::<BackupTarget>().get_opt(name).await.context(|| format!("read backup target {name}"))
}

/// Creates the BackupVolume of a volume that the store has. One that is there is left as it is.
pub async fn ensure(context: &Context, target: &str, volume: &str) -> Result<(), Error> {
    let name = backup_volume_name(volume, target);
    let spec =
        BackupVolumeSpec { backup_target_name: target.to_owned(), volume_name: volume.to_owned(), ..BackupVolumeSpec::default() };
    let mut object = BackupVolume::new(&name, spec);
    object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    object.metadata.labels = Some(
        [(LABEL_BACKUP_TARGET, target), (LABEL_BACKUP_VOLUME, volume)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    );
    match context.api::<BackupVolume>().create(&PostParams::default(), &object).await {
        Err(error) if !is_already_exists(&error) => Err(error).context(|| format!("create backup volume {name}")),
        _ => Ok(()),
    }
}

/// Asks for the volume's config to be read again. No object is no error.
///
/// Times are whole seconds: each request carries a later one than the last, or the second of two in one second would be no change and
/// so wake nobody.
pub async fn request_sync(context: &Context, target: &str, volume: &str) -> Result<(), Error> {
    let name = backup_volume_name(volume, target);
    let api = context.api::<BackupVolume>();
    loop {
        let object = api.get_opt(&name).await.context(|| format!("read backup volume {name}"))?;
        let Some(object) = object else { return Ok(()) };
        let at = next_request(object.spec.sync_requested_at.get(), Timestamp::now());
        let body = json!({
            "metadata": { "resourceVersion": object.resource_version() },
            "spec": { "syncRequestedAt": Time::from(at) },
        });
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await {
            // Somebody else wrote it meanwhile.
            Err(error) if is_conflict(&error) => {}
            Err(error) if !is_not_found(&error) => {
                return Err(error).context(|| format!("ask for a sync of backup volume {name}"));
            }
            _ => return Ok(()),
        }
    }
}

/// The time a request carries: now, in whole seconds, and later than the request before.
fn next_request(last: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    last.and_then(|last| last.checked_add(SignedDuration::from_secs(1)).ok()).map_or(now, |later| later.max(now))
}

/// Says which backups' configs cannot be read and why, under the backups' names, and no longer says it of others.
pub async fn show_unreadable(
    context: &Context,
    target: &str,
    volume: &str,
    known: Option<&BackupVolume>,
    words: Map,
) -> Result<(), Error> {
    let said = |object: &BackupVolume| {
        let mut messages = object.status.clone().unwrap_or_default().messages;
        messages.remove(MESSAGE_ERROR);
        messages
    };
    if known.map(said).unwrap_or_default() == words {
        return Ok(());
    }
    let name = backup_volume_name(volume, target);
    let api = context.api::<BackupVolume>();
    let Some(object) = api.get_opt(&name).await.context(|| format!("read backup volume {name}"))? else { return Ok(()) };
    let mut next = object.status.clone().unwrap_or_default();
    let own = next.messages.remove(MESSAGE_ERROR);
    next.messages = words;
    next.messages.extend(own.map(|own| (MESSAGE_ERROR.to_owned(), own)));
    status::write(&api, &object, next).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_for_a_sync_is_a_change() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-25T02:03:24.7Z");
        assert_eq!(next_request(None, now), at("2026-11-25T02:03:24Z"));
        assert_eq!(next_request(Some(at("2026-11-25T02:03:20Z")), now), at("2026-11-25T02:03:24Z"));
        assert_eq!(next_request(Some(at("2026-11-25T02:03:24Z")), now), at("2026-11-25T02:03:25Z"));
        assert_eq!(next_request(Some(at("2026-11-25T02:03:25Z")), now), at("2026-11-25T02:03:26Z"));
    }
}

//! The effects of a pass: objects made and removed, Events, counters.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::facts::{Facts, Volume};
use super::observe::JustMade;
use super::plan::{Note, NoteKind};
use super::retire::{Kind, Removal};
use super::run::{Made, Wanted};
use super::spec::Job;
use crate::controllers::caches::Caches;
use crate::controllers::error::{is_already_exists, is_conflict, is_not_found};
use crate::controllers::events::Reason;
use crate::controllers::{ApiContext, Context, Error};
use crate::crd::{Backup, BackupMode, BackupSpec, Map, RecurringJob, Snapshot, SnapshotSpec, names};

/// Requests to the API server at once for one job.
const AT_ONCE: usize = 16;
/// Events for left-out volumes in one pass; the rest is one Event with their number.
const SKIPS_TOLD: usize = 20;

/// Makes what a step wants. Gives for each what became of it, and the first error that is worth trying again after.
pub async fn make(
    context: &Context,
    job: &Job,
    facts: &Facts,
    full: bool,
    wanted: Vec<Wanted>,
    made: &JustMade,
) -> (Vec<(Wanted, Made)>, Option<Error>) {
    let results: Vec<(Wanted, Made, Option<Error>)> = stream::iter(wanted)
        .map(|wanted| async move {
            let (result, error) = make_one(context, job, facts, full, &wanted, made).await;
            (wanted, result, error)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut first = None;
    let mut all = Vec::with_capacity(results.len());
    for (wanted, result, error) in results {
        first = first.or(error);
        all.push((wanted, result));
    }
    (all, first)
}

async fn make_one(
    context: &Context,
    job: &Job,
    facts: &Facts,
    full: bool,
    wanted: &Wanted,
    made: &JustMade,
) -> (Made, Option<Error>) {
    let Some(volume) = facts.volumes.get(&wanted.volume) else {
        return (Made::Refused("the volume was deleted or lost its label during the run".to_owned()), None);
    };
    if wanted.make_snapshot {
        match ensure(&context.api(), snapshot_object(context, job, volume, &wanted.snapshot), same_snapshot).await {
            Ok(Some(object)) => made.snapshot(object),
            Ok(None) => return (Made::Refused(taken_name("Snapshot", &wanted.snapshot)), None),
            Err(error) => return give_up(error, Made::Nothing),
        }
    }
    let Some(name) = &wanted.backup else { return (Made::All, None) };
    match ensure(&context.api(), backup_object(context, job, volume, name, &wanted.snapshot, full), same_backup).await {
        Ok(Some(object)) => {
            made.backup(object);
            (Made::All, None)
        }
        Ok(None) => (Made::Refused(taken_name("Backup", name)), None),
        Err(error) => give_up(error, Made::SnapshotOnly),
    }
}

fn taken_name(kind: &str, name: &str) -> String {
    format!("there is a {kind} named {name} with another spec: delete or rename it")
}

/// A refusal by the API server is final for this run; anything else is tried again.
fn give_up(error: Error, so_far: Made) -> (Made, Option<Error>) {
    match &error {
        Error::Api { source: kube::Error::Api(status), .. } if matches!(status.code, 400 | 403 | 422) => {
            (Made::Refused(error.to_string()), None)
        }
        _ => (so_far, Some(error)),
    }
}

/// Makes the object, or finds the one of that name. `None`: it is there with another spec.
async fn ensure<K>(api: &Api<K>, object: K, same: fn(&K, &K) -> bool) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    match api.create(&PostParams::default(), &object).await {
        Ok(created) => Ok(Some(created)),
        Err(error) if is_already_exists(&error) => {
            let found = api.get(&name).await.context(|| format!("read {} {name}", K::kind(&())))?;
            Ok(same(&found, &object).then_some(found))
        }
        Err(error) => Err(error).context(|| format!("create {} {name}", K::kind(&()))),
    }
}

fn same_snapshot(found: &Snapshot, wanted: &Snapshot) -> bool {
    found.spec.volume == wanted.spec.volume
        && found.spec.create_snapshot
        && found.labels().get(names::LABEL_RECURRING_JOB) == wanted.labels().get(names::LABEL_RECURRING_JOB)
}

fn same_backup(found: &Backup, wanted: &Backup) -> bool {
    // The mode is left out: an edited full-backup-interval must not turn a backup that was begun into a stranger.
    found.spec.snapshot_name == wanted.spec.snapshot_name
        && found.labels().get(names::LABEL_RECURRING_JOB) == wanted.labels().get(names::LABEL_RECURRING_JOB)
}

fn result_labels(job: &Job) -> Map {
    let mut labels = job.labels.clone();
    labels.insert(names::LABEL_RECURRING_JOB.to_owned(), job.name.clone());
    labels
}

fn metadata(context: &Context, job: &Job, volume: &Volume, name: &str, more: &[(&str, &str)]) -> ObjectMeta {
    let mut labels: Map = more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    labels.insert(names::LABEL_RECURRING_JOB.to_owned(), job.name.clone());
    labels.extend(volume.node.iter().map(|node| (names::LABEL_NODE.to_owned(), node.clone())));
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(context.namespace.clone()),
        labels: Some(labels),
        finalizers: Some(vec![names::FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    }
}

fn snapshot_object(context: &Context, job: &Job, volume: &Volume, name: &str) -> Snapshot {
    let mut metadata = metadata(context, job, volume, name, &[(names::LABEL_VOLUME, &volume.name)]);
    metadata.owner_references = Some(vec![owner(&volume.name, &volume.uid)]);
    let spec = SnapshotSpec {
        volume: volume.name.clone(),
        create_snapshot: true,
        labels: result_labels(job),
        ..SnapshotSpec::default()
    };
    Snapshot { metadata, spec, status: None }
}

/// The reference that makes a Snapshot go with its Volume.
pub fn owner(volume: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: format!("{}/{}", names::GROUP, names::VERSION),
        kind: "Volume".to_owned(),
        name: volume.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

fn backup_object(context: &Context, job: &Job, volume: &Volume, name: &str, snapshot: &str, full: bool) -> Backup {
    let target = if volume.target.is_empty() { names::DEFAULT_BACKUP_TARGET } else { &volume.target };
    let labels = [(names::LABEL_BACKUP_VOLUME, volume.name.as_str()), (names::LABEL_BACKUP_TARGET, target)];
    let mut kept = result_labels(job);
    // Goes into the store with the backup: an object made from there is known as this job's by it.
    kept.insert(names::LABEL_RECURRING_JOB_UID.to_owned(), job.uid.clone());
    let spec = BackupSpec {
        snapshot_name: snapshot.to_owned(),
        labels: kept,
        backup_mode: if full { BackupMode::Full } else { BackupMode::Incremental },
        ..BackupSpec::default()
    };
    Backup { metadata: metadata(context, job, volume, name, &labels), spec, status: None }
}

/// Removes what retention gave up, and says of each what and why. Objects that are gone or were made anew meanwhile are left alone.
pub async fn remove(context: &Context, caches: &Caches, object: &RecurringJob, removals: Vec<Removal>) -> Result<(), Error> {
    let results: Vec<Result<(), Error>> = stream::iter(removals)
        .map(|removal| async move {
            let ns = &context.namespace;
            match removal.kind {
                Kind::Backup => remove_one(context, caches.backups.get(ns, &removal.name).as_deref(), object, &removal).await,
                Kind::Snapshot => remove_one(context, caches.snapshots.get(ns, &removal.name).as_deref(), object, &removal).await,
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    results.into_iter().collect()
}

async fn remove_one<K>(context: &Context, found: Option<&K>, job: &RecurringJob, removal: &Removal) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let Some(found) = found else { return Ok(()) };
    let preconditions = Preconditions { uid: found.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match context.api::<K>().delete(&removal.name, &params).await {
        Ok(_) => {
            let note = format!("{} {} of volume {} {}", K::kind(&()), removal.name, removal.volume, removal.reason);
            context.events.normal(job, Reason::Retired, note, Some(found.object_ref(&()))).await;
            Ok(())
        }
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(error).context(|| format!("delete {} {}", K::kind(&()), removal.name)),
    }
}

/// Publishes the notes of a pass as Events of the job.
pub async fn tell(context: &Context, job: &RecurringJob, notes: Vec<Note>) {
    let skips = notes.iter().filter(|note| note.kind == NoteKind::Skipped).count();
    let mut skips_left = SKIPS_TOLD;
    for note in notes {
        if note.kind == NoteKind::Skipped {
            if skips_left == 0 {
                continue;
            }
            skips_left -= 1;
        }
        let related = Some(about(job, &note));
        match note.kind {
            NoteKind::Missed => context.events.warning(job, Reason::MissedSchedule, note.words, related).await,
            NoteKind::Started => context.events.normal(job, Reason::RunStarted, note.words, related).await,
            NoteKind::Skipped => context.events.warning(job, Reason::RunSkipped, note.words, related).await,
            NoteKind::RunSucceeded => context.events.normal(job, Reason::RunSucceeded, note.words, related).await,
            NoteKind::RunFailed => context.events.warning(job, Reason::RunFailed, note.words, related).await,
        }
    }
    if skips > SKIPS_TOLD {
        let note = format!("{} more volumes were left out: status.lastRun tells why", skips - SKIPS_TOLD);
        context.events.warning(job, Reason::RunSkipped, note, None).await;
    }
}

/// What keeps the recorder from folding one run's Event into another's: the volume, or the place of the run in the status.
fn about(job: &RecurringJob, note: &Note) -> ObjectReference {
    match &note.volume {
        Some(volume) => ObjectReference {
            api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
            kind: Some("Volume".to_owned()),
            namespace: job.namespace(),
            name: Some(volume.clone()),
            ..ObjectReference::default()
        },
        None => ObjectReference { field_path: Some(format!("status.lastRun{{{}}}", note.at)), ..job.object_ref(&()) },
    }
}

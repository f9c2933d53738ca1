//! Reads the shared copies into the facts of one job. No request to the API server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::facts::{self, Facts};
use super::run::Run;
use super::spec::Job;
use crate::controllers::backup::INFO;
use crate::controllers::caches::Caches;
use crate::controllers::settings::Settings;
use crate::crd::{self, BackupState, Volume, VolumeState, condition_type, is_true, names};

/// How long an object that we made may be missing from the copies before it counts as deleted.
const COPY_LAG: Duration = Duration::from_secs(30);

/// Objects made by this process that the copies may not show yet: without them a run would take its own objects for deleted.
#[derive(Default)]
pub struct JustMade {
    snapshots: Mutex<HashMap<String, (Arc<crd::Snapshot>, Instant)>>,
    backups: Mutex<HashMap<String, (Arc<crd::Backup>, Instant)>>,
}

impl JustMade {
    /// Remembers a Snapshot.
    pub fn snapshot(&self, object: crd::Snapshot) {
        remember(&self.snapshots, object);
    }

    /// Remembers a Backup.
    pub fn backup(&self, object: crd::Backup) {
        remember(&self.backups, object);
    }
}

fn remember<K: Resource<DynamicType = ()>>(made: &Mutex<HashMap<String, (Arc<K>, Instant)>>, object: K) {
    made.lock().unwrap_or_else(PoisonError::into_inner).insert(object.name_any(), (Arc::new(object), Instant::now()));
}

/// The copies with what they lack of our own; forgets what they have.
fn with_made<K: Resource<DynamicType = ()>>(
    made: &Mutex<HashMap<String, (Arc<K>, Instant)>>,
    mut all: Vec<Arc<K>>,
) -> Vec<Arc<K>> {
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    made.retain(|_, (_, since)| since.elapsed() < COPY_LAG);
    if !made.is_empty() {
        for object in &all {
            made.remove(&object.name_any());
        }
        all.extend(made.values().map(|(object, _)| object.clone()));
    }
    all
}

/// What is known for `job`, and for the volumes of `run`.
pub fn observe(job: &Job, run: Option<&Run>, caches: &Caches, made: &JustMade, settings: &Settings) -> Facts {
    let all_volumes = caches.volumes.all();
    let ready: BTreeMap<String, bool> = caches.nodes.all().iter().map(|node| (node.name_any(), node_ready(node))).collect();
    let served = all_volumes.iter().filter(|v| v.meta().deletion_timestamp.is_none() && job.serves(v.labels()));
    let volumes: BTreeMap<String, facts::Volume> = served.map(|v| (v.name_any(), volume(v, &ready))).collect();
    let watched: BTreeSet<&str> = volumes
        .keys()
        .map(String::as_str)
        .chain(run.into_iter().flat_map(|run| run.entries.iter().map(|e| e.volume.as_str())))
        .collect();
    let restored: BTreeSet<String> =
        all_volumes.iter().filter(|v| is_restoring(v)).filter_map(|v| backup_of_url(&v.spec.from_backup)).collect();
    let snapshots = with_made(&made.snapshots, caches.snapshots.all())
        .iter()
        .filter(|s| watched.contains(s.spec.volume.as_str()))
        .map(|s| (s.name_any(), snapshot(s)))
        .collect();
    let backups = with_made(&made.backups, caches.backups.all())
        .iter()
        .filter(|b| watched.contains(volume_of(b)))
        .map(|b| (b.name_any(), backup(b, &restored)))
        .collect();
    Facts {
        volumes,
        snapshots,
        backups,
        detached_too: settings.allow_detached(),
        drop_used_snapshots: settings.cleanup_job_snapshot(),
    }
}

fn node_ready(node: &crd::Node) -> bool {
    node.status.as_ref().is_some_and(|status| is_true(&status.conditions, condition_type::READY))
}

fn volume(object: &Volume, ready: &BTreeMap<String, bool>) -> facts::Volume {
    let node = label(object, names::LABEL_NODE);
    facts::Volume {
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        node_ready: node.as_ref().is_some_and(|node| ready.get(node).copied().unwrap_or(false)),
        node,
        attached: object.status.as_ref().is_some_and(|status| status.state == VolumeState::Attached),
        unusable: if object.spec.standby {
            Some("is a standby that follows another cluster's backups")
        } else if is_restoring(object) {
            Some("is being restored")
        } else {
            None
        },
        target: object.spec.backup_target_name.clone(),
    }
}

fn is_restoring(volume: &Volume) -> bool {
    !volume.spec.from_backup.is_empty()
        && volume.status.as_ref().is_none_or(|status| status.restore_required || status.state == VolumeState::Creating)
}

/// The `backup=` part of a backup URL.
fn backup_of_url(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "backup").map(|(_, name)| name.into_owned())
}

fn label<K: Resource<DynamicType = ()>>(object: &K, key: &str) -> Option<String> {
    object.labels().get(key).filter(|value| !value.is_empty()).cloned()
}

fn created<K: Resource<DynamicType = ()>>(object: &K) -> Timestamp {
    object.creation_timestamp().map(|time| time.0).unwrap_or_default()
}

fn snapshot(object: &crd::Snapshot) -> facts::Snapshot {
    let status = object.status.clone().unwrap_or_default();
    facts::Snapshot {
        volume: object.spec.volume.clone(),
        job: label(object, names::LABEL_RECURRING_JOB),
        takes_snapshot: object.spec.create_snapshot,
        state: if !status.error.is_empty() {
            facts::SnapshotState::Failed(status.error)
        } else if status.ready_to_use {
            facts::SnapshotState::Ready
        } else {
            facts::SnapshotState::Waiting
        },
        taken_at: status.creation_time.get().unwrap_or_else(|| created(object)),
        created: created(object),
        deleting: object.meta().deletion_timestamp.is_some(),
    }
}

fn volume_of(backup: &crd::Backup) -> &str {
    backup.labels().get(names::LABEL_BACKUP_VOLUME).map(String::as_str).unwrap_or_else(|| {
        // A Backup that nobody has admitted yet is of no volume.
        backup.status.as_ref().map_or("", |status| status.volume_name.as_str())
    })
}

fn backup(object: &crd::Backup, restored: &BTreeSet<String>) -> facts::Backup {
    let status = object.status.clone().unwrap_or_default();
    let made = created(object);
    let times = [status.last_heartbeat_at, status.started_at, status.completed_at];
    facts::Backup {
        volume: volume_of(object).to_owned(),
        snapshot: if object.spec.snapshot_name.is_empty() {
            status.snapshot_name.clone()
        } else {
            object.spec.snapshot_name.clone()
        },
        job: label(object, names::LABEL_RECURRING_JOB),
        waits_for: status.messages.get(INFO).cloned(),
        made_here: !object.labels().contains_key(names::LABEL_FROM_STORE),
        job_uid: object.spec.labels.get(names::LABEL_RECURRING_JOB_UID).cloned(),
        state: match status.state {
            BackupState::Completed => facts::BackupState::Completed,
            BackupState::Error => facts::BackupState::Failed(status.error),
            BackupState::New | BackupState::Pending | BackupState::InProgress | BackupState::Deleting | BackupState::Unknown => {
                facts::BackupState::Unfinished
            }
        },
        snapshot_at: status.snapshot_created_at.get().unwrap_or(made),
        moved_at: times.into_iter().filter_map(crd::Time::get).fold(made, Timestamp::max),
        deleting: object.meta().deletion_timestamp.is_some(),
        being_restored: restored.contains(&object.name_any()),
    }
}

//! Backup: readies the ones that users and jobs make for the agent, watches over the agent, fills the ones that come from the store, and
//! deletes what the store holds of one.

pub mod from_store;
mod heartbeat;
mod live;
mod metrics;
mod observe;
mod plan;
mod remove;
mod turns;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{PredicateConfig, WatchStreamExt, watcher};

use tokio_util::sync::CancellationToken;

use super::caches::Caches;
use super::deletion::Hourly;
use super::setting::definitions::name::FAILED_TTL;
use super::{Context, Error, backup_target, drive};
use crate::crd::names::{
    DEFAULT_BACKUP_TARGET, LABEL_BACKUP_TARGET, LABEL_BACKUP_VOLUME, LABEL_FROM_STORE, LABEL_NODE, TRUE, backup_volume_name,
};
use crate::crd::{Backup, BackupState, BackupTarget, Setting, Snapshot, Volume};
use heartbeat::Heartbeats;
pub(super) use live::INFO;
use metrics::Gauges;
use turns::Turns;

/// The reconciler. What it remembers only spaces Events and judges heartbeats; losing it delays.
struct Backups {
    context: Arc<Context>,
    caches: Caches,
    hearts: Heartbeats,
    gauges: Gauges,
    waiting: Hourly,
    turns: Turns,
}

/// Runs until `shutdown`. An agent counts as away when its heartbeat stands still for `agent_timeout`.
pub async fn run(context: Arc<Context>, caches: Caches, agent_timeout: Duration, shutdown: CancellationToken) {
    let worker = Arc::new(Backups {
        context: context.clone(),
        caches: caches.clone(),
        hearts: Heartbeats::new(agent_timeout),
        gauges: Gauges::new(context.metrics.clone()),
        waiting: Hourly::default(),
        turns: Turns::default(),
    });
    let backups = caches.backups.trigger().predicate_filter(worth_a_look, PredicateConfig::default());
    let controller = Controller::for_stream(backups, caches.backups.reader());
    let controller = on_targets(controller, &context, &caches);
    let controller = on_what_it_waits_for(controller, &caches);
    let each = worker.clone();
    let work = drive(controller, context, shutdown.clone(), move |backup| {
        let worker = each.clone();
        async move { worker.reconcile(backup.as_ref()).await }
    });
    tokio::join!(work, worker.show_volumes(shutdown));
}

/// A target that comes or goes lets waiting Backups and deletions go on.
fn on_targets(controller: Controller<Backup>, context: &Context, caches: &Caches) -> Controller<Backup> {
    let targets = watcher(context.api::<BackupTarget>(), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(backup_target::usability, PredicateConfig::default());
    let backups = caches.backups.clone();
    controller.watches_stream(targets, move |target: BackupTarget| {
        let name = target.name_any();
        let waits =
            |b: &Backup| target_name(b) == name && (b.metadata.deletion_timestamp.is_some() || is_unplaced(b) || is_unfilled(b));
        backups
            .all()
            .into_iter()
            .filter(|backup| waits(backup))
            .map(|backup| ObjectRef::from_obj(backup.as_ref()))
            .collect::<Vec<_>>()
    })
}

/// So do a Snapshot that is ready, a Volume that is placed, and a shorter life of failed Backups.
fn on_what_it_waits_for(controller: Controller<Backup>, caches: &Caches) -> Controller<Backup> {
    let backups = caches.backups.clone();
    let select = move |wanted: &dyn Fn(&Backup) -> bool| -> Vec<ObjectRef<Backup>> {
        backups.all().iter().filter(|backup| wanted(backup)).map(|backup| ObjectRef::from_obj(backup.as_ref())).collect()
    };
    let (of_snapshot, of_volume, of_setting) = (select.clone(), select.clone(), select);
    let snapshots = caches.snapshots.touched().flat_map(move |snapshot: Arc<Snapshot>| {
        let name = snapshot.name_any();
        futures::stream::iter(of_snapshot(&|backup| is_unplaced(backup) && backup.spec.snapshot_name == name))
    });
    let volumes = caches.volumes.touched().flat_map(move |volume: Arc<Volume>| {
        let name = volume.name_any();
        let waits =
            |backup: &Backup| is_unplaced(backup) && backup.labels().get(LABEL_BACKUP_VOLUME).is_some_and(|label| *label == name);
        futures::stream::iter(of_volume(&waits))
    });
    let settings = caches.settings.touched().flat_map(move |setting: Arc<Setting>| {
        let is_ttl = setting.name_any() == FAILED_TTL;
        futures::stream::iter(of_setting(&|backup| is_ttl && state(backup) == BackupState::Error))
    });
    controller.reconcile_on(snapshots).reconcile_on(volumes).reconcile_on(settings)
}

impl Backups {
    async fn reconcile(&self, backup: &Backup) -> Result<Action, Error> {
        if backup.metadata.deletion_timestamp.is_some() {
            return self.remove(backup).await;
        }
        self.show(backup);
        match state(backup) {
            BackupState::Completed => self.completed(backup).await,
            BackupState::Error => self.failed(backup).await,
            _ if is_from_store(backup) => self.fill(backup).await,
            _ if node(backup).is_some() => self.watch_over(backup).await,
            BackupState::New | BackupState::Pending | BackupState::InProgress | BackupState::Deleting | BackupState::Unknown => {
                self.ready(backup).await
            }
        }
    }

    fn show(&self, backup: &Backup) {
        let volume = volume_name(backup);
        self.gauges.set(backup, volume);
        self.show_backup_volume(volume, target_name(backup), None);
    }

    /// `without`: a Backup that is going.
    fn show_backup_volume(&self, volume: &str, target: &str, without: Option<&str>) {
        let all = self.caches.backups.all();
        let of_target = of_volume(&all, volume, without).filter(|backup| target_name(backup) == target);
        self.gauges.set_backup_volume(&backup_volume_name(volume, target), of_target);
        self.show_volume(volume, without);
    }

    /// The volume's age: its backups in every target count.
    fn show_volume(&self, volume: &str, without: Option<&str>) {
        let all = self.caches.backups.all();
        let object = self.caches.volumes.get(&self.context.namespace, volume);
        let node = object.as_ref().map(|volume| volume.labels().get(LABEL_NODE).map_or("", String::as_str));
        self.gauges.set_volume(volume, node, of_volume(&all, volume, without));
    }

    /// Shows every Volume, also one that no Backup is of, or no longer.
    async fn show_volumes(&self, shutdown: CancellationToken) {
        let volumes = self.caches.volumes.touched().map(|volume| volume.name_any());
        let of_leaving = self.caches.backups.touched().filter_map(|backup| {
            std::future::ready(backup.metadata.deletion_timestamp.as_ref().map(|_| volume_name(&backup).to_owned()))
        });
        let changed = futures::stream::select(volumes, of_leaving).take_until(shutdown.cancelled_owned());
        let mut changed = std::pin::pin!(changed);
        while let Some(volume) = changed.next().await {
            self.show_volume(&volume, None);
        }
    }
}

fn of_volume<'a>(all: &'a [Arc<Backup>], volume: &'a str, without: Option<&'a str>) -> impl Iterator<Item = &'a Backup> {
    all.iter()
        .map(AsRef::as_ref)
        .filter(move |backup: &&Backup| volume_name(backup) == volume && Some(backup.name_any().as_str()) != without)
}

/// Changes with what a pass would act on: progress, heartbeats and messages are no reason for one.
fn worth_a_look(backup: &Backup) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let meta = &backup.metadata;
    (meta.generation, &meta.labels, &meta.finalizers, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    if let Some(status) = &backup.status {
        (status.state, status.phase, &status.node_id).hash(&mut hasher);
    }
    Some(hasher.finish())
}

fn state(backup: &Backup) -> BackupState {
    backup.status.as_ref().map(|status| status.state).unwrap_or_default()
}

fn node(backup: &Backup) -> Option<&str> {
    backup.labels().get(LABEL_NODE).map(String::as_str).filter(|node| !node.is_empty())
}

fn is_from_store(backup: &Backup) -> bool {
    backup.labels().get(LABEL_FROM_STORE).is_some_and(|value| value == TRUE)
}

/// It is the manager's to ready.
fn is_unplaced(backup: &Backup) -> bool {
    !state(backup).is_terminal() && !is_from_store(backup) && node(backup).is_none()
}

/// Its status is to be read from the store.
fn is_unfilled(backup: &Backup) -> bool {
    is_from_store(backup) && state(backup) == BackupState::New
}

/// The backup's target: by its status, else its label, else the default one.
pub fn target_name(backup: &Backup) -> &str {
    let status = backup.status.as_ref().map(|status| status.backup_target_name.as_str());
    let label = backup.labels().get(LABEL_BACKUP_TARGET).map(String::as_str);
    status.filter(|name| !name.is_empty()).or(label).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_BACKUP_TARGET)
}

/// The backup's volume, as the store names it; "" while it is not known.
pub fn volume_name(backup: &Backup) -> &str {
    let status = backup.status.as_ref().map(|status| status.volume_name.as_str());
    let label = backup.labels().get(LABEL_BACKUP_VOLUME).map(String::as_str);
    status.filter(|name| !name.is_empty()).or(label).unwrap_or_default()
}

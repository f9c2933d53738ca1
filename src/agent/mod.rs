//! The agent of one node: everything that touches a volume's bytes.
//!
//! It watches the Volumes, Snapshots and Backups that carry its node's label, and nothing else talks to it. Killed at any moment it
//! leaves attached devices alone; the next one finds volumes, devices and transfers again from the pool, the kernel and the objects.

mod backup;
mod blocking;
mod io;
mod measure;
mod node;
mod snapshot;
mod target;
mod transfers;
mod volume;

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use self::blocking::Volumes;
use self::transfers::{Slots, Transfers};
use crate::backupstore::restore::RestoreReceipt;
use crate::controllers::caches::Cache;
use crate::controllers::{Context, drive};
use crate::crd::names::LABEL_NODE;
use crate::crd::{Backup, BackupTarget, Setting, Snapshot, Volume};
use crate::engine::Engine;

/// How long a stopping agent waits for its transfers to give the store's locks back.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How often transfers are compared with their objects.
const SWEEP: Duration = Duration::from_secs(2);

/// What the agent is told by its flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// The pool's folder, as shown in the Node object.
    pub pool: String,
    /// A backup that moves nothing for so long fails.
    pub patience: Duration,
}

/// What the agent's reconcilers share.
struct Agent {
    context: Arc<Context>,
    node: String,
    engine: Volumes,
    backups: Arc<Transfers<backup::Outcome>>,
    restores: Arc<Transfers<RestoreReceipt>>,
    caches: Caches,
    shutdown: CancellationToken,
}

/// This node's objects, and the settings, as the watches know them.
struct Caches {
    volumes: Cache<Volume>,
    snapshots: Cache<Snapshot>,
    backups: Cache<Backup>,
    settings: Cache<Setting>,
}

impl Caches {
    /// Starts the watches and returns once every copy is complete, so that what is missing from one is missing; `None` when
    /// `shutdown` came first.
    async fn start(context: &Context, node: &str, shutdown: &CancellationToken) -> Option<Self> {
        let own = || watcher::Config::default().labels(&format!("{LABEL_NODE}={node}"));
        let caches = Self {
            volumes: Cache::start(context.api(), own(), shutdown),
            snapshots: Cache::start(context.api(), own(), shutdown),
            backups: Cache::start(context.api(), own(), shutdown),
            settings: Cache::start(context.api(), watcher::Config::default(), shutdown),
        };
        let complete = async {
            caches.volumes.complete().await;
            caches.snapshots.complete().await;
            caches.backups.complete().await;
            caches.settings.complete().await;
        };
        tokio::select! {
            () = complete => Some(caches),
            () = shutdown.cancelled() => None,
        }
    }
}

/// Runs the agent until `shutdown`, then ends its transfers; their objects keep their sign of life, so that the next agent goes on.
pub async fn run(context: Context, engine: Arc<dyn Engine>, config: Config, shutdown: CancellationToken) {
    let context = Arc::new(context);
    let Some(caches) = Caches::start(&context, &config.node, &shutdown).await else { return };
    let engine = Volumes::new(engine);
    let slots = Arc::new(Slots::default());
    let (backups, backups_ended) = Transfers::new(slots.clone(), Some(config.patience));
    let (restores, restores_ended) = Transfers::new(slots, None);

    let namespace = context.namespace.clone();
    // A pass writes what it sees (space taken, bytes restored) into the status: that alone is no reason for the next pass.
    let wishes =
        predicates::generation.combine(predicates::labels).combine(predicates::annotations).combine(predicates::finalizers);
    let wishes = caches.volumes.trigger().predicate_filter(wishes, PredicateConfig::default());
    let volume_controller = Controller::for_stream(wishes, caches.volumes.reader())
        .reconcile_on(caches.backups.touched().flat_map(|backup| stream::iter(volume_of_backup(&backup))))
        .reconcile_on(caches.snapshots.touched().flat_map(|s| stream::iter(named(s.as_ref(), Some(s.spec.volume.clone())))))
        .reconcile_on(poked(restores_ended, &namespace));
    let snapshot_controller = Controller::for_stream(caches.snapshots.trigger(), caches.snapshots.reader())
        .reconcile_on(caches.backups.touched().flat_map(|b| stream::iter(named(b.as_ref(), Some(b.spec.snapshot_name.clone())))))
        .reconcile_on(each(caches.volumes.touched(), snapshots_of(caches.snapshots.clone())));
    let backup_controller = Controller::for_stream(caches.backups.trigger(), caches.backups.reader())
        .reconcile_on(each(caches.snapshots.touched(), backups_of_snapshot(caches.backups.clone())))
        .reconcile_on(each(caches.volumes.touched(), backups_of_volume(caches.backups.clone(), caches.snapshots.clone())))
        .watches(context.api::<BackupTarget>(), watcher::Config::default(), waiting_backups(caches.backups.clone()))
        .reconcile_on(poked(backups_ended, &namespace));

    let agent = Arc::new(Agent {
        context: context.clone(),
        node: config.node.clone(),
        engine,
        backups: backups.clone(),
        restores: restores.clone(),
        caches,
        shutdown: shutdown.clone(),
    });
    let (a, b, c) = (agent.clone(), agent.clone(), agent.clone());
    tokio::join!(
        end_orphans(agent.clone()),
        node::keep(agent, config.pool, shutdown.clone()),
        drive(volume_controller, context.clone(), shutdown.clone(), move |volume| volume::reconcile(a.clone(), volume)),
        drive(snapshot_controller, context.clone(), shutdown.clone(), move |snapshot| snapshot::reconcile(b.clone(), snapshot)),
        drive(backup_controller, context, shutdown.clone(), move |backup| backup::reconcile(c.clone(), backup)),
        async {
            shutdown.cancelled().await;
            tokio::join!(backups.shut_down(STOP_WITHIN), restores.shut_down(STOP_WITHIN));
        },
    );
}

/// Ends the transfers whose objects are gone: no reconcile tells of an object that was removed between two of them.
async fn end_orphans(agent: Arc<Agent>) {
    let mut clock = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = agent.shutdown.cancelled() => return,
        }
        agent.backups.sweep(|| uids(&agent.caches.backups));
        agent.restores.sweep(|| uids(&agent.caches.volumes));
    }
}

fn uids<K>(cache: &Cache<K>) -> HashSet<String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    cache.all().iter().filter_map(|object| object.uid()).collect()
}

/// The objects that each change is about.
fn each<O, K>(
    changes: impl Stream<Item = Arc<O>> + Send + 'static,
    about: impl Fn(&O) -> Vec<ObjectRef<K>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
where
    O: Send + Sync + 'static,
    K: Resource<DynamicType = ()> + 'static,
{
    changes.flat_map(move |object| stream::iter(about(&object)))
}

/// The objects whose transfers ended.
fn poked<K>(ended: UnboundedReceiver<String>, namespace: &str) -> impl Stream<Item = ObjectRef<K>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + 'static,
{
    let namespace = namespace.to_owned();
    futures::stream::unfold((ended, namespace), |(mut ended, namespace)| async move {
        let name = ended.recv().await?;
        Some((ObjectRef::new(&name).within(&namespace), (ended, namespace)))
    })
}

/// A reference to the object `name` beside `object`.
fn named<K, O>(object: &O, name: Option<String>) -> Option<ObjectRef<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    O: Resource,
{
    let name = name.filter(|name| !name.is_empty())?;
    Some(ObjectRef::new(&name).within(&object.namespace().unwrap_or_default()))
}

fn volume_of_backup(backup: &Backup) -> Option<ObjectRef<Volume>> {
    let volume = backup.status.as_ref().filter(|status| status.state.is_terminal()).map(|status| status.volume_name.clone());
    named(backup, volume)
}

/// A volume's snapshots that wait for something.
fn snapshots_of(snapshots: Cache<Snapshot>) -> impl Fn(&Volume) -> Vec<ObjectRef<Snapshot>> + Send + 'static {
    move |volume| {
        let name = volume.name_any();
        let waits = |snapshot: &Snapshot| {
            let ready = snapshot.status.as_ref().is_some_and(|status| status.ready_to_use);
            snapshot.spec.volume == name && (!ready || snapshot.metadata.deletion_timestamp.is_some())
        };
        matching(&snapshots, waits)
    }
}

/// Backups that have not ended, of a snapshot.
fn backups_of_snapshot(backups: Cache<Backup>) -> impl Fn(&Snapshot) -> Vec<ObjectRef<Backup>> + Send + 'static {
    move |snapshot| {
        let name = snapshot.name_any();
        matching(&backups, |backup| backup.spec.snapshot_name == name && !is_over(backup))
    }
}

/// Backups that have not ended, of a volume that is being deleted.
fn backups_of_volume(
    backups: Cache<Backup>,
    snapshots: Cache<Snapshot>,
) -> impl Fn(&Volume) -> Vec<ObjectRef<Backup>> + Send + 'static {
    move |volume| {
        if volume.metadata.deletion_timestamp.is_none() {
            return Vec::new();
        }
        let name = volume.name_any();
        let own: Vec<String> = snapshots.all().iter().filter(|s| s.spec.volume == name).map(|s| s.name_any()).collect();
        matching(&backups, |backup| own.contains(&backup.spec.snapshot_name) && !is_over(backup))
    }
}

/// Backups that have not ended: a target changed, and they may wait for it.
fn waiting_backups(backups: Cache<Backup>) -> impl Fn(BackupTarget) -> Vec<ObjectRef<Backup>> + Send + 'static {
    move |_| matching(&backups, |backup| !is_over(backup))
}

fn is_over(backup: &Backup) -> bool {
    backup.status.as_ref().is_some_and(|status| status.state.is_terminal())
}

fn matching<K>(cache: &Cache<K>, keep: impl Fn(&K) -> bool) -> Vec<ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    cache.all().iter().filter(|object| keep(object)).map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

//! The agent of one node: everything that touches a volume's bytes.
//!
//! It watches the Volumes, Snapshots and Backups that carry its node's label, and nothing else talks to it. Killed at any moment it
//! leaves attached devices alone; the next one finds volumes, devices and transfers again from the pool, the kernel and the objects.

mod backup;
mod blocking;
mod io;
mod node;
mod snapshot;
mod transfers;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use self::blocking::Volumes;
use self::transfers::{Slots, Transfers};
use crate::backupstore::restore::RestoreReceipt;
use crate::controllers::{Context, Error, drive};
use crate::crd::names::LABEL_NODE;
use crate::crd::{Backup, BackupTarget, Snapshot, Volume};
use crate::engine::Engine;

/// How long a stopping agent waits for its transfers to give the store's locks back.
const STOP_WITHIN: Duration = Duration::from_secs(20);

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

/// This node's objects as the watches know them.
struct Caches {
    volumes: Store<Volume>,
    snapshots: Store<Snapshot>,
    backups: Store<Backup>,
}

impl Caches {
    /// Waits until every watch has told what there is: what is missing before that only is not known yet.
    async fn ready(&self) -> Result<(), Error> {
        let all = async {
            tokio::try_join!(self.volumes.wait_until_ready(), self.snapshots.wait_until_ready(), self.backups.wait_until_ready())
        };
        all.await.map(drop).map_err(|_| Error::NotYet("the agent is stopping".to_owned()))
    }
}

/// Runs the agent until `shutdown`, then ends its transfers; their objects keep their sign of life, so that the next agent goes on.
pub async fn run(context: Context, engine: Arc<dyn Engine>, config: Config, shutdown: CancellationToken) {
    let context = Arc::new(context);
    let engine = Volumes::new(engine);
    let slots = Arc::new(Slots::default());
    let (backups, backups_ended) = Transfers::new(slots.clone(), Some(config.patience));
    let (restores, restores_ended) = Transfers::new(slots, None);
    let labelled = watcher::Config::default().labels(&format!("{LABEL_NODE}={}", config.node));

    let volume_controller = Controller::new(context.api::<Volume>(), labelled.clone());
    let snapshot_controller = Controller::new(context.api::<Snapshot>(), labelled.clone());
    let backup_controller = Controller::new(context.api::<Backup>(), labelled.clone());
    let caches =
        Caches { volumes: volume_controller.store(), snapshots: snapshot_controller.store(), backups: backup_controller.store() };

    let namespace = context.namespace.clone();
    let volume_controller = volume_controller
        .watches(context.api::<Backup>(), labelled.clone(), volume_of_backup)
        .watches(context.api::<Snapshot>(), labelled.clone(), |snapshot: Snapshot| {
            named(&snapshot, Some(snapshot.spec.volume.clone()))
        })
        .reconcile_on(poked(restores_ended, &namespace));
    let snapshot_controller = snapshot_controller
        .watches(context.api::<Backup>(), labelled.clone(), |backup: Backup| {
            named(&backup, Some(backup.spec.snapshot_name.clone()))
        })
        .watches(context.api::<Volume>(), labelled.clone(), snapshots_of(caches.snapshots.clone()));
    let backup_controller = backup_controller
        .watches(context.api::<Snapshot>(), labelled.clone(), backups_of_snapshot(caches.backups.clone()))
        .watches(context.api::<Volume>(), labelled.clone(), backups_of_volume(caches.backups.clone(), caches.snapshots.clone()))
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

fn volume_of_backup(backup: Backup) -> Option<ObjectRef<Volume>> {
    let volume = backup.status.as_ref().filter(|status| status.state.is_terminal()).map(|status| status.volume_name.clone());
    named(&backup, volume)
}

/// A volume's snapshots that wait for something.
fn snapshots_of(snapshots: Store<Snapshot>) -> impl Fn(Volume) -> Vec<ObjectRef<Snapshot>> + Send + 'static {
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
fn backups_of_snapshot(backups: Store<Backup>) -> impl Fn(Snapshot) -> Vec<ObjectRef<Backup>> + Send + 'static {
    move |snapshot| {
        let name = snapshot.name_any();
        matching(&backups, |backup| backup.spec.snapshot_name == name && !is_over(backup))
    }
}

/// Backups that have not ended, of a volume that is being deleted.
fn backups_of_volume(
    backups: Store<Backup>,
    snapshots: Store<Snapshot>,
) -> impl Fn(Volume) -> Vec<ObjectRef<Backup>> + Send + 'static {
    move |volume| {
        if volume.metadata.deletion_timestamp.is_none() {
            return Vec::new();
        }
        let name = volume.name_any();
        let own: Vec<String> = snapshots.state().iter().filter(|s| s.spec.volume == name).map(|s| s.name_any()).collect();
        matching(&backups, |backup| own.contains(&backup.spec.snapshot_name) && !is_over(backup))
    }
}

/// Backups that have not ended: a target changed, and they may wait for it.
fn waiting_backups(backups: Store<Backup>) -> impl Fn(BackupTarget) -> Vec<ObjectRef<Backup>> + Send + 'static {
    move |_| matching(&backups, |backup| !is_over(backup))
}

fn is_over(backup: &Backup) -> bool {
    backup.status.as_ref().is_some_and(|status| status.state.is_terminal())
}

fn matching<K>(store: &Store<K>, keep: impl Fn(&K) -> bool) -> Vec<ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.state().iter().filter(|object| keep(object)).map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

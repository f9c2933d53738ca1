//! One watch and one copy of each kind that several controllers of a role read, shared by them.
//!
//! A copy can be behind the API server by moments. Whoever decides by it writes with a precondition or under a name that makes a second
//! write a no-op.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::crd::{Backup, Node, RecurringJob, Setting, Snapshot, Volume};

/// Touched objects that a slow controller may be behind before it looks at all of them again.
const BACKLOG: usize = 1024;

/// The copies of all kinds.
#[derive(Clone)]
pub struct Caches {
    /// Every Volume.
    pub volumes: Cache<Volume>,
    /// Every Snapshot.
    pub snapshots: Cache<Snapshot>,
    /// Every Backup.
    pub backups: Cache<Backup>,
    /// Every Node.
    pub nodes: Cache<Node>,
    /// Every Setting.
    pub settings: Cache<Setting>,
    /// Every RecurringJob.
    pub jobs: Cache<RecurringJob>,
}

impl Caches {
    /// Starts the watches, which end at `shutdown`, and returns once every copy is complete; `None` when `shutdown` came first.
    pub async fn start(context: &Context, shutdown: &CancellationToken) -> Option<Self> {
        let caches = Self {
            volumes: Cache::start(context.api(), watcher::Config::default(), shutdown),
            snapshots: Cache::start(context.api(), watcher::Config::default(), shutdown),
            backups: Cache::start(context.api(), watcher::Config::default(), shutdown),
            nodes: Cache::start(context.api(), watcher::Config::default(), shutdown),
            settings: Cache::start(context.api(), watcher::Config::default(), shutdown),
            jobs: Cache::start(context.api(), watcher::Config::default(), shutdown),
        };
        let complete = async {
            caches.volumes.complete().await;
            caches.snapshots.complete().await;
            caches.backups.complete().await;
            caches.nodes.complete().await;
            caches.settings.complete().await;
            caches.jobs.complete().await;
        };
        tokio::select! {
            () = complete => Some(caches),
            () = shutdown.cancelled() => None,
        }
    }
}

/// The copy of one kind, and word of what changes in it.
pub struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    touched: broadcast::Sender<Arc<K>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), touched: self.touched.clone() }
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Starts the watch of the objects that `config` selects; it ends at `shutdown`.
    pub fn start(api: Api<K>, config: watcher::Config, shutdown: &CancellationToken) -> Self {
        let (reader, writer) = store::<K>();
        let (touched, _) = broadcast::channel(BACKLOG);
        let events = watcher(api, config).default_backoff().modify(|object| object.managed_fields_mut().clear()).reflect(writer);
        let tell = touched.clone();
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = shutdown.cancelled() => return,
                };
                match event {
                    Some(Ok(
                        watcher::Event::Apply(object) | watcher::Event::InitApply(object) | watcher::Event::Delete(object),
                    )) => {
                        // Nobody listening is no error.
                        let _ = tell.send(Arc::new(object));
                    }
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                    Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "a watch was interrupted"),
                    None => return,
                }
            }
        });
        Self { store: reader, touched }
    }

    /// Returns once the copy has every object. For one caller at a time: the store wakes the last one only, and a `Controller` over a
    /// store that is not complete is a caller too.
    pub async fn complete(&self) {
        // The only error is that the watch's task is gone: then shutdown is under way.
        if self.store.wait_until_ready().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Every object, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// The object of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// What a `Controller` reads its objects from.
    pub fn reader(&self) -> Store<K> {
        self.store.clone()
    }

    /// Every object that there is, then each one that is made, changed or removed. Nothing is missed: a reader that falls behind
    /// gets all objects once more.
    pub fn touched(&self) -> impl Stream<Item = Arc<K>> + Send + 'static + use<K> {
        let receiver = self.touched.subscribe();
        let store = self.store.clone();
        let first = store.state();
        let later = stream::unfold((receiver, store), |(mut receiver, store)| async move {
            let batch = match receiver.recv().await {
                Ok(object) => vec![object],
                Err(RecvError::Lagged(_)) => store.state(),
                Err(RecvError::Closed) => return None,
            };
            Some((stream::iter(batch), (receiver, store)))
        });
        stream::iter(first).chain(later.flatten())
    }

    /// The same, in the form that `Controller::for_stream` takes.
    pub fn trigger(&self) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static + use<K> {
        self.touched().map(|object| Ok(object.as_ref().clone()))
    }
}

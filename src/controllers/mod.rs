//! What every reconciler shares, and the manager's reconcilers.
//!
//! Each kind has a folder: `mod` (watches, reconcile), `observe`, `plan` (pure), `act`.

pub mod backup;
pub mod backup_target;
pub mod backup_volume;
pub mod caches;
pub mod deletion;
pub mod error;
pub mod events;
pub mod leader;
pub mod meta;
pub mod node;
pub mod recurring_job;
pub mod requeue;
pub mod setting;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod stores;
pub mod volume;

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub use error::{ApiContext, Error};

use crate::metrics::Metrics;

/// What a role's reconcilers share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The namespace all objects live in.
    pub namespace: String,
    /// Publishes Events in the role's name.
    pub events: events::Events,
    /// Opens the store of a backup target.
    pub stores: stores::Stores,
    /// Counters of this process.
    pub metrics: Arc<Metrics>,
    /// Pacing of retries.
    pub backoff: requeue::Backoff,
}

impl Context {
    /// The objects of one kind in our namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// How many objects of one kind are worked on at once.
const CONCURRENCY: u16 = 16;
/// Bursts of changes of one object become one pass.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Runs a controller until `shutdown`: every error is logged once and paced by the one back-off, a panic costs one pass only.
pub async fn drive<K, F, Fut>(controller: Controller<K>, context: Arc<Context>, shutdown: CancellationToken, reconcile: F)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Debug + Eq + Hash + Clone + Default + Unpin,
    F: Fn(Arc<K>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(
            move |object, context: Arc<Context>| {
                let key = key_of(object.as_ref());
                let pass = reconcile(object);
                async move {
                    let action = pass.await?;
                    context.backoff.reset(&key);
                    Ok::<_, Error>(action)
                }
            },
            |object, error, context| {
                let wait = context.backoff.after(&key_of(object.as_ref()), error);
                failed(&context, object.as_ref(), error, wait);
                Action::requeue(wait)
            },
            context,
        )
        .for_each(|result| {
            if let Err(error @ controller::Error::QueueError(_)) = &result {
                tracing::warn!(kind, %error, "a watch was interrupted");
            }
            std::future::ready(())
        })
        .await;
}

/// Counts a failed pass, and logs it where a person can do something about it.
fn failed<K: Resource<DynamicType = ()>>(context: &Context, object: &K, error: &Error, again_in: Duration) {
    let (kind, name) = (K::kind(&()), object.name_any());
    context.metrics.reconcile_failed(&kind, error.category());
    match error {
        Error::NotYet(reason) => tracing::debug!(%kind, name, reason, "waiting"),
        conflict if conflict.is_conflict() => tracing::debug!(%kind, name, "the object changed meanwhile"),
        error => tracing::warn!(%kind, name, %error, ?again_in, "reconcile failed"),
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}/{}", K::kind(&()), object.name_any())
}

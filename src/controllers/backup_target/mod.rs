//! BackupTarget: finds out whether the store can be used and is still the same, and keeps objects that describe what it holds.

mod catalogue;
mod due;
mod identity;
mod observe;
mod report;
mod sync;

pub use report::{unusable, usability};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};

use kube::{Api, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::error::is_already_exists;
use super::meta::{self, Change};
use super::{ApiContext, Context, Error, deletion, drive};
use crate::crd::names::DEFAULT_BACKUP_TARGET;
use crate::crd::{BackupTarget, BackupTargetSpec, Time};
use due::{Seen, Sync, Times};
use observe::Observation;
use report::Finding;

/// A target `default` that somebody deleted is there again after this time at the latest.
const ENSURE_EVERY: Duration = Duration::from_secs(60);

/// The reconciler and what it remembers; losing that costs two seconds.
struct Targets {
    context: Arc<Context>,
    /// The place and Secret of each target, and since when.
    seen: Mutex<HashMap<String, Seen>>,
}

/// Runs until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let (reader, writer) = reflector::store::<BackupTarget>();
    // The status is ours; messages of a failing server differ from try to try, and each must not cause the next try.
    let targets = watcher(context.api::<BackupTarget>(), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations).combine(predicates::finalizers),
            PredicateConfig::default(),
        );
    // Metadata only: no Secret's content is kept in memory for this.
    let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(context.client.clone(), &context.namespace);
    let secrets = watcher(secrets, watcher::Config::default()).default_backoff().touched_objects();
    let known = reader.clone();
    let controller = Controller::for_stream(targets, reader).watches_stream(secrets, move |secret: PartialObjectMeta<Secret>| {
        let name = secret.name_any();
        known
            .state()
            .into_iter()
            .filter(|t| t.spec.credential_secret.trim() == name)
            .map(|t| ObjectRef::from_obj(t.as_ref()))
            .collect::<Vec<_>>()
    });
    let worker = Arc::new(Targets { context: context.clone(), seen: Mutex::default() });
    tokio::join!(
        drive(controller, context.clone(), shutdown.clone(), move |target| {
            let worker = worker.clone();
            async move { worker.reconcile(target.as_ref()).await }
        }),
        ensure_default(&context, &shutdown)
    );
}

/// Creates the target `default` while it is missing.
async fn ensure_default(context: &Context, shutdown: &CancellationToken) {
    loop {
        let wait = match create_default(context).await {
            Ok(()) => ENSURE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "failed to create the backup target default");
                context.backoff.after("BackupTarget", &error)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn create_default(context: &Context) -> Result<(), Error> {
    let api = context.api::<BackupTarget>();
    let what = || "create backup target default".to_owned();
    if api.get_metadata_opt(DEFAULT_BACKUP_TARGET).await.context(what)?.is_some() {
        return Ok(());
    }
    let target = BackupTarget::new(DEFAULT_BACKUP_TARGET, BackupTargetSpec::default());
    match api.create(&PostParams::default(), &target).await {
        Err(error) if !is_already_exists(&error) => Err(error).context(what),
        _ => Ok(()),
    }
}

impl Targets {
    async fn reconcile(&self, target: &BackupTarget) -> Result<Action, Error> {
        let context = &self.context;
        if target.meta().deletion_timestamp.is_some() {
            return self.release(target).await;
        }
        let api = context.api::<BackupTarget>();
        let target = &meta::patch(&api, target, &Change::missing(target, [])).await?;
        if let Some(wait) = self.companion_wait(target) {
            return Ok(Action::requeue(wait));
        }
        let observation = observe::observe(context, target).await?;
        let store = match observation {
            Observation::Usable(store) => store,
            Observation::Not(finding) => {
                if finding == Finding::NoUrl {
                    sync::forget(context, &target.name_any()).await?;
                }
                return report::unavailable(context, target, finding).await;
            }
        };
        let now = Timestamp::now();
        let previous = target.status.clone().unwrap_or_default();
        let moved = previous.store_id != store.id || previous.store_url != store.url;
        let times = Times {
            last: if moved { None } else { previous.last_synced_at.get() },
            requested: target.spec.sync_requested_at.get(),
            answered: previous.sync_answered_at.get(),
            poll: target.spec.poll_interval.0,
        };
        let synced = match due::sync(times, now) {
            Sync::Now => {
                if let Err(error) = sync::sync(context, &target.name_any(), &store).await {
                    return report::listing_failed(context, target, error).await;
                }
                Some(Time::from(now))
            }
            Sync::In(_) | Sync::WhenAsked => None,
        };
        report::available(context, target, &store, synced).await?;
        Ok(
            match due::sync(
                Times {
                    last: Some(synced.and_then(Time::get).or(times.last).unwrap_or(now)),
                    answered: times.requested,
                    ..times
                },
                now,
            ) {
                Sync::In(left) => Action::requeue(left),
                Sync::Now => Action::requeue(Duration::from_secs(1)),
                Sync::WhenAsked => Action::await_change(),
            },
        )
    }

    /// How long the place and the Secret must stand still yet.
    fn companion_wait(&self, target: &BackupTarget) -> Option<Duration> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (url, secret) = (&target.spec.backup_target_url, &target.spec.credential_secret);
        match seen.get(&target.name_any()) {
            Some(last) if last.url == *url && last.secret == *secret => last.wait(now),
            _ => {
                let settled = report::is_current(target);
                let fresh = Seen { url: url.clone(), secret: secret.clone(), since: (!settled).then_some(now) };
                let wait = fresh.wait(now);
                seen.insert(target.name_any(), fresh);
                wait
            }
        }
    }

    /// The target goes: so do the objects that describe its store. The store itself is not touched.
    async fn release(&self, target: &BackupTarget) -> Result<Action, Error> {
        let context = &self.context;
        let name = target.name_any();
        // With the definitions or the namespace going, the objects go by themselves.
        if deletion::terminating(context, &["backuptargets.longhorn.io"]).await?.is_none() {
            sync::forget(context, &name).await?;
        }
        meta::release(&context.api::<BackupTarget>(), target).await?;
        report::forget(context, &name);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        if name == DEFAULT_BACKUP_TARGET && deletion::terminating(context, &["backuptargets.longhorn.io"]).await?.is_none() {
            create_default(context).await?;
        }
        Ok(Action::await_change())
    }
}

//! Setting: every known name exists, values are checked, and the three aliases of the target `default` follow it and lead it.

mod alias;
pub mod mirror;

pub use crate::crd::definitions;

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ObjectMeta, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};

use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::error::is_already_exists;
use super::events::Reason;
use super::{ApiContext, Context, Error, drive, status};
use crate::crd::names::DEFAULT_BACKUP_TARGET;
use crate::crd::{BackupTarget, Setting, SettingStatus};

/// A Setting that somebody deleted is there again after this time at the latest; until then its default is in force.
const ENSURE_EVERY: Duration = Duration::from_secs(60);

/// Runs until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let (reader, writer) = reflector::store::<Setting>();
    // The status is ours: a change of it is nothing to look at.
    let settings = watcher(context.api::<Setting>(), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), PredicateConfig::default());
    let targets = watcher(context.api::<BackupTarget>(), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    let namespace = context.namespace.clone();
    let controller = Controller::for_stream(settings, reader).watches_stream(targets, move |target: BackupTarget| {
        let aliases: &[&str] = if target.name_any() == DEFAULT_BACKUP_TARGET { &alias::NAMES } else { &[] };
        aliases.iter().map(|name| ObjectRef::new(name).within(&namespace)).collect::<Vec<_>>()
    });
    let each = context.clone();
    tokio::join!(
        drive(controller, context.clone(), shutdown.clone(), move |setting| reconcile(setting, each.clone())),
        ensure_all(&context, &shutdown)
    );
}

/// Creates every setting that is missing, never changes one, at the start and from time to time.
async fn ensure_all(context: &Context, shutdown: &CancellationToken) {
    loop {
        let wait = match create_missing(context).await {
            Ok(()) => ENSURE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "failed to create the settings");
                context.backoff.after("settings", &error)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn create_missing(context: &Context) -> Result<(), Error> {
    let api = context.api::<Setting>();
    let there = api.list_metadata(&kube::api::ListParams::default()).await.context(|| "list the settings".to_owned())?;
    for definition in &definitions::ALL {
        if there.items.iter().any(|setting| setting.name_any() == definition.name) {
            continue;
        }
        let setting = Setting {
            metadata: ObjectMeta { name: Some(definition.name.to_owned()), ..ObjectMeta::default() },
            value: definition.default.to_owned(),
            status: None,
        };
        match api.create(&PostParams::default(), &setting).await {
            Err(error) if !is_already_exists(&error) => {
                return Err(error).context(|| format!("create setting {}", definition.name));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn reconcile(setting: Arc<Setting>, context: Arc<Context>) -> Result<Action, Error> {
    if setting.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = setting.name_any();
    let verdict = match definitions::find(&name) {
        None if definitions::WITHOUT_EFFECT.contains(&name.as_str()) => {
            Err(format!("setting {name} of Longhorn has no effect here: it is about what this system does not have"))
        }
        None => Err(format!("setting {name} does not exist: see the list of settings in the documentation")),
        Some(definition) => definition.check(&setting.value),
    };
    let (setting, verdict) = match alias::Alias::of(&name) {
        Some(alias) => alias::mirror(alias, setting.as_ref().clone(), verdict, &context).await?,
        None => (setting.as_ref().clone(), verdict),
    };
    let applied = verdict.is_ok();
    let was = setting.status.as_ref().map(|status| status.applied);
    status::write(&context.api::<Setting>(), &setting, SettingStatus { applied }).await?;
    if let Err(words) = verdict
        && was != Some(false)
    {
        context.events.warning(&setting, Reason::Invalid, words, None).await;
    }
    Ok(Action::await_change())
}

//! Who may delete from a store: the decision for a Backup or BackupVolume object that has a deletion time.
//!
//! Data goes only for an object that a client or a job's retention deleted by itself. An object that goes because its namespace or
//! its definition goes, or that the manager removes because the store no longer has it, takes nothing with it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Resource, ResourceExt};

use super::backup_target::unusable;
use super::error::is_not_found;
use super::meta::{self, Change};
use super::stores::Stores;
use super::{ApiContext, Context, Error};
use crate::backupstore::Store;
use crate::backupstore::target_url::BackupUrl;
use crate::crd::BackupTarget;
use crate::crd::names::{LABEL_DELETE_OBJECT_ONLY, TRUE};

/// The target that holds the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// There is no such object, or it is being deleted.
    Missing,
    /// It leads to another place than the one where the data is.
    Elsewhere,
    /// It cannot be used now.
    Unavailable(String),
    /// It can be used.
    Available,
}

/// The upload that may still go on for a Backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// No agent was ever given it.
    Never,
    /// An agent may be at it.
    Running,
    /// The agent stopped, or stays away for so long that it counts as dead.
    Over,
}

/// What is known about an object with a deletion time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The namespace or definition that is going, by kind and name.
    pub terminating: Option<String>,
    /// Whether the object carries `longhorn.io/delete-custom-resource-only=true`.
    pub object_only: bool,
    /// The target.
    pub target: Target,
    /// The upload, `Over` for a BackupVolume.
    pub upload: Upload,
    /// Whether its state says Deleting already.
    pub marked: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Let the object go and leave the store alone. With words where a user may have expected otherwise.
    Release(Option<String>),
    /// Say in the status that it is being deleted: the agent then stops.
    Mark,
    /// Wait for the agent to stop.
    AwaitAgent,
    /// Wait for the target, for this reason.
    AwaitTarget(String),
    /// Delete the data, then let the object go.
    Delete,
}

/// Decides by the facts.
pub fn plan(facts: &Facts) -> Step {
    if facts.terminating.is_some() {
        return Step::Release(None);
    }
    // Whatever is left of the store: an upload whose object is gone would go on unseen.
    if facts.upload == Upload::Running {
        return if facts.marked { Step::AwaitAgent } else { Step::Mark };
    }
    if facts.object_only {
        return Step::Release(Some("the object carries the label longhorn.io/delete-custom-resource-only".to_owned()));
    }
    match &facts.target {
        Target::Missing => Step::Release(Some("its backup target is gone".to_owned())),
        Target::Elsewhere => Step::Release(Some("its backup target now leads to another place".to_owned())),
        _ if facts.upload == Upload::Never => Step::Release(None),
        _ if !facts.marked => Step::Mark,
        Target::Unavailable(why) => Step::AwaitTarget(why.clone()),
        Target::Available => Step::Delete,
    }
}

/// The namespace or the definition of `crd_names` that is being deleted or gone, asked of the API server now: an object's own deletion
/// time never comes before theirs when they are its cause.
pub async fn terminating(context: &Context, crd_names: &[&str]) -> Result<Option<String>, Error> {
    let client = &context.client;
    let namespace = going(&Api::<Namespace>::all(client.clone()), &context.namespace).await?;
    if namespace.is_some() {
        return Ok(namespace);
    }
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for name in crd_names {
        let definition = going(&definitions, name).await?;
        if definition.is_some() {
            return Ok(definition);
        }
    }
    Ok(None)
}

/// The target that holds the data, as far as a deletion cares. `place`: the URL of the data, where it is known.
pub async fn target(context: &Context, name: &str, place: Option<&BackupUrl>) -> Result<(Target, Option<BackupTarget>), Error> {
    let found = context.api::<BackupTarget>().get_opt(name).await.context(|| format!("read backup target {name}"))?;
    let Some(target) = found.filter(|target| target.metadata.deletion_timestamp.is_none()) else {
        return Ok((Target::Missing, None));
    };
    let fact = match unusable(&target) {
        Some(why) => Target::Unavailable(format!("backup target {name} is not available: {why}")),
        None => match (place, Stores::parse_url(&target)) {
            (Some(place), Ok(url)) if place.target != url => Target::Elsewhere,
            _ => Target::Available,
        },
    };
    Ok((fact, Some(target)))
}

/// Opens the store for a deletion, after a look whether it is still the one that the target's objects describe.
pub async fn open(context: &Context, target: &BackupTarget) -> Result<Store, Error> {
    let store = context.stores.open(target).await?;
    let known = target.status.as_ref().map(|status| status.store_id.as_str()).unwrap_or_default();
    let found = store.marker().await?.map(|marker| marker.id).unwrap_or_default();
    if known.is_empty() || found != known {
        let reason = format!("the store carries the id {found:?}, but the backups here were in the store with id {known:?}");
        return Err(Error::TargetUnavailable { target: target.name_any(), reason });
    }
    Ok(store)
}

/// Lets a thing be said once an hour for each object. A new leader may say it once more.
#[derive(Debug, Default)]
pub struct Hourly {
    said: Mutex<HashMap<String, Instant>>,
}

impl Hourly {
    /// Whether an hour has passed since this was true for `uid`.
    pub fn due(&self, uid: &str, now: Instant) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(uid).is_some_and(|last| now.saturating_duration_since(*last) < Duration::from_secs(3600)) {
            return false;
        }
        said.insert(uid.to_owned(), now);
        true
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Removes the object and leaves the store alone: the label that says so is on it before it is deleted.
pub async fn remove_object_only<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let name = object.name_any();
    let change = Change { labels: [(LABEL_DELETE_OBJECT_ONLY, TRUE.to_owned())].into(), ..Change::default() };
    let labelled = match meta::patch(api, object, &change).await {
        Err(Error::Api { source, .. }) if is_not_found(&source) => return Ok(()),
        result => result?,
    };
    delete(api, &labelled).await.context(|| format!("remove {} {name}", K::kind(&())))
}

/// Deletes the object that was read, and no other one of its name. One that is gone is no error.
pub async fn delete<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&object.name_any(), &params).await {
        Err(error) if is_not_found(&error) => Ok(()),
        result => result.map(drop),
    }
}

async fn going<K>(api: &Api<K>, name: &str) -> Result<Option<String>, Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let kind = K::kind(&());
    let found: Option<PartialObjectMeta<K>> =
        api.get_metadata_opt(name).await.context(|| format!("see whether {kind} {name} is being deleted"))?;
    let stays = found.is_some_and(|object| object.metadata.deletion_timestamp.is_none());
    Ok((!stays).then(|| format!("{kind} {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletable() -> Facts {
        Facts { terminating: None, object_only: false, target: Target::Available, upload: Upload::Over, marked: true }
    }

    #[test]
    fn data_goes_only_for_an_object_that_was_deleted_for_itself() {
        assert_eq!(plan(&deletable()), Step::Delete);
        assert_eq!(plan(&Facts { terminating: Some("Namespace x".into()), ..deletable() }), Step::Release(None));
        for facts in [
            Facts { object_only: true, ..deletable() },
            Facts { target: Target::Missing, ..deletable() },
            Facts { target: Target::Elsewhere, ..deletable() },
        ] {
            assert!(matches!(plan(&facts), Step::Release(Some(_))), "{facts:?}");
        }
    }

    #[test]
    fn no_order_of_facts_deletes_while_the_namespace_or_definition_goes() {
        for object_only in [false, true] {
            for target in [Target::Missing, Target::Elsewhere, Target::Unavailable("x".into()), Target::Available] {
                for upload in [Upload::Never, Upload::Running, Upload::Over] {
                    for marked in [false, true] {
                        let facts = Facts { terminating: Some("x".into()), object_only, target: target.clone(), upload, marked };
                        assert_eq!(plan(&facts), Step::Release(None));
                    }
                }
            }
        }
    }

    #[test]
    fn a_running_upload_is_told_and_waited_for_before_anything_else() {
        let running = Facts { upload: Upload::Running, target: Target::Unavailable("x".into()), marked: false, ..deletable() };
        assert_eq!(plan(&running), Step::Mark);
        assert_eq!(plan(&Facts { marked: true, ..running.clone() }), Step::AwaitAgent);
        assert_eq!(plan(&Facts { marked: true, upload: Upload::Over, ..running.clone() }), Step::AwaitTarget("x".into()));
        // Also where the store is left alone, but not while everything goes: then no agent may be there to answer.
        for leaves_the_store in [
            Facts { object_only: true, ..running.clone() },
            Facts { target: Target::Missing, ..running.clone() },
            Facts { target: Target::Elsewhere, ..running.clone() },
        ] {
            assert_eq!(plan(&leaves_the_store), Step::Mark);
            assert_eq!(plan(&Facts { marked: true, ..leaves_the_store.clone() }), Step::AwaitAgent);
            let over = Facts { marked: true, upload: Upload::Over, ..leaves_the_store };
            assert!(matches!(plan(&over), Step::Release(Some(_))));
        }
        assert_eq!(plan(&Facts { terminating: Some("Namespace x".into()), ..running }), Step::Release(None));
    }

    #[test]
    fn a_wait_is_told_once_an_hour_for_each_object() {
        let (hourly, now) = (Hourly::default(), Instant::now());
        assert!(hourly.due("a", now) && hourly.due("b", now));
        assert!(!hourly.due("a", now + Duration::from_secs(3599)));
        assert!(hourly.due("a", now + Duration::from_secs(3600)));
    }

    #[test]
    fn a_backup_that_no_agent_saw_needs_no_store() {
        let never = Facts { upload: Upload::Never, target: Target::Unavailable("x".into()), marked: false, ..deletable() };
        assert_eq!(plan(&never), Step::Release(None));
    }
}

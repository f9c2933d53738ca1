//! Volume: gives a Volume its defaults and its node. From then on it belongs to that node's agent.

mod observe;
mod place;
mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

use self::observe::{Promised, observe};
use self::plan::{Placement, Plan};
use super::caches::Caches;
use super::events::Reason;
use super::{ApiContext, Context, Error, drive, meta, status};
use crate::crd::{Condition, Volume, condition_type, find_condition, names, set_condition};

/// What every pass uses.
struct Volumes {
    context: Arc<Context>,
    caches: Caches,
    /// Room given away that the copies may not show yet. Held while a node is chosen, so that two volumes never share one gap.
    promised: tokio::sync::Mutex<Promised>,
    /// By volume: the generation whose wrong `spec.nodeID` was told. Losing it in a restart means saying it once more.
    told: Mutex<HashMap<String, i64>>,
}

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, caches: Caches, shutdown: CancellationToken) {
    // A node that comes, or gets room or tags, may be the one that a volume waits for. So may a backup that shows its size.
    let waiting = |volumes: super::caches::Cache<Volume>| {
        move || {
            let waiting = volumes.all().into_iter().filter(|volume| !volume.labels().contains_key(names::LABEL_NODE));
            stream::iter(waiting.map(|volume| ObjectRef::from_obj(volume.as_ref())).collect::<Vec<_>>())
        }
    };
    let (by_node, by_backup) = (waiting(caches.volumes.clone()), waiting(caches.volumes.clone()));
    let controller = Controller::for_stream(caches.volumes.trigger(), caches.volumes.reader())
        .reconcile_on(caches.nodes.touched().flat_map(move |_| by_node()))
        .reconcile_on(caches.backups.touched().flat_map(move |_| by_backup()));
    let volumes =
        Arc::new(Volumes { context: context.clone(), caches, promised: tokio::sync::Mutex::default(), told: Mutex::default() });
    drive(controller, context, shutdown, move |object| {
        let volumes = volumes.clone();
        async move { volumes.reconcile(&object).await }
    })
    .await;
}

impl Volumes {
    async fn reconcile(&self, object: &Volume) -> Result<Action, Error> {
        let mut promised = self.promised.lock().await;
        let seen = observe(object, &self.caches, &mut promised);
        let plan = plan::plan(&seen);
        if let Plan::Arrange { patch, placement: Placement::Take(node), .. } = &plan {
            promised.promise(object.name_any(), node.clone(), patch.size.unwrap_or(seen.request.size));
        }
        drop(promised);
        match plan {
            Plan::Leave => {}
            Plan::Release => meta::release(&self.context.api(), object).await?,
            Plan::Arrange { patch, placement, degraded, misplaced } => {
                let object = self.say(object, &placement).await?;
                self.patch(&object, &patch).await?;
                if let Some(words) = degraded {
                    self.context.events.warning(&object, Reason::Degraded, words, None).await;
                }
                self.warn_misplaced(&object, misplaced).await;
            }
        }
        Ok(Action::await_change())
    }

    /// Writes condition `Scheduled` of a volume that is on no node yet. Once it is, the status is the agent's.
    async fn say(&self, object: &Volume, placement: &Placement) -> Result<Volume, Error> {
        let (holds, reason, message) = match placement {
            Placement::Held => return Ok(object.clone()),
            Placement::Take(node) => (true, "Placed", format!("node {node} takes the volume")),
            Placement::None { reason, message } => (false, *reason, message.clone()),
        };
        let mut new = object.status.clone().unwrap_or_default();
        let news = find_condition(&new.conditions, condition_type::SCHEDULED)
            .is_none_or(|old| old.reason != reason || old.message != message);
        let condition =
            Condition::new(condition_type::SCHEDULED, holds, reason, message.clone(), object.meta().generation, Timestamp::now());
        set_condition(&mut new.conditions, condition);
        let written = status::write(&self.context.api(), object, new).await?;
        if news && !holds {
            self.context.events.warning(&written, Reason::FailedScheduling, message, about(&written, reason)).await;
        }
        Ok(written)
    }

    async fn patch(&self, object: &Volume, patch: &plan::Patch) -> Result<(), Error> {
        if patch.is_empty() {
            return Ok(());
        }
        let name = object.name_any();
        self.context
            .api::<Volume>()
            .patch(&name, &PatchParams::default(), &Patch::Merge(body(object, patch)))
            .await
            .context(|| format!("write the defaults of Volume {name}"))
            .map(drop)
    }

    /// Told once for each change of the spec.
    async fn warn_misplaced(&self, object: &Volume, misplaced: Option<String>) {
        let name = object.name_any();
        let generation = object.meta().generation.unwrap_or_default();
        let news = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            match &misplaced {
                Some(_) => told.insert(name, generation) != Some(generation),
                None => {
                    told.remove(&name);
                    false
                }
            }
        };
        if let Some(words) = misplaced.filter(|_| news) {
            self.context.events.warning(object, Reason::FailedScheduling, words, about(object, "Misplaced")).await;
        }
    }
}

/// What keeps the recorder from folding an Event into an earlier one that gave another reason.
fn about(object: &Volume, reason: &str) -> Option<ObjectReference> {
    Some(ObjectReference { field_path: Some(format!("status.conditions{{Scheduled:{reason}}}")), ..object.object_ref(&()) })
}

fn body(object: &Volume, patch: &plan::Patch) -> serde_json::Value {
    let mut labels = Map::new();
    if patch.default_group {
        labels.insert(names::group_label(names::DEFAULT_JOB_GROUP), json!(names::ENABLED));
    }
    if let Some(node) = &patch.node {
        labels.insert(names::LABEL_NODE.to_owned(), json!(node));
    }
    let mut metadata = json!({ "resourceVersion": object.resource_version(), "labels": labels });
    if patch.finalizer {
        let mut finalizers = object.finalizers().to_vec();
        finalizers.push(names::FINALIZER.to_owned());
        metadata["finalizers"] = json!(finalizers);
    }
    let mut spec = Map::new();
    if patch.default_target {
        spec.insert("backupTargetName".to_owned(), json!(names::DEFAULT_BACKUP_TARGET));
    }
    if let Some(size) = patch.size {
        spec.insert("size".to_owned(), json!(size.to_string()));
    }
    json!({ "metadata": metadata, "spec": spec })
}

//! Snapshot: hands a Snapshot that somebody applied to the node of its volume, or says why nobody can take it.

mod plan;

use std::sync::Arc;

use futures::{StreamExt, stream};
use kube::api::{Patch, PatchParams};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::plan::{Observed, Plan, plan};
use super::caches::Caches;
use super::recurring_job::owner;
use super::{ApiContext, Context, Error, drive, meta, status};
use crate::crd::{Snapshot, Volume, names};

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, caches: Caches, shutdown: CancellationToken) {
    let snapshots = caches.snapshots.clone();
    let of_volume = caches.volumes.touched().flat_map(move |volume| {
        let name = volume.name_any();
        let waiting =
            snapshots.all().into_iter().filter(|s| s.spec.volume == name && !s.labels().contains_key(names::LABEL_NODE));
        stream::iter(waiting.map(|s| ObjectRef::from_obj(s.as_ref())).collect::<Vec<_>>())
    });
    let controller = Controller::for_stream(caches.snapshots.trigger(), caches.snapshots.reader()).reconcile_on(of_volume);
    let shared = context.clone();
    drive(controller, context, shutdown, move |object| {
        let (context, caches) = (shared.clone(), caches.clone());
        async move { reconcile(&context, &caches, &object).await }
    })
    .await;
}

async fn reconcile(context: &Context, caches: &Caches, object: &Snapshot) -> Result<Action, Error> {
    let volume = caches.volumes.get(&context.namespace, &object.spec.volume);
    match plan(&observe(object, volume.as_deref())) {
        Plan::Leave => {}
        Plan::Release => meta::release(&context.api(), object).await?,
        Plan::AwaitPlacement => return Err(Error::NotYet(format!("volume {} is on no node yet", object.spec.volume))),
        Plan::Refuse(error) => refuse(context, object, error).await?,
        Plan::Admit { node, volume_uid, clear_error } => {
            let object = if clear_error { &write_error(context, object, String::new()).await? } else { object };
            admit(context, object, &node, &volume_uid).await?;
        }
    }
    Ok(Action::await_change())
}

fn observe(object: &Snapshot, volume: Option<&Volume>) -> Observed {
    let node_of =
        |labels: &std::collections::BTreeMap<String, String>| labels.get(names::LABEL_NODE).filter(|n| !n.is_empty()).cloned();
    let owned = |uid: &str| object.owner_references().iter().any(|owner| owner.uid == uid);
    let volume = volume.map(|volume| plan::Volume {
        uid: volume.uid().unwrap_or_default(),
        node: node_of(volume.labels()),
        deleting: volume.meta().deletion_timestamp.is_some(),
    });
    let node = node_of(object.labels());
    let admitted = meta::has_finalizer(object)
        && object.labels().get(names::LABEL_VOLUME) == Some(&object.spec.volume)
        && volume.as_ref().is_some_and(|volume| node.is_some() && volume.node == node && owned(&volume.uid));
    Observed {
        mirrors: !object.spec.create_snapshot,
        deleting: object.meta().deletion_timestamp.is_some(),
        finalizer: meta::has_finalizer(object),
        node,
        admitted,
        error: object.status.as_ref().map(|status| status.error.clone()).unwrap_or_default(),
        volume_name: object.spec.volume.clone(),
        volume,
    }
}

/// Our copy may lack a Volume that was applied together with the Snapshot: asked once more before anybody is told that there is none.
async fn refuse(context: &Context, object: &Snapshot, error: String) -> Result<(), Error> {
    if error == plan::unknown_volume(&object.spec.volume) {
        let found = context
            .api::<Volume>()
            .get_opt(&object.spec.volume)
            .await
            .context(|| format!("read Volume {}", object.spec.volume))?;
        if found.is_some() {
            return Err(Error::NotYet(format!("volume {} was made a moment ago", object.spec.volume)));
        }
    }
    write_error(context, object, error).await.map(drop)
}

async fn write_error(context: &Context, object: &Snapshot, error: String) -> Result<Snapshot, Error> {
    let mut status = object.status.clone().unwrap_or_default();
    status.error = error;
    status::write(&context.api(), object, status).await
}

/// One write with everything, so that the agent never sees half of it.
async fn admit(context: &Context, object: &Snapshot, node: &str, volume_uid: &str) -> Result<(), Error> {
    let name = object.name_any();
    let mut finalizers = object.finalizers().to_vec();
    if !meta::has_finalizer(object) {
        finalizers.push(names::FINALIZER.to_owned());
    }
    let mut owners: Vec<_> = object.owner_references().iter().filter(|owner| owner.kind != "Volume").cloned().collect();
    owners.push(owner(&object.spec.volume, volume_uid));
    let body = json!({ "metadata": {
        "resourceVersion": object.resource_version(),
        "labels": { (names::LABEL_VOLUME): object.spec.volume, (names::LABEL_NODE): node },
        "finalizers": finalizers,
        "ownerReferences": owners,
    }});
    context
        .api::<Snapshot>()
        .patch(&name, &PatchParams::default(), &Patch::Merge(body))
        .await
        .context(|| format!("write the metadata of Snapshot {name}"))
        .map(drop)
}

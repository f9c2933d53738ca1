//! Looks at the store of a target: which step of reaching it fails, and whether it is the store that the objects describe.

use kube::ResourceExt;
use kube::api::ListParams;

use super::identity::{self, Confirmation, Known, Verdict};
use super::report::Finding;
use super::sync;
use crate::backupstore::Store;
use crate::backupstore::target_url::Target;
use crate::controllers::stores::Stores;
use crate::controllers::{ApiContext, Context, Error};
use crate::crd::names::{ANNOTATION_CONFIRM_STORE, LABEL_BACKUP_TARGET};
use crate::crd::{BackupTarget, BackupVolume};

/// A store that can be used.
#[derive(Clone)]
pub struct Usable {
    /// The store.
    pub store: Store,
    /// The target's URL, parsed.
    pub target: Target,
    /// The same in its one spelling.
    pub url: String,
    /// The id in its marker.
    pub id: String,
}

/// What a look at the store gave.
pub enum Observation {
    /// It can be used.
    Usable(Box<Usable>),
    /// It cannot.
    Not(Finding),
}

/// Looks. `Err` only where the API server fails.
pub async fn observe(context: &Context, target: &BackupTarget) -> Result<Observation, Error> {
    if target.spec.backup_target_url.trim().is_empty() {
        return Ok(Observation::Not(Finding::NoUrl));
    }
    match reach(context, target).await {
        Ok(observation) => Ok(observation),
        Err(error @ Error::Api { .. }) => Err(error),
        Err(Error::TargetUnavailable { reason, .. }) => Ok(Observation::Not(Finding::Failed(reason))),
        Err(error) => Ok(Observation::Not(Finding::Failed(error.to_string()))),
    }
}

async fn reach(context: &Context, target: &BackupTarget) -> Result<Observation, Error> {
    let name = target.name_any();
    let parsed = Stores::parse_url(target)?;
    let url = parsed.to_string();
    let store = context.stores.open(target).await?;
    let status = target.status.clone().unwrap_or_default();
    let known = (!status.store_id.is_empty()).then(|| Known { id: status.store_id.clone(), url: status.store_url.clone() });
    // The first look only reads: a store that is not ours to judge is not written to either. Where even that fails, the probe says which step.
    let found = match store.marker().await {
        Ok(marker) => marker.map(|marker| marker.id),
        Err(error) => {
            store.probe().await.map_err(|error| unusable(&name, error.to_string()))?;
            return Err(error.into());
        }
    };
    let objects = known.is_some() && has_objects(context, &name).await?;
    let confirmation = Confirmation::parse(target.annotations().get(ANNOTATION_CONFIRM_STORE).map(String::as_str));
    let verdict = identity::judge(known.as_ref(), &url, found.as_deref(), objects, confirmation);
    match verdict {
        Verdict::Changed => {
            let known = known.map(|known| known.id).unwrap_or_default();
            return Ok(Observation::Not(Finding::StoreChanged { known, found }));
        }
        Verdict::Moved | Verdict::Confirmed => sync::forget(context, &name).await?,
        Verdict::Same | Verdict::Adopt => {}
    }
    if verdict != Verdict::Same || !context.stores.is_proven(&name) || asked(target) {
        store.probe().await.map_err(|error| unusable(&name, error.to_string()))?;
        context.stores.set_proven(&name);
    }
    let id = match found {
        Some(id) => id,
        None => store.ensure_marker().await?.id,
    };
    Ok(Observation::Usable(Box::new(Usable { store, target: parsed, url, id })))
}

/// A person asked for a look.
fn asked(target: &BackupTarget) -> bool {
    let answered = target.status.as_ref().map(|status| status.sync_answered_at).unwrap_or_default();
    !target.spec.sync_requested_at.is_unset() && target.spec.sync_requested_at != answered
}

async fn has_objects(context: &Context, target: &str) -> Result<bool, Error> {
    let of_target = ListParams::default().labels(&format!("{LABEL_BACKUP_TARGET}={target}")).limit(1);
    let volumes =
        context.api::<BackupVolume>().list_metadata(&of_target).await.context(|| "list the backup volumes".to_owned())?;
    if !volumes.items.is_empty() {
        return Ok(true);
    }
    sync::has_stored_backups(context, target).await
}

fn unusable(target: &str, reason: String) -> Error {
    Error::TargetUnavailable { target: target.to_owned(), reason }
}

//! The store of a backup target, used only while it is the one that the target's objects describe.
//!
//! A bucket that was emptied, or an endpoint that leads elsewhere, looks like a store that is well. A backup that went there would be
//! Completed beside older ones that lie in the other store; retention would then remove those.

use kube::ResourceExt;

use crate::backupstore::Store;
use crate::backupstore::target_url::Target;
use crate::controllers::backup_target::unusable;
use crate::controllers::stores::Stores;
use crate::controllers::{Context, Error};
use crate::crd::BackupTarget;

/// The store of a target, open.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Where it is.
    pub place: Target,
    target: BackupTarget,
}

impl Opened {
    /// Opens the store for a backup: of a target that can be used, and that still leads to the store it is known by.
    pub async fn to_write(context: &Context, target: BackupTarget) -> Result<Self, Error> {
        if let Some(reason) = unusable(&target) {
            return Err(Error::TargetUnavailable { target: target.name_any(), reason });
        }
        Self::to_read(context, target).await
    }

    /// Opens the store for a restore: only the store must be the known one. A target that the manager cannot write to can be read.
    pub async fn to_read(context: &Context, target: BackupTarget) -> Result<Self, Error> {
        let place = Stores::parse_url(&target)?;
        let store = context.stores.open(&target).await?;
        let opened = Self { store, place, target };
        opened.verify().await?;
        Ok(opened)
    }

    /// Looks whether the store is the known one: one request.
    pub async fn verify(&self) -> Result<(), Error> {
        if known(&self.target).is_empty() {
            return Ok(());
        }
        let found = self.store.marker().await?.map(|marker| marker.id);
        judge(&self.target, found.as_deref())
    }
}

/// The id of the store that the target's objects describe; nothing where there is none yet.
fn known(target: &BackupTarget) -> &str {
    target.status.as_ref().map(|status| status.store_id.as_str()).unwrap_or_default()
}

fn judge(target: &BackupTarget, found: Option<&str>) -> Result<(), Error> {
    let known = known(target);
    if known.is_empty() || found == Some(known) {
        return Ok(());
    }
    let seen = found.map_or_else(|| "no store id".to_owned(), |id| format!("the id {id}"));
    Err(Error::TargetUnavailable {
        target: target.name_any(),
        reason: format!(
            "the store carries {seen}, but the backups here are in the store with id {known}: bring that store back, or confirm the other one on the target"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{BackupTargetSpec, BackupTargetStatus};

    fn target(store_id: &str) -> BackupTarget {
        let status = BackupTargetStatus { store_id: store_id.to_owned(), ..BackupTargetStatus::default() };
        BackupTarget { status: Some(status), ..BackupTarget::new("default", BackupTargetSpec::default()) }
    }

    #[test]
    fn a_store_with_another_id_or_none_is_refused_for_now_and_both_ids_are_named() {
        for (found, words) in [(Some("foreign"), "the id foreign"), (None, "no store id")] {
            let error = judge(&target("known"), found).expect_err("another store");
            assert!(error.is_transient(), "{error}");
            assert!(error.to_string().contains(words) && error.to_string().contains("id known"), "{error}");
        }
    }

    #[test]
    fn the_known_store_is_taken_and_any_store_while_none_is_known() {
        assert!(judge(&target("known"), Some("known")).is_ok());
        assert!(judge(&target(""), Some("any")).is_ok());
        assert!(judge(&target(""), None).is_ok());
    }
}

//! Deletes what the store holds of a Backup whose object was deleted.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::heartbeat::Pulse;
use super::live::ERROR;
use super::{Backups, INFO, is_from_store, node, state, target_name, volume_name};
use crate::backupstore::delete::Skipped;
use crate::backupstore::target_url::BackupUrl;
use crate::backupstore::{self, Store};
use crate::controllers::deletion::{self, Facts, Step, Upload};
use crate::controllers::events::Reason;
use crate::controllers::{Error, backup_volume, meta, status};
use crate::crd::names::{LABEL_DELETE_OBJECT_ONLY, TRUE};
use crate::crd::{Backup, BackupPhase, BackupState, BackupTarget};
use crate::names::{BackupName, VolumeName};

/// Its going is no wish to delete data.
const DEFINITIONS: [&str; 1] = ["backups.longhorn.io"];
/// A waiting deletion is looked at again after this time at the latest; a target that comes back is seen at once.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Backups {
    pub(super) async fn remove(&self, backup: &Backup) -> Result<Action, Error> {
        if !meta::has_finalizer(backup) {
            self.forget(backup);
            return Ok(Action::await_change());
        }
        let object_only = backup.labels().get(LABEL_DELETE_OBJECT_ONLY).is_some_and(|value| value == TRUE);
        let upload = self.upload(backup);
        // Before anything is read: many deletions of one volume would ask the API server all the while they wait for each other.
        let _turn = if state(backup) == BackupState::Deleting && upload == Upload::Over && !object_only {
            match self.turns.take(&backup.uid().unwrap_or_default(), volume_name(backup)) {
                Ok(turn) => Some(turn),
                Err(wait) => return Ok(Action::requeue(wait)),
            }
        } else {
            None
        };
        self.remove_now(backup, object_only, upload).await
    }

    async fn remove_now(&self, backup: &Backup, object_only: bool, upload: Upload) -> Result<Action, Error> {
        let context = &self.context;
        let url = backup.status.as_ref().and_then(|status| status.url.parse::<BackupUrl>().ok());
        let (fact, target) = deletion::target(context, target_name(backup), url.as_ref()).await?;
        let facts = Facts {
            terminating: deletion::terminating(context, &DEFINITIONS).await?,
            object_only,
            target: fact,
            upload,
            marked: state(backup) == BackupState::Deleting,
        };
        match (deletion::plan(&facts), target) {
            (Step::Release(why), _) => self.let_go(backup, why).await,
            (Step::Mark, _) => self.mark(backup).await,
            (Step::AwaitAgent, _) => self.await_agent(backup).await,
            (Step::AwaitTarget(why), _) => self.wait(backup, &why).await,
            (Step::Delete, Some(target)) => self.delete(backup, &target).await,
            (Step::Delete, None) => Ok(Action::requeue(LOOK_AGAIN)),
        }
    }

    /// Whether an agent may still be uploading. Before the state says Deleting, an agent may be about to begin: its next status write
    /// then fails on ours, and it sees the deletion.
    fn upload(&self, backup: &Backup) -> Upload {
        let phase = backup.status.as_ref().map(|status| status.phase).unwrap_or_default();
        match state(backup) {
            BackupState::Completed => Upload::Over,
            _ if is_from_store(backup) => Upload::Over,
            _ if node(backup).is_none() => Upload::Never,
            BackupState::Error => Upload::Over,
            BackupState::Deleting if phase == BackupPhase::None || self.pulse(backup) == Pulse::Lost => Upload::Over,
            _ => Upload::Running,
        }
    }

    async fn mark(&self, backup: &Backup) -> Result<Action, Error> {
        let mut next = backup.status.clone().unwrap_or_default();
        next.state = BackupState::Deleting;
        status::write(&self.context.api::<Backup>(), backup, next).await?;
        Ok(Action::requeue(Duration::ZERO))
    }

    async fn await_agent(&self, backup: &Backup) -> Result<Action, Error> {
        let left = match self.pulse(backup) {
            Pulse::Beating(left) => left,
            Pulse::Lost => Duration::ZERO,
        };
        self.say(backup, INFO, format!("Waiting for the agent of node {} to stop the upload", node(backup).unwrap_or_default()))
            .await?;
        Ok(Action::requeue(left))
    }

    async fn delete(&self, backup: &Backup, target: &BackupTarget) -> Result<Action, Error> {
        let (Ok(name), Ok(volume)) = (backup.name_any().parse::<BackupName>(), volume_name(backup).parse::<VolumeName>()) else {
            return self.let_go(backup, None).await;
        };
        let store = match deletion::open(&self.context, target).await {
            Ok(store) => store,
            Err(Error::TargetUnavailable { reason, .. }) => return self.wait(backup, &reason).await,
            Err(error) => return self.delete_failed(backup, error).await,
        };
        if !self.is_own(backup, &store, &volume, &name).await? {
            return self.let_go(backup, Some("the store has another backup of this name".to_owned())).await;
        }
        match store.delete_backup(&volume, &name).await {
            Ok(deleted) => self.tell_garbage(backup, &volume, deleted.skipped).await,
            Err(error @ backupstore::Error::LockHeld { .. }) => {
                self.say(backup, INFO, error.to_string()).await?;
                return Err(Error::NotYet(error.to_string()));
            }
            Err(error) => return self.delete_failed(backup, error.into()).await,
        }
        let words = format!("backup {name} of volume {volume} was removed from backup target {}", target.name_any());
        self.context.events.normal(backup, Reason::Deleted, words, None).await;
        backup_volume::request_sync(&self.context, &target.name_any(), volume.as_str()).await?;
        self.let_go(backup, None).await
    }

    /// The backup is gone, but not the blocks that only it needed: somebody may have to mend what keeps them.
    async fn tell_garbage(&self, backup: &Backup, volume: &VolumeName, skipped: Option<Skipped>) {
        let Some(reason) = skipped else { return };
        let name = backup.name_any();
        tracing::warn!(backup = name, %volume, %reason, "blocks that nobody needs any more were left in the store");
        let words = format!(
            "blocks that only backup {name} of volume {volume} needed were left in the store: {reason}; the next deletion of a backup of this volume looks again"
        );
        self.context.events.warning(backup, Reason::GarbageLeft, words, None).await;
    }

    /// Whether what the store has under this name is what this object is about: a Backup that never completed may bear the name of one
    /// that somebody else made.
    async fn is_own(&self, backup: &Backup, store: &Store, volume: &VolumeName, name: &BackupName) -> Result<bool, Error> {
        let status = backup.status.clone().unwrap_or_default();
        if is_from_store(backup) || !status.backup_created_at.is_unset() {
            return Ok(true);
        }
        Ok(match store.backup(volume, name).await {
            Ok(Some(info)) => info.config.snapshot_id() == Some(status.snapshot_id.as_str()),
            Ok(None) => true,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => false,
        })
    }

    async fn let_go(&self, backup: &Backup, why: Option<String>) -> Result<Action, Error> {
        if let Some(why) = why {
            let words = format!("the object is removed and the store left as it is: {why}");
            self.context.events.normal(backup, Reason::KeptInStore, words, None).await;
        }
        meta::release(&self.context.api::<Backup>(), backup).await?;
        self.forget(backup);
        Ok(Action::await_change())
    }

    fn forget(&self, backup: &Backup) {
        let (uid, name) = (backup.uid().unwrap_or_default(), backup.name_any());
        self.hearts.forget(&uid);
        self.waiting.forget(&uid);
        self.turns.forget(&uid);
        self.gauges.remove(&name);
        self.show_backup_volume(volume_name(backup), target_name(backup), Some(&name));
    }

    async fn wait(&self, backup: &Backup, why: &str) -> Result<Action, Error> {
        let words = format!("the deletion waits: {why}");
        self.say(backup, INFO, words.clone()).await?;
        if self.waiting.due(&backup.uid().unwrap_or_default(), Instant::now()) {
            self.context.events.warning(backup, Reason::DeletionWaiting, words, None).await;
        }
        Ok(Action::requeue(LOOK_AGAIN))
    }

    async fn delete_failed(&self, backup: &Backup, error: Error) -> Result<Action, Error> {
        self.say(backup, ERROR, format!("Failed to delete the backup {} in the backupstore: {error}", backup.name_any())).await?;
        Err(error)
    }

    async fn say(&self, backup: &Backup, key: &str, words: String) -> Result<(), Error> {
        let mut next = backup.status.clone().unwrap_or_default();
        next.messages = [(key.to_owned(), words)].into();
        status::write(&self.context.api::<Backup>(), backup, next).await.map(drop)
    }
}

//! Deletes a BackupVolume's folder in the store, with every backup of the volume, and their objects.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::controller::Action;

use super::{MESSAGE_ERROR, Volumes};
use crate::backupstore;
use crate::controllers::deletion::{self, Facts, Step, Upload};
use crate::controllers::events::Reason;
use crate::controllers::{ApiContext, Error, meta, status};
use crate::crd::names::{LABEL_BACKUP_VOLUME, LABEL_DELETE_OBJECT_ONLY, TRUE};
use crate::crd::{Backup, BackupTarget, BackupVolume};
use crate::names::VolumeName;

/// Either of these going is no wish to delete data.
const DEFINITIONS: [&str; 2] = ["backupvolumes.longhorn.io", "backups.longhorn.io"];
/// A waiting deletion is looked at again after this time at the latest; a target that comes back is seen at once.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Volumes {
    pub(super) async fn remove(&self, volume: &BackupVolume) -> Result<Action, Error> {
        if !meta::has_finalizer(volume) {
            return Ok(Action::await_change());
        }
        let context = &self.context;
        let (fact, target) = deletion::target(context, &volume.spec.backup_target_name, None).await?;
        let facts = Facts {
            terminating: deletion::terminating(context, &DEFINITIONS).await?,
            object_only: volume.labels().get(LABEL_DELETE_OBJECT_ONLY).is_some_and(|value| value == TRUE),
            target: fact,
            upload: Upload::Over,
            marked: true,
        };
        match (deletion::plan(&facts), target) {
            (Step::Release(why), _) => self.let_go(volume, why).await,
            (Step::Delete, Some(target)) => self.delete(volume, &target).await,
            (Step::AwaitTarget(why), _) => self.wait(volume, &why).await,
            // A BackupVolume has no upload, and a target to delete from is there.
            (Step::Mark | Step::AwaitAgent | Step::Delete, _) => Ok(Action::requeue(LOOK_AGAIN)),
        }
    }

    /// Uploads under way stop first, then the data goes, then the objects that described it: until the last step a crash leaves the
    /// BackupVolume, which does it again.
    async fn delete(&self, volume: &BackupVolume, target: &BackupTarget) -> Result<Action, Error> {
        let context = &self.context;
        let Ok(name) = volume.spec.volume_name.parse::<VolumeName>() else { return self.let_go(volume, None).await };
        let store = match deletion::open(context, target).await {
            Ok(store) => store,
            Err(Error::TargetUnavailable { reason, .. }) => return self.wait(volume, &reason).await,
            Err(error) => return self.failed(volume, error).await,
        };
        let backups = self.backups(volume).await?;
        let api = context.api::<Backup>();
        for backup in backups.iter().filter(|backup| !backup.status.as_ref().is_some_and(|status| status.state.is_terminal())) {
            deletion::remove_object_only(&api, backup).await?;
        }
        match store.delete_volume(&name).await {
            Ok(_) => {}
            Err(error @ backupstore::Error::LockHeld { .. }) => {
                self.say(volume, &error.to_string()).await?;
                return Err(Error::NotYet(error.to_string()));
            }
            Err(error) => return self.failed(volume, error.into()).await,
        }
        for backup in &self.backups(volume).await? {
            deletion::remove_object_only(&api, backup).await?;
        }
        let words = format!("the backups of volume {name} were removed from backup target {}", target.name_any());
        context.events.normal(volume, Reason::Deleted, words, None).await;
        self.let_go(volume, None).await
    }

    async fn backups(&self, volume: &BackupVolume) -> Result<Vec<Backup>, Error> {
        let target = &volume.spec.backup_target_name;
        let of_volume = ListParams::default().labels(&format!("{LABEL_BACKUP_VOLUME}={}", volume.spec.volume_name));
        let list = self.context.api::<Backup>().list(&of_volume).await.context(|| "list the backups".to_owned())?;
        Ok(list.items.into_iter().filter(|backup| crate::controllers::backup::target_name(backup) == target).collect())
    }

    async fn let_go(&self, volume: &BackupVolume, why: Option<String>) -> Result<Action, Error> {
        if let Some(why) = why {
            let words = format!("the object is removed and the store left as it is: {why}");
            self.context.events.normal(volume, Reason::KeptInStore, words, None).await;
        }
        meta::release(&self.context.api::<BackupVolume>(), volume).await?;
        self.waiting.forget(&volume.uid().unwrap_or_default());
        Ok(Action::await_change())
    }

    async fn wait(&self, volume: &BackupVolume, why: &str) -> Result<Action, Error> {
        let words = format!("the deletion waits: {why}");
        self.say(volume, &words).await?;
        if self.waiting.due(&volume.uid().unwrap_or_default(), Instant::now()) {
            self.context.events.warning(volume, Reason::DeletionWaiting, words, None).await;
        }
        Ok(Action::requeue(LOOK_AGAIN))
    }

    async fn failed(&self, volume: &BackupVolume, error: Error) -> Result<Action, Error> {
        self.say(volume, &format!("Failed to delete the backup volume in the backupstore: {error}")).await?;
        Err(error)
    }

    async fn say(&self, volume: &BackupVolume, words: &str) -> Result<(), Error> {
        let mut next = volume.status.clone().unwrap_or_default();
        next.messages.insert(MESSAGE_ERROR.to_owned(), words.to_owned());
        status::write(&self.context.api::<BackupVolume>(), volume, next).await.map(drop)
    }
}

//! What is done for a Backup that is not being deleted, by its state.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::heartbeat::Pulse;
use super::plan::{self, GRACE, SCHEDULED_WAIT, Step};
use super::{Backups, from_store, node, observe, target_name, volume_name};
use crate::controllers::backup_target::unusable;
use crate::controllers::events::Reason;
use crate::controllers::meta::{self, Change};
use crate::controllers::settings::Settings;
use crate::controllers::stores::Stores;
use crate::controllers::{ApiContext, Error, backup_volume, deletion, status};
use crate::crd::names::{LABEL_BACKUP_TARGET, LABEL_BACKUP_VOLUME, LABEL_NODE, backup_volume_name};
use crate::crd::{Backup, BackupPhase, BackupState, BackupStatus, BackupTarget, BackupVolume, Time, Volume};
use crate::names::{BackupName, VolumeName};

/// Keys of `status.messages`.
pub(in crate::controllers) const INFO: &str = "info";
pub(super) const ERROR: &str = "error";
/// What no watch brings is seen after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// The catalogue that made an object from the store writes its status within this time, or died.
const CATALOGUE_GRACE: Duration = Duration::from_secs(15);

impl Backups {
    /// Checks what the Backup names and gives it to the agent, or says what it waits for.
    pub(super) async fn ready(&self, backup: &Backup) -> Result<Action, Error> {
        let context = &self.context;
        let observed = observe::observe(context, backup).await?;
        let step = plan::plan(&observed.facts(backup, Timestamp::now()));
        let api = context.api::<Backup>();
        let mut labels = Vec::new();
        if !matches!(step, Step::Fail(_)) {
            labels.extend(observed.volume_name().map(|volume| (LABEL_BACKUP_VOLUME, volume.to_owned())));
            labels.extend(observed.knows_target().then(|| (LABEL_BACKUP_TARGET, observed.target_name.clone())));
        }
        let backup = &meta::patch(&api, backup, &Change::missing(backup, labels)).await?;
        let mut next = backup.status.clone().unwrap_or_default();
        next.snapshot_name.clone_from(&backup.spec.snapshot_name);
        if let Some(volume) = observed.volume_name() {
            volume.clone_into(&mut next.volume_name);
        }
        if observed.knows_target() {
            next.backup_target_name.clone_from(&observed.target_name);
        }
        match step {
            Step::Fail(words) => self.fail(backup, next, words).await.map(|()| Action::await_change()),
            Step::Wait(words) => {
                next.state = BackupState::Pending;
                next.messages = [(INFO.to_owned(), words)].into();
                status::write(&api, backup, next).await?;
                Ok(Action::requeue(next_look(age(backup))))
            }
            Step::HandOver { node } => {
                next.state = BackupState::Pending;
                next.messages = [(INFO.to_owned(), format!("Waiting for the agent of node {node}"))].into();
                // The agent's time to show itself begins here.
                next.last_heartbeat_at = Time::now();
                let written = status::write(&api, backup, next).await?;
                let change = Change { labels: [(LABEL_NODE, node)].into(), ..Change::default() };
                meta::patch(&api, &written, &change).await?;
                Ok(Action::requeue(self.hearts.timeout()))
            }
        }
    }

    /// The agent has it: an agent that stays away makes it an error, so that the next run goes ahead.
    pub(super) async fn watch_over(&self, backup: &Backup) -> Result<Action, Error> {
        let labels = [(LABEL_BACKUP_TARGET, target_name(backup)), (LABEL_BACKUP_VOLUME, volume_name(backup))];
        let known = labels.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key, value.to_owned()));
        let backup = &meta::patch(&self.context.api::<Backup>(), backup, &Change::missing(backup, known)).await?;
        match self.pulse(backup) {
            Pulse::Beating(left) => Ok(Action::requeue(left)),
            Pulse::Lost => {
                let words = format!(
                    "the agent of node {} has given no sign of life for {:?}; the next backup goes ahead",
                    node(backup).unwrap_or_default(),
                    self.hearts.timeout()
                );
                self.fail(backup, backup.status.clone().unwrap_or_default(), words).await?;
                Ok(Action::await_change())
            }
        }
    }

    /// Looks at the agent's heartbeat.
    pub(super) fn pulse(&self, backup: &Backup) -> Pulse {
        let status = backup.status.as_ref();
        let beat = status.map(|s| format!("{} {} {} {}", s.last_heartbeat_at, s.state, s.phase, s.progress)).unwrap_or_default();
        self.hearts.look(&backup.uid().unwrap_or_default(), &beat, Instant::now())
    }

    /// An object from the store whose status is not there yet: its maker is at it, or died in between.
    pub(super) async fn fill(&self, backup: &Backup) -> Result<Action, Error> {
        let context = &self.context;
        if let Some(left) = CATALOGUE_GRACE.checked_sub(age(backup)).filter(|left| !left.is_zero()) {
            return Ok(Action::requeue(left));
        }
        let target_name = target_name(backup);
        let found =
            context.api::<BackupTarget>().get_opt(target_name).await.context(|| format!("read backup target {target_name}"))?;
        let Some(target) = found.filter(|target| unusable(target).is_none()) else { return Ok(Action::requeue(LOOK_AGAIN)) };
        let (Ok(volume), Ok(name)) = (volume_name(backup).parse::<VolumeName>(), backup.name_any().parse::<BackupName>()) else {
            return Err(Error::Invalid(format!(
                "backup {} has no label {LABEL_BACKUP_VOLUME} with a volume's name",
                backup.name_any()
            )));
        };
        let place = Stores::parse_url(&target)?;
        let store = context.stores.open(&target).await?;
        match store.backup(&volume, &name).await? {
            Some(info) => {
                let next = from_store::status(target_name, &place, &volume, &name, &info);
                status::write(&context.api::<Backup>(), backup, next).await?;
                Ok(Action::await_change())
            }
            // The next listing removes the object.
            None => Ok(Action::requeue(LOOK_AGAIN)),
        }
    }

    /// It is in the store: its volume shows there too.
    pub(super) async fn completed(&self, backup: &Backup) -> Result<Action, Error> {
        let context = &self.context;
        self.hearts.forget(&backup.uid().unwrap_or_default());
        let (target, volume) = (target_name(backup), volume_name(backup));
        let labels = [(LABEL_BACKUP_TARGET, target.to_owned()), (LABEL_BACKUP_VOLUME, volume.to_owned())];
        meta::patch(&context.api::<Backup>(), backup, &Change::missing(backup, labels)).await?;
        let done = backup.status.as_ref().map(|status| status.completed_at).unwrap_or_default();
        // One from the store was counted by who found it.
        if done.is_unset() || volume.is_empty() {
            return Ok(Action::await_change());
        }
        let name = backup_volume_name(volume, target);
        let found = context.api::<BackupVolume>().get_opt(&name).await.context(|| format!("read backup volume {name}"))?;
        match found {
            None => backup_volume::ensure(context, target, volume).await?,
            Some(object) => {
                let synced = object.status.as_ref().map(|status| status.last_synced_at).unwrap_or_default();
                if synced <= done && object.spec.sync_requested_at <= done {
                    backup_volume::request_sync(context, target, volume).await?;
                }
            }
        }
        Ok(Action::await_change())
    }

    /// It failed: it goes when its time is up.
    pub(super) async fn failed(&self, backup: &Backup) -> Result<Action, Error> {
        let context = &self.context;
        self.hearts.forget(&backup.uid().unwrap_or_default());
        let api = context.api::<Backup>();
        let backup = &meta::patch(&api, backup, &Change::missing(backup, [])).await?;
        let Some(ttl) = Settings::from_objects(self.caches.settings.all()).failed_backup_ttl() else {
            return Ok(Action::await_change());
        };
        let ended = backup.status.as_ref().and_then(|status| status.completed_at.get());
        let since = ended.or_else(|| backup.creation_timestamp().map(|at| at.0)).unwrap_or_default();
        let age = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
        if let Some(left) = ttl.checked_sub(age).filter(|left| !left.is_zero()) {
            return Ok(Action::requeue(left));
        }
        let name = backup.name_any();
        deletion::delete(&api, backup).await.context(|| format!("remove the failed backup {name}"))?;
        let error = backup.status.as_ref().map(|status| status.error.clone()).unwrap_or_default();
        let words = format!("Failed backup {name} has been deleted: {error}");
        context.events.normal(backup, Reason::FailedBackupRemoved, words, None).await;
        Ok(Action::await_change())
    }

    /// State Error, for good, with an Event on the Backup and on its volume.
    async fn fail(&self, backup: &Backup, mut next: BackupStatus, words: String) -> Result<(), Error> {
        let context = &self.context;
        next.state = BackupState::Error;
        next.phase = BackupPhase::None;
        next.error.clone_from(&words);
        next.messages = [(ERROR.to_owned(), words.clone())].into();
        next.completed_at = Time::now();
        let volume = next.volume_name.clone();
        let written = status::write(&context.api::<Backup>(), backup, next).await?;
        context.events.warning(&written, Reason::Error, words.clone(), None).await;
        if let Some(volume) = self.caches.volumes.get(&context.namespace, &volume) {
            let words = format!("Snapshot {} backup {}: {words}", backup.spec.snapshot_name, backup.name_any());
            context
                .events
                .warning::<Volume>(&volume, Reason::Error, words, Some(kube::Resource::object_ref(&written, &())))
                .await;
        }
        Ok(())
    }
}

/// Since the object was made.
fn age(backup: &Backup) -> Duration {
    let age = backup.creation_timestamp().map(|at| Timestamp::now().duration_since(at.0)).unwrap_or_default();
    Duration::try_from(age).unwrap_or_default()
}

/// When a waiting Backup of this age is looked at again: in time for each bound of its plan.
fn next_look(age: Duration) -> Duration {
    if age < 2 * GRACE {
        return GRACE;
    }
    match SCHEDULED_WAIT.checked_sub(age) {
        Some(left) => (left + Duration::from_secs(1)).min(LOOK_AGAIN),
        None => LOOK_AGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_backup_is_looked_at_as_soon_as_its_wait_is_over() {
        let seconds = Duration::from_secs;
        assert_eq!(next_look(seconds(3)), GRACE);
        assert_eq!(next_look(seconds(60)), LOOK_AGAIN);
        assert_eq!(next_look(seconds(360)), seconds(181));
        assert_eq!(next_look(SCHEDULED_WAIT), seconds(1));
        assert_eq!(next_look(seconds(864_000)), LOOK_AGAIN);
    }
}

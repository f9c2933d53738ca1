//! Backups of this node's volumes: snapshots read here and sent to the store.

mod plan;
mod status;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use self::plan::{Facts, Step};
pub use self::transfer::Outcome;
use super::transfers::{End, View};
use super::{Agent, measure};
use crate::controllers::events::Reason;
use crate::controllers::{ApiContext, Error, status as status_writer};
use crate::crd::names::{LABEL_FROM_STORE, TRUE};
use crate::crd::{Backup, BackupState, BackupStatus, Snapshot, Volume};

/// How often a running transfer is looked at.
const REPORT: Duration = Duration::from_secs(2);

/// Brings one Backup further.
pub async fn reconcile(agent: Arc<Agent>, backup: Arc<Backup>) -> Result<Action, Error> {
    let backup = backup.as_ref();
    let uid = backup.metadata.uid.as_deref().unwrap_or_default();
    let view = agent.backups.view(uid);
    let old = backup.status.clone().unwrap_or_default();
    let (snapshot, volume) = find(&agent, backup).await?;
    let facts = observe(&agent.node, backup, &old, snapshot.as_deref(), volume.as_deref(), view.as_ref());
    match plan::plan(&facts) {
        Step::Leave => Ok(Action::await_change()),
        Step::Stop => {
            agent.backups.stop(uid);
            Ok(Action::requeue(REPORT))
        }
        Step::SignOff => {
            write(&agent, backup, status::signed_off(old)).await?;
            agent.backups.forget(uid);
            Ok(Action::await_change())
        }
        Step::Report => {
            if let Some(view) = &view {
                report(&agent, backup, old, view).await?;
            }
            Ok(Action::requeue(REPORT))
        }
        Step::Settle => match view.as_ref().and_then(|view| Some((view, view.end.as_deref()?))) {
            Some((view, end)) => settle(&agent, backup, old, volume.as_deref(), view, end).await,
            None => Ok(Action::requeue(REPORT)),
        },
        Step::Wait(words) => {
            write(&agent, backup, status::pending(old, &words)).await?;
            Err(Error::NotYet(words))
        }
        Step::Start => match (&snapshot, &volume) {
            (Some(snapshot), Some(volume)) => start(&agent, backup, old, snapshot, volume).await,
            _ => Ok(Action::requeue(REPORT)),
        },
        Step::Fail(words) => fail(&agent, backup, old, volume.as_deref(), words).await,
    }
}

/// The Snapshot and its Volume. What the cache does not have is asked of the API server, so that absence is never a matter of lag.
async fn find(agent: &Agent, backup: &Backup) -> Result<(Option<Arc<Snapshot>>, Option<Arc<Volume>>), Error> {
    let name = &backup.spec.snapshot_name;
    if name.is_empty() {
        return Ok((None, None));
    }
    let namespace = &agent.context.namespace;
    let snapshot = match agent.caches.snapshots.get(namespace, name) {
        Some(snapshot) => Some(snapshot),
        None => agent.context.api::<Snapshot>().get_opt(name).await.context(|| format!("read snapshot {name}"))?.map(Arc::new),
    };
    let Some(volume) = snapshot.as_ref().map(|snapshot| snapshot.spec.volume.clone()) else { return Ok((None, None)) };
    let volume = match agent.caches.volumes.get(namespace, &volume) {
        Some(volume) => Some(volume),
        None => agent.context.api::<Volume>().get_opt(&volume).await.context(|| format!("read volume {volume}"))?.map(Arc::new),
    };
    Ok((snapshot, volume))
}

fn observe<'a>(
    node: &str,
    backup: &'a Backup,
    status: &'a BackupStatus,
    snapshot: Option<&Snapshot>,
    volume: Option<&Volume>,
    view: Option<&View<Outcome>>,
) -> Facts<'a> {
    let now = Timestamp::now();
    let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
    Facts {
        deleting: backup.metadata.deletion_timestamp.is_some(),
        from_store: backup.labels().get(LABEL_FROM_STORE).is_some_and(|value| value == TRUE),
        state: status.state,
        // The manager hands over with a heartbeat of its own clock, which says nothing about this node.
        silent_for: status.last_heartbeat_at.get().filter(|_| status.node_id == node).map(since),
        begun_with: &status.snapshot_id,
        snapshot_name: &backup.spec.snapshot_name,
        age: backup.metadata.creation_timestamp.as_ref().map(|made| since(made.0)).unwrap_or_default(),
        snapshot: match snapshot.map(|snapshot| snapshot.status.clone().unwrap_or_default()) {
            None => plan::Snapshot::Missing,
            Some(status) if status.ready_to_use => plan::Snapshot::Ready(status.snapshot_id),
            Some(status) => plan::Snapshot::NotReady(status.error),
        },
        volume: match volume {
            None => plan::Volume::Missing,
            Some(volume) if volume.metadata.deletion_timestamp.is_some() => plan::Volume::Deleting,
            Some(_) => plan::Volume::Present,
        },
        transfer: match view {
            None => plan::Transfer::Idle,
            Some(view) if view.end.is_some() => plan::Transfer::Ended,
            Some(_) => plan::Transfer::Running,
        },
    }
}

/// The sign of life is written before the transfer begins: a deletion of the Backup either comes before it, and the write fails, or
/// sees it and waits for this node.
async fn start(agent: &Agent, backup: &Backup, old: BackupStatus, snapshot: &Snapshot, volume: &Volume) -> Result<Action, Error> {
    if agent.shutdown.is_cancelled() {
        return Ok(Action::await_change());
    }
    let plan = match transfer::prepare(agent, backup, &old, snapshot, volume).await {
        Ok(plan) => plan,
        Err(Error::Invalid(words)) => return fail(agent, backup, old, Some(volume), words).await,
        Err(error) if error.is_transient() => {
            write(agent, backup, status::pending(old, &error.to_string())).await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let resumed = old.state == BackupState::InProgress;
    write(agent, backup, status::begun(old, &agent.node, snapshot, volume, &plan.target_name)).await?;
    tracing::info!(backup = backup.name_any(), volume = volume.name_any(), snapshot = snapshot.name_any(), resumed, "backing up");
    transfer::begin(agent, backup, plan);
    Ok(Action::requeue(REPORT))
}

async fn report(agent: &Agent, backup: &Backup, old: BackupStatus, view: &View<Outcome>) -> Result<(), Error> {
    let age = old.last_heartbeat_at.get().map(|at| Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default());
    let new = status::running(old.clone(), view);
    let changed = new != old;
    if plan::report_is_due(age, changed) {
        write(agent, backup, status::alive(new)).await?;
    }
    Ok(())
}

/// Writes the end and forgets the transfer. Until the write succeeds the end is kept, and the back-off tries again.
async fn settle(
    agent: &Agent,
    backup: &Backup,
    old: BackupStatus,
    volume: Option<&Volume>,
    view: &View<Outcome>,
    end: &End<Outcome>,
) -> Result<Action, Error> {
    let uid = backup.metadata.uid.as_deref().unwrap_or_default();
    let new = match end {
        End::Done(outcome) => status::completed(status::running(old, view), outcome),
        End::Failed(error) => status::failed(status::running(old, view), &error.to_string()),
        End::Stopped if volume.is_none_or(|volume| volume.metadata.deletion_timestamp.is_some()) => {
            status::failed(status::running(old, view), "the volume was deleted in mid-transfer")
        }
        // The agent stops: the next one goes on with this Backup.
        End::Stopped if agent.shutdown.is_cancelled() => return Ok(Action::await_change()),
        End::Stopped => {
            agent.backups.forget(uid);
            return Ok(Action::requeue(REPORT));
        }
    };
    write(agent, backup, new.clone()).await?;
    agent.backups.forget(uid);
    measure::ended(&agent.context.metrics, "backup", new.state == BackupState::Completed, view.since.elapsed());
    tell(agent, backup, volume, &new).await;
    Ok(Action::await_change())
}

async fn fail(
    agent: &Agent,
    backup: &Backup,
    old: BackupStatus,
    volume: Option<&Volume>,
    words: String,
) -> Result<Action, Error> {
    let new = status::failed(old, &words);
    write(agent, backup, new.clone()).await?;
    tell(agent, backup, volume, &new).await;
    Ok(Action::await_change())
}

/// The result as an Event, on the Volume as in Longhorn; on the Backup where there is no Volume.
async fn tell(agent: &Agent, backup: &Backup, volume: Option<&Volume>, status: &BackupStatus) {
    let labels: Vec<String> = backup.spec.labels.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    let mut note = format!("Snapshot {} backup {} label map[{}]", backup.spec.snapshot_name, backup.name_any(), labels.join(" "));
    let events = &agent.context.events;
    let related = Some(kube::Resource::object_ref(backup, &()));
    if status.state == BackupState::Completed {
        if let Some(volume) = volume {
            events.normal(volume, Reason::Completed, note, related).await;
        }
        return;
    }
    note.push_str(": ");
    note.push_str(&status.error);
    if let Some(volume) = volume {
        events.warning(volume, Reason::Error, note.clone(), related).await;
    }
    events.warning(backup, Reason::Error, note, None).await;
}

async fn write(agent: &Agent, backup: &Backup, status: BackupStatus) -> Result<Backup, Error> {
    let old = backup.status.as_ref().map(|status| status.state).unwrap_or_default();
    if !old.can_become(status.state) {
        return Err(Error::Invalid(format!("backup {} is {old} and cannot become {}", backup.name_any(), status.state)));
    }
    status_writer::write(&agent.context.api(), backup, status).await
}

//! Snapshots of this node's volumes: taken and removed in the pool.

mod plan;

use std::sync::Arc;

use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::controller::Action;

use self::plan::{Facts, Step};
use super::{Agent, is_over};
use crate::controllers::events::Reason;
use crate::controllers::settings::Settings;
use crate::controllers::{ApiContext, Error, meta, status};
use crate::crd::names::{LABEL_NODE, LABEL_RECURRING_JOB};
use crate::crd::{Backup, Snapshot, SnapshotStatus, Switch, Time, Volume};
use crate::engine::{self, Freeze, SnapshotInfo};
use crate::metrics::SnapshotLabels;
use crate::names::{InvalidName, SnapshotName, VolumeName};

/// More snapshots than this no volume may have.
const MOST_SNAPSHOTS: usize = 250;

/// Brings the snapshot in the pool to what its object asks for.
pub async fn reconcile(agent: Arc<Agent>, snapshot: Arc<Snapshot>) -> Result<Action, Error> {
    let deleting = snapshot.metadata.deletion_timestamp.is_some();
    if !deleting && snapshot.status.as_ref().is_some_and(|status| status.ready_to_use) {
        measure(&agent, &snapshot);
        return Ok(Action::await_change());
    }
    let names = match parse(&snapshot) {
        Ok(names) => names,
        // Such a snapshot was never in the pool.
        Err(_) if deleting => {
            meta::release(&agent.context.api::<Snapshot>(), &snapshot).await?;
            return Ok(Action::await_change());
        }
        Err(error) => return fail(&agent, &snapshot, error).await,
    };
    let volume = agent.caches.volumes.get(&agent.context.namespace, &snapshot.spec.volume);
    let facts = observe(&agent, &snapshot, volume.as_deref(), &names).await?;
    match plan::plan(&snapshot.spec.volume, &facts) {
        Step::Leave => Ok(Action::await_change()),
        Step::Wait(words) | Step::Keep(words) => Err(Error::NotYet(words)),
        Step::Refuse(words) => fail(&agent, &snapshot, Error::Invalid(words)).await,
        Step::Take => match take(&agent, volume.as_deref(), names).await {
            Ok(info) => ready(&agent, &snapshot, &info).await,
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => fail(&agent, &snapshot, error).await,
        },
        Step::Remove => remove(&agent, &snapshot, names).await,
    }
}

/// Whether the back-off alone may mend it. What stands in the status ends the run of a job that waits for the snapshot, so only that
/// goes there which lasts, or which a person must do something about.
fn is_passing(error: &Error) -> bool {
    let for_people = matches!(error, Error::Engine(engine::Error::Full { .. } | engine::Error::Pool { .. }));
    error.is_transient() && !for_people
}

type Names = (VolumeName, SnapshotName);

fn parse(snapshot: &Snapshot) -> Result<Names, Error> {
    let invalid = |error: InvalidName| Error::Invalid(error.to_string());
    Ok((snapshot.spec.volume.parse().map_err(invalid)?, snapshot.name_any().parse().map_err(invalid)?))
}

async fn observe(agent: &Agent, snapshot: &Snapshot, volume: Option<&Volume>, names: &Names) -> Result<Facts, Error> {
    let deleting = snapshot.metadata.deletion_timestamp.is_some();
    let (volume_name, name) = names.clone();
    let found = agent.engine.call(move |engine| {
        let Some(info) = engine.volume(&volume_name)? else { return Ok((None, false, 0)) };
        let all = engine.snapshots(&volume_name)?;
        Ok((Some(info.ready), all.iter().any(|s| s.name == name), all.len()))
    });
    let (whole, exists, count) = found.await?;
    // Asked of the API server: who lowered the setting a moment ago must not be surprised by one more.
    let limit = match volume.and_then(own_limit) {
        Some(limit) => limit,
        None => Settings::read(&agent.context).await?.snapshot_max_count(),
    };
    Ok(Facts {
        deleting,
        held: meta::has_finalizer(snapshot),
        create: snapshot.spec.create_snapshot,
        ready: false,
        read_by: if deleting { reader(agent, &snapshot.name_any()).await? } else { None },
        volume_stays: volume.is_some_and(|volume| volume.metadata.deletion_timestamp.is_none()),
        whole,
        exists,
        count,
        limit,
    })
}

/// Snapshots that the volume itself allows; `None` where it leaves that to the setting.
fn own_limit(volume: &Volume) -> Option<usize> {
    usize::try_from(volume.spec.snapshot_max_count).ok().filter(|count| (1..=MOST_SNAPSHOTS).contains(count))
}

/// Snapshots that the volume may have.
pub fn limit_of(volume: &Volume, settings: &Settings) -> usize {
    own_limit(volume).unwrap_or_else(|| settings.snapshot_max_count())
}

/// A Backup of this node that has not ended and reads the snapshot. Asked of the API server: a cache may not know the newest.
async fn reader(agent: &Agent, snapshot: &str) -> Result<Option<String>, Error> {
    let own = ListParams::default().labels(&format!("{LABEL_NODE}={}", agent.node));
    let backups = agent.context.api::<Backup>().list(&own).await.context(|| "list backups".to_owned())?;
    let reads = |backup: &&Backup| {
        backup.spec.snapshot_name == snapshot && !is_over(backup) && backup.metadata.deletion_timestamp.is_none()
    };
    Ok(backups.items.iter().find(reads).map(ResourceExt::name_any))
}

async fn take(agent: &Agent, volume: Option<&Volume>, (volume_name, name): Names) -> Result<SnapshotInfo, Error> {
    let freeze = match volume.map_or(Switch::Ignored, |volume| volume.spec.freeze_filesystem_for_snapshot) {
        Switch::Enabled => true,
        Switch::Disabled => false,
        Switch::Ignored | Switch::Unknown => Settings::read(&agent.context).await?.freeze(),
    };
    let freeze = if freeze { Freeze::WhenMounted } else { Freeze::Never };
    agent.engine.call(move |engine| engine.snapshot(&volume_name, &name, freeze)).await
}

async fn ready(agent: &Agent, snapshot: &Snapshot, info: &SnapshotInfo) -> Result<Action, Error> {
    let old = snapshot.status.clone().unwrap_or_default();
    let new = ready_status(agent, snapshot, old, info);
    let written = status::write(&agent.context.api(), snapshot, new).await?;
    let stall = info.stall.as_millis();
    let how = if info.frozen { ", file system frozen for that time" } else { "" };
    let events = &agent.context.events;
    events
        .normal(
            &written,
            Reason::Create,
            format!("successfully provisioned the snapshot: I/O waited {stall} ms at most{how}"),
            None,
        )
        .await;
    events.normal(&written, Reason::Update, "snapshot becomes ready to use".to_owned(), None).await;
    measure(agent, &written);
    Ok(Action::await_change())
}

fn ready_status(agent: &Agent, snapshot: &Snapshot, old: SnapshotStatus, info: &SnapshotInfo) -> SnapshotStatus {
    let requested = snapshot.metadata.creation_timestamp.as_ref().map(|time| time.0);
    SnapshotStatus {
        user_created: !is_of_job(snapshot),
        creation_time: info.created.into(),
        requested_time: if old.requested_time.is_unset() { Time::from(requested) } else { old.requested_time },
        size: i64::try_from(info.allocated).unwrap_or(i64::MAX),
        restore_size: i64::try_from(info.size).unwrap_or(i64::MAX),
        labels: snapshot.spec.labels.clone(),
        ready_to_use: true,
        error: String::new(),
        owner_id: agent.node.clone(),
        snapshot_id: info.id.clone(),
        stall_milliseconds: i64::try_from(info.stall.as_millis()).unwrap_or(i64::MAX),
        frozen: info.frozen,
        ..old
    }
}

fn is_of_job(snapshot: &Snapshot) -> bool {
    snapshot.labels().contains_key(LABEL_RECURRING_JOB) || snapshot.spec.labels.contains_key(LABEL_RECURRING_JOB)
}

/// Writes why it could not be taken, tells it once, and leaves the pace to the back-off: what stands in the way may go.
async fn fail(agent: &Agent, snapshot: &Snapshot, error: Error) -> Result<Action, Error> {
    let old = snapshot.status.clone().unwrap_or_default();
    let words = error.to_string();
    let known = old.error == words;
    let new = SnapshotStatus { error: words.clone(), owner_id: agent.node.clone(), ..old };
    let written = status::write(&agent.context.api(), snapshot, new).await?;
    if !known {
        agent.context.events.warning(&written, Reason::Failed, words, None).await;
    }
    Err(error)
}

async fn remove(agent: &Agent, snapshot: &Snapshot, (volume, name): Names) -> Result<Action, Error> {
    let mut marked = snapshot.status.clone().unwrap_or_default();
    let mut object = snapshot.clone();
    if marked.ready_to_use || !marked.mark_removed {
        marked.ready_to_use = false;
        marked.mark_removed = true;
        object = status::write(&agent.context.api(), snapshot, marked).await?;
        agent.context.events.normal(&object, Reason::Delete, "snapshot is marked as removed".to_owned(), None).await;
    }
    agent.engine.call(move |engine| engine.delete_snapshot(&volume, &name)).await?;
    meta::release(&agent.context.api::<Snapshot>(), &object).await?;
    agent.context.metrics.snapshot_actual_size.remove(&labels(&object));
    Ok(Action::await_change())
}

fn measure(agent: &Agent, snapshot: &Snapshot) {
    let size = snapshot.status.as_ref().map_or(0, |status| status.size);
    agent.context.metrics.snapshot_actual_size.get_or_create(&labels(snapshot)).set(size.unsigned_abs());
}

fn labels(snapshot: &Snapshot) -> SnapshotLabels {
    SnapshotLabels {
        snapshot: snapshot.name_any(),
        volume: snapshot.spec.volume.clone(),
        user_created: (!is_of_job(snapshot)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_passes_does_not_fail_the_snapshot_and_a_full_pool_does() {
        let busy = engine::Error::InUse { what: "volume v".into(), holder: "another call".into() };
        let io = engine::Error::Io { context: "clone".into(), source: std::io::Error::other("interrupted") };
        let api = Error::Api { context: "list the settings".into(), source: kube::Error::LinesCodecMaxLineLengthExceeded };
        for error in [busy.into(), io.into(), api, Error::NotYet("later".into())] {
            assert!(is_passing(&error), "{error}");
        }
        let full = engine::Error::Full { pool: "/pool".into(), context: "clone".into() };
        let pool = engine::Error::Pool { pool: "/pool".into(), reason: "gone".into() };
        for error in [full.into(), pool.into(), Error::Invalid("no such thing".into())] {
            assert!(!is_passing(&error), "{error}");
        }
    }
}

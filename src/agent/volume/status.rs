//! The status of a volume as a function of what was seen, and what is told of its changes.

use jiff::Timestamp;
use kube::ResourceExt;

use super::observe::{Observed, RestoreView};
use super::plan::{Restore, Step};
use crate::agent::{Agent, node};
use crate::controllers::Error;
use crate::controllers::events::Reason;
use crate::crd::{
    Condition, ConditionStatus, RestoreProgress, Robustness, Volume, VolumeState, VolumeStatus, condition_type, find_condition,
    is_true, reason, set_condition,
};
use crate::metrics::VolumeLabels;

/// The state while `step` is done; `None` where it stays.
pub fn state_during(step: Step) -> Option<VolumeState> {
    match step {
        Step::Create(_) => Some(VolumeState::Creating),
        Step::Attach => Some(VolumeState::Attaching),
        Step::Detach => Some(VolumeState::Detaching),
        Step::StopTransfers | Step::Delete => Some(VolumeState::Deleting),
        _ => None,
    }
}

/// The status that says what was seen, and why the last step failed if it did.
pub fn status_of(old: &VolumeStatus, seen: &Observed, failure: Option<&Error>) -> VolumeStatus {
    let mut status = old.clone();
    let facts = &seen.facts;
    status.owner_id.clone_from(&seen.node);
    status.state = state(old, seen, failure);
    status.robustness = robustness(old, seen);
    let device = seen.info.as_ref().and_then(|info| info.attachment.as_ref());
    if facts.image.is_some() || failure.is_none() {
        status.device_path = device.map(|device| device.device.display().to_string()).unwrap_or_default();
        status.current_node_id = if device.is_some() { seen.node.clone() } else { String::new() };
    }
    if let Some(info) = &seen.info {
        status.actual_size = i64::try_from(info.allocated).unwrap_or(i64::MAX);
        status.restore_required = facts.from_backup && !info.ready;
    } else if facts.from_backup && !facts.lived {
        status.restore_required = true;
    }
    status.restore_initiated |= facts.restore != Restore::Idle;
    if let Some(last) = &seen.last_backup {
        status.last_backup.clone_from(&last.name);
        status.last_backup_at = last.at;
    } else {
        status.last_backup = String::new();
        status.last_backup_at = crate::crd::Time::UNSET;
    }
    conditions(&mut status, seen, failure);
    status
}

fn state(old: &VolumeStatus, seen: &Observed, failure: Option<&Error>) -> VolumeState {
    match seen.facts.image {
        _ if seen.facts.deleting => VolumeState::Deleting,
        // What could not be done, or was not looked at, is still under way.
        _ if failure.is_some() => old.state,
        Some(image) if image.attached => VolumeState::Attached,
        Some(image) if image.ready || seen.facts.restore_given_up || restore_failed(seen) => VolumeState::Detached,
        Some(_) => VolumeState::Creating,
        None if seen.facts.lived => VolumeState::Detached,
        None => VolumeState::Creating,
    }
}

fn robustness(old: &VolumeStatus, seen: &Observed) -> Robustness {
    match seen.facts.image {
        Some(image) if image.ready && seen.replicas > 1 => Robustness::Degraded,
        Some(image) if image.ready => Robustness::Healthy,
        Some(_) if seen.facts.restore_given_up || restore_failed(seen) => Robustness::Faulted,
        Some(_) => Robustness::Unknown,
        // Nothing was seen at all: what was said before stands.
        None if seen.space.is_none() => old.robustness,
        None if seen.facts.lived => Robustness::Faulted,
        None => Robustness::Unknown,
    }
}

fn restore_failed(seen: &Observed) -> bool {
    seen.restore.as_ref().is_some_and(|restore| restore.failed)
}

fn conditions(status: &mut VolumeStatus, seen: &Observed, failure: Option<&Error>) {
    let now = Timestamp::now();
    let mut set = |type_: &str, holds: ConditionStatus, why: &str, message: String| {
        set_condition(&mut status.conditions, Condition::new(type_, holds, why, message, seen.generation, now));
    };
    match failure {
        Some(error) => set(condition_type::READY, ConditionStatus::False, error.category(), error.to_string()),
        None if seen.facts.image.is_none() && seen.facts.lived && !seen.facts.deleting => set(
            condition_type::READY,
            ConditionStatus::False,
            "ImageMissing",
            format!(
                "the volume's image is not in the pool of node {}: its content is lost here; restore it from a backup into a new volume",
                seen.node
            ),
        ),
        None => {
            let whole = seen.facts.image.is_some_and(|image| image.ready);
            set(condition_type::READY, whole.into(), if whole { "Ready" } else { "NotReady" }, String::new());
        }
    }
    if let Some(device) = seen.info.as_ref().and_then(|info| info.attachment.as_ref()) {
        let message = if device.direct_io {
            ""
        } else {
            "the pool's sectors are larger than 512 bytes: I/O of this volume goes through the page cache"
        };
        let why = if device.direct_io { "DirectIO" } else { "Buffered" };
        set(condition_type::DIRECT_IO, device.direct_io.into(), why, message.to_owned());
    }
    if let Some(space) = &seen.space {
        let pressure = node::pressure(space);
        set(
            condition_type::POOL_PRESSURE,
            pressure.is_some().into(),
            if pressure.is_some() { "PoolPressure" } else { "EnoughSpace" },
            pressure.unwrap_or_default(),
        );
    }
    let (count, limit) = seen.snapshots;
    let full = count >= limit;
    let message =
        if full { format!("the volume has {count} snapshots and may have {limit}: remove some") } else { String::new() };
    set(condition_type::TOO_MANY_SNAPSHOTS, full.into(), if full { "TooManySnapshots" } else { "" }, message);
    if seen.facts.from_backup {
        restore_condition(status, seen, now);
    }
}

fn restore_condition(status: &mut VolumeStatus, seen: &Observed, now: Timestamp) {
    let whole = seen.facts.image.is_some_and(|image| image.ready);
    let condition = |holds: bool, why: &str, message: String| {
        Condition::new(condition_type::RESTORE, holds, why, message, seen.generation, now)
    };
    if whole {
        let total = status.restore_progress.as_ref().map_or(0, |progress| progress.bytes_total);
        status.restore_progress = Some(RestoreProgress {
            backup: seen.from_backup.clone(),
            progress: 100,
            bytes_restored: total,
            bytes_total: total,
            error: String::new(),
        });
        set_condition(
            &mut status.conditions,
            condition(false, "Restored", format!("the content came from {}", seen.from_backup)),
        );
    } else if let Some(RestoreView { progress, words, failed }) = &seen.restore {
        let (why, message) = match (failed, words) {
            (true, words) => (reason::RESTORE_FAILURE, words.clone().unwrap_or_default()),
            (false, Some(words)) => (reason::RESTORE_IN_PROGRESS, format!("{} %: {words}", progress.progress)),
            (false, None) => (reason::RESTORE_IN_PROGRESS, format!("{} %", progress.progress)),
        };
        status.restore_progress = Some(progress.clone());
        set_condition(&mut status.conditions, condition(!failed, why, message));
    }
}

/// Events on transitions.
pub async fn publish(agent: &Agent, volume: &Volume, old: &VolumeStatus, new: &VolumeStatus) {
    let events = &agent.context.events;
    match (old.state, new.state) {
        (before, VolumeState::Attached) if before != VolumeState::Attached => {
            events
                .normal(
                    volume,
                    Reason::Attached,
                    format!("volume {} is attached to node {} as {}", volume.name_any(), agent.node, new.device_path),
                    None,
                )
                .await;
        }
        (VolumeState::Attached | VolumeState::Detaching, VolumeState::Detached) => {
            events
                .normal(
                    volume,
                    Reason::Detached,
                    format!("volume {} is detached from node {}", volume.name_any(), agent.node),
                    None,
                )
                .await;
        }
        _ => {}
    }
    if old.robustness != Robustness::Degraded && new.robustness == Robustness::Degraded {
        let copies = volume.spec.number_of_replicas;
        let note = format!(
            "spec.numberOfReplicas is {copies} and this engine keeps one copy per volume, on node {}: the volume works, back it up",
            agent.node
        );
        events.warning(volume, Reason::Degraded, note, None).await;
    }
    if old.robustness != Robustness::Faulted && new.robustness == Robustness::Faulted && !restore_gave_up(new) {
        let why = find_condition(&new.conditions, condition_type::READY).map(|c| c.message.clone()).unwrap_or_default();
        events.warning(volume, Reason::Failed, why, None).await;
    }
    publish_restore(agent, volume, old, new).await;
}

async fn publish_restore(agent: &Agent, volume: &Volume, old: &VolumeStatus, new: &VolumeStatus) {
    let message = |status: &VolumeStatus| status.restore_progress.as_ref().map(|p| p.error.clone()).unwrap_or_default();
    if old.restore_required && !new.restore_required && !volume.spec.from_backup.is_empty() {
        agent
            .context
            .events
            .normal(volume, Reason::Restored, format!("the content came from {}", volume.spec.from_backup), None)
            .await;
    } else if message(old) != message(new) && !message(new).is_empty() {
        let again = if restore_gave_up(new) { "" } else { " (tried again)" };
        agent
            .context
            .events
            .warning(
                volume,
                Reason::FailedRestore,
                format!("restore from {}: {}{again}", volume.spec.from_backup, message(new)),
                None,
            )
            .await;
    }
}

fn restore_gave_up(status: &VolumeStatus) -> bool {
    find_condition(&status.conditions, condition_type::RESTORE).is_some_and(|c| c.reason == reason::RESTORE_FAILURE)
        && !is_true(&status.conditions, condition_type::RESTORE)
}

/// The volume's gauges.
pub fn measure(agent: &Agent, volume: &Volume, status: &VolumeStatus) {
    let labels = VolumeLabels { volume: volume.name_any(), node: agent.node.clone() };
    let metrics = &agent.context.metrics;
    metrics.volume_actual_size.get_or_create(&labels).set(status.actual_size.unsigned_abs());
    metrics.volume_capacity.get_or_create(&labels).set(volume.spec.size.0);
    metrics.volume_state.get_or_create(&labels).set(match status.state {
        VolumeState::Creating | VolumeState::Unknown => 0,
        VolumeState::Attached => 1,
        VolumeState::Detached => 2,
        VolumeState::Attaching => 3,
        VolumeState::Detaching => 4,
        VolumeState::Deleting => 5,
    });
    metrics.volume_robustness.get_or_create(&labels).set(match status.robustness {
        Robustness::Unknown => 0,
        Robustness::Healthy => 1,
        Robustness::Degraded => 2,
        Robustness::Faulted => 3,
    });
}

/// Takes the volume's gauges away.
pub fn unmeasure(agent: &Agent, volume: &Volume) {
    let labels = VolumeLabels { volume: volume.name_any(), node: agent.node.clone() };
    let metrics = &agent.context.metrics;
    metrics.volume_actual_size.remove(&labels);
    metrics.volume_capacity.remove(&labels);
    metrics.volume_state.remove(&labels);
    metrics.volume_robustness.remove(&labels);
}

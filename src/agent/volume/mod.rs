//! Volumes of this node: image, device, size, content from a backup.

mod act;
mod observe;
mod plan;
mod restore;
mod status;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;

use self::observe::Observed;
use self::plan::Step;
use super::Agent;
use crate::controllers::requeue::jittered;
use crate::controllers::{Error, status as status_writer};
use crate::crd::Volume;

/// A pass does at most this many steps: no way from any state to rest is longer.
const MOST_STEPS: usize = 8;
/// What no watch tells (space taken, pool filling up) is looked at this often.
const LOOK: Duration = Duration::from_secs(30);
/// How often a running restore is written down.
const REPORT: Duration = Duration::from_secs(2);

/// Brings the volume on this node to what its object asks for.
pub async fn reconcile(agent: Arc<Agent>, volume: Arc<Volume>) -> Result<Action, Error> {
    let mut volume = volume.as_ref().clone();
    for _ in 0..MOST_STEPS {
        let seen = match observe::observe(&agent, &volume).await {
            Ok(seen) => seen,
            Err(error) => return report_failure(&agent, &volume, None, error).await,
        };
        let step = plan::plan(&seen.facts);
        match step {
            Step::Rest | Step::AwaitRestore | Step::Lost => {
                write(&agent, &volume, &seen, None).await?;
                let wait = if step == Step::AwaitRestore { REPORT } else { jittered(LOOK) };
                return Ok(Action::requeue(wait));
            }
            Step::Release => {
                act::release(&agent, &volume).await?;
                return Ok(Action::await_change());
            }
            _ => {}
        }
        volume = announce(&agent, &volume, step).await?;
        if let Err(error) = act::act(&agent, &volume, &seen, step).await {
            return report_failure(&agent, &volume, Some(&seen), error).await;
        }
    }
    Ok(Action::requeue(REPORT))
}

/// Says in the status what is about to be done, before it is begun.
async fn announce(agent: &Agent, volume: &Volume, step: Step) -> Result<Volume, Error> {
    let mut status = volume.status.clone().unwrap_or_default();
    let Some(state) = status::state_during(step) else { return Ok(volume.clone()) };
    status.state = state;
    status_writer::write(&agent.context.api(), volume, status).await
}

async fn write(agent: &Agent, volume: &Volume, seen: &Observed, failure: Option<&Error>) -> Result<Volume, Error> {
    let old = volume.status.clone().unwrap_or_default();
    let new = status::status_of(&old, seen, failure);
    let written = status_writer::write(&agent.context.api(), volume, new.clone()).await?;
    status::publish(agent, &written, &old, &new).await;
    status::measure(agent, &written, &new);
    Ok(written)
}

/// Writes why the goal was not reached into the conditions, then lets the one back-off pace the next pass.
async fn report_failure(agent: &Agent, volume: &Volume, seen: Option<&Observed>, error: Error) -> Result<Action, Error> {
    // What a stopping agent leaves undone is no failure.
    if error.is_conflict() || agent.shutdown.is_cancelled() {
        return Err(error);
    }
    let seen = match seen {
        Some(seen) => seen.clone(),
        None => Observed::unknown(agent, volume),
    };
    if let Err(writing) = write(agent, volume, &seen, Some(&error)).await {
        tracing::debug!(volume = volume.name_any(), error = %writing, "failed to write why a pass failed");
    }
    Err(error)
}

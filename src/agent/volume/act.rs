//! Carries one step out. Every step is idempotent: after a crash in its middle the next pass sees the facts and does what is left.

use kube::ResourceExt;

use super::observe::Observed;
use super::plan::Step;
use super::{restore, status};
use crate::agent::Agent;
use crate::controllers::events::Reason;
use crate::controllers::{Error, meta};
use crate::crd::Volume;
use crate::names::{InvalidName, VolumeName};

/// Does `step`.
pub async fn act(agent: &Agent, volume: &Volume, seen: &Observed, step: Step) -> Result<(), Error> {
    let name: VolumeName = volume.name_any().parse().map_err(|error: InvalidName| Error::Invalid(error.to_string()))?;
    let size = seen.facts.size;
    let engine = &agent.engine;
    match step {
        Step::Create(content) => engine.call(move |engine| engine.create(&name, size, content)).await.map(drop),
        Step::BeginRestore => restore::begin(agent, volume, name).await,
        Step::FinishRestore => {
            engine.call(move |engine| engine.finish_restore(&name)).await?;
            restore::settle(agent, volume);
            Ok(())
        }
        Step::ClearRestore => {
            restore::settle(agent, volume);
            Ok(())
        }
        Step::Expand => {
            engine.call(move |engine| engine.expand(&name, size)).await?;
            let note = format!("volume {} has {size} bytes now", volume.name_any());
            agent.context.events.normal(volume, Reason::Expanded, note, None).await;
            Ok(())
        }
        Step::Attach => engine.call(move |engine| engine.attach(&name)).await.map(drop),
        Step::Detach => engine.call(move |engine| engine.detach(&name)).await,
        Step::StopTransfers => {
            agent.backups.stop_volume(name.as_str());
            agent.restores.stop_volume(name.as_str());
            Err(Error::NotYet(format!("waiting for the transfers of volume {name} to end")))
        }
        Step::Delete => {
            restore::settle(agent, volume);
            engine.call(move |engine| engine.delete(&name)).await
        }
        Step::Lost | Step::AwaitRestore | Step::Release | Step::Rest => Ok(()),
    }
}

/// Lets the object go: nothing of it is left on this node.
pub async fn release(agent: &Agent, volume: &Volume) -> Result<(), Error> {
    meta::release(&agent.context.api::<Volume>(), volume).await?;
    status::unmeasure(agent, volume);
    Ok(())
}

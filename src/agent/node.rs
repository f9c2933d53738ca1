//! This node's object: that its agent lives, and how much room its pool has.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use super::Agent;
use crate::controllers::error::is_already_exists;
use crate::controllers::events::Reason;
use crate::controllers::requeue::jittered;
use crate::controllers::{ApiContext, Error, status};
use crate::crd::{
    Condition, ConditionStatus, DiskSpec, DiskStatus, DiskType, Node, NodeSpec, NodeStatus, Time, condition_type, set_condition,
};
use crate::engine::{PoolSpace, VolumeInfo};

/// The one disk that a node has here: its pool.
const DISK: &str = "pool";
/// How often the agent says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A pool that is fuller than this many percent is warned of.
const PRESSURE_PERCENT: u64 = 85;

/// Registers the node and keeps its status true until `shutdown`.
pub async fn keep(agent: Arc<Agent>, pool: String, shutdown: CancellationToken) {
    loop {
        agent.context.stores.count_requests(&agent.context.metrics);
        if let Err(error) = beat(&agent, &pool).await {
            tracing::warn!(node = agent.node, %error, "failed to write the node's status");
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(HEARTBEAT)) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn beat(agent: &Agent, pool: &str) -> Result<(), Error> {
    let node = register(agent, pool).await?;
    let seen = agent.engine.call(|engine| Ok((engine.space()?, engine.volumes()?))).await;
    let old = node.status.clone().unwrap_or_default();
    let new = status_of(&node, old.clone(), pool, &seen, Timestamp::now());
    let pressed = |status: &NodeStatus| crate::crd::is_true(&status.conditions, condition_type::POOL_PRESSURE);
    let written = status::write(&agent.context.api(), &node, new.clone()).await?;
    if pressed(&new) && !pressed(&old) {
        let words = seen.ok().and_then(|(space, _)| pressure(&space)).unwrap_or_default();
        agent.context.events.warning(&written, Reason::PoolPressure, words, None).await;
    }
    Ok(())
}

/// The node's object; made with defaults when there is none, and then the user's.
async fn register(agent: &Agent, pool: &str) -> Result<Node, Error> {
    let api = agent.context.api::<Node>();
    let name = &agent.node;
    let read = || async { api.get_opt(name).await.context(|| format!("read node {name}")) };
    if let Some(node) = read().await? {
        return Ok(node);
    }
    let disk = DiskSpec { disk_type: DiskType::Filesystem, path: pool.to_owned(), allow_scheduling: true, ..DiskSpec::default() };
    let spec = NodeSpec { name: name.clone(), disks: [(DISK.to_owned(), disk)].into(), ..NodeSpec::default() };
    match api.create(&PostParams::default(), &Node::new(name, spec)).await {
        Err(error) if is_already_exists(&error) => {
            read().await?.ok_or_else(|| Error::NotYet(format!("node {name} was made and removed a moment ago")))
        }
        created => created.context(|| format!("create node {name}")),
    }
}

type Seen = Result<(PoolSpace, Vec<VolumeInfo>), Error>;

fn status_of(node: &Node, mut status: NodeStatus, pool: &str, seen: &Seen, now: Timestamp) -> NodeStatus {
    let generation = node.metadata.generation;
    let mut set = |type_: &str, holds: ConditionStatus, why: &str, message: String| {
        set_condition(&mut status.conditions, Condition::new(type_, holds, why, message, generation, now));
    };
    status.last_heartbeat_at = Time::from(now);
    match seen {
        Ok((space, volumes)) => {
            let pressure = pressure(space);
            set(condition_type::READY, ConditionStatus::True, "AgentRunning", String::new());
            set(
                condition_type::POOL_PRESSURE,
                pressure.is_some().into(),
                if pressure.is_some() { "PoolPressure" } else { "EnoughSpace" },
                pressure.clone().unwrap_or_default(),
            );
            let (open, why) = match (node.spec.allow_scheduling, &pressure) {
                (false, _) => (false, "Disabled"),
                (true, Some(_)) => (false, "PoolPressure"),
                (true, None) => (true, "Schedulable"),
            };
            set(condition_type::SCHEDULABLE, open.into(), why, pressure.unwrap_or_default());
            status.disk_status = [(DISK.to_owned(), disk_status(pool, space, volumes))].into();
        }
        Err(error) => {
            set(condition_type::READY, ConditionStatus::False, error.category(), error.to_string());
            set(condition_type::SCHEDULABLE, ConditionStatus::False, error.category(), error.to_string());
        }
    }
    status
}

fn disk_status(pool: &str, space: &PoolSpace, volumes: &[VolumeInfo]) -> DiskStatus {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    DiskStatus {
        storage_available: signed(space.available),
        storage_maximum: signed(space.total),
        storage_scheduled: signed(volumes.iter().map(|volume| volume.size).sum()),
        disk_path: pool.to_owned(),
        disk_type: DiskType::Filesystem,
        scheduled_replica: volumes.iter().map(|volume| (volume.name.to_string(), signed(volume.size))).collect(),
        ..DiskStatus::default()
    }
}

/// What to say of a pool that fills up; `None` while there is room. Whole percent only: it stands in every volume of the node, and must
/// not change with each write of a guest.
pub fn pressure(space: &PoolSpace) -> Option<String> {
    let used = space.total.saturating_sub(space.available);
    let percent = (u128::from(used) * 100).checked_div(u128::from(space.total))?;
    (percent >= u128::from(PRESSURE_PERCENT)).then(|| {
        format!(
            "the pool is {percent} % full: remove snapshots or volumes, or grow the pool; when it is full, writes of volumes fail"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_warned_of_from_85_percent() {
        assert_eq!(pressure(&PoolSpace { total: 1000, available: 151 }), None);
        assert!(pressure(&PoolSpace { total: 1000, available: 150 }).is_some_and(|words| words.contains("85 % full")));
        assert!(pressure(&PoolSpace { total: 1000, available: 0 }).is_some_and(|words| words.contains("100 % full")));
        assert_eq!(pressure(&PoolSpace { total: 0, available: 0 }), None);
    }

    #[test]
    fn the_warning_stays_the_same_while_the_percent_does() {
        let at = |available| pressure(&PoolSpace { total: 10_000, available });
        assert_eq!(at(1499), at(1401));
        assert_ne!(at(1499), at(1399));
    }

    #[test]
    fn a_pool_that_cannot_be_read_closes_the_node_and_keeps_what_was_known() {
        let space = PoolSpace { total: 1000, available: 500 };
        let node = Node::new("n1", NodeSpec::default());
        let now = Timestamp::UNIX_EPOCH;
        let well = status_of(&node, NodeStatus::default(), "/pool", &Ok((space, Vec::new())), now);
        assert!(crate::crd::is_true(&well.conditions, condition_type::SCHEDULABLE));
        let ill = status_of(&node, well.clone(), "/pool", &Err(Error::NotYet("pool gone".into())), now);
        assert!(
            !crate::crd::is_true(&ill.conditions, condition_type::READY)
                && !crate::crd::is_true(&ill.conditions, condition_type::SCHEDULABLE)
        );
        assert_eq!(ill.disk_status, well.disk_status);
    }
}

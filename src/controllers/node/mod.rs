//! Node: notices that an agent is silent, and says so in the node's `Ready` condition. Everything else of a Node is its agent's.

mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use tokio_util::sync::CancellationToken;

use self::plan::{Plan, STALE_AFTER, plan};
use super::caches::Caches;
use super::{Context, Error, drive, status};
use crate::crd::{Condition, ConditionStatus, Node, Time, condition_type, find_condition, set_condition};

/// The reason of a `Ready` condition that the manager wrote.
const REASON_SILENT: &str = "AgentSilent";

/// What the agents said last, and since when.
struct Heartbeats {
    context: Arc<Context>,
    /// By node: its last heartbeat, and when this process first saw it. Losing it in a restart means waiting once more.
    seen: Mutex<HashMap<String, (Time, Instant)>>,
}

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, caches: Caches, shutdown: CancellationToken) {
    let controller = Controller::for_stream(caches.nodes.trigger(), caches.nodes.reader());
    let heartbeats = Arc::new(Heartbeats { context: context.clone(), seen: Mutex::default() });
    drive(controller, context, shutdown, move |node| {
        let heartbeats = heartbeats.clone();
        async move { heartbeats.reconcile(&node).await }
    })
    .await;
}

impl Heartbeats {
    async fn reconcile(&self, node: &Node) -> Result<Action, Error> {
        let name = node.name_any();
        let ready = node.status.as_ref().and_then(|status| find_condition(&status.conditions, condition_type::READY));
        let marked = ready.is_some_and(|condition| condition.reason == REASON_SILENT);
        let heartbeat = node.status.as_ref().map(|status| status.last_heartbeat_at).unwrap_or_default();
        match plan(self.unchanged_for(&name, heartbeat), marked) {
            Plan::LookAgain(after) => Ok(Action::requeue(after)),
            Plan::MarkUnknown => {
                let mut status = node.status.clone().unwrap_or_default();
                let words = format!(
                    "the agent of node {name} has said nothing for {} s: its volumes may be unreachable",
                    STALE_AFTER.as_secs()
                );
                let condition = Condition::new(
                    condition_type::READY,
                    ConditionStatus::Unknown,
                    REASON_SILENT,
                    words,
                    node.metadata.generation,
                    Timestamp::now(),
                );
                set_condition(&mut status.conditions, condition);
                status::write(&self.context.api(), node, status).await?;
                tracing::warn!(node = name, "the agent is silent: Ready is Unknown from now on");
                Ok(Action::requeue(STALE_AFTER))
            }
        }
    }

    /// How long the agent's heartbeat has been this one.
    fn unchanged_for(&self, node: &str, heartbeat: Time) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(node) {
            Some((old, since)) if *old == heartbeat => since.elapsed(),
            _ => {
                seen.insert(node.to_owned(), (heartbeat, Instant::now()));
                Duration::ZERO
            }
        }
    }
}

//! `drover manager`: schedules, retention, placement, backup targets, deletes. One of several processes leads; the others wait.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::role::{RoleArgs, identity, shutdown_on_signal};
use crate::controllers::caches::Caches;
use crate::controllers::events::Events;
use crate::controllers::leader::Election;
use crate::controllers::requeue::Backoff;
use crate::controllers::stores::Stores;
use crate::controllers::{Context, backup, backup_target, backup_volume, node, recurring_job, setting, snapshot, volume};
use crate::metrics::Metrics;
use crate::{telemetry, web};

const LEASE: &str = "drover-manager";
/// What is under way when the process is asked to stop may take this long: shorter than the 30 s that Kubernetes gives.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How far the request counters may be behind.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Flags of `drover manager`.
#[derive(Debug, Args)]
pub struct ManagerArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// Milliseconds after which an agent without a sign of life counts as away, for tests
    #[arg(long, hide = true, default_value_t = 300_000)]
    agent_timeout: u64,
}

/// Runs until SIGTERM or SIGINT, or until the lease is lost: that is an error, since what another leader may do meanwhile cannot be
/// called back.
pub async fn run(args: ManagerArgs) -> Outcome {
    telemetry::init(args.role.log_format);
    let shutdown = shutdown_on_signal()?;
    let client = args.role.client().await?;
    let metrics = Arc::new(Metrics::new());
    let identity = identity();
    let context = Arc::new(Context {
        client: client.clone(),
        namespace: args.role.namespace.clone(),
        events: Events::new(client.clone(), "manager", identity.clone()),
        stores: Stores::new(client.clone(), &args.role.namespace, args.role.timings()),
        metrics: metrics.clone(),
        backoff: Backoff::default(),
    });
    // Its own token: health and metrics are served until the last write is done and the lease handed on.
    let serving = CancellationToken::new();
    let server = tokio::spawn(web::serve(args.role.metrics_addr, metrics, serving.clone()));
    let _stop_serving = serving.drop_guard();
    let election = Election::new(client, &args.role.namespace, LEASE, identity);
    tokio::select! {
        result = lead(&election, context, Duration::from_millis(args.agent_timeout), &shutdown) => result,
        result = server => match result? {
            Ok(()) => Err("the HTTP server stopped by itself".into()),
            Err(error) => Err(format!("failed to serve {}: {error}", args.role.metrics_addr).into()),
        },
    }
}

/// Waits for the lease, then runs the controllers while it is held.
async fn lead(election: &Election, context: Arc<Context>, agent_timeout: Duration, shutdown: &CancellationToken) -> Outcome {
    if !election.acquire(shutdown).await {
        return Ok(());
    }
    tracing::info!("leading");
    let work = CancellationToken::new();
    let release = CancellationToken::new();
    let mut controllers = start(&context, agent_timeout, &work);
    let hold = election.hold(&release);
    tokio::pin!(hold);
    tokio::select! {
        _ = &mut hold => return Err("the leader's lease was lost".into()),
        () = shutdown.cancelled() => {}
        ended = controllers.join_next() => {
            // A controller ends only when it is told to.
            return Err(format!("a controller stopped by itself: {ended:?}").into());
        }
    }
    // The lease is held until the last write is done, and only then handed on.
    work.cancel();
    let stopped = async { while controllers.join_next().await.is_some() {} };
    tokio::select! {
        _ = &mut hold => return Err("the leader's lease was lost while stopping".into()),
        result = tokio::time::timeout(STOP_WITHIN, stopped) => {
            if result.is_err() {
                return Err(format!("work was still under way {STOP_WITHIN:?} after the signal; the lease runs out by itself").into());
            }
        }
    }
    release.cancel();
    hold.await;
    Ok(())
}

fn start(context: &Arc<Context>, agent_timeout: Duration, work: &CancellationToken) -> JoinSet<()> {
    let mut controllers = JoinSet::new();
    controllers.spawn(setting::run(context.clone(), work.clone()));
    controllers.spawn(backup_target::run(context.clone(), work.clone()));
    controllers.spawn(backup_volume::run(context.clone(), work.clone()));
    controllers.spawn(count_requests(context.clone(), work.clone()));
    controllers.spawn(with_caches(context.clone(), agent_timeout, work.clone()));
    controllers
}

/// The controllers that share copies of what they read.
async fn with_caches(context: Arc<Context>, agent_timeout: Duration, work: CancellationToken) {
    let Some(caches) = Caches::start(&context, &work).await else { return };
    tokio::join!(
        backup::run(context.clone(), caches.clone(), agent_timeout, work.clone()),
        recurring_job::run(context.clone(), caches.clone(), work.clone()),
        volume::run(context.clone(), caches.clone(), work.clone()),
        snapshot::run(context.clone(), caches.clone(), work.clone()),
        node::run(context.clone(), caches, work),
    );
}

async fn count_requests(context: Arc<Context>, work: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COUNT_EVERY) => context.stores.count_requests(&context.metrics),
            () = work.cancelled() => return,
        }
    }
}

//! `drover agent`: the volumes, snapshots and transfers of one node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::role::{RoleArgs, identity, shutdown_on_signal};
use crate::agent;
use crate::controllers::Context;
use crate::controllers::events::Events;
use crate::controllers::requeue::Backoff;
use crate::controllers::stores::Stores;
use crate::engine::{PoolConfig, PoolImageConfig, Reflink};
use crate::metrics::Metrics;
use crate::{telemetry, web};

/// Flags of `drover agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// Name of this node, as the label `longhornnode` of its objects has it
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Folder of the volumes, on XFS with reflinks or on btrfs
    #[arg(long, default_value = "/var/lib/drover", value_name = "DIR")]
    pool: PathBuf,
    /// On another file system: make, mount and use a sparse pool image of this size beside the folder; a larger size grows it
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pool_image_size: Option<u64>,
    /// Folder of the attached volumes' devices
    #[arg(long, default_value = PoolConfig::DEVICE_DIR, value_name = "DIR")]
    device_dir: PathBuf,
    /// Seconds without progress after which a backup fails, shortened in tests
    #[arg(long, hide = true, default_value_t = 300)]
    patience: u64,
}

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(args: AgentArgs) -> super::Outcome {
    telemetry::init(args.role.log_format);
    let shutdown = shutdown_on_signal()?;
    let pool = PoolConfig {
        dir: args.pool.clone(),
        device_dir: args.device_dir,
        pool_image: args.pool_image_size.map(|size| PoolImageConfig { path: image_beside(&args.pool), size }),
    };
    let engine = tokio::task::spawn_blocking(move || Reflink::open(pool)).await??;
    let client = args.role.client().await?;
    let namespace = args.role.namespace.clone();
    let metrics = Arc::new(Metrics::new());
    let context = Context {
        stores: Stores::new(client.clone(), &namespace, args.role.timings()),
        events: Events::new(client.clone(), "agent", identity()),
        client,
        namespace,
        metrics: metrics.clone(),
        backoff: Backoff::default(),
    };
    let config = agent::Config {
        node: args.node_name,
        pool: args.pool.display().to_string(),
        patience: Duration::from_secs(args.patience),
    };
    tracing::info!(node = config.node, pool = config.pool, "agent started");
    let serving = tokio::spawn(web::serve(args.role.metrics_addr, metrics, shutdown.clone()));
    let working = agent::run(context, Arc::new(engine), config, shutdown.clone());
    let watched = async {
        let served = serving.await;
        // A role that cannot be asked how it is must not look well.
        shutdown.cancel();
        served
    };
    let ((), served) = tokio::join!(working, watched);
    Ok(served??)
}

/// `/var/lib/drover` has its pool image at `/var/lib/drover.img`: the folder itself is what the image is mounted on.
fn image_beside(pool: &std::path::Path) -> PathBuf {
    let mut path = pool.as_os_str().to_owned();
    path.push(".img");
    path.into()
}

/// A Kubernetes quantity of whole bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    bytes_of(text).ok_or_else(|| format!("{text:?} is not a size: write bytes, or a number with Ki, Mi, Gi or Ti, such as 20Gi"))
}

fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        _ => return None,
    };
    let size: u64 = digits.parse().ok()?;
    size.checked_mul(1 << shift).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_kubernetes_writes_it() {
        for (text, wanted) in [
            ("20Gi", Some(20 << 30)),
            ("4096", Some(4096)),
            ("1Ti", Some(1 << 40)),
            ("0", None),
            ("20G", None),
            ("", None),
            ("Gi", None),
        ] {
            assert_eq!(parse_size(text).ok(), wanted, "{text}");
        }
    }
}

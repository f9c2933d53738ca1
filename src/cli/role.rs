//! What the long-running roles share: flags, client, signals, exit codes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::deadline;
use crate::backupstore::lock::Timings;
use crate::telemetry::LogFormat;

/// Flags of `manager` and `agent`.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// Kubeconfig file; without it, KUBECONFIG, ~/.kube/config or the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace that holds every object and the credential Secrets
    #[arg(long, default_value = "longhorn-system", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Where to serve /healthz and /metrics
    #[arg(long, default_value = "0.0.0.0:9500", value_name = "ADDRESS:PORT")]
    pub metrics_addr: SocketAddr,
    /// Form of the log lines
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Shortened store lock times for tests: settle,refresh,fence,expiry in milliseconds
    #[arg(long, hide = true, value_parser = parse_timings)]
    pub lock_timings: Option<Timings>,
}

impl RoleArgs {
    /// A client for the API server the flags name. Each of its calls ends in bounded time.
    pub async fn client(&self) -> Result<kube::Client, Box<dyn std::error::Error>> {
        let config = match &self.kubeconfig {
            None => kube::Config::infer().await?,
            Some(path) => {
                kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?
            }
        };
        Ok(deadline::client(config)?)
    }

    /// The store lock times to use.
    pub fn timings(&self) -> Timings {
        self.lock_timings.unwrap_or_default()
    }
}

fn parse_timings(text: &str) -> Result<Timings, String> {
    let parts: Vec<u64> = text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|e| format!("{text:?}: {e}"))?;
    let [settle, refresh, fence, expiry] = parts[..] else {
        return Err(format!("{text:?}: four numbers wanted: settle,refresh,fence,expiry"));
    };
    if !(settle < refresh && refresh < fence && fence < expiry) {
        return Err(format!("{text:?}: settle < refresh < fence < expiry must hold"));
    }
    let ms = std::time::Duration::from_millis;
    Ok(Timings { settle: ms(settle), refresh: ms(refresh), fence: ms(fence), expiry: ms(expiry) })
}

/// A token that is cancelled at SIGTERM or SIGINT.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping");
        cancel.cancel();
    });
    Ok(token)
}

/// Names this process among all others: host, process id and random digits.
pub fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut random = [0u8; 4];
    // Host and process id alone are unique enough where no random bytes can be had.
    let _ = getrandom::fill(&mut random);
    format!("{host}_{}_{}", std::process::id(), hex::encode(random))
}

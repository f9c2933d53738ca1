//! Leader election by a Lease, with client-go's rules.
//!
//! Another holder's lease is judged by how long ago, on our monotonic clock, its record last changed: clocks of two nodes are never
//! compared. A leader that cannot renew in time must end its process: there is no way to call back what it has begun.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::error::{is_already_exists, is_conflict, is_namespace_terminating};

const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// One process's candidacy for one Lease.
pub struct Election {
    api: Api<Lease>,
    name: &'static str,
    identity: String,
}

/// The other holder's record as last seen, and when it last changed.
struct Seen {
    resource_version: Option<String>,
    since: Instant,
}

impl Election {
    /// `identity` must differ between processes, also between two on one host.
    pub fn new(client: Client, namespace: &str, name: &'static str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name, identity }
    }

    /// Waits until this process leads, or `shutdown`. Returns whether it leads.
    pub async fn acquire(&self, shutdown: &CancellationToken) -> bool {
        let mut seen: Option<Seen> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, lease = self.name, "failed to ask for the lease"),
            }
            tokio::select! {
                () = tokio::time::sleep(super::requeue::jittered(RETRY)) => {}
                () = shutdown.cancelled() => return false,
            }
        }
    }

    /// Renews until `shutdown` (then the lease is released) or until it is lost. Returns whether it was lost.
    pub async fn hold(&self, shutdown: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = shutdown.cancelled() => {
                    self.release().await;
                    return false;
                }
            }
            match tokio::time::timeout(RENEW_DEADLINE.saturating_sub(renewed.elapsed()), self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return true,
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "failed to renew the lease"),
                Err(_) => return true,
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return true;
            }
        }
    }

    async fn try_acquire(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(self.name).await? else {
            return self.create().await;
        };
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let lasts =
                spec.lease_duration_seconds.map_or(LEASE_DURATION, |s| Duration::from_secs(s.max(0).unsigned_abs().into()));
            let version = lease.metadata.resource_version.clone();
            match seen {
                Some(last) if last.resource_version == version => {
                    if last.since.elapsed() < lasts {
                        return Ok(false);
                    }
                }
                _ => {
                    *seen = Some(Seen { resource_version: version, since: Instant::now() });
                    return Ok(false);
                }
            }
        }
        let spec = lease.spec.get_or_insert_default();
        let now = Timestamp::now();
        if holder != self.identity {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
            spec.acquire_time = Some(MicroTime(now));
        }
        self.fill(spec, now);
        self.replace(&lease).await
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let now = Timestamp::now();
        let mut spec = LeaseSpec { acquire_time: Some(MicroTime(now)), lease_transitions: Some(0), ..Default::default() };
        self.fill(&mut spec, now);
        let mut lease = Lease { spec: Some(spec), ..Default::default() };
        lease.metadata.name = Some(self.name.to_owned());
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(error) if is_already_exists(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `Ok(false)`: somebody else holds it now.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(self.name).await? else {
            // Deleted: ours again, unless another process was faster. While the namespace goes nobody can make one, so nobody else can lead,
            // and the objects in it wait for us to take our finalizers off them.
            return match self.create().await {
                Err(error) if is_namespace_terminating(&error) => Ok(true),
                result => result,
            };
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(false);
        }
        self.fill(spec, Timestamp::now());
        // A conflict is an error to try again after, not a lost lease: the next look says who holds it.
        self.api.replace(self.name, &PostParams::default(), &lease).await.map(|_| true)
    }

    async fn release(&self) {
        let result = async {
            let Some(mut lease) = self.api.get_opt(self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Err(error) = result.await {
            tracing::warn!(%error, lease = self.name, "failed to release the lease; the next leader waits for its end");
        }
    }

    fn fill(&self, spec: &mut LeaseSpec, now: Timestamp) {
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX));
        spec.renew_time = Some(MicroTime(now));
    }

    async fn replace(&self, lease: &Lease) -> Result<bool, kube::Error> {
        match self.api.replace(self.name, &PostParams::default(), lease).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

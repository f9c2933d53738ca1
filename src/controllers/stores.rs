//! Opens the backupstore of a BackupTarget with the credentials of the Secret it names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};

use super::error::{ApiContext, Error};
use crate::backupstore::Store;
use crate::backupstore::credentials::Credentials;
use crate::backupstore::driver::{
    self,
    metered::{Metered, Verb},
};
use crate::backupstore::lock::Timings;
use crate::backupstore::target_url::Target;
use crate::crd::{BackupTarget, parse_target_url};
use crate::metrics::{Metrics, RequestLabels};

/// Open stores by target. Holds nothing that cannot be opened again: a changed URL or Secret gives a new store.
pub struct Stores {
    secrets: Api<Secret>,
    namespace: String,
    timings: Timings,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_target: HashMap<String, Opened>,
    /// Replaced ones whose last requests are not counted yet.
    closed: Vec<(String, Opened)>,
}

/// An open store and what it was opened with.
struct Opened {
    url: String,
    secret_version: Option<String>,
    store: Store,
    requests: Arc<Metered>,
    /// Requests by verb that the process's metrics have already.
    counted: [u64; Verb::ALL.len()],
    /// Every step of using it worked once since it was opened.
    proven: bool,
}

impl Stores {
    /// Secrets are read in `namespace` only.
    pub fn new(client: Client, namespace: &str, timings: Timings) -> Self {
        Self { secrets: Api::namespaced(client, namespace), namespace: namespace.to_owned(), timings, open: Mutex::default() }
    }

    /// The target's URL, parsed. Says what is wrong with it in words for the target's condition.
    pub fn parse_url(target: &BackupTarget) -> Result<Target, Error> {
        let url = target.spec.backup_target_url.trim();
        if url.is_empty() {
            return Err(unavailable(target, "backup target URL is empty".to_owned()));
        }
        parse_target_url(url).map_err(|words| unavailable(target, words))
    }

    /// Opens the target's store, or returns the one that is open with the same URL and the same version of the Secret. One request to the API server, none to the store.
    pub async fn open(&self, target: &BackupTarget) -> Result<Store, Error> {
        let parsed = Self::parse_url(target)?;
        let secret = self.secret(target).await?;
        let version = secret.as_ref().and_then(|s| s.metadata.resource_version.clone());
        let name = target.name_any();
        if let Some(opened) = self.lock().by_target.get(&name)
            && opened.url == target.spec.backup_target_url
            && opened.secret_version == version
        {
            return Ok(opened.store.clone());
        }
        let credentials = match secret {
            Some(secret) => Some(self.parse_secret(target, secret)?),
            None => None,
        };
        let requests = driver::open(&parsed, credentials.as_ref()).map_err(|error| unavailable(target, error.to_string()))?;
        let store = Store::new(requests.clone(), self.timings);
        let opened = Opened {
            url: target.spec.backup_target_url.clone(),
            secret_version: version,
            store: store.clone(),
            requests,
            counted: [0; Verb::ALL.len()],
            proven: false,
        };
        let mut open = self.lock();
        if let Some(before) = open.by_target.insert(name.clone(), opened) {
            open.closed.push((name, before));
        }
        Ok(store)
    }

    /// Whether every step of using the store worked once since it was opened with this URL and this Secret.
    pub fn is_proven(&self, target: &str) -> bool {
        self.lock().by_target.get(target).is_some_and(|opened| opened.proven)
    }

    /// Every step worked.
    pub fn set_proven(&self, target: &str) {
        self.prove(target, true);
    }

    /// Something failed: each step is tried again before the store counts as usable.
    pub fn set_unproven(&self, target: &str) {
        self.prove(target, false);
    }

    fn prove(&self, target: &str, proven: bool) {
        if let Some(opened) = self.lock().by_target.get_mut(target) {
            opened.proven = proven;
        }
    }

    /// The Secret that the target names; `None` when it names none.
    async fn secret(&self, target: &BackupTarget) -> Result<Option<Secret>, Error> {
        let name = target.spec.credential_secret.trim();
        if name.is_empty() {
            return Ok(None);
        }
        let secret = self.secrets.get_opt(name).await.context(|| format!("read secret {name}"))?;
        secret.map(Some).ok_or_else(|| {
            unavailable(
                target,
                format!(
                    "could not access {} without credential secret: there is no Secret {name:?} in namespace {:?}, which is the only one searched",
                    target.spec.backup_target_url.split(':').next().unwrap_or("the store"),
                    self.namespace
                ),
            )
        })
    }

    fn parse_secret(&self, target: &BackupTarget, secret: Secret) -> Result<Credentials, Error> {
        let name = secret.name_any();
        let values: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        Credentials::parse(&values)
            .map_err(|error| unavailable(target, format!("secret {name:?} in namespace {:?}: {error}", self.namespace)))
    }

    /// Adds the requests made since the last call to the process's metrics.
    pub fn count_requests(&self, metrics: &Metrics) {
        let mut open = self.lock();
        for (target, opened) in &mut open.by_target {
            opened.count(target, metrics);
        }
        for (target, mut opened) in std::mem::take(&mut open.closed) {
            opened.count(&target, metrics);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    fn count(&mut self, target: &str, metrics: &Metrics) {
        let now = self.requests.counters().snapshot();
        for (verb, counted) in Verb::ALL.into_iter().zip(&mut self.counted) {
            let requests = now.verb(verb).requests;
            let labels = RequestLabels { backup_target: target.to_owned(), verb: verb.as_str().to_owned() };
            metrics.requests.get_or_create(&labels).inc_by(requests.saturating_sub(*counted));
            *counted = requests;
        }
    }
}

fn unavailable(target: &BackupTarget, reason: String) -> Error {
    Error::TargetUnavailable { target: target.name_any(), reason }
}

//! The one error of all reconcilers, and what may be asked of it.

use crate::{backupstore, engine};

/// Why a reconcile did not reach its goal.
///
/// Messages end in statuses and Events: they never hold a credential, because no source does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to {context}: {}", explain(.source))]
    Api {
        /// What was being done, with the object.
        context: String,
        /// The client's error.
        source: kube::Error,
    },
    /// The backup store failed.
    #[error(transparent)]
    Store(#[from] backupstore::Error),
    /// The volume engine failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The backup target cannot be used now.
    #[error("backup target {target} is not available: {reason}")]
    TargetUnavailable {
        /// The BackupTarget's name.
        target: String,
        /// Why.
        reason: String,
    },
    /// The object asks for something that cannot be. Only a change of the object, or of one it names, helps.
    #[error("{0}")]
    Invalid(String),
    /// Something this waits for is not there yet.
    #[error("{0}")]
    NotYet(String),
}

/// The words of the API server where it answered, else the whole chain.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(inner) = source {
                text.push_str(": ");
                text.push_str(&inner.to_string());
                source = inner.source();
            }
            text
        }
    }
}

impl Error {
    /// PascalCase name: the reason of an Event or condition, and the label of a metric.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { source, .. } if is_conflict(source) => "Conflict",
            Self::Api { .. } => "ApiError",
            Self::Store(error) => error.category(),
            Self::Engine(engine::Error::NoVolume(_)) => "NoVolume",
            Self::Engine(engine::Error::NoSnapshot { .. }) => "NoSnapshot",
            Self::Engine(engine::Error::InUse { .. }) => "InUse",
            Self::Engine(engine::Error::NotAllowed { .. }) => "NotAllowed",
            Self::Engine(engine::Error::Full { .. }) => "PoolFull",
            Self::Engine(engine::Error::Pool { .. }) => "PoolUnusable",
            Self::Engine(engine::Error::Io { .. }) => "IoError",
            Self::TargetUnavailable { .. } => "TargetUnavailable",
            Self::Invalid(_) => "Invalid",
            Self::NotYet(_) => "Waiting",
        }
    }

    /// Whether trying again may help without anybody changing the object.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api { .. } | Self::TargetUnavailable { .. } | Self::NotYet(_) => true,
            Self::Store(error) => error.is_transient(),
            Self::Engine(error) => error.is_transient(),
            Self::Invalid(_) => false,
        }
    }

    /// Whether our copy of the object was merely old: not worth a word in the log.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_conflict(source))
    }
}

/// Whether `error` says that the object changed since it was read.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// Whether `error` says that the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether `error` says that an object of that name is there already.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// Whether `error` says that nothing can be made any more, because the namespace is being deleted.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Adds what was being done to an API call's error.
pub trait ApiContext<T> {
    /// `context` completes "failed to ...".
    fn context(self, context: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> ApiContext<T> for Result<T, kube::Error> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Api { context: context(), source })
    }
}

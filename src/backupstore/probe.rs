//! Whether a store can be used: each thing that is needed is tried, and the first that fails is named with advice.

use std::fmt;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use jiff::SignedDuration;

use super::driver::{Depth, DriverError, Listed, StorePath};
use super::error::driver_category;
use super::{Store, layout};

/// No probe takes that long.
const OLD: SignedDuration = SignedDuration::from_hours(1);

/// What a probe tries, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStep {
    /// List a folder.
    List,
    /// Write an object.
    Write,
    /// Read it back.
    Read,
    /// Remove it.
    Delete,
}

impl fmt::Display for ProbeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Write => "write to",
            Self::Read => "read from",
            Self::Delete => "delete from",
        })
    }
}

/// The first thing that a store did not let us do.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step} the store: {source}; {advice}")]
pub struct ProbeError {
    /// What was tried.
    pub step: ProbeStep,
    /// What to look at.
    pub advice: &'static str,
    /// The store's answer.
    pub source: DriverError,
}

impl ProbeError {
    fn new(step: ProbeStep, source: DriverError) -> Self {
        Self { step, advice: advice(step, &source), source }
    }

    /// PascalCase, for conditions and metrics.
    pub fn category(&self) -> &'static str {
        driver_category(&self.source)
    }
}

fn advice(step: ProbeStep, error: &DriverError) -> &'static str {
    match (error, step) {
        (DriverError::Credentials { .. }, _) => "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the credential secret",
        (DriverError::NoRoot { .. }, _) => "make the bucket or folder first, or correct its name or region in the target URL",
        (DriverError::Denied { .. }, ProbeStep::List) => "grant s3:ListBucket on the bucket",
        (DriverError::Denied { .. }, ProbeStep::Write) => "grant s3:PutObject on the bucket's objects",
        (DriverError::Denied { .. }, ProbeStep::Read) => "grant s3:GetObject on the bucket's objects",
        (DriverError::Denied { .. }, ProbeStep::Delete) => "grant s3:DeleteObject on the bucket's objects",
        (DriverError::NoSpace { .. }, _) => "free space or raise the quota",
        (DriverError::Unavailable { .. }, _) => "check the network, the endpoint (AWS_ENDPOINTS) and its certificate (AWS_CERT)",
        (DriverError::NotFound { .. }, _) => "what was just written is not there: the store is not consistent and cannot be used",
        (DriverError::Invalid { .. }, _) => "check that the endpoint (AWS_ENDPOINTS) is an S3 service",
    }
}

impl Store {
    /// Lists, writes, reads and removes a small object below `backupstore/drover/`, and those of earlier probes that died. Four requests,
    /// one more where one died.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let at = |step| move |source| ProbeError::new(step, source);
        let driver = self.driver();
        let mut leavings = self.old_probes().await.map_err(at(ProbeStep::List))?;
        let mut id = [0u8; 8];
        let invalid =
            |message: String| DriverError::Invalid { operation: "put", path: layout::own_folder().to_string(), message };
        getrandom::fill(&mut id).map_err(|error| at(ProbeStep::Write)(invalid(error.to_string())))?;
        let id = hex::encode(id);
        let path = layout::probe(&id);
        driver.put(&path, Bytes::from(id.clone())).await.map_err(at(ProbeStep::Write))?;
        let read = driver.get(&path).await.map_err(at(ProbeStep::Read))?;
        leavings.push(path);
        driver.delete(&leavings).await.map_err(at(ProbeStep::Delete))?;
        if read != id {
            return Err(at(ProbeStep::Read)(invalid("what was read is not what was written".to_owned())));
        }
        Ok(())
    }

    /// What probes have left that cannot be under way any more.
    async fn old_probes(&self) -> Result<Vec<StorePath>, DriverError> {
        let mut rows = self.driver().list(Some(&layout::own_folder()), Depth::Children);
        let mut probes = Vec::new();
        while let Some(row) = rows.try_next().await? {
            if let Listed::Object(path, meta) = row
                && layout::is_probe(&path)
            {
                probes.push((path, meta.modified));
            }
        }
        if probes.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.driver().server_time().await?;
        probes.retain(|(_, modified)| now.duration_since(*modified) > OLD);
        Ok(probes.into_iter().map(|(path, _)| path).collect())
    }
}

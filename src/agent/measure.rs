//! What transfers add to the process's metrics.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::backupstore::progress::Progress;
use crate::metrics::{Metrics, TransferLabels};

/// How often what moved is counted.
const COUNT: Duration = Duration::from_secs(2);

/// Counts a transfer that ended.
pub fn ended(metrics: &Metrics, operation: &str, completed: bool, took: Duration) {
    let outcome = if completed { "completed" } else { "error" };
    let labels = TransferLabels { operation: operation.to_owned(), outcome: outcome.to_owned() };
    metrics.transfers.get_or_create(&labels).inc();
    metrics.transfer_duration.get_or_create(&labels).observe(took.as_secs_f64());
}

/// Counts the bytes of one attempt of a backup while it runs, and what is left of them when it ends in any way.
pub struct Meter {
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    read: u64,
    uploaded: u64,
}

impl Meter {
    /// Nothing of `progress` is counted yet.
    pub fn new(metrics: Arc<Metrics>, progress: Arc<Progress>) -> Self {
        Self { metrics, progress, read: 0, uploaded: 0 }
    }

    /// Counts until `work` ends.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut clock = tokio::time::interval(COUNT);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = clock.tick() => self.count(),
            }
        }
    }

    fn count(&mut self) {
        let seen = self.progress.snapshot();
        self.metrics.bytes_read.inc_by(seen.bytes_read.saturating_sub(self.read));
        self.metrics.bytes_uploaded.inc_by(seen.bytes_uploaded.saturating_sub(self.uploaded));
        (self.read, self.uploaded) = (seen.bytes_read, seen.bytes_uploaded);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.count();
    }
}

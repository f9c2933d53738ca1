//! The object that tells one store from another, and an empty store from one that was swapped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::driver::DriverError;
use super::driver::fence::Fence;
use super::error::{DriverContext, Error, Result};
use super::{Store, encode, layout};

/// The identity of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Random, made with the store.
    pub id: String,
    /// 1; grows when a later version must make older ones stop.
    pub generation: u64,
}

impl Marker {
    fn random() -> Result<Self> {
        let mut id = [0u8; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::Internal { context: "get random bytes for a store's id", reason: error.to_string() })?;
        Ok(Self { id: hex::encode(id), generation: 1 })
    }
}

impl Store {
    /// The store's identity, `None` when it was never given one. One request.
    pub async fn marker(&self) -> Result<Option<Marker>> {
        self.read(&layout::marker()).await
    }

    /// The store's identity; gives it one when it has none, which takes [`Timings::settle`](super::lock::Timings::settle). Of two that do
    /// so at once, both get the one that stays, as long as a write takes the store less time than that.
    pub async fn ensure_marker(&self) -> Result<Marker> {
        if let Some(marker) = self.marker().await? {
            return Ok(marker);
        }
        self.write_first(&Marker::random()?).await?;
        let gone = || Error::Config { path: layout::marker().to_string(), reason: "it is gone after being written".to_owned() };
        self.marker().await?.ok_or_else(gone)
    }

    /// Writes an identity, and waits until everybody who saw none either has written his too.
    async fn write_first(&self, marker: &Marker) -> Result<()> {
        let path = layout::marker();
        let fence = Fence::new(|| true);
        let written = fence.around(self.driver().put(&path, encode(marker)?)).await;
        let timings = self.context.timings;
        // One of which an earlier attempt is under way could change the identity after it was told.
        let in_doubt = fence.sent_again() || matches!(written, Err(DriverError::Unavailable { .. }));
        let late = if in_doubt { timings.grace() } else { Duration::ZERO };
        self.context.clock.sleep(timings.settle + late).await;
        written.context(|| format!("write {path}"))
    }
}

//! The object that tells one store from another, and an empty store from one that was swapped.

use serde::{Deserialize, Serialize};

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

impl Store {
    /// The store's identity, `None` when it was never given one. One request.
    pub async fn marker(&self) -> Result<Option<Marker>> {
        self.read(&layout::marker()).await
    }

    /// The store's identity; gives it one when it has none. Of two that do so at once, both get the one that stays.
    pub async fn ensure_marker(&self) -> Result<Marker> {
        if let Some(marker) = self.marker().await? {
            return Ok(marker);
        }
        let mut id = [0u8; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::Internal { context: "get random bytes for a store's id", reason: error.to_string() })?;
        let marker = Marker { id: hex::encode(id), generation: 1 };
        let path = layout::marker();
        self.driver().put(&path, encode(&marker)?).await.context(|| format!("write {path}"))?;
        self.marker()
            .await?
            .ok_or_else(|| Error::Config { path: path.to_string(), reason: "it is gone after being written".to_owned() })
    }
}

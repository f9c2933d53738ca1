//! The one place where engine calls leave the async threads.

use std::sync::Arc;

use crate::controllers::Error;
use crate::engine::{self, Engine};

/// The engine, callable from async code.
#[derive(Clone)]
pub struct Volumes {
    engine: Arc<dyn Engine>,
}

impl Volumes {
    /// Calls `engine` from blocking threads.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    /// Runs `call` on a blocking thread. Dropping the future does not stop a call that has begun: every engine call is idempotent.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Engine) -> engine::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let engine = self.engine.clone();
        match tokio::task::spawn_blocking(move || call(engine.as_ref())).await {
            Ok(result) => Ok(result?),
            Err(ended) => {
                let source = std::io::Error::other(ended);
                Err(engine::Error::Io { context: "finish a call of the volume engine".to_owned(), source }.into())
            }
        }
    }
}

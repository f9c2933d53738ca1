//! What a caller and a driver tell each other about one write: until when it may take effect, and whether it was sent twice.
//!
//! It goes with the caller's task and not through the driver's signatures: wrappers need not know of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static FENCE: Arc<Fence>;
}

/// Stands around a call whose effect must not come later than its caller can answer for.
pub struct Fence {
    holds: Box<dyn Fn() -> bool + Send + Sync>,
    sent_again: AtomicBool,
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("sent_again", &self.sent_again).finish_non_exhaustive()
    }
}

impl Fence {
    /// Writes below it may take effect while `holds` says so.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { holds: Box::new(holds), sent_again: AtomicBool::new(false) })
    }

    /// Runs `call` with this fence around it.
    pub fn around<F: Future>(self: &Arc<Self>, call: F) -> TaskLocalFuture<Arc<Self>, F> {
        FENCE.scope(self.clone(), call)
    }

    /// Whether a write may still take effect. May be asked from any thread.
    pub fn holds(&self) -> bool {
        (self.holds)()
    }

    /// Whether a request of the call was sent more than once: whatever the answer was, an earlier one may take effect later.
    pub fn sent_again(&self) -> bool {
        self.sent_again.load(SeqCst)
    }

    /// For drivers: the fence around the call of this task.
    pub fn current() -> Option<Arc<Self>> {
        FENCE.try_with(Arc::clone).ok()
    }

    /// For drivers: says that a request of this task's call is sent once more.
    pub fn note_sent_again() {
        let _ = FENCE.try_with(|fence| fence.sent_again.store(true, SeqCst));
    }
}

//! A running server told to look at its files again.

use std::sync::Arc;

use tokio::sync::watch;

/// Has a running server look at once at files that it would look at again sooner or later, as when a signal asks for it.
#[derive(Debug, Clone)]
pub struct Reload(Arc<watch::Sender<u64>>);

impl Reload {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Does not wait for it.
    pub fn now(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Told of every request.
    pub(crate) fn requests(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

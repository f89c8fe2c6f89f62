//! Newcomers that wait for a place in the table.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{Notify, futures::Notified};

/// Who waits comes first, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom {
    waiting: AtomicUsize,
    freed: Notify,
}

/// One that waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<WaitingRoom>);

impl WaitingRoom {
    /// Begins to wait.
    pub(crate) fn enter(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(Arc::clone(self))
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// A place may be free: the one that has waited longest looks.
    pub(crate) fn give(&self) {
        if self.waiting() > 0 {
            self.freed.notify_one();
        }
    }

    /// Waits for its turn to look for a place.
    pub(crate) fn turn(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

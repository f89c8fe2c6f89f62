//! Waiting until there are no listeners, or no connections, any more.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

/// Counts open listeners, and wakes who waits for the end of something.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    listeners: AtomicUsize,
    /// Connections that have no record yet, and may get one.
    outside: AtomicUsize,
    /// Notified when a connection ends or comes in, or a listener closes.
    changed: Notify,
}

/// A connection that has no record yet, until this is dropped.
#[derive(Debug)]
pub(crate) struct Outside(Arc<Quiet>);

/// A listener that is open, until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenListener(Arc<Quiet>);

impl Quiet {
    pub(crate) fn open_listener(self: &Arc<Self>) -> OpenListener {
        self.listeners.fetch_add(1, Relaxed);
        OpenListener(Arc::clone(self))
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.load(Relaxed)
    }

    pub(crate) fn wait_outside(self: &Arc<Self>) -> Outside {
        self.outside.fetch_add(1, Relaxed);
        Outside(Arc::clone(self))
    }

    pub(crate) fn outside(&self) -> usize {
        self.outside.load(Relaxed)
    }

    /// A connection ended.
    pub(crate) fn look(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `holds`, which may change when a connection ends or a listener closes.
    pub(crate) async fn wait_until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.0.outside.fetch_sub(1, Relaxed);
        self.0.look();
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Relaxed);
        self.0.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_the_listeners_goes_on_when_the_last_one_closes() {
        let quiet = Arc::new(Quiet::default());
        let listeners = [quiet.open_listener(), quiet.open_listener()];
        let waiting = tokio::spawn({
            let quiet = Arc::clone(&quiet);
            async move { quiet.wait_until(|| quiet.listeners() == 0).await }
        });
        for listener in listeners {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            drop(listener);
        }
        waiting.await.expect("no panic");
    }
}

//! Whether the server wants traffic.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// The answer to the readiness probe: ready when it is switched on and every [`Latch`] is open.
///
/// Starts ready. At the start of a drain call [`set_ready(false)`](Self::set_ready): load balancers then stop sending,
/// while the liveness probe stays well.
///
/// ```
/// let readiness = stellane_metrics::Readiness::new();
/// let cache = readiness.latch("cache is warming");
/// assert!(!readiness.is_ready());
/// assert_eq!(readiness.reasons(), ["cache is warming"]);
/// cache.open();
/// assert!(readiness.is_ready());
/// readiness.set_ready(false);
/// assert!(!readiness.is_ready());
/// ```
#[derive(Debug, Clone)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    on: AtomicBool,
    next: AtomicU64,
    closed: Mutex<BTreeMap<u64, &'static str>>,
}

impl Readiness {
    /// Ready, with no latch.
    #[expect(
        clippy::new_without_default,
        reason = "starting ready is a decision worth writing down"
    )]
    pub fn new() -> Self {
        let inner = Inner {
            on: AtomicBool::new(true),
            next: AtomicU64::new(0),
            closed: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Switches the answer on or off; latches still count.
    pub fn set_ready(&self, ready: bool) {
        self.inner.on.store(ready, Relaxed);
    }

    /// Not ready until the latch is opened. Dropping it keeps it closed: a start-up task that died did not get ready.
    #[must_use = "a latch that is dropped stays closed"]
    pub fn latch(&self, reason: &'static str) -> Latch {
        let id = self.inner.next.fetch_add(1, Relaxed);
        self.closed().insert(id, reason);
        Latch {
            readiness: self.clone(),
            id,
        }
    }

    /// Whether the probe says ready.
    pub fn is_ready(&self) -> bool {
        self.inner.on.load(Relaxed) && self.closed().is_empty()
    }

    /// Why the probe does not say ready; empty when it does.
    pub fn reasons(&self) -> Vec<&'static str> {
        let off = (!self.inner.on.load(Relaxed)).then_some("draining");
        off.into_iter()
            .chain(self.closed().values().copied())
            .collect()
    }

    fn closed(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, &'static str>> {
        self.inner
            .closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that must happen before the server is ready. See [`Readiness::latch`].
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    id: u64,
}

impl Latch {
    /// It has happened.
    pub fn open(self) {
        self.readiness.closed().remove(&self.id);
    }
}

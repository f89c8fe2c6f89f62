//! Whether the server wants traffic.

mod dependency;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

pub use dependency::{Dependency, DependencyHandle, DependencyStatus};

/// The answer to the readiness probe: ready when it is switched on, every [`Latch`] is open and no [`Dependency`] holds it.
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
    dependencies: Mutex<Vec<DependencyHandle>>,
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
            dependencies: Mutex::default(),
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

    /// What the server depends on from now on. Of a name that is taken the second is called `name 2`.
    pub fn dependency(&self, dependency: Dependency) -> DependencyHandle {
        let mut dependencies = self.lock_dependencies();
        let name = dependency.name();
        let mut names = (2..).map(|n| format!("{name} {n}"));
        let is_free = |name: &str| dependencies.iter().all(|known| known.name() != name);
        let dependency = match is_free(name) {
            true => dependency,
            false => match names.find(|name| is_free(name)) {
                Some(name) => dependency.renamed(name),
                None => dependency,
            },
        };
        let handle = DependencyHandle::new(dependency);
        dependencies.push(handle.clone());
        handle
    }

    /// How all dependencies are now.
    pub fn dependencies(&self) -> Vec<DependencyStatus> {
        let dependencies = self.lock_dependencies();
        dependencies.iter().map(DependencyHandle::status).collect()
    }

    /// Whether the probe says ready.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Why the probe does not say ready; empty when it does.
    pub fn reasons(&self) -> Vec<Cow<'static, str>> {
        let off = (!self.inner.on.load(Relaxed)).then_some(Cow::Borrowed("draining"));
        let dependencies = self.dependencies();
        let held = dependencies.iter().filter_map(DependencyStatus::reason);
        let closed = self.closed();
        let closed = closed.values().map(|reason| Cow::Borrowed(*reason));
        let reasons = off.into_iter().chain(closed);
        reasons.chain(held.map(Cow::Owned)).collect()
    }

    fn closed(&self) -> MutexGuard<'_, BTreeMap<u64, &'static str>> {
        let closed = self.inner.closed.lock();
        closed.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_dependencies(&self) -> MutexGuard<'_, Vec<DependencyHandle>> {
        let dependencies = self.inner.dependencies.lock();
        dependencies.unwrap_or_else(PoisonError::into_inner)
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

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use tower_layer::Layer;

use super::CatchFaultsService;
use crate::BoxError;

/// What a panic says, if it is text.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

thread_local! {
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

/// For a hook that has logged the panic of this thread: it is not logged again when it is caught.
#[cfg(feature = "preset")]
pub(crate) fn told() {
    let _ = TOLD.try_with(|told| told.set(true));
}

/// Counts what went wrong in handlers; a cheap handle. The two counters are never freed.
#[derive(Debug, Clone)]
pub struct Faults {
    // Not shared by reference count: every request would change it twice.
    counts: &'static Counts,
}

#[derive(Debug, Default)]
struct Counts {
    panics: AtomicU64,
    errors: AtomicU64,
}

/// What [`Faults`] has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultStats {
    /// Handlers and response bodies that panicked.
    pub panics: u64,
    /// Services that returned an error, those over a body limit not counted.
    pub errors: u64,
}

impl Faults {
    /// A new counter.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counts: Box::leak(Box::default()),
        }
    }

    /// The counts so far.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        FaultStats {
            panics: self.counts.panics.load(Ordering::Relaxed),
            errors: self.counts.errors.load(Ordering::Relaxed),
        }
    }

    /// What `run` returns, unless it panics.
    #[inline]
    pub(crate) fn catch<T>(&self, place: &'static str, run: impl FnOnce() -> T) -> Option<T> {
        // What it works on may be left half-way through a change by a panic. It is the user's own, who
        // asked for exactly this; Rust's types keep it memory-safe.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(value) => Some(value),
            Err(payload) => {
                self.panicked(place, &*payload);
                None
            }
        }
    }

    #[cold]
    fn panicked(&self, place: &'static str, payload: &(dyn Any + Send)) {
        self.counts.panics.fetch_add(1, Ordering::Relaxed);
        if TOLD.try_with(Cell::take).unwrap_or_default() {
            return;
        }
        let message = message(payload);
        tracing::error!(place, message, "handler panicked");
    }

    pub(super) fn failed(&self, error: &BoxError) {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = %**error, "service failed");
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

/// Applies [`CatchFaultsService`]. See the [module docs](super) for an example.
#[derive(Debug, Clone)]
pub struct CatchFaultsLayer {
    faults: Faults,
}

impl CatchFaultsLayer {
    /// A layer that counts into `faults`.
    #[must_use]
    pub fn new(faults: &Faults) -> Self {
        Self {
            faults: faults.clone(),
        }
    }
}

impl<S> Layer<S> for CatchFaultsLayer {
    type Service = CatchFaultsService<S>;

    fn layer(&self, inner: S) -> CatchFaultsService<S> {
        CatchFaultsService::new(inner, self.faults.clone())
    }
}

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

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

/// Counts what went wrong in handlers; a cheap handle.
#[derive(Debug, Clone)]
pub struct Faults {
    counter: Arc<Lent>,
}

/// What futures and bodies count with. Not shared by reference count: every request would change it twice. So the counts
/// are never freed, but used again by the next [`Faults`] when the last handle is gone; a body that outlives it and then
/// panics is counted there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultCounter(&'static Counts);

#[derive(Debug)]
struct Lent(FaultCounter);

/// Counts that nobody has a handle of.
static UNUSED: Mutex<Vec<&'static Counts>> = Mutex::new(Vec::new());

fn unused() -> MutexGuard<'static, Vec<&'static Counts>> {
    UNUSED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lent {
    fn new() -> Self {
        let counts = unused().pop();
        let counts = counts.unwrap_or_else(|| Box::leak(Box::default()));
        counts.panics.store(0, Ordering::Relaxed);
        counts.errors.store(0, Ordering::Relaxed);
        Self(FaultCounter(counts))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        unused().push(self.0.0);
    }
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
            counter: Arc::new(Lent::new()),
        }
    }

    #[inline]
    pub(crate) fn counter(&self) -> FaultCounter {
        self.counter.0
    }

    /// The counts so far.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        let counts = self.counter().0;
        FaultStats {
            panics: counts.panics.load(Ordering::Relaxed),
            errors: counts.errors.load(Ordering::Relaxed),
        }
    }
}

impl FaultCounter {
    /// What `run` returns, unless it panics.
    #[inline]
    pub(crate) fn catch<T>(self, place: &'static str, run: impl FnOnce() -> T) -> Option<T> {
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
    fn panicked(self, place: &'static str, payload: &(dyn Any + Send)) {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
        if TOLD.try_with(Cell::take).unwrap_or_default() {
            return;
        }
        let message = message(payload);
        tracing::error!(place, message, "handler panicked");
    }

    pub(super) fn failed(self, error: &BoxError) {
        self.0.errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = %**error, "service failed");
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

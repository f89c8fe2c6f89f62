//! Requests whose handler holds its thread: who watches the thread from another one gives their places back meanwhile.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::shared::Shared;

const NOTHING: u64 = 0;
/// The thread polls a request that holds a place. Its generation is in the lower half.
const HOLDS: u64 = 1 << 32;
const LENT: u64 = 1 << 33;

/// The place of the request that a thread polls, for who watches that thread from another one.
///
/// A handler that waits by its thread is at nothing, whatever the limit counts: its place is [lent](Self::lend) to others,
/// and the request takes it again, also when it is no longer free, as soon as its thread goes on. The time between is no
/// latency of the service.
///
/// ```
/// use http::{Request, Response};
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, embed::ThreadPlace};
///
/// let limit = AdaptiveLimit::builder().build()?;
/// let layer = AdaptiveLimitLayer::new(&limit);
/// let place = ThreadPlace::here(&limit);
/// let mut admission = layer.enter(&Request::new(())).ok_or("it must wait")?;
/// assert!(!place.lend(), "nothing is polled");
/// layer.resume(&mut admission);
/// assert!(place.lend(), "by another thread, while this one is held");
/// assert_eq!(limit.stats().in_flight, 0);
/// layer.pause(&mut admission);
/// assert_eq!(limit.stats().in_flight, 1);
/// # layer.leave(&mut admission);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ThreadPlace {
    shared: Arc<Shared>,
    state: AtomicU64,
    /// Since when it is lent, in nanoseconds.
    since: AtomicU64,
}

thread_local! {
    /// Whether this thread has one. Apart, since what has to be dropped costs a look at every access.
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static HERE: RefCell<Option<Arc<ThreadPlace>>> = const { RefCell::new(None) };
}

impl ThreadPlace {
    /// That of this thread, under a limit, from now on.
    pub fn here(limit: &super::AdaptiveLimit) -> Arc<Self> {
        let place = Arc::new(Self {
            shared: Arc::clone(&limit.shared),
            state: AtomicU64::new(NOTHING),
            since: AtomicU64::new(0),
        });
        HERE.set(Some(Arc::clone(&place)));
        IS_WATCHED.set(true);
        place
    }

    /// Gives the place back of the request that the thread polls, until it goes on. False if there is none, or it has been
    /// lent already.
    pub fn lend(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        if state & (HOLDS | LENT) != HOLDS {
            return false;
        }
        // Nobody reads it unless the next step succeeds.
        self.since
            .store(self.shared.clock.nanos(), Ordering::Relaxed);
        let lent =
            self.state
                .compare_exchange(state, state | LENT, Ordering::AcqRel, Ordering::Relaxed);
        if lent.is_err() {
            return false;
        }
        // What is lent does not age.
        self.shared.pass_away(state as u32);
        if self.shared.gate.lend() {
            self.shared.grant_waiters();
        }
        true
    }

    /// Since when the place was lent, if it was.
    fn end(&self, next: u64) -> Option<u64> {
        let state = self.state.swap(next, Ordering::AcqRel);
        (state & LENT != 0).then(|| self.since.load(Ordering::Relaxed))
    }
}

fn here<T>(shared: &Shared, f: impl FnOnce(&ThreadPlace) -> Option<T>) -> Option<T> {
    // A thread that is ending has none.
    let found = HERE.try_with(|here| {
        let here = here.try_borrow().ok()?;
        let here = here.as_ref()?;
        // Limits may stand within each other.
        std::ptr::eq(&*here.shared, shared).then(|| f(here))?
    });
    found.ok().flatten()
}

/// A request that holds a place is polled now. Whether anybody watches.
#[inline]
pub(super) fn begin(shared: &Shared, generation: u32) -> bool {
    IS_WATCHED.get() && begin_watched(shared, generation)
}

#[inline(never)]
fn begin_watched(shared: &Shared, generation: u32) -> bool {
    let begun = here(shared, |here| {
        let next = HOLDS | u64::from(generation);
        if here.end(next).is_some() {
            // One that panicked, or that polls this one.
            shared.gate.retake();
            shared.be_born();
        }
        Some(())
    });
    begun.is_some()
}

/// It is no longer polled; since when its place was lent, if it was.
pub(super) fn end(shared: &Shared) -> Option<u64> {
    here(shared, |here| here.end(NOTHING))
}

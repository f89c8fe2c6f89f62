//! What is bound to the thread of a call, on its way to the worker that runs it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

#[cfg(feature = "http")]
use crate::{
    Pools,
    embed::{InPoolScope, PoolScope},
};

/// Something bound to a thread that a call takes along to its worker: see
/// [`WorkerPoolBuilder::carry`](super::WorkerPoolBuilder::carry).
#[derive(Clone)]
pub struct Carried(Arc<Halves>);

struct Halves {
    run: Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>,
    hand_back: Box<dyn Fn() + Send + Sync>,
}

impl Carried {
    /// `run` is called on the worker for the call and each poll of its future; it makes that thread what the other one
    /// was, calls what it is given, once, and undoes it, also after a panic. `hand_back` is called where the call came from,
    /// when its answer is there.
    pub fn new(
        run: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static,
        hand_back: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Halves {
            run: Box::new(run),
            hand_back: Box::new(hand_back),
        }))
    }

    pub(super) fn hand_back(&self) {
        (self.0.hand_back)();
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

/// Takes something along, if it is there.
#[derive(Clone, Default)]
pub(super) struct Carry(Option<Arc<dyn Fn() -> Option<Carried> + Send + Sync>>);

impl Carry {
    pub(super) fn new(carry: impl Fn() -> Option<Carried> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(carry)))
    }

    pub(super) fn take(&self) -> Option<Carried> {
        self.0.as_ref().and_then(|carry| carry())
    }
}

impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Carry").field(&self.0.is_some()).finish()
    }
}

/// The pools that were the current ones where the call was made.
struct Scope(#[cfg(feature = "http")] Option<PoolScope>);

impl Scope {
    fn current() -> Self {
        Self(
            #[cfg(feature = "http")]
            Pools::current().as_ref().map(PoolScope::new),
        )
    }

    #[cfg(feature = "http")]
    fn enter(&mut self) -> Option<InPoolScope<'_>> {
        self.0.as_mut().map(PoolScope::enter)
    }

    #[cfg(not(feature = "http"))]
    fn enter(&mut self) {}
}

pin_project! {
    /// A call that runs on a worker as if it ran where it was made.
    pub(super) struct Carrying<F> {
        #[pin]
        future: F,
        carried: Option<Carried>,
        scope: Scope,
    }
}

impl<F> Carrying<F> {
    /// Takes along what is bound to this thread.
    pub(super) fn new(future: F, carried: Option<Carried>) -> Self {
        Self {
            future,
            carried,
            scope: Scope::current(),
        }
    }
}

impl<F: Future> Future for Carrying<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut future = this.future;
        let _entered = this.scope.enter();
        let Some(carried) = this.carried else {
            return future.poll(cx);
        };
        let mut polled = Poll::Pending;
        (carried.0.run)(&mut || polled = future.as_mut().poll(cx));
        polled
    }
}

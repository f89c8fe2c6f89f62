//! The future of one request, in a box that its connection uses again for its next request.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

pub(crate) type Slot<F> = Pin<Box<Option<F>>>;
/// Where a slot comes back that left with a response future, which may live on another thread.
pub(crate) type Returned<F> = Arc<Mutex<Option<Slot<F>>>>;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline]
pub(crate) fn poll_slot<F: Future>(slot: &mut Slot<F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let Some(future) = slot.as_mut().as_pin_mut() else {
        return Poll::Pending;
    };
    future.poll(cx)
}

//! What is polled here, and how it asks to go on where it holds up nobody.

use std::{cell::Cell, task::Context};

use async_task::Runnable;

/// Where a thread polls what it polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On no thread of an engine whose cores can go to other threads.
    Elsewhere,
    /// On a thread that has a core: others wait for it.
    Core,
    /// On a thread that has none: nobody does.
    Apart,
}

thread_local! {
    static HERE: Cell<Place> = const { Cell::new(Place::Elsewhere) };
    static IS_LEAVING: Cell<bool> = const { Cell::new(false) };
    static LEFT: Cell<Option<Runnable>> = const { Cell::new(None) };
}

/// Where this thread is.
pub(crate) fn here() -> Place {
    HERE.get()
}

/// Has the task that is polled here leave its core: it is polled next on a thread that has none, if there is one. Who
/// asks returns [`Pending`](std::task::Poll::Pending).
pub(crate) fn leave(cx: &Context<'_>) {
    if here() == Place::Core {
        IS_LEAVING.set(true);
    }
    cx.waker().wake_by_ref();
}

pub(super) fn set_here(place: Place) {
    HERE.set(place);
}

/// What was woken while it ran on this thread, unless it leaves the core.
pub(super) fn unless_it_leaves(task: Runnable) -> Option<Runnable> {
    if !IS_LEAVING.get() {
        return Some(task);
    }
    LEFT.set(Some(task));
    None
}

/// The task that was polled here, if it leaves.
#[inline]
pub(super) fn left() -> Option<Runnable> {
    if IS_LEAVING.get() { take() } else { None }
}

#[cold]
fn take() -> Option<Runnable> {
    IS_LEAVING.set(false);
    LEFT.take()
}

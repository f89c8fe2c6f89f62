//! How hyper tells that it waits for a request head: see "What parking relies on" in the module docs.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

thread_local! {
    /// Head waits begun minus those ended on this thread since [`observe`] began.
    static CHANGE: Cell<i32> = const { Cell::new(0) };
}

/// Runs `poll`, which polls one hyper connection, and returns how its number of head waits changed.
pub(super) fn observe<T>(poll: impl FnOnce() -> T) -> (T, i32) {
    CHANGE.set(0);
    let result = poll();
    (result, CHANGE.get())
}

/// Installed as hyper's timer. Its sleeps have no size, so boxing them allocates nothing, and never
/// end: deadlines are the sweep's business.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadWait {
    /// hyper adds its timeout to it and hands the sum back, where it is ignored; a constant saves a
    /// look at the clock for each request.
    pub(super) epoch: Instant,
}

impl Timer for HeadWait {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Waiting::begin())
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Waiting::begin())
    }

    fn now(&self) -> Instant {
        self.epoch
    }
}

struct Waiting;

impl Waiting {
    fn begin() -> Self {
        CHANGE.set(CHANGE.get() + 1);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A thread that is ending observes nothing any more.
        let _ = CHANGE.try_with(|change| change.set(change.get() - 1));
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Waiting {}

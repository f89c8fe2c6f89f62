//! What a request waits for, by name.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

pub(in crate::runtime) const LIMIT: &str = "limit";
pub(in crate::runtime) const CLIENT_BODY: &str = "client_body";
pub(in crate::runtime) const WORKERS: &str = "workers";

thread_local! {
    static NAME: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Said by whoever returns `Pending`: the last one to say it names the wait.
#[inline]
pub(in crate::runtime) fn name_wait(name: Option<&'static str>) {
    NAME.with(|waits| waits.set(name));
}

#[inline]
pub(super) fn take_name() -> Option<&'static str> {
    NAME.take()
}

/// Names what a request waits for while this future does: its time has an account of its own in
/// [`Components::kept_requests`](super::super::Components::kept_requests), on the live page and in `/requests.json`.
///
/// ```
/// # async fn query() -> u32 { 7 }
/// # async fn handler() {
/// let row = stellane_core::waits_for("db", query()).await;
/// # let _ = row;
/// # }
/// ```
///
/// Of futures within each other the outer one gives the name, of those in a `join!` or `select!` the one that was polled
/// last. A request has six such accounts, `limit`, `workers` and `client_body` of Stellane's own among them; what finds
/// none counts as the handler's waiting. In a task or a thread that a handler starts it does nothing. It costs a store
/// for each poll.
pub fn waits_for<F: Future>(name: &'static str, future: F) -> WaitsFor<F> {
    WaitsFor {
        inner: future,
        name,
    }
}

pin_project! {
    /// The future of [`waits_for`].
    #[derive(Debug, Clone)]
    #[must_use = "futures do nothing unless polled"]
    pub struct WaitsFor<F> {
        #[pin]
        inner: F,
        name: &'static str,
    }
}

impl<F: Future> Future for WaitsFor<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.inner.poll(cx);
        if polled.is_pending() {
            name_wait(Some(this.name));
        }
        polled
    }
}

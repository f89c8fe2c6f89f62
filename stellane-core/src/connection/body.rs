//! How the manager knows that no response is being sent: see "What parking relies on" in the module docs.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

thread_local! {
    /// Open bodies of the connection that this thread polls.
    static OPEN: Cell<i32> = const { Cell::new(0) };
}

/// Runs `poll`, which polls one HTTP/1 connection with that many open bodies, and returns how many there are
/// after it. hyper makes, polls and drops them there, so that no counter has to be shared.
pub(super) fn observe<T>(before: i32, poll: impl FnOnce() -> T) -> (T, i32) {
    OPEN.set(before);
    let result = poll();
    (result, OPEN.get())
}

/// Whether no response is being sent by the connection that [`observe`] polls.
pub(super) fn none_open() -> bool {
    OPEN.get() == 0
}

pin_project! {
    /// A response body that hyper has not sent to its end.
    pub(super) struct OpenBody<B> {
        #[pin]
        inner: B,
        open: Open,
    }
}

impl<B> OpenBody<B> {
    pub(super) fn new(inner: B) -> Self {
        OPEN.set(OPEN.get() + 1);
        Self { inner, open: Open }
    }
}

struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        // A thread that is ending observes nothing any more.
        let _ = OPEN.try_with(|open| open.set(open.get() - 1));
    }
}

impl<B: Body> Body for OpenBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

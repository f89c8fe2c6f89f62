//! How the manager knows that no response is being sent: see "What parking relies on" in the module docs.

use std::{
    cell::Cell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::entry::Entry;

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
    /// Of HTTP/1.
    pub(super) fn new(inner: B) -> Self {
        OPEN.set(OPEN.get() + 1);
        let open = Open::Observed;
        Self { inner, open }
    }

    /// Of a stream of HTTP/2, which has a task of its own.
    pub(super) fn of_stream(inner: B, entry: Arc<Entry>) -> Self {
        entry.wait_begins();
        entry.block_stream();
        let open = Open::Stream {
            entry,
            blocked: true,
        };
        Self { inner, open }
    }
}

enum Open {
    Observed,
    Stream {
        entry: Arc<Entry>,
        /// hyper asks for the next piece when the client has room for more than the last.
        blocked: bool,
    },
}

impl Open {
    #[inline]
    fn set_blocked(&mut self, now: bool) {
        if let Self::Stream { entry, blocked } = self
            && *blocked != now
        {
            *blocked = now;
            if now {
                entry.block_stream();
            } else {
                entry.unblock_stream();
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.set_blocked(false);
        match self {
            Self::Observed => {
                // A thread that is ending observes nothing any more.
                let _ = OPEN.try_with(|open| open.set(open.get() - 1));
            }
            // The connection's task may have sent the last frame already, and would not look again.
            Self::Stream { entry, .. } if entry.wait_ends() == 0 => entry.wake(),
            Self::Stream { .. } => {}
        }
    }
}

impl<B: Body> Body for OpenBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.open.set_blocked(false);
        let polled = this.inner.poll_frame(cx);
        this.open
            .set_blocked(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

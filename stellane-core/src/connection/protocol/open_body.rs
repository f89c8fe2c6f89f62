//! How the manager knows that no response is being sent: see "What parking relies on" in the module docs.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, connection::protocol::farewell::Farewell};

thread_local! {
    /// Open bodies of the connection that this thread polls.
    static OPEN: Cell<i32> = const { Cell::new(0) };
}

/// Runs `poll`, which polls one HTTP/1 connection with that many open bodies, and returns how many there are
/// after it. hyper makes, polls and drops them there, so that no counter has to be shared.
pub(crate) fn observe<T>(before: i32, poll: impl FnOnce() -> T) -> (T, i32) {
    OPEN.set(before);
    let result = poll();
    (result, OPEN.get())
}

/// Whether no response is being sent by the connection that [`observe`] polls.
pub(crate) fn none_open() -> bool {
    OPEN.get() == 0
}

pin_project! {
    /// A response body that has not been sent to its end.
    #[project = OpenBodyProjection]
    pub(crate) enum OpenBody<B: Body> {
        Whole {
            #[pin]
            inner: B,
            open: Open,
            farewell: Farewell,
        },
        Begun {
            begun: Box<Begun<B>>,
        },
    }
}

/// A body that was asked for its first frame.
pub(crate) struct Begun<B: Body> {
    length: u64,
    frame: Option<Result<Frame<B::Data>, BoxError>>,
    rest: Pin<Box<Option<B>>>,
    _open: Open,
}

impl<B: Body> OpenBody<B> {
    pub(crate) fn new(inner: B, farewell: Farewell) -> Self {
        let open = Open::observed();
        Self::Whole {
            inner,
            open,
            farewell,
        }
    }

    /// Of this length altogether, with what came of asking for the first frame.
    pub(crate) fn begun(
        length: u64,
        frame: Option<Result<Frame<B::Data>, BoxError>>,
        rest: Pin<Box<Option<B>>>,
    ) -> Self {
        let begun = Box::new(Begun {
            length,
            frame,
            rest,
            _open: Open::observed(),
        });
        Self::Begun { begun }
    }
}

/// Counts an open body of the connection that [`observe`] polls.
pub(crate) struct Open(());

impl Open {
    fn observed() -> Self {
        OPEN.set(OPEN.get() + 1);
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A thread that is ending observes nothing any more.
        let _ = OPEN.try_with(|open| open.set(open.get() - 1));
    }
}

impl<B: Body<Error: Into<BoxError>> + 'static> Body for OpenBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        match self.project() {
            OpenBodyProjection::Whole {
                inner, farewell, ..
            } => farewell.poll_frame(inner, cx),
            OpenBodyProjection::Begun { begun } => match begun.frame.take() {
                Some(frame) => Poll::Ready(Some(frame)),
                None => match begun.rest.as_mut().as_pin_mut() {
                    Some(rest) => rest.poll_frame(cx).map_err(Into::into),
                    None => Poll::Ready(None),
                },
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole {
                inner, farewell, ..
            } => farewell.is_said() || inner.is_end_stream(),
            Self::Begun { begun } => {
                // Without a rest it ended before its length, which is to be seen.
                begun.frame.is_none() && (*begun.rest).as_ref().is_some_and(B::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { inner, .. } => inner.size_hint(),
            // As it was at the beginning: hyper asks before it reads.
            Self::Begun { begun } => SizeHint::with_exact(begun.length),
        }
    }
}

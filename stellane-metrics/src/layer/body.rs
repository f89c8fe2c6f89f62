use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::scope;
use crate::http_metrics::{guard::Guard, labels::Outcome};

pin_project! {
    /// A response body that tells [`HttpMetrics`](crate::HttpMetrics) how it ended.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        // Gone once the request is counted.
        guard: Option<Guard>,
        // How long the body said it would be; an HTTP server stops polling there.
        expected: Option<u64>,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(guard) = this.guard && *this.expected == Some(guard.response_bytes) {
                guard.finish(Outcome::Complete);
            }
        }
    }
}

impl<B: Body> ResponseBody<B> {
    #[inline]
    pub(super) fn new(inner: B, guard: Option<Guard>) -> Self {
        let guard = guard.filter(|guard| !guard.is_finished());
        let expected = guard.as_ref().and_then(|_| inner.size_hint().exact());
        Self {
            inner,
            guard,
            expected,
        }
    }

    pub(super) fn finished(inner: B) -> Self {
        Self {
            inner,
            guard: None,
            expected: None,
        }
    }
}

impl<B> ResponseBody<B> {
    /// The body inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(guard) = this.guard else {
            return this.inner.poll_frame(cx);
        };
        let watched = scope::watch(guard);
        let polled = this.inner.as_mut().poll_frame(cx);
        watched.leave();
        let frame = ready!(polled);
        let outcome = match &frame {
            None => Some(Outcome::Complete),
            Some(Err(_)) => Some(Outcome::BodyError),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    guard.response_bytes += data.remaining() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    guard.trailers(trailers);
                }
                (frame.is_trailers() || this.inner.is_end_stream()).then_some(Outcome::Complete)
            }
        };
        if let Some(outcome) = outcome {
            guard.finish(outcome);
            *this.guard = None;
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("open", &self.guard.is_some())
            .finish_non_exhaustive()
    }
}

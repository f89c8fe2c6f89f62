use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::entry::{End, Entry};

pin_project! {
    /// The body of an answer, whose end is that of its request.
    pub struct AccessLogBody<B> {
        #[pin]
        inner: Option<B>,
        // Gone once the line is written.
        entry: Option<Box<Entry>>,
    }

    impl<B> PinnedDrop for AccessLogBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(mut entry) = this.entry.take() {
                entry.watch(|| this.inner.set(None));
                let end = match entry.is_all_out() {
                    true => End::Complete,
                    false => End::dropped(),
                };
                entry.end(end);
            }
        }
    }
}

impl<B> AccessLogBody<B> {
    pub(super) fn new(inner: B, entry: Box<Entry>) -> Self {
        Self {
            inner: Some(inner),
            entry: Some(entry),
        }
    }
}

/// The empty body.
impl<B> Default for AccessLogBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            entry: None,
        }
    }
}

impl<B: Body> Body for AccessLogBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(entry) = this.entry else {
            return inner.poll_frame(cx);
        };
        let frame = ready!(entry.watch(|| inner.as_mut().poll_frame(cx)));
        let end = match &frame {
            None => Some(End::Complete),
            Some(Err(_)) => Some(End::BodyError),
            Some(Ok(frame)) => {
                entry.sent(frame.data_ref().map_or(0, |data| data.remaining() as u64));
                let is_last = frame.is_trailers() || inner.is_end_stream();
                is_last.then_some(End::Complete)
            }
        };
        if let Some(end) = end
            && let Some(mut entry) = this.entry.take()
        {
            entry.end(end);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.as_ref();
        inner.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for AccessLogBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogBody").finish_non_exhaustive()
    }
}

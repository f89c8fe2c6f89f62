use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::scope;
use crate::embed::Recording;

pin_project! {
    /// A response body that tells [`HttpMetrics`](crate::HttpMetrics) how it ended.
    pub struct MetricsBody<B> {
        // None of the empty one.
        #[pin]
        inner: Option<B>,
        // Gone once the request is counted.
        recording: Option<Recording>,
    }
}

impl<B: Body> MetricsBody<B> {
    #[inline]
    pub(super) fn new(inner: B, recording: Option<Recording>) -> Self {
        let recording = recording.filter(|recording| !recording.is_finished());
        Self {
            inner: Some(inner),
            recording,
        }
    }

    pub(super) fn finished(inner: B) -> Self {
        Self {
            inner: Some(inner),
            recording: None,
        }
    }
}

/// The empty body.
impl<B> Default for MetricsBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            recording: None,
        }
    }
}

impl<B: Body> Body for MetricsBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(recording) = this.recording else {
            return inner.poll_frame(cx);
        };
        let watched = scope::watch(recording);
        let polled = inner.as_mut().poll_frame(cx);
        watched.leave();
        let frame = ready!(polled);
        if recording.frame(frame.as_ref(), || inner.is_end_stream()) {
            *this.recording = None;
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.as_ref();
        inner.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for MetricsBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsBody")
            .field("open", &self.recording.is_some())
            .finish_non_exhaustive()
    }
}

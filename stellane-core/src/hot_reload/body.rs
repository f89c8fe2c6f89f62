use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A body with the script after its data, or as it was.
    #[derive(Debug)]
    pub struct LiveReloadBody<B> {
        #[pin]
        inner: Option<B>,
        tail: Option<Bytes>,
        // Trailers wait until the tail is out.
        trailers: Option<http::HeaderMap>,
    }
}

impl<B> LiveReloadBody<B> {
    pub(super) fn unchanged(inner: B) -> Self {
        Self {
            inner: Some(inner),
            tail: None,
            trailers: None,
        }
    }

    pub(super) fn with_tail(inner: B, tail: Bytes) -> Self {
        Self {
            inner: Some(inner),
            tail: Some(tail),
            trailers: None,
        }
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self {
            inner: None,
            tail: Some(text),
            trailers: None,
        }
    }
}

impl<B: Body> Body for LiveReloadBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        while let Some(inner) = this.inner.as_mut().as_pin_mut() {
            match ready!(inner.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        let data = data.copy_to_bytes(data.remaining());
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => *this.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.inner.set(None),
            }
        }
        if let Some(tail) = this.tail.take() {
            return Poll::Ready(Some(Ok(Frame::data(tail))));
        }
        Poll::Ready(
            this.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
            && self.trailers.is_none()
            && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self
            .inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let tail = self.tail.as_ref().map_or(0, |tail| tail.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + tail);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + tail);
        }
        hint
    }
}

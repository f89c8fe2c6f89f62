use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    MemoryBudget,
    answer::Unsent,
    upload::{Received, Upload},
};
use crate::BoxError;

pin_project! {
    /// The body of a request under a [`MemoryBudget`]: what it gives counts for as long as it is there, and it gives nothing
    /// while others have to make room.
    #[derive(Default)]
    pub struct MemoryRequestBody<B> {
        #[pin]
        inner: B,
        received: Option<Received>,
    }
}

impl<B> MemoryRequestBody<B> {
    pub(crate) fn new(inner: B, upload: Option<&Upload>) -> Self {
        Self {
            inner,
            received: upload.and_then(Upload::received),
        }
    }
}

impl<B> Body for MemoryRequestBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Some(received) = this.received else {
            return this.inner.poll_frame(cx).map_err(Into::into);
        };
        if let Err(exhausted) = ready!(received.poll_turn(cx)) {
            return Poll::Ready(Some(Err(exhausted.into())));
        }
        let mut inner = this.inner;
        let polled = ready!(inner.as_mut().poll_frame(cx));
        let Some(Ok(frame)) = polled else {
            received.end();
            return Poll::Ready(polled.map(|frame| frame.map_err(Into::into)));
        };
        let frame = received.frame(frame);
        let is_whole = received.is_whole();
        if is_whole.unwrap_or_else(|| inner.is_end_stream()) {
            received.end();
        }
        Poll::Ready(Some(Ok(frame)))
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

impl<B: std::fmt::Debug> std::fmt::Debug for MemoryRequestBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

pin_project! {
    /// The body of an answer under a [`MemoryBudget`]: what its client has not read counts, and when memory is scarce no
    /// more is made before that is read.
    pub struct MemoryBody<B> {
        // None of a refusal.
        #[pin]
        inner: Option<B>,
        unsent: Unsent,
        budget: Option<MemoryBudget>,
    }
}

impl<B> MemoryBody<B> {
    pub(crate) fn new(inner: B, budget: Option<MemoryBudget>) -> Self {
        Self {
            inner: Some(inner),
            unsent: Unsent::default(),
            budget,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            unsent: Unsent::default(),
            budget: None,
        }
    }
}

/// The empty body.
impl<B> Default for MemoryBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B: Body<Data = Bytes>> Body for MemoryBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(budget) = this.budget else {
            return inner.poll_frame(cx);
        };
        ready!(this.unsent.poll_turn(cx));
        let mut frame = ready!(inner.poll_frame(cx));
        this.unsent.count(budget, &mut frame);
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl<B: std::fmt::Debug> std::fmt::Debug for MemoryBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

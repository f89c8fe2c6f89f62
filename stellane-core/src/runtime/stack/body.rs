use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use stellane_autotune::LimitBody;

use super::in_flight::InFlight;
use crate::{BoxError, catch_faults::CatchFaultsBody, memory::Unsent};

pin_project! {
    /// The body of an answer of a [`PresetService`](super::PresetService); it ends the request.
    pub struct PresetBody<B> {
        #[pin]
        kind: Kind<B>,
        // After it: the place is given back when the work has ended.
        in_flight: InFlight,
        unsent: Unsent,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Plain { #[pin] body: CatchFaultsBody<B> },
        Limited { body: Pin<Box<LimitBody<CatchFaultsBody<B>>>> },
    }
}

impl<B> PresetBody<B> {
    #[inline]
    pub(super) fn new(body: CatchFaultsBody<B>, in_flight: InFlight) -> Self {
        Self {
            kind: Kind::Plain { body },
            in_flight,
            unsent: Unsent::default(),
        }
    }

    /// Of a request that went through the layer of the limit.
    pub(super) fn limited(
        body: Pin<Box<LimitBody<CatchFaultsBody<B>>>>,
        in_flight: InFlight,
    ) -> Self {
        Self {
            kind: Kind::Limited { body },
            in_flight,
            unsent: Unsent::default(),
        }
    }
}

/// The empty body.
impl<B> Default for PresetBody<B> {
    fn default() -> Self {
        Self::new(CatchFaultsBody::default(), InFlight::default())
    }
}

impl<B> fmt::Debug for PresetBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresetBody").finish_non_exhaustive()
    }
}

impl<B> Body for PresetBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(held) = this.in_flight.held() else {
            return this.kind.poll_frame(cx);
        };
        // It is the client that is waited for.
        ready!(this.unsent.poll_turn(cx));
        held.resume();
        let mut stamped = Context::from_waker(held.ledger.enter());
        let Poll::Ready(mut frame) = this.kind.as_mut().poll_frame(&mut stamped) else {
            held.pause(None, cx);
            return Poll::Pending;
        };
        if let Some(memory) = &held.parts.memory {
            this.unsent.count(memory, &mut frame);
        }
        let is_end = || this.kind.is_end_stream();
        if held.recording.frame(frame.as_ref(), is_end) {
            this.in_flight.end();
        } else {
            held.hand_over();
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { body } => body.size_hint(),
            Kind::Limited { body } => body.size_hint(),
        }
    }
}

impl<B> Kind<B>
where
    B: Body<Error: Into<BoxError>>,
{
    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            KindProjection::Plain { body } => body.poll_frame(cx),
            KindProjection::Limited { body } => body.as_mut().poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { body } => body.is_end_stream(),
            Self::Limited { body } => body.is_end_stream(),
        }
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Permit;
use crate::overload::Timed;

pin_project! {
    /// The body of an admitted response, which holds the place until it ends, or of a refusal.
    #[derive(Debug)]
    pub struct LimitBody<B> {
        #[pin]
        inner: Inner<B>,
        permit: Option<Permit>,
        // Of a call whose deadline may pass before its last message.
        timed: Option<Box<Timed>>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = InnerProjection]
    enum Inner<B> {
        Response { #[pin] body: B },
        Refusal { text: Bytes },
    }
}

impl<B: Body> LimitBody<B> {
    pub(crate) fn new(body: B, permit: Option<Permit>) -> Self {
        let permit = permit.filter(|_| !body.is_end_stream());
        Self {
            inner: Inner::Response { body },
            permit,
            timed: None,
        }
    }

    /// Ends with a deadline, unless it ends before.
    pub(crate) fn timed(mut self, timed: Option<Box<Timed>>) -> Self {
        self.timed = timed.filter(|_| !self.is_over());
        self
    }

    fn is_over(&self) -> bool {
        match &self.inner {
            Inner::Response { body } => body.is_end_stream(),
            Inner::Refusal { text } => text.is_empty(),
        }
    }

    pub(crate) fn refusal(text: Bytes) -> Self {
        Self {
            inner: Inner::Refusal { text },
            permit: None,
            timed: None,
        }
    }
}

/// The empty body.
impl<B> Default for LimitBody<B> {
    fn default() -> Self {
        Self {
            inner: Inner::Refusal { text: Bytes::new() },
            permit: None,
            timed: None,
        }
    }
}

impl<B> Body for LimitBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        if let Some(timed) = this.timed
            && timed.timer.as_mut().poll(cx).is_ready()
        {
            // What takes too long ends now, and gives its place back.
            let end = timed.end_of_body();
            this.inner.set(Inner::Refusal { text: Bytes::new() });
            (*this.permit, *this.timed) = (None, None);
            return Poll::Ready(Some(Ok(end)));
        }
        match this.inner.project() {
            InnerProjection::Response { mut body } => {
                if let Some((shared, admission)) = this.permit.as_mut().map(Permit::parts) {
                    admission.resume(shared);
                }
                let polled = body.as_mut().poll_frame(cx);
                let goes_on = match &polled {
                    Poll::Ready(frame) => matches!(frame, Some(Ok(_))) && !body.is_end_stream(),
                    Poll::Pending => true,
                };
                if !goes_on {
                    *this.permit = None;
                }
                if matches!(&polled, Poll::Ready(None | Some(Err(_))))
                    || matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers())
                {
                    *this.timed = None;
                }
                if let Some((shared, admission)) = this.permit.as_mut().map(Permit::parts) {
                    match polled {
                        Poll::Pending => admission.pause(shared),
                        Poll::Ready(_) => admission.hand_over(shared),
                    }
                }
                polled
            }
            InnerProjection::Refusal { text } if text.is_empty() => Poll::Ready(None),
            InnerProjection::Refusal { text } => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(text).into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Response { body } => body.size_hint(),
            Inner::Refusal { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Permit;

pin_project! {
    /// The body of an admitted response, which holds the place until it ends, or of a refusal.
    #[derive(Debug)]
    pub struct LimitBody<B> {
        #[pin]
        inner: Inner<B>,
        permit: Option<Permit>,
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
        }
    }

    pub(crate) fn refusal(text: Bytes) -> Self {
        Self {
            inner: Inner::Refusal { text },
            permit: None,
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
        let this = self.project();
        match this.inner.project() {
            InnerProjection::Response { mut body } => {
                if let Some((shared, visit)) = this.permit.as_mut().map(Permit::parts) {
                    visit.resume(shared);
                }
                let polled = body.as_mut().poll_frame(cx);
                let goes_on = match &polled {
                    Poll::Ready(frame) => matches!(frame, Some(Ok(_))) && !body.is_end_stream(),
                    Poll::Pending => true,
                };
                if !goes_on {
                    *this.permit = None;
                }
                if let Some((shared, visit)) = this.permit.as_mut().map(Permit::parts) {
                    match polled {
                        Poll::Pending => visit.pause(),
                        Poll::Ready(_) => visit.hand_over(shared),
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
        match &self.inner {
            Inner::Response { body } => body.is_end_stream(),
            Inner::Refusal { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Response { body } => body.size_hint(),
            Inner::Refusal { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}

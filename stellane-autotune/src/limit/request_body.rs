use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::place::Loan;

pin_project! {
    /// The body of a request under an [`AdaptiveLimit`](super::AdaptiveLimit), as the service gets it.
    ///
    /// While it has nothing and the service waits, the request holds no place, so that slow clients keep nobody out:
    /// see [`Hold::Work`](super::Hold::Work).
    pub struct LimitRequestBody<B> {
        #[pin]
        inner: B,
        loan: Starving,
    }
}

/// Feeds when dropped: who no longer reads the body does not wait for it.
struct Starving(Option<Arc<Loan>>);

impl<B> LimitRequestBody<B> {
    pub(super) fn new(inner: B, loan: Option<Arc<Loan>>) -> Self {
        Self {
            inner,
            loan: Starving(loan),
        }
    }

    /// With another body inside, made of this one's.
    #[inline]
    pub fn map<C>(self, map: impl FnOnce(B) -> C) -> LimitRequestBody<C> {
        LimitRequestBody {
            inner: map(self.inner),
            loan: self.loan,
        }
    }

    /// The body inside.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }
}

impl<B> From<B> for LimitRequestBody<B> {
    fn from(inner: B) -> Self {
        Self::new(inner, None)
    }
}

impl<B: Default> Default for LimitRequestBody<B> {
    fn default() -> Self {
        B::default().into()
    }
}

impl<B: Body> Body for LimitRequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        if let Some(loan) = &this.loan.0 {
            match &polled {
                Poll::Pending => loan.starve(),
                Poll::Ready(Some(Ok(_))) => loan.feed(),
                Poll::Ready(_) => this.loan.end(),
            }
        }
        polled
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

impl Starving {
    fn end(&mut self) {
        if let Some(loan) = self.0.take() {
            loan.feed();
        }
    }
}

impl Drop for Starving {
    fn drop(&mut self) {
        self.end();
    }
}

impl<B: fmt::Debug> fmt::Debug for LimitRequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

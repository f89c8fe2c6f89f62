use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::label;

/// Tells the route before a layer around it reads it.
#[derive(Debug, Clone)]
pub(super) struct Labelled<S>(pub(super) S);

impl<S, B, RB> Service<Request<B>> for Labelled<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LabelledFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        LabelledFuture {
            inner: self.0.call(request),
        }
    }
}

pin_project! {
    pub(super) struct LabelledFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, RB, E> Future for LabelledFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    RB: 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // The answer is not moved.
        let polled = self.project().inner.poll(cx);
        if let Poll::Ready(Ok(response)) = &polled {
            label::tell(response.body());
        }
        polled
    }
}

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

/// Has our own router tell the metrics which route it takes before its handler runs, so that one that does not return
/// can be named; whether it does.
pub(in crate::runtime) fn tell_early<S: 'static>(service: &S) -> bool {
    let router = (service as &dyn Any).downcast_ref::<stellane_router::Router>();
    router.is_some_and(|router| router.on_match(stellane_metrics::label_route))
}

/// As [`tell`], unless that was done early.
#[inline]
pub(super) fn tell_late<B: 'static>(body: &B, early: bool) {
    if !early || !stellane_metrics::embed::is_labelled() {
        tell(body);
    }
}

/// Tells the metrics which route our own router took, wherever it stands: it says so on its body. Other routers say it
/// by a layer of their own, such as `RouteLabelLayer::axum`.
#[inline]
pub(in crate::runtime) fn tell<B: 'static>(body: &B) {
    if let Some(body) = (body as &dyn Any).downcast_ref::<stellane_router::Body>()
        && let Some(route) = body.route()
    {
        stellane_metrics::label_route(route.template());
    }
}

/// Tells the route before a layer around it reads it, or takes the answer's body into its own.
#[derive(Debug, Clone)]
pub struct Labelled<S>(pub(super) S);

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
    pub struct LabelledFuture<F> {
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
            tell(response.body());
        }
        polled
    }
}

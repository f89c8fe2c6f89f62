//! The layers around the user's service.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use stellane_autotune::AdaptiveLimitLayer;
use stellane_metrics::MetricsLayer;
use stellane_pool::PoolLayer;
use tower_layer::Layer;
use tower_service::Service;

use super::{Components, RequestBody};
use crate::{
    BoxError,
    config::ServerConfig,
    connection::HttpService,
    fault::{FaultBody, FaultLayer, Refusal},
    strict_http1::Http1Rules,
};

/// Outermost first: metrics see every answer, refusals too; a fault below the limit gives its place back.
pub(super) fn around<S, B>(
    service: S,
    components: &Components,
    server: &ServerConfig,
) -> impl HttpService
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = Admission {
        service: FaultLayer::new(&components.faults).layer(service),
        rules: components.http1_rules.clone(),
        max_body_bytes: match usize::try_from(server.max_body_bytes) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(bytes) => bytes,
        },
    };
    #[cfg(feature = "profiling")]
    let service = components.slow_polls.layer().layer(service);
    let service = PoolLayer::new(&components.pools).layer(service);
    let service = AdaptiveLimitLayer::new(&components.limit)
        .overload(&components.overload)
        .layer(service);
    MetricsLayer::new(&components.metrics).layer(service)
}

/// What stands before the user's service and its [`FaultLayer`]. One service, since each layer of its own would move
/// the request and the response once more: it checks what [`StrictHttp1Layer`](crate::strict_http1::StrictHttp1Layer)
/// checks, limits the body, and tells the metrics which route the user's service took.
#[derive(Debug, Clone)]
struct Admission<S> {
    service: S,
    rules: Http1Rules,
    max_body_bytes: usize,
}

impl<S> Admission<S> {
    fn refusal(&self, request: &Request<Incoming>) -> Option<Refusal> {
        if let Err(violation) = self.rules.judge(request) {
            return Some(Refusal::new(violation.status()).closing());
        }
        let declared = request.body().size_hint().lower();
        let too_large = usize::try_from(declared).map_or(true, |n| n > self.max_body_bytes);
        too_large.then(|| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE))
    }
}

impl<S, B> Service<Request<Incoming>> for Admission<S>
where
    S: Service<Request<RequestBody>, Response = Response<FaultBody<B>>>,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if let Some(refusal) = self.refusal(&request) {
            return AdmissionFuture::Refused { refusal };
        }
        let limited = |body| RequestBody::new(body, self.max_body_bytes);
        AdmissionFuture::Running {
            inner: self.service.call(request.map(limited)),
        }
    }
}

pin_project! {
    #[project = AdmissionProjection]
    enum AdmissionFuture<F> {
        Running { #[pin] inner: F },
        Refused { refusal: Refusal },
    }
}

impl<F, B, E> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Response<FaultBody<B>>, E>>,
    B: 'static,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            AdmissionProjection::Running { inner } => poll_labelled(inner, cx),
            AdmissionProjection::Refused { refusal } => Poll::Ready(Ok(refusal.response())),
        }
    }
}

/// Polls, and tells the metrics the route of the answer. The answer is not moved.
#[inline]
fn poll_labelled<F, B, E>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output>
where
    F: Future<Output = Result<Response<FaultBody<B>>, E>>,
    B: 'static,
{
    let polled = future.poll(cx);
    // Our own router says on its body which route it took. Other routers say it by a layer of
    // their own, such as `RouteLabelLayer::axum`.
    if let Poll::Ready(Ok(response)) = &polled
        && let Some(body) = response.body().inner()
        && let Some(body) = (body as &dyn Any).downcast_ref::<stellane_router::Body>()
        && let Some(route) = body.route()
    {
        stellane_metrics::label_route(route.template());
    }
    polled
}

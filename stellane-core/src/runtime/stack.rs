//! The layers around the user's service.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use stellane_autotune::AdaptiveLimitLayer;
use stellane_metrics::{MetricsLayer, RequestBytesLayer};
use stellane_pool::PoolLayer;
use tower_http::{body::Limited, limit::RequestBodyLimitLayer};
use tower_layer::Layer;
use tower_service::Service;

use super::{Components, RequestBody};
use crate::{
    BoxError, config::ServerConfig, connection::HttpService, fault::FaultLayer,
    strict_http1::StrictHttp1Layer,
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
    let limit = match usize::try_from(server.max_body_bytes) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(bytes) => bytes,
    };
    let service = Innermost { service };
    #[cfg(feature = "profiling")]
    let service = components.slow_polls.layer().layer(service);
    let service = RequestBodyLimitLayer::new(limit).layer(service);
    let service = FaultLayer::new(&components.faults).layer(service);
    let service = PoolLayer::new(&components.pools).layer(service);
    let service = AdaptiveLimitLayer::new(&components.limit).layer(service);
    let service = RequestBytesLayer::new().layer(service);
    let service = StrictHttp1Layer::new(&components.http1_rules).layer(service);
    MetricsLayer::new(&components.metrics).layer(service)
}

/// Gives the user's service the runtime's body type, and tells the metrics which route it took.
#[derive(Debug, Clone)]
struct Innermost<S> {
    service: S,
}

type Measured = Limited<stellane_metrics::RequestBody<Incoming>>;

impl<S, B> Service<Request<Measured>> for Innermost<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Labelling<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Measured>) -> Self::Future {
        Labelling {
            inner: self.service.call(request.map(RequestBody::new)),
        }
    }
}

pin_project! {
    struct Labelling<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for Labelling<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: 'static,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().inner.poll(cx))?;
        // Our own router says on its body which route it took. Other routers say it by a layer of
        // their own, such as `RouteLabelLayer::axum`.
        if let Some(body) = (response.body() as &dyn Any).downcast_ref::<stellane_router::Body>()
            && let Some(route) = body.route()
        {
            stellane_metrics::label_route(route.template());
        }
        Poll::Ready(Ok(response))
    }
}

//! Requests that the limit does not let in at once, and those with a deadline: they take the layers one by one, in
//! boxes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use stellane_autotune::LimitFuture;
use stellane_pool::{PoolLayer, PoolService};
use tower_layer::Layer;
use tower_service::Service;

use super::{label::Labelled, ongoing::Parts};
use crate::{
    BoxError,
    connection::Incoming,
    fault::{Fault, FaultBody, Refusal},
    runtime::RequestBody,
};

pub(super) type LimitedFuture<S> = LimitFuture<PoolService<Admission<S>>, Incoming>;

/// Calls a service that is ready through the layer of the limit.
#[cold]
pub(super) fn call<S, B>(
    service: S,
    parts: &Arc<Parts>,
    request: Request<Incoming>,
) -> Pin<Box<LimitedFuture<S>>>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
{
    let admission = Admission {
        service: Fault::new(Labelled(service), parts.faults.clone()),
        parts: Arc::clone(parts),
    };
    let pooled = PoolLayer::new(&parts.pools).layer(admission);
    Box::pin(parts.limit.layer(pooled).call(request))
}

/// The checks of a request before the user's service and its [`Fault`].
#[derive(Debug, Clone)]
pub(super) struct Admission<S> {
    service: Fault<Labelled<S>>,
    parts: Arc<Parts>,
}

impl<S, B> Service<Request<Incoming>> for Admission<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: 'static,
{
    type Response = Response<FaultBody<B>>;
    type Error = S::Error;
    type Future = AdmissionFuture<<Fault<Labelled<S>> as Service<Request<RequestBody>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Service::<Request<RequestBody>>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match self.parts.refusal(&request) {
            Some(refusal) => AdmissionFuture::Refused { refusal },
            None => AdmissionFuture::Running {
                inner: self.service.call(self.parts.limit_body(request)),
            },
        }
    }
}

pin_project! {
    #[project = AdmissionProjection]
    pub(super) enum AdmissionFuture<F> {
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            AdmissionProjection::Running { inner } => inner.poll(cx),
            AdmissionProjection::Refused { refusal } => Poll::Ready(Ok(refusal.response())),
        }
    }
}

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
use stellane_autotune::{LimitFuture, LimitRequestBody};
use stellane_pool::{PoolLayer, PoolService};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    label::Labelled,
    ongoing::{Parts, connection},
};
use crate::{
    BoxError,
    connection::Incoming,
    fault::FaultBody,
    runtime::{RefusalKind, RequestBody},
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
        service: Labelled(service),
        parts: Arc::clone(parts),
    };
    let pooled = PoolLayer::new(&parts.pools).layer(admission);
    let connection = connection(&request);
    Box::pin(parts.limit.layer(pooled).call_from(request, connection))
}

/// What is left to do with a request that has its place: the checks before the user's service, and what becomes of its
/// failures.
#[derive(Debug, Clone)]
pub(super) struct Admission<S> {
    service: Labelled<S>,
    parts: Arc<Parts>,
}

impl<S, B> Service<Request<LimitRequestBody<Incoming>>> for Admission<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: 'static,
{
    type Response = Response<FaultBody<B>>;
    type Error = S::Error;
    type Future = AdmissionFuture<<Labelled<S> as Service<Request<RequestBody>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Service::<Request<RequestBody>>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Request<LimitRequestBody<Incoming>>) -> Self::Future {
        let head = self.parts.on_refusal.remember(&request);
        let state = match self.parts.call(&mut self.service, request) {
            Ok(inner) => State::Running { inner },
            Err(kind) => State::Refused { kind },
        };
        AdmissionFuture {
            state,
            parts: Arc::clone(&self.parts),
            head,
        }
    }
}

pin_project! {
    pub(super) struct AdmissionFuture<F> {
        #[pin]
        state: State<F>,
        parts: Arc<Parts>,
        head: Option<Box<Request<()>>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running { #[pin] inner: F },
        Refused { kind: RefusalKind },
    }
}

impl<F, B, E> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<FaultBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let faults = &this.parts.faults;
        let kind = match this.state.as_mut().project() {
            StateProjection::Refused { kind } => *kind,
            StateProjection::Running { inner } => match faults.catch("future", || inner.poll(cx)) {
                None => RefusalKind::Panic,
                Some(Poll::Pending) => return Poll::Pending,
                Some(Poll::Ready(Ok(response))) => {
                    let guarded = |body| FaultBody::new(body, faults.clone());
                    return Poll::Ready(Ok(response.map(guarded)));
                }
                Some(Poll::Ready(Err(error))) => faults.answer_to(&error.into()).into(),
            },
        };
        // Dropped now: a future that panicked must not be polled again.
        this.state.set(State::Refused { kind });
        let on_refusal = &this.parts.on_refusal;
        Poll::Ready(Ok(on_refusal.answer(kind, this.head.as_deref())))
    }
}

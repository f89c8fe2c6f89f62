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
    future::{Limited, is_for_too_large},
    in_flight::{StackParts, connection},
    label::Labelled,
};
use crate::{
    BoxError,
    catch_faults::{CatchFaultsBody, Grpc},
    on_disconnect::Asking,
    runtime::{RefusalKind, RequestBody, body::Ceiling},
};

pub(super) type LimitedFuture<S, B> = LimitFuture<PoolService<Admission<S>>, B>;

impl<S, B> Limited for LimitFuture<S, B>
where
    S: Service<Request<LimitRequestBody<B>>>,
{
    fn is_waiting(&self) -> bool {
        Self::is_waiting(self)
    }

    fn is_refused(&self) -> bool {
        Self::is_refused(self)
    }
}

/// Calls a service that is ready through the layer of the limit.
#[cold]
pub(super) fn call<S, B, RB>(
    service: S,
    parts: &Arc<StackParts>,
    request: Request<B>,
) -> Pin<Box<LimitedFuture<S, B>>>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    RB: Body<Error: Into<BoxError>> + 'static,
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
pub struct Admission<S> {
    service: Labelled<S>,
    parts: Arc<StackParts>,
}

impl<S, B, RB> Service<Request<LimitRequestBody<B>>> for Admission<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    RB: 'static,
{
    type Response = Response<CatchFaultsBody<RB>>;
    type Error = S::Error;
    type Future = AdmissionFuture<<Labelled<S> as Service<Request<RequestBody<B>>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Service::<Request<RequestBody<B>>>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Request<LimitRequestBody<B>>) -> Self::Future {
        let head = self.parts.on_refusal.remember(&request);
        let grpc = Grpc::of(&request);
        let kind = RefusalKind::Error;
        let mut state = State::Refused { kind };
        let put = |inner, ceiling, asking| {
            state = State::Running {
                inner,
                ceiling,
                asking,
            }
        };
        let Self { service, parts } = self;
        if let Some(kind) = parts.call(service, &mut Some(request), grpc, |body| body, put) {
            state = State::Refused { kind };
        }
        AdmissionFuture {
            state,
            parts: Arc::clone(&self.parts),
            head,
            grpc,
        }
    }
}

pin_project! {
    pub struct AdmissionFuture<F> {
        #[pin]
        state: State<F>,
        parts: Arc<StackParts>,
        head: Option<Box<Request<()>>>,
        grpc: Option<Grpc>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running { #[pin] inner: F, ceiling: Option<Ceiling>, asking: Option<Asking> },
        Refused { kind: RefusalKind },
    }
}

impl<F, B, E> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<CatchFaultsBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let faults = this.parts.faults.counter();
        let kind = match this.state.as_mut().project() {
            StateProjection::Refused { kind } => *kind,
            StateProjection::Running {
                inner,
                ceiling,
                asking,
            } => match faults.catch("future", || inner.poll(cx)) {
                None => RefusalKind::Panic,
                Some(Poll::Pending) => {
                    if let Some(asking) = asking {
                        asking.ask();
                    }
                    return Poll::Pending;
                }
                Some(Poll::Ready(Ok(response)))
                    if is_for_too_large(&response, ceiling.as_ref()) =>
                {
                    RefusalKind::BodyTooLarge
                }
                Some(Poll::Ready(Ok(response))) => {
                    let guarded = |body| CatchFaultsBody::new(body, faults);
                    return Poll::Ready(Ok(response.map(guarded)));
                }
                Some(Poll::Ready(Err(error))) => {
                    let error = error.into();
                    if let Some(own) = this.grpc.and_then(|grpc| grpc.answer_to(&error)) {
                        return Poll::Ready(Ok(own));
                    }
                    faults.answer_to(&error).into()
                }
            },
        };
        // Dropped now: a future that panicked must not be polled again.
        this.state.set(State::Refused { kind });
        let on_refusal = &this.parts.on_refusal;
        Poll::Ready(Ok(on_refusal.answer(
            kind,
            this.head.as_deref(),
            *this.grpc,
        )))
    }
}

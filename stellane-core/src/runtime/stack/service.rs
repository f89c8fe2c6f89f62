use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::PresetBody,
    future::{PresetFuture, State},
    in_flight::{InFlight, RequestState, StackParts},
    queued::{self, LimitedFuture},
};
use crate::{
    BoxError,
    runtime::{RefusalKind, RequestBody},
};

/// What the layers are around: with `profiling` it also measures how long polls take.
#[cfg(not(feature = "profiling"))]
type Inner<S> = S;
#[cfg(feature = "profiling")]
type Inner<S> = crate::profiling::SlowPollService<super::label::Labelled<S>>;

/// A service behind a [`PresetLayer`](super::PresetLayer).
#[derive(Debug, Clone)]
pub struct PresetService<S> {
    service: Inner<S>,
    parts: Arc<StackParts>,
    /// Whether it tells its routes before their handlers run.
    routes_told: bool,
}

impl<S> PresetService<S> {
    pub(super) fn new(service: Inner<S>, parts: Arc<StackParts>, routes_told: bool) -> Self {
        Self {
            service,
            parts,
            routes_told,
        }
    }
}

type InnerFuture<S, B> = <Inner<S> as Service<Request<RequestBody<B>>>>::Future;

impl<S, B, RB> Service<Request<B>> for PresetService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    RB: Body<Error: Into<BoxError>> + 'static,
{
    type Response = Response<PresetBody<RB>>;
    type Error = S::Error;
    type Future = PresetFuture<InnerFuture<S, B>, LimitedFuture<Inner<S>, B>>;

    /// A service that fails to become ready is broken for good: its error is passed on.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Self {
            service,
            parts,
            routes_told,
        } = self;
        if let Some(facts) = &parts.facts {
            facts.tell(&mut request);
        }
        let kind = RefusalKind::Error;
        let in_flight = InFlight::begin(parts, &mut request);
        // The future of the service is put where it stays.
        let mut preset = PresetFuture::new(State::Refused { kind }, in_flight);
        let PresetFuture { state, in_flight } = &mut preset;
        let Some(held) = in_flight.held() else {
            return preset;
        };
        if parts.learned.any()
            && let Some(kind) = held.apart(request.method(), request.uri().path())
        {
            *state = State::Refused { kind };
            return preset;
        }
        if held.is_limited() {
            let future = self.call_limited(request, held);
            *state = State::Limited { future };
            return preset;
        }
        let RequestState {
            recording,
            pools,
            ledger,
            admission,
            grpc,
            ..
        } = held;
        let limit = |body| parts.limit(admission, body);
        let entered = recording.enter();
        let pools = pools.enter();
        let put = |future, watch, asking| {
            *state = State::Running {
                future,
                watch,
                asking,
                routes_told: *routes_told,
            };
        };
        let refusal = parts.call(service, &mut Some(request), *grpc, limit, put);
        drop(pools);
        entered.leave();
        ledger.called();
        if let Some(kind) = refusal {
            *state = State::Refused { kind };
        }
        preset
    }
}

impl<S> PresetService<S> {
    /// For a request that must go through the layers one by one.
    #[cold]
    fn call_limited<B, RB>(
        &mut self,
        request: Request<B>,
        held: &mut RequestState,
    ) -> Pin<Box<LimitedFuture<Inner<S>, B>>>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<RB>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
        RB: Body<Error: Into<BoxError>> + 'static,
    {
        let entered = held.recording.enter();
        let next = self.service.clone();
        let ready = mem::replace(&mut self.service, next);
        let future = queued::call(ready, &self.parts, request);
        entered.leave();
        held.ledger.called();
        future
    }
}

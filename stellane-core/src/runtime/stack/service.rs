use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tower_service::Service;

use super::{
    body::PresetBody,
    future::{PresetFuture, State},
    limited::{self, LimitedFuture},
    ongoing::{Ongoing, Parts},
};
use crate::{BoxError, fault::Refusal, runtime::RequestBody};

/// All that stands before the user's service; see the [module docs](super).
#[derive(Debug, Clone)]
pub(super) struct Preset<S> {
    service: S,
    parts: Arc<Parts>,
}

const FAILED: Refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR);

impl<S> Preset<S> {
    pub(super) fn new(service: S, parts: Arc<Parts>) -> Self {
        Self { service, parts }
    }
}

impl<S, B> Service<Request<Incoming>> for Preset<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
{
    type Response = Response<PresetBody<B>>;
    type Error = S::Error;
    type Future = PresetFuture<S::Future, LimitedFuture<S>>;

    /// A service that fails to become ready is broken for good: its error is passed on.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Incoming>) -> PresetFuture<S::Future, LimitedFuture<S>> {
        let recording = self.parts.metrics.begin(&request);
        let visit = self.parts.limit.enter(&request);
        let is_inside = visit.is_some();
        let mut ongoing = Ongoing::new(&self.parts, recording, visit);
        let state = match ongoing.held() {
            Some(held) => {
                let entered = held.recording.enter();
                let state = if is_inside {
                    let _pools = held.pools.enter();
                    self.begin(request)
                } else {
                    let next = self.service.clone();
                    let ready = mem::replace(&mut self.service, next);
                    State::Limited {
                        future: limited::call(ready, &self.parts, request),
                    }
                };
                entered.leave_call();
                state
            }
            None => State::Refused { refusal: FAILED },
        };
        PresetFuture::new(state, ongoing)
    }
}

impl<S> Preset<S> {
    #[inline]
    fn begin<L>(&mut self, request: Request<Incoming>) -> State<S::Future, L>
    where
        S: Service<Request<RequestBody>>,
    {
        let Self { service, parts } = self;
        if let Some(refusal) = parts.refusal(&request) {
            return State::Refused { refusal };
        }
        let request = parts.limit_body(request);
        match parts.faults.catch("call", || service.call(request)) {
            Some(future) => State::Running { future },
            None => State::Refused { refusal: FAILED },
        }
    }
}

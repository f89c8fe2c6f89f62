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
    limited::{self, LimitedFuture},
    ongoing::{Held, Ongoing, Parts},
};
use crate::{
    BoxError,
    connection::Incoming,
    runtime::{RefusalKind, RequestBody},
};

/// All that stands before the user's service; see the [module docs](super).
#[derive(Debug, Clone)]
pub(super) struct Preset<S> {
    service: S,
    parts: Arc<Parts>,
}

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
        let Self { service, parts } = self;
        let mut ongoing = Ongoing::begin(parts, &request);
        let Some(held) = ongoing.held() else {
            let kind = RefusalKind::Error;
            return PresetFuture::new(State::Refused { kind }, ongoing);
        };
        if held.is_limited() {
            let future = self.call_limited(request, held);
            return PresetFuture::new(State::Limited { future }, ongoing);
        }
        let request = request.map(|body| held.limit(body));
        let entered = held.recording.enter();
        let pools = held.pools.enter();
        let state = match parts.call(service, request) {
            Ok(future) => State::Running { future },
            Err(kind) => State::Refused { kind },
        };
        drop(pools);
        entered.leave_call();
        PresetFuture::new(state, ongoing)
    }
}

impl<S> Preset<S> {
    /// For a request that must go through the layers one by one.
    #[cold]
    fn call_limited<B>(
        &mut self,
        request: Request<Incoming>,
        held: &mut Held,
    ) -> Pin<Box<LimitedFuture<S>>>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    {
        let entered = held.recording.enter();
        let next = self.service.clone();
        let ready = mem::replace(&mut self.service, next);
        let future = limited::call(ready, &self.parts, request);
        entered.leave_call();
        future
    }
}

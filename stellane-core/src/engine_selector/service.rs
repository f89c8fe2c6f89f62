use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker},
};

use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    EngineSelector, EngineSelectorBody, EngineSelectorFuture, FallbackMode, ReplayBody,
    future::Native,
    handle::{Attempt, Cause},
};
use crate::BoxError;

/// An accelerated service before a native one. See the [module docs](super).
#[derive(Debug, Clone)]
pub struct EngineSelectorService<A, N> {
    selector: EngineSelector,
    accelerated: A,
    native: N,
}

impl<A, N> EngineSelectorService<A, N> {
    /// Puts `accelerated` before `native`.
    pub const fn new(selector: EngineSelector, accelerated: A, native: N) -> Self {
        Self {
            selector,
            accelerated,
            native,
        }
    }
}

impl<A, N, B, AB, NB> Service<Request<B>> for EngineSelectorService<A, N>
where
    A: Service<Request<ReplayBody<B>>, Response = Response<AB>> + Clone,
    A::Error: Into<BoxError>,
    N: Service<Request<ReplayBody<B>>, Response = Response<NB>> + Clone,
    B: Body<Error: Into<BoxError>>,
{
    type Response = Response<EngineSelectorBody<AB, NB>>;
    type Error = N::Error;
    type Future = EngineSelectorFuture<A::Future, N, ReplayBody<B>>;

    /// Ready when the native service is: the accelerated one is asked at the call, and never waited for.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), N::Error>> {
        self.native.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = &self.selector.shared;
        if shared.routes.find(request.uri().path()).is_none() {
            return EngineSelectorFuture::native(self.native.call(request.map(ReplayBody::direct)));
        }
        if !may_be_accelerated(&request, &self.selector) {
            shared.counts().not_replayable.fetch_add(1, Relaxed);
            return EngineSelectorFuture::native(self.native.call(request.map(ReplayBody::direct)));
        }
        let Some(attempt) = Attempt::begin(&self.selector) else {
            self.selector.shared.count(Cause::Open);
            return self.without(request);
        };
        let mut cx = Context::from_waker(Waker::noop());
        let ready = catch_unwind(AssertUnwindSafe(|| self.accelerated.poll_ready(&mut cx)));
        let cause = match ready {
            Ok(Poll::Ready(Ok(()))) => return self.attempt(request, attempt),
            Ok(Poll::Ready(Err(_))) => Cause::Error,
            Ok(Poll::Pending) => Cause::NotReady,
            Err(_) => Cause::Panic,
        };
        // A clone starts anew: what this one had begun to wait for is given back.
        self.accelerated = self.accelerated.clone();
        attempt.fail(cause);
        self.without(request)
    }
}

impl<A, N> EngineSelectorService<A, N> {
    fn without<B, F, NB>(
        &mut self,
        request: Request<B>,
    ) -> EngineSelectorFuture<F, N, ReplayBody<B>>
    where
        N: Service<Request<ReplayBody<B>>, Response = Response<NB>>,
    {
        if self.selector.shared.config.fallback_mode == FallbackMode::Off {
            return EngineSelectorFuture::refused();
        }
        EngineSelectorFuture::native(self.native.call(request.map(ReplayBody::direct)))
    }

    fn attempt<B, AB, NB>(
        &mut self,
        request: Request<B>,
        attempt: Attempt,
    ) -> EngineSelectorFuture<A::Future, N, ReplayBody<B>>
    where
        A: Service<Request<ReplayBody<B>>, Response = Response<AB>> + Clone,
        N: Service<Request<ReplayBody<B>>, Response = Response<NB>> + Clone,
        B: Body,
    {
        let (request, native) = if self.selector.shared.config.fallback_mode == FallbackMode::Off {
            (request.map(ReplayBody::direct), None)
        } else {
            let (parts, body) = request.into_parts();
            let (first, second) = ReplayBody::twice(body);
            let again = Request::from_parts(parts.clone(), second);
            // The one that is ready goes along; its clone has to become ready by itself.
            let clone = self.native.clone();
            let service = std::mem::replace(&mut self.native, clone);
            let native = Native {
                service,
                request: again,
            };
            (Request::from_parts(parts, first), Some(native))
        };
        match catch_unwind(AssertUnwindSafe(|| self.accelerated.call(request))) {
            Ok(future) => EngineSelectorFuture::trying(future, attempt, native),
            Err(_) => {
                attempt.fail(Cause::Panic);
                native.map_or_else(EngineSelectorFuture::refused, |native| {
                    EngineSelectorFuture::native(native.call())
                })
            }
        }
    }
}

/// Whether the request could be sent a second time, or need not be.
fn may_be_accelerated<B: Body>(request: &Request<B>, selector: &EngineSelector) -> bool {
    let config = &selector.shared.config;
    let method = match config.fallback_mode {
        FallbackMode::Off => return true,
        FallbackMode::Safe => request.method().is_safe(),
        // An upgrade can't be done twice.
        FallbackMode::Idempotent => request.method().is_idempotent(),
    };
    let small = request
        .body()
        .size_hint()
        .upper()
        .is_some_and(|bytes| bytes <= config.max_replay_bytes);
    method && *request.method() != Method::CONNECT && (request.body().is_end_stream() || small)
}

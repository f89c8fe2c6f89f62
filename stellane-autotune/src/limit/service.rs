use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    AdaptiveLimit, Key, LimitBody, LimitRequestBody, Permit, RequestHead, Shed,
    admit::Decision,
    classify::Classifiers,
    future::{Finish, LimitFuture},
};
use crate::overload::{OverloadLayer, Shared, TimeOut};

/// A service behind an [`AdaptiveLimit`]; made by [`AdaptiveLimitLayer`](super::AdaptiveLimitLayer).
#[derive(Debug, Clone)]
pub struct AdaptiveLimitService<S> {
    pub(super) inner: S,
    pub(super) limit: AdaptiveLimit,
    pub(super) classifiers: Arc<Classifiers>,
    pub(super) overload: Option<OverloadLayer>,
}

impl<S> AdaptiveLimitService<S> {
    /// The limit in front of the service.
    pub fn limit(&self) -> &AdaptiveLimit {
        &self.limit
    }
}

impl<S, B, RB> Service<Request<B>> for AdaptiveLimitService<S>
where
    S: Service<Request<LimitRequestBody<B>>, Response = Response<RB>> + Clone,
    B: Body,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Response = Response<LimitBody<RB>>;
    type Error = S::Error;
    type Future = LimitFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> LimitFuture<S, B> {
        let connection = request.extensions().get::<Key>().copied();
        self.call_from(request, connection)
    }
}

impl<S> AdaptiveLimitService<S> {
    /// Calls it with a request from `connection`; [`call`](Service::call) takes the [`Key`] in the extensions of the
    /// request for that.
    pub fn call_from<B: Body>(
        &mut self,
        request: Request<B>,
        connection: Option<Key>,
    ) -> LimitFuture<S, B>
    where
        S: Service<Request<LimitRequestBody<B>>> + Clone,
    {
        let timed = self.overload.as_ref().and_then(|overload| {
            let timeout = overload.timeout(RequestHead::from(&request))?;
            Some((Arc::clone(&overload.shared), timeout))
        });
        match timed {
            None => self.call_limited(request, connection),
            Some((overload, timeout)) => self.call_timed(request, connection, overload, timeout),
        }
    }
}

impl<S> AdaptiveLimitService<S> {
    /// For a request with a deadline.
    #[cold]
    fn call_timed<B>(
        &mut self,
        request: Request<B>,
        connection: Option<Key>,
        overload: Arc<Shared>,
        timeout: Duration,
    ) -> LimitFuture<S, B>
    where
        S: Service<Request<LimitRequestBody<B>>> + Clone,
        B: Body,
    {
        // Those of the layer, unless only the deadlines have some.
        let on_refusal = match &self.classifiers.on_refusal {
            of_limit if of_limit.is_set() => of_limit,
            _ => &overload.on_refusal,
        };
        match overload.admit(request, timeout, on_refusal) {
            Err(refusal) => LimitFuture::refused(*refusal),
            Ok(request) if overload.enforces() => {
                let end = TimeOut::new(&request, on_refusal.clone(), overload);
                self.call_limited(request, connection).timed(timeout, end)
            }
            Ok(request) => self.call_limited(request, connection),
        }
    }

    #[inline]
    fn call_limited<B>(&mut self, request: Request<B>, connection: Option<Key>) -> LimitFuture<S, B>
    where
        S: Service<Request<LimitRequestBody<B>>> + Clone,
        B: Body,
    {
        let head = RequestHead::from(&request);
        let keys = self.classifiers.keys_for(head, connection);
        if self.classifiers.is_exempt(head)
            && let Some(permit) = Permit::exempt(self.limit.own(), keys)
        {
            let request = request.map(LimitRequestBody::from);
            return LimitFuture::exempt(self.inner.call(request), permit);
        }
        let class = self.classifiers.class_for(&self.limit.shared, head);
        let finish = || {
            let outcome = self.classifiers.outcome.as_ref();
            let hold = self.limit.shared.hold_of(class);
            Finish::new(hold, request.method(), outcome)
        };
        let own = self.limit.own();
        let decision = match own.is_late(head, class) {
            true => own.refuse(class, Shed::WaitTimeout),
            false => own.admit(class, keys),
        };
        match decision {
            Decision::Now(mut permit) => {
                let finish = finish();
                let request = finish.begun(request, &mut permit);
                LimitFuture::admitted(self.inner.call(request), permit, finish)
            }
            Decision::Never(shed) => {
                let on_refusal = &self.classifiers.on_refusal;
                let refusals = &self.limit.shared.settings.refusals;
                LimitFuture::refused(on_refusal.refuse(shed, request, refusals))
            }
            Decision::Later(turn) => {
                let finish = finish();
                let ready = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, ready);
                let on_refusal = self.classifiers.on_refusal.clone();
                LimitFuture::waiting(ready, request, turn, finish, on_refusal)
            }
        }
    }
}

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{SlowPollFuture, SlowPolls};

/// Measures the polls of its response futures; made by [`SlowPollLayer`](super::SlowPollLayer).
#[derive(Debug, Clone)]
pub struct SlowPollService<S> {
    pub(super) inner: S,
    pub(super) polls: SlowPolls,
}

impl<S, B, ResBody> Service<Request<B>> for SlowPollService<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SlowPollFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.polls.threshold().is_zero() {
            return SlowPollFuture::unwatched(self.inner.call(request));
        }
        let route = self.polls.route_of(request.extensions());
        SlowPollFuture::watched(self.inner.call(request), self.polls.clone(), route)
    }
}

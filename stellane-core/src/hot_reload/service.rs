use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{LIVE_PATH, LiveReloadBody, LiveReloadFuture};

/// Makes open pages reload when the process is replaced; made by [`LiveReloadLayer`](super::LiveReloadLayer).
#[derive(Debug, Clone)]
pub struct LiveReloadService<S> {
    pub(super) inner: S,
    pub(super) id: Option<Arc<str>>,
}

impl<S, B, ResBody> Service<Request<B>> for LiveReloadService<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Response = Response<LiveReloadBody<ResBody>>;
    type Error = S::Error;
    type Future = LiveReloadFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match &self.id {
            None => LiveReloadFuture::inner(self.inner.call(request), false),
            Some(id) if request.uri().path() == LIVE_PATH => LiveReloadFuture::id(id.clone()),
            Some(_) => {
                // A HEAD response has no body to append to, and keeps its length.
                let inject = request.method() != http::Method::HEAD;
                LiveReloadFuture::inner(self.inner.call(request), inject)
            }
        }
    }
}

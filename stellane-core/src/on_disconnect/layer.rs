use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::{Abandoned, OnDisconnect, OnDisconnectFuture};

/// Says what becomes of the handlers inside when their clients leave: see the [module](super).
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::post};
/// use stellane_core::OnDisconnectLayer;
///
/// let app = Router::<()>::new()
///     .route("/orders", post(async || "placed"))
///     .route_layer(OnDisconnectLayer::finish(Duration::from_secs(30)));
/// # let _ = app;
/// ```
#[derive(Debug, Clone)]
pub struct OnDisconnectLayer {
    how: OnDisconnect,
    abandoned: Abandoned,
}

impl OnDisconnectLayer {
    /// That becomes of them.
    #[must_use]
    pub fn new(how: OnDisconnect) -> Self {
        Self {
            how,
            abandoned: Abandoned::default(),
        }
    }

    /// They go on to their end, for so long at most.
    #[must_use]
    pub fn finish(within: Duration) -> Self {
        Self::new(OnDisconnect::Finish { within })
    }

    /// They are told by [`ClientLeft`](super::ClientLeft), and go on, for so long at most.
    #[must_use]
    pub fn tell(within: Duration) -> Self {
        Self::new(OnDisconnect::Tell { within })
    }

    /// Counts them there, so that one can be asked, and drained, for several layers. Behind our connection manager its
    /// [stats](crate::connection::ConnectionStats::abandoned) count them.
    #[must_use]
    pub fn counted_by(mut self, abandoned: &Abandoned) -> Self {
        self.abandoned = abandoned.clone();
        self
    }
}

impl<S> Layer<S> for OnDisconnectLayer {
    type Service = OnDisconnectService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OnDisconnectService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind an [`OnDisconnectLayer`].
#[derive(Debug, Clone)]
pub struct OnDisconnectService<S> {
    inner: S,
    layer: OnDisconnectLayer,
}

impl<S, B> Service<Request<B>> for OnDisconnectService<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = OnDisconnectFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let after = self.layer.how.begin(request.extensions_mut());
        let future = self.inner.call(request);
        OnDisconnectFuture::new(future, after, &self.layer.abandoned)
    }
}

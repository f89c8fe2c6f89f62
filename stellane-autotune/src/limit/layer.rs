use std::sync::Arc;

use tower_layer::Layer;

use super::classify::Classifiers;
use super::{AdaptiveLimit, AdaptiveLimitService, Class, Key, Outcome, RequestHead, ResponseHead};
use crate::overload::OverloadLayer;

/// Puts an [`AdaptiveLimit`] in front of a service.
///
/// Admission is decided in `call`, never in `poll_ready`: an idle connection holds no place. A
/// refused request is answered with 503, `Retry-After` and an RFC 9457 body, before its own
/// body is read and without an allocation.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limit = AdaptiveLimit::builder().build()?;
/// let service = AdaptiveLimitLayer::new(&limit).layer(service_fn(|_: Request<Full<Bytes>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello"))))
/// }));
/// let response = service.oneshot(Request::new(Full::default())).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct AdaptiveLimitLayer {
    pub(super) limit: AdaptiveLimit,
    pub(super) classifiers: Arc<Classifiers>,
    pub(super) overload: Option<OverloadLayer>,
}

impl AdaptiveLimitLayer {
    /// A layer under `limit`.
    #[must_use]
    pub fn new(limit: &AdaptiveLimit) -> Self {
        Self {
            limit: limit.clone(),
            classifiers: Arc::default(),
            overload: None,
        }
    }

    /// Does what `overload` around this layer would do, with one future and one body fewer for each request.
    #[must_use]
    pub fn overload(mut self, overload: &OverloadLayer) -> Self {
        self.overload = Some(overload.clone());
        self
    }

    /// Chooses the class of a request. Default: the [`Class`] in its extensions, if any.
    #[must_use]
    pub fn classify_request(
        mut self,
        class: impl Fn(RequestHead<'_>) -> Class + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.classifiers).class = Some(Arc::new(class));
        self
    }

    /// What a response says about the load. Default: [`ResponseHead::default_outcome`].
    #[must_use]
    pub fn classify_response(
        mut self,
        outcome: impl Fn(ResponseHead<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.classifiers).outcome = Some(Arc::new(outcome));
        self
    }

    /// Who a request belongs to, such as its tenant. Under pressure the last quarter of the places is for keys that
    /// hold less than a quarter, as long as any such key asks. Default: nobody, each request is its own.
    ///
    /// Who can choose a key can choose many: take what the client can't, such as the connection or its address, unless
    /// something before this layer has checked it.
    #[must_use]
    pub fn key(
        mut self,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.classifiers).key = Some(Arc::new(key));
        self
    }

    /// Requests that are neither limited nor counted, such as health checks. Default: none.
    #[must_use]
    pub fn exempt(
        mut self,
        exempt: impl Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.classifiers).exempt = Some(Arc::new(exempt));
        self
    }
}

impl<S> Layer<S> for AdaptiveLimitLayer {
    type Service = AdaptiveLimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AdaptiveLimitService {
            inner,
            limit: self.limit.clone(),
            classifiers: Arc::clone(&self.classifiers),
            overload: self.overload.clone(),
        }
    }
}

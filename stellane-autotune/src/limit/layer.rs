use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::{
    AdaptiveLimit, AdaptiveLimitService, Class, Key, OnRefusal, Outcome, RequestHead, ResponseHead,
    Shed, classify::Classifiers,
};
use crate::overload::OverloadLayer;

/// Puts an [`AdaptiveLimit`] in front of a service.
///
/// Give the limit a [`LocalSignal`](crate::LocalSignal) if the service runs in this process: handlers that compute keep
/// later requests waiting in their sockets, where no layer sees them.
///
/// Decision is decided in `call`, never in `poll_ready`: an idle connection holds no place. A
/// refused request is answered with 503, `Retry-After` and an RFC 9457 body, before its own
/// body is read and without an allocation. gRPC and gRPC-Web, by the content type of the request, are told in their
/// own way: no body, status 200, `grpc-status` 14 (8 where a class is full, 4 where a deadline can't be met),
/// `grpc-message`, and `grpc-retry-pushback-ms`. What else it should be is [`on_refusal`](Self::on_refusal)'s to say.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, LimitRequestBody};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limit = AdaptiveLimit::builder().build()?;
/// // Its body is one that knows when the client is waited for.
/// let hello = service_fn(|_: Request<LimitRequestBody<Full<Bytes>>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello"))))
/// });
/// let service = AdaptiveLimitLayer::new(&limit).layer(hello);
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

    /// Answers of one's own to what this layer refuses; `None` is the usual answer. Asked before the body of the request
    /// is read, or instead of its end when [its time](Shed::TimedOut) is over. Default: none.
    ///
    /// The heads of requests with a deadline are copied for it.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Response, StatusCode};
    /// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer};
    ///
    /// let limit = AdaptiveLimit::builder().build()?;
    /// let layer = AdaptiveLimitLayer::new(&limit).on_refusal(|_, head| {
    ///     let wants_text = head.headers.get("accept")? == "text/plain";
    ///     wants_text.then(|| {
    ///         let mut response = Response::new(Bytes::from("too much to do"));
    ///         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    ///         response
    ///     })
    /// });
    /// # Ok::<_, stellane_autotune::BuildError>(())
    /// ```
    #[must_use]
    pub fn on_refusal(
        mut self,
        answer: impl Fn(Shed, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.classifiers).on_refusal = OnRefusal::new(answer);
        self
    }

    /// Requests that are neither limited nor counted, such as health checks, up to 16 at a time of one key. Default:
    /// none.
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

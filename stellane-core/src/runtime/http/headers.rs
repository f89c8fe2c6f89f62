use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::config::{HstsConfig, SecurityHeadersConfig};

/// Headers that an answer gets unless it has them. tower-http's `SetMultipleResponseHeadersLayer` makes a list for each
/// request, and can't ask the connection of a request whether it is one of TLS.
#[derive(Debug, Clone)]
pub(super) struct FixedHeadersLayer {
    headers: Arc<Headers>,
}

#[derive(Debug)]
struct Headers {
    always: Vec<(HeaderName, HeaderValue)>,
    on_tls: Option<HeaderValue>,
}

impl FixedHeadersLayer {
    /// `None` if there are none.
    pub(super) fn new(security: &SecurityHeadersConfig, hsts: &HstsConfig) -> Option<Self> {
        // The configuration has been checked.
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let mut always = Vec::new();
        if security.enabled {
            for (name, text) in [
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::X_FRAME_OPTIONS, &security.frame_options),
                (header::REFERRER_POLICY, &security.referrer_policy),
                (
                    header::CONTENT_SECURITY_POLICY,
                    &security.content_security_policy,
                ),
            ] {
                let set = value(text).filter(|value| !value.is_empty());
                always.extend(set.map(|value| (name, value)));
            }
        }
        let on_tls = (!hsts.max_age.is_zero()).then(|| {
            let subdomains = ["", "; includeSubDomains"][usize::from(hsts.include_subdomains)];
            let preload = ["", "; preload"][usize::from(hsts.preload)];
            value(&format!(
                "max-age={}{subdomains}{preload}",
                hsts.max_age.as_secs()
            ))
        });
        let headers = Headers {
            always,
            on_tls: on_tls.flatten(),
        };
        let is_some = !headers.always.is_empty() || headers.on_tls.is_some();
        is_some.then(|| Self {
            headers: Arc::new(headers),
        })
    }
}

impl<S> Layer<S> for FixedHeadersLayer {
    type Service = FixedHeaders<S>;

    fn layer(&self, inner: S) -> FixedHeaders<S> {
        FixedHeaders {
            inner,
            headers: Arc::clone(&self.headers),
        }
    }
}

#[derive(Debug, Clone)]
pub struct FixedHeaders<S> {
    inner: S,
    headers: Arc<Headers>,
}

impl<S, B, R> Service<Request<B>> for FixedHeaders<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = FixedHeadersFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_tls = self.headers.on_tls.is_some() && came_by_tls(&request);
        FixedHeadersFuture {
            inner: self.inner.call(request),
            headers: Arc::clone(&self.headers),
            is_tls,
        }
    }
}

#[cfg(feature = "tls")]
fn came_by_tls<B>(request: &Request<B>) -> bool {
    let connection = request.extensions().get::<crate::connection::ConnectInfo>();
    connection.is_some_and(|connection| connection.tls().is_some())
}

#[cfg(not(feature = "tls"))]
fn came_by_tls<B>(_: &Request<B>) -> bool {
    false
}

pin_project! {
    pub struct FixedHeadersFuture<F> {
        #[pin]
        inner: F,
        headers: Arc<Headers>,
        is_tls: bool,
    }
}

impl<F, R, E> Future for FixedHeadersFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let Headers { always, on_tls } = &**this.headers;
        let headers = response.headers_mut();
        for (name, value) in always {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        if let Some(value) = on_tls
            && *this.is_tls
        {
            let hsts = headers.entry(header::STRICT_TRANSPORT_SECURITY);
            hsts.or_insert_with(|| value.clone());
        }
        Poll::Ready(Ok(response))
    }
}

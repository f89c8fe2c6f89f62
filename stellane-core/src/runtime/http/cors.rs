use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Method, Request, header};
use tower_http::cors::{
    AllowHeaders, AllowMethods, AllowOrigin, Any, Cors, CorsLayer, ExposeHeaders,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::config::{CorsConfig, RequestIdConfig};

pub(super) fn layer(config: &CorsConfig, ids: &RequestIdConfig) -> Option<PreflightsLayer> {
    if !config.is_on() {
        return None;
    }
    let is_any = |names: &[String]| names.iter().any(|name| name == "*");
    // The configuration has been checked.
    let origins = config.allow_origins.iter();
    let origins = match config.allows_any() {
        true => AllowOrigin::from(Any),
        false => AllowOrigin::list(origins.filter_map(|text| HeaderValue::from_str(text).ok())),
    };
    // What a preflight asks for: a `*` in the answer leaves `authorization` out, and is none with credentials.
    let methods = match is_any(&config.allow_methods) {
        true => AllowMethods::mirror_request(),
        false => AllowMethods::list(config.allow_methods.iter().filter_map(|m| m.parse().ok())),
    };
    let headers = match is_any(&config.allow_headers) {
        true => AllowHeaders::mirror_request(),
        false => AllowHeaders::list(names(&config.allow_headers)),
    };
    // An id is there to be told to somebody.
    let id = ids.enabled.then(|| ids.header.parse().ok()).flatten();
    let exposed = match is_any(&config.expose_headers) {
        true => ExposeHeaders::from(Any),
        false => ExposeHeaders::list(names(&config.expose_headers).chain(id)),
    };
    let mut cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(methods)
        .allow_headers(headers)
        .expose_headers(exposed)
        .allow_credentials(config.allow_credentials);
    if !config.max_age.is_zero() {
        cors = cors.max_age(config.max_age);
    }
    Some(PreflightsLayer { cors })
}

fn names(names: &[String]) -> impl Iterator<Item = HeaderName> {
    names.iter().filter_map(|name| name.parse().ok())
}

/// tower-http's `CorsLayer`, which takes every `OPTIONS` for a preflight: here those that are none come through.
#[derive(Debug, Clone)]
pub(super) struct PreflightsLayer {
    cors: CorsLayer,
}

impl<S> Layer<S> for PreflightsLayer {
    type Service = Preflights<S>;

    fn layer(&self, inner: S) -> Preflights<S> {
        Preflights {
            cors: self.cors.layer(Restored { inner }),
        }
    }
}

/// What an `OPTIONS` that is no preflight is called on its way through `Cors`. Short enough to be kept without an
/// allocation.
const PLAIN_OPTIONS: &str = "PLAIN-OPTIONS";

#[derive(Debug, Clone)]
pub struct Preflights<S> {
    cors: Cors<Restored<S>>,
}

impl<S, B, R: Default> Service<Request<B>> for Preflights<S>
where
    S: Service<Request<B>, Response = http::Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = <Cors<Restored<S>> as Service<Request<B>>>::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.cors.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if request.method() == Method::OPTIONS && !is_preflight(&request) {
            *request.method_mut() = PLAIN_OPTIONS.parse().unwrap_or(Method::OPTIONS);
        }
        self.cors.call(request)
    }
}

fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Where the method is what it was again.
#[derive(Debug, Clone)]
pub struct Restored<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Restored<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if request.method() == PLAIN_OPTIONS {
            *request.method_mut() = Method::OPTIONS;
        }
        self.inner.call(request)
    }
}

use std::{
    fmt,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::util::Either;
use tower_http::{
    csrf::{Csrf, CsrfLayer},
    sensitive_headers::{SetSensitiveHeaders, SetSensitiveHeadersLayer},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    cors::{self, Preflights, PreflightsLayer},
    headers::{FixedHeaders, FixedHeadersLayer},
    ids::{RequestIds, RequestIdsLayer},
};
use crate::config::HttpConfig;

/// What of [`HttpLayers`](super::HttpLayers) stands outside of the preset: request ids, sensitive headers, security
/// headers, CORS, CSRF. Around any service whose answers have a body with a [`Default`], such as a
/// [`PresetLayer`](crate::PresetLayer)'s.
///
/// ```
/// use stellane_core::{HttpLayers, config::HttpConfig};
/// use tower::Layer;
///
/// let http = HttpLayers::new(&HttpConfig::default())?;
/// let app = http.outer().layer(axum::Router::<()>::new());
/// # let _ = app;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct HttpOuterLayer {
    ids: Option<RequestIdsLayer>,
    sensitive: Option<SetSensitiveHeadersLayer>,
    headers: Option<FixedHeadersLayer>,
    cors: Option<PreflightsLayer>,
    csrf: Option<CsrfLayer>,
}

impl HttpOuterLayer {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let HttpConfig {
            sensitive_headers,
            request_id: ids,
            cors,
            csrf,
            security_headers,
            hsts,
            ..
        } = config;
        // The configuration has been checked.
        let header = ids.header.parse().ok().filter(|_| ids.enabled);
        let sensitive = sensitive_headers
            .iter()
            .filter_map(|name| name.parse().ok());
        Self {
            ids: header.map(|header| RequestIdsLayer::new(header, ids.accept)),
            sensitive: (!sensitive_headers.is_empty())
                .then(|| SetSensitiveHeadersLayer::new(sensitive)),
            headers: FixedHeadersLayer::new(security_headers, hsts),
            cors: cors::layer(cors, ids),
            csrf: csrf.enabled.then(|| {
                let trusted = csrf.trusted_origins.iter().chain(&cors.allow_origins);
                trusted.fold(CsrfLayer::new(), |layer, origin| {
                    // `*` and `null` are none.
                    layer.clone().add_trusted_origin(origin).unwrap_or(layer)
                })
            }),
        }
    }

    pub(in crate::runtime) fn is_off(&self) -> bool {
        self.ids.is_none()
            && self.sensitive.is_none()
            && self.headers.is_none()
            && self.cors.is_none()
            && self.csrf.is_none()
    }
}

impl<S> Layer<S> for HttpOuterLayer {
    type Service = HttpOuter<S>;

    fn layer(&self, service: S) -> HttpOuter<S> {
        let service = optional(self.csrf.as_ref(), service);
        let service = optional(self.cors.as_ref(), service);
        let service = optional(self.headers.as_ref(), service);
        let service = optional(self.sensitive.as_ref(), service);
        HttpOuter {
            stack: optional(self.ids.as_ref(), service),
        }
    }
}

/// The layer around the service, if there is one.
fn optional<L: Layer<S>, S>(layer: Option<&L>, service: S) -> Either<L::Service, S> {
    match layer {
        Some(layer) => Either::Left(layer.layer(service)),
        None => Either::Right(service),
    }
}

type WithCsrf<S> = Either<Csrf<S>, S>;
type WithCors<S> = Either<Preflights<WithCsrf<S>>, WithCsrf<S>>;
type WithHeaders<S> = Either<FixedHeaders<WithCors<S>>, WithCors<S>>;
type WithSensitive<S> = Either<SetSensitiveHeaders<WithHeaders<S>>, WithHeaders<S>>;
type WithIds<S> = Either<RequestIds<WithSensitive<S>>, WithSensitive<S>>;

/// A service behind a [`HttpOuterLayer`].
#[derive(Clone)]
pub struct HttpOuter<S> {
    stack: WithIds<S>,
}

impl<S, B, R: Default> Service<Request<B>> for HttpOuter<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = <WithIds<S> as Service<Request<B>>>::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.stack.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.stack.call(request)
    }
}

impl<S> fmt::Debug for HttpOuter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOuter").finish_non_exhaustive()
    }
}

use std::{
    fmt,
    task::{Context, Poll},
};

use http::{Method, Request, Response, header};
use http_body::Body;
use tower_http::{
    CompressionLevel,
    compression::{Compression, CompressionLayer},
    normalize_path::NormalizePathLayer,
};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    answer::{AnswerFuture, Asked, Noted},
    body::HttpBody,
    types::{Eligible, Encodings},
};
use crate::{
    BoxError,
    config::HttpConfig,
    runtime::{body::AsBytes, stack::tell_early},
};

/// What of [`HttpLayers`](super::HttpLayers) stands around the service itself: compression and trailing slashes.
///
/// ```
/// use stellane_core::{HttpLayers, config::HttpConfig};
/// use tower::Layer;
///
/// let http = HttpLayers::new(&HttpConfig::default())?;
/// let app = http.inner().layer(axum::Router::<()>::new());
/// # let _ = app;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct HttpInnerLayer {
    compression: Option<(CompressionLayer<Eligible>, Encodings)>,
    eligible: Eligible,
    trim: bool,
}

impl HttpInnerLayer {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let compression = &config.compression;
        let (eligible, encodings) = (Eligible::new(compression), Encodings::new(compression));
        let layer = CompressionLayer::new()
            .br(encodings.br)
            .gzip(encodings.gzip)
            .zstd(encodings.zstd)
            // A feature of somebody else's may have brought it.
            .no_deflate()
            .quality(CompressionLevel::Precise(
                compression.level.try_into().unwrap_or(4),
            ))
            .compress_when(eligible.clone());
        Self {
            compression: compression.enabled.then_some((layer, encodings)),
            eligible,
            trim: config.trim_trailing_slash,
        }
    }

    pub(in crate::runtime) fn is_off(&self) -> bool {
        self.compression.is_none() && !self.trim
    }
}

impl<S: 'static> Layer<S> for HttpInnerLayer {
    type Service = HttpInner<S>;

    fn layer(&self, service: S) -> HttpInner<S> {
        // Nobody outside sees whose routes they are.
        tell_early(&service);
        let service = Noted {
            service: NormalizePathLayer::trim_trailing_slash().layer(service),
            trim: self.trim,
        };
        let encodings = self.compression.as_ref().map(|(_, encodings)| *encodings);
        let service = match &self.compression {
            Some((layer, _)) => layer.layer(service),
            None => Compression::new(service).compress_when(self.eligible.clone()),
        };
        HttpInner {
            service,
            encodings,
            eligible: self.eligible.clone(),
        }
    }
}

/// A service behind a [`HttpInnerLayer`].
#[derive(Clone)]
pub struct HttpInner<S> {
    service: Compression<Noted<S>, Eligible>,
    /// Those that are compressed with, if it is on.
    encodings: Option<Encodings>,
    eligible: Eligible,
}

impl<S, B, R> Service<Request<B>> for HttpInner<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Error: Into<BoxError>> + 'static,
{
    type Response = Response<HttpBody<AsBytes<R>>>;
    type Error = S::Error;
    type Future = AnswerFuture<
        <Noted<S> as Service<Request<B>>>::Future,
        <Compression<Noted<S>, Eligible> as Service<Request<B>>>::Future,
    >;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Service::<Request<B>>::poll_ready(self.service.get_mut(), cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let past = self.service.get_mut();
        let Some(encodings) = self.encodings else {
            return AnswerFuture::plain(past.call(request), None);
        };
        if !encodings.are_wanted(request.method(), request.headers()) {
            let eligible = Some(self.eligible.clone());
            return AnswerFuture::plain(past.call(request), eligible);
        }
        let asked = Asked {
            is_head: request.method() == Method::HEAD,
            etags: request.headers().get(header::IF_NONE_MATCH).cloned(),
        };
        AnswerFuture::compressed(self.service.call(request), asked)
    }
}

impl<S> fmt::Debug for HttpInner<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpInner").finish_non_exhaustive()
    }
}

//! The section `[http]` of the configuration: tower-http's layers, in their places.

mod answer;
mod body;
mod cors;
mod headers;
mod ids;
mod inner;
mod outer;
mod types;

pub use self::{
    body::HttpBody,
    inner::{HttpInner, HttpInnerLayer},
    outer::{HttpOuter, HttpOuterLayer},
};
use crate::config::{ConfigErrors, HttpConfig};

/// The layers that the section `[http]` of the configuration asks for, each with one of tower-http in it. A
/// [`Runtime`](super::Runtime) puts them in their places by itself; with [`Components::layer`](super::Components::layer)
/// and on other servers they are put there by hand.
///
/// ```text
///  [HttpOuterLayer]    request id ▸ sensitive headers ▸ security headers, HSTS ▸ CORS ▸ CSRF
///  RuntimeBuilder::outer_layer
///  the preset          metrics ▸ deadline ▸ limit ▸ pools ▸ strict HTTP/1 ▸ panics and errors ▸ body limit
///  [HttpInnerLayer]    compression ▸ trailing slash
///  your service
/// ```
///
/// - What answers outside of the limit needs no place under it: a preflight is answered under overload. What is refused
///   further in has its request id and its CORS headers, or a browser would hide it from its page.
/// - What works inside has its place: compression takes time. The metrics count the bytes that are sent.
/// - What never became a request has neither: a head that can't be read or that is late.
///
/// With nothing on, a runtime has none of them and a request costs nothing. With any, a request costs two boxes; beside
/// that, one that is off costs a branch and no allocation. On, a request allocates for: ids 8, CORS with an `Origin` 8,
/// CSRF of a `POST` 1, a slash that is trimmed 4, gzip of 2 KB 9; security and sensitive headers, and compression that
/// nobody asks for, none.
///
/// ```
/// use stellane_core::{Components, HttpLayers, RuntimeConfig, config::Loader};
/// use tower::Layer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let text = r#"
///     [http.request_id]
///     enabled = true
///     [http.cors]
///     allow_origins = ["https://app.example.com"]
///     [http.compression]
///     enabled = true
/// "#;
/// let config = Loader::new().text("app.toml", text).load()?;
///
/// // By hand, around any service and for any server.
/// let components = Components::new(&config)?;
/// let http = HttpLayers::new(&config.http)?;
/// let app: axum::Router = axum::Router::new();
/// let app = http.inner().layer(app);
/// let app = http.outer().layer(components.layer(&config.server).layer(app));
/// # let _ = app;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
#[doc = include_str!("tower_http.md")]
#[derive(Debug, Clone)]
pub struct HttpLayers {
    outer: HttpOuterLayer,
    inner: HttpInnerLayer,
}

impl HttpLayers {
    /// Those of a configuration.
    ///
    /// # Errors
    /// Every value that is out of range or contradicts another.
    pub fn new(config: &HttpConfig) -> Result<Self, ConfigErrors> {
        ConfigErrors::check(config.problems())?;
        Ok(Self {
            outer: HttpOuterLayer::new(config),
            inner: HttpInnerLayer::new(config),
        })
    }

    /// Those that stand outside of the preset.
    #[must_use]
    pub fn outer(&self) -> &HttpOuterLayer {
        &self.outer
    }

    /// Those that stand around the service itself.
    #[must_use]
    pub fn inner(&self) -> &HttpInnerLayer {
        &self.inner
    }
}

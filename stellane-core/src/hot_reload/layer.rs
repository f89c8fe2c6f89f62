use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tower_layer::Layer;

use super::LiveReloadService;

/// Applies [`LiveReloadService`]; see the [module docs](super) for an example.
///
/// ```
/// use stellane_core::hot_reload::LiveReloadLayer;
///
/// let pages = axum::Router::<()>::new()
///     .route("/", axum::routing::get(async || axum::response::Html("<p>hello")))
///     .layer(LiveReloadLayer::new());
/// # let _ = pages;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct LiveReloadLayer {
    /// Tells this process from the one before; `None` turns the layer off.
    id: Option<Arc<str>>,
}

impl LiveReloadLayer {
    /// Open pages reload when this process is replaced by another.
    pub fn new() -> Self {
        Self::enabled(true)
    }

    /// Either [`new`](Self::new) or a layer that passes everything through, for example by
    /// [`DevConfig::hot_reload`](crate::config::DevConfig::hot_reload).
    pub fn enabled(enabled: bool) -> Self {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let id = format!("{}-{}", std::process::id(), started.as_nanos());
        Self {
            id: enabled.then(|| id.into()),
        }
    }
}

impl Default for LiveReloadLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LiveReloadLayer {
    type Service = LiveReloadService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LiveReloadService {
            inner,
            id: self.id.clone(),
        }
    }
}

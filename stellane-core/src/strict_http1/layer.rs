use tower_layer::Layer;

use super::{Http1Rules, StrictHttp1Service};

/// Applies [`StrictHttp1Service`]. See the [module docs](super) for an example.
///
/// ```
/// use stellane_core::strict_http1::{Http1Rules, StrictHttp1Layer};
///
/// let rules = Http1Rules::default();
/// let app = axum::Router::<()>::new().layer(StrictHttp1Layer::new(&rules));
/// # let _ = app;
/// ```
#[derive(Debug, Clone)]
pub struct StrictHttp1Layer {
    rules: Http1Rules,
}

impl StrictHttp1Layer {
    /// A layer that keeps to `rules` and counts into them.
    #[must_use]
    pub fn new(rules: &Http1Rules) -> Self {
        Self {
            rules: rules.clone(),
        }
    }
}

impl<S> Layer<S> for StrictHttp1Layer {
    type Service = StrictHttp1Service<S>;

    fn layer(&self, inner: S) -> StrictHttp1Service<S> {
        StrictHttp1Service::new(inner, self.rules.clone())
    }
}

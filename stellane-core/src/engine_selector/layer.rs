use tower_layer::Layer;

use super::{EngineSelector, EngineSelectorService};

/// Applies [`EngineSelectorService`]. See the [module docs](super) for an example.
///
/// ```
/// use stellane_core::engine_selector::{EngineSelector, EngineSelectorLayer};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let selector = EngineSelector::builder().route("/users/{id}").build()?;
/// let accelerated = axum::Router::<()>::new().route("/users/{id}", axum::routing::get(async || "quick"));
/// let app = axum::Router::<()>::new()
///     .route("/users/{id}", axum::routing::get(async || "as before"))
///     .layer(EngineSelectorLayer::new(&selector, accelerated));
/// # let _ = app;
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone)]
pub struct EngineSelectorLayer<A> {
    selector: EngineSelector,
    accelerated: A,
}

impl<A> EngineSelectorLayer<A> {
    /// A layer that puts `accelerated` before what it is applied to.
    pub fn new(selector: &EngineSelector, accelerated: A) -> Self {
        Self {
            selector: selector.clone(),
            accelerated,
        }
    }
}

impl<A: Clone, N> Layer<N> for EngineSelectorLayer<A> {
    type Service = EngineSelectorService<A, N>;

    fn layer(&self, native: N) -> EngineSelectorService<A, N> {
        EngineSelectorService::new(self.selector.clone(), self.accelerated.clone(), native)
    }
}

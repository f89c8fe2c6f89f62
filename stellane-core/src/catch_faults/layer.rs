use tower_layer::Layer;

use super::{CatchFaultsService, Faults};

/// Applies [`CatchFaultsService`]. See the [module docs](super) for an example.
///
/// ```
/// use stellane_core::catch_faults::{CatchFaultsLayer, Faults};
///
/// let faults = Faults::new();
/// let app = axum::Router::<()>::new()
///     .route("/", axum::routing::get(async || -> () { panic!("on purpose") }))
///     .layer(CatchFaultsLayer::new(&faults));
/// # let _ = app;
/// assert_eq!(faults.stats().panics, 0);
/// ```
#[derive(Debug, Clone)]
pub struct CatchFaultsLayer {
    faults: Faults,
}

impl CatchFaultsLayer {
    /// A layer that counts into `faults`.
    #[must_use]
    pub fn new(faults: &Faults) -> Self {
        Self {
            faults: faults.clone(),
        }
    }
}

impl<S> Layer<S> for CatchFaultsLayer {
    type Service = CatchFaultsService<S>;

    fn layer(&self, inner: S) -> CatchFaultsService<S> {
        CatchFaultsService::new(inner, self.faults.clone())
    }
}

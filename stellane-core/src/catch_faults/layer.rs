use tower_layer::Layer;

use super::{CatchFaultsService, Faults};

/// Applies [`CatchFaultsService`]. See the [module docs](super) for an example.
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

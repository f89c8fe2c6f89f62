use tower_layer::Layer;

use super::{EngineSelector, EngineSelectorService};

/// Applies [`EngineSelectorService`]. See the [module docs](super) for an example.
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

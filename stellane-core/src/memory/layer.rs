use tower_layer::Layer;

use super::{MemoryBudget, MemoryBudgetService};

/// Counts the bodies of requests and answers in a [`MemoryBudget`]. See the [module docs](super).
///
/// ```
/// use stellane_core::memory::{MemoryBudget, MemoryBudgetLayer};
///
/// let budget = MemoryBudget::new(200 << 20);
/// let app = axum::Router::<()>::new().layer(MemoryBudgetLayer::new(&budget));
/// # let _ = app;
/// ```
#[derive(Debug, Clone)]
pub struct MemoryBudgetLayer {
    budget: MemoryBudget,
}

impl MemoryBudgetLayer {
    /// Counts in this budget.
    #[must_use]
    pub fn new(budget: &MemoryBudget) -> Self {
        Self {
            budget: budget.clone(),
        }
    }
}

impl<S> Layer<S> for MemoryBudgetLayer {
    type Service = MemoryBudgetService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MemoryBudgetService {
            inner,
            budget: self.budget.clone(),
        }
    }
}

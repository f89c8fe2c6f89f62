use tower_layer::Layer;

use super::{MemoryBudget, MemoryBudgetService};

/// Counts the bodies of requests and answers in a [`MemoryBudget`]. See the [module docs](super).
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

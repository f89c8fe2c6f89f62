//! A request under way, as its connection counts it.

use std::sync::Arc;

use crate::connection::{lifecycle::Shared, table::record::Record};

/// The connection that a request belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) record: Arc<Record>,
    pub(crate) shared: Arc<Shared>,
}

/// Counts a request whose handler waits, and that it was cancelled if it is dropped before its response.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) owner: Owner,
    pub(crate) answered: bool,
}

impl InFlight {
    pub(crate) fn new(owner: Owner) -> Self {
        owner.record.answers().wait_begins();
        Self {
            owner,
            answered: false,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.owner.record.answers().wait_ends();
        if !self.answered {
            self.owner.shared.totals.count_cancelled();
        }
    }
}

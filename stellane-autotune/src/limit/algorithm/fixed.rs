use std::time::Duration;

use super::{Algorithm, Next, Window, WindowSize};

/// A limit that never changes: what the others are compared with.
#[derive(Debug, Clone)]
pub struct Fixed {
    limit: u32,
}

impl Fixed {
    /// A limit of `limit`, at least 1.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: limit.max(1),
        }
    }
}

impl Algorithm for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn initial(&self) -> u32 {
        self.limit
    }

    fn window(&self, _limit: u32) -> WindowSize {
        WindowSize {
            duration: Duration::from_secs(1),
            samples: 0,
            patience: Duration::MAX,
        }
    }

    fn on_window(&mut self, _window: &Window<'_>) -> Next {
        Next::at_once(self.limit)
    }

    fn set_range(&mut self, min: u32, max: u32) {
        self.limit = self.limit.clamp(min.max(1), max.max(min).max(1));
    }
}

use tower_layer::Layer;

use super::{SlowPollService, SlowPolls};

/// Measures the polls of every response future; see the [module docs](crate::profiling) for an example.
///
/// Two clock readings for each poll; a lock only after a slow one.
///
/// ```
/// use std::time::Duration;
///
/// use stellane_core::profiling::{SlowPollLayer, SlowPolls};
///
/// let polls = SlowPolls::new(Duration::from_millis(10));
/// let app = axum::Router::<()>::new().layer(SlowPollLayer::new(polls));
/// # let _ = app;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct SlowPollLayer {
    polls: SlowPolls,
}

impl SlowPollLayer {
    /// Reports to `polls`.
    pub fn new(polls: SlowPolls) -> Self {
        Self { polls }
    }
}

impl<S> Layer<S> for SlowPollLayer {
    type Service = SlowPollService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SlowPollService {
            inner,
            polls: self.polls.clone(),
        }
    }
}

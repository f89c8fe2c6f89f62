use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the machine under a service says of itself: how many tasks are ready to run for each that can run.
///
/// Below 0.5 it has next to nothing to do, at 1 every core has just enough, and from about 2.5 on work queues here,
/// whatever the latency of requests says. A limit that is given one, by
/// [`AdaptiveLimitBuilder::local_signal`](super::AdaptiveLimitBuilder::local_signal), knows within milliseconds that
/// the service is full, and that it is not while requests wait for something else.
///
/// A cheap clone; all clones are the same signal. Whoever knows [reports](Self::report) some hundred times a second.
///
/// ```
/// use stellane_autotune::LocalSignal;
///
/// let signal = LocalSignal::new();
/// assert_eq!(signal.tasks_per_core(), None);
/// signal.report(3.0);
/// assert_eq!(signal.tasks_per_core(), Some(3.0));
/// ```
#[derive(Debug, Clone)]
pub struct LocalSignal(Arc<AtomicU64>);

impl LocalSignal {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(f64::NAN.to_bits())))
    }

    /// How many tasks are ready to run for each that can run. NaN: it is no longer known.
    pub fn report(&self, tasks_per_core: f64) {
        self.0.store(tasks_per_core.to_bits(), Ordering::Relaxed);
    }

    /// The latest report.
    #[must_use]
    pub fn tasks_per_core(&self) -> Option<f64> {
        let tasks = f64::from_bits(self.0.load(Ordering::Relaxed));
        (!tasks.is_nan()).then_some(tasks)
    }
}

impl Default for LocalSignal {
    fn default() -> Self {
        Self::new()
    }
}

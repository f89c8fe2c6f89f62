use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Time in nanoseconds since the pool was built; never zero, so that zero can mean "not running".
#[derive(Debug, Clone)]
pub(super) struct Clock {
    epoch: Instant,
    /// Set when time is a test's.
    virtual_nanos: Option<Arc<AtomicU64>>,
}

impl Clock {
    pub(super) fn system() -> Self {
        Self {
            epoch: Instant::now(),
            virtual_nanos: None,
        }
    }

    #[cfg(feature = "sim")]
    pub(super) fn simulated() -> (Self, Arc<AtomicU64>) {
        let nanos = Arc::new(AtomicU64::new(1));
        let clock = Self {
            epoch: Instant::now(),
            virtual_nanos: Some(Arc::clone(&nanos)),
        };
        (clock, nanos)
    }

    pub(super) const fn is_virtual(&self) -> bool {
        self.virtual_nanos.is_some()
    }

    pub(super) fn now(&self) -> u64 {
        match &self.virtual_nanos {
            None => nanos(self.epoch.elapsed()).max(1),
            Some(nanos) => nanos.load(Relaxed),
        }
    }

    pub(super) fn at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.epoch)).max(1)
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

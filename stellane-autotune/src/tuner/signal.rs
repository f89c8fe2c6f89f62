use std::{fmt, ops::RangeInclusive, sync::Arc};

/// A named reading that is sampled at every tick.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use stellane_autotune::Signal;
///
/// let depth = Arc::new(AtomicU64::new(0));
/// let signal = Signal::new("queue_depth", move || Some(depth.load(Ordering::Relaxed) as f64))
///     .range(0.0..=1e6);
/// assert_eq!(signal.name(), "queue_depth");
/// ```
#[derive(Clone)]
pub struct Signal {
    pub(super) spec: SignalSpec,
    pub(super) read: Arc<dyn Fn() -> Option<f64> + Send + Sync>,
}

/// What the tuner's core must know of a signal; the rest of it is how to read it.
#[derive(Debug, Clone)]
pub(super) struct SignalSpec {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) range: RangeInclusive<f64>,
    pub(super) is_counter: bool,
    pub(super) stuck_after: u32,
}

impl Signal {
    /// A gauge: `read` gives its value now, or `None` when there is none.
    pub fn new(
        name: impl Into<String>,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Self {
        let spec = SignalSpec {
            name: name.into(),
            unit: "",
            range: f64::MIN..=f64::MAX,
            is_counter: false,
            stuck_after: 0,
        };
        Self {
            spec,
            read: Arc::new(read),
        }
    }

    /// A counter: rules see how fast it grows, per second. One that goes back, or that does not
    /// move for ten ticks, is not believed.
    pub fn counter(
        name: impl Into<String>,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Self {
        let mut signal = Self::new(name, read);
        signal.spec.is_counter = true;
        signal.spec.stuck_after = 10;
        signal
    }

    /// The unit, for the sentences: `"ms"`, `" requests"`. Default: none.
    #[must_use]
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.spec.unit = unit;
        self
    }

    /// The values that are plausible; others are not believed. Default: every finite number.
    #[must_use]
    pub fn range(mut self, range: RangeInclusive<f64>) -> Self {
        self.spec.range = range;
        self
    }

    /// After so many equal readings in a row the signal is not believed any more; 0 turns this
    /// off. Default: off for a gauge, which may rightly stay where it is, and 10 for a counter.
    #[must_use]
    pub fn stuck_after(mut self, ticks: u32) -> Self {
        self.spec.stuck_after = ticks;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

/// Whether a signal can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum SignalHealth {
    /// It had no reading yet, or a counter had only one.
    #[default]
    Missing,
    /// It can.
    Good,
    /// NaN or infinite.
    NotFinite,
    /// Outside its plausible range.
    OutOfRange,
    /// Equal for too long.
    Stuck,
    /// A counter that went back: it was reset.
    Reset,
}

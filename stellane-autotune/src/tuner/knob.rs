use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

/// A named value that can be changed at run time.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use stellane_autotune::Knob;
///
/// let workers = Arc::new(AtomicU64::new(4));
/// let (get, set) = (workers.clone(), workers);
/// let knob = Knob::new(
///     "workers.max",
///     1.0..=64.0,
///     1.0,
///     move || get.load(Ordering::Relaxed) as f64,
///     move |value| set.store(value as u64, Ordering::Relaxed),
/// );
/// assert_eq!(knob.name(), "workers.max");
/// ```
#[derive(Clone)]
pub struct Knob {
    pub(super) spec: KnobSpec,
    pub(super) get: Arc<dyn Fn() -> f64 + Send + Sync>,
    pub(super) set: Arc<dyn Fn(f64) -> Result<(), String> + Send + Sync>,
}

/// What the tuner's core must know of a knob; the rest of it is how to turn it.
#[derive(Debug, Clone)]
pub(super) struct KnobSpec {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) step: f64,
    pub(super) cooldown: Option<Duration>,
    pub(super) pinned: bool,
    /// The knob that it is never below, and that it is never above.
    pub(super) at_least: Option<String>,
    pub(super) at_most: Option<String>,
}

impl Knob {
    /// A knob that stays within `range` and moves in multiples of `step`. `set` returns `()` or a
    /// `Result` whose error is shown.
    pub fn new<R: SetResult>(
        name: impl Into<String>,
        range: RangeInclusive<f64>,
        step: f64,
        get: impl Fn() -> f64 + Send + Sync + 'static,
        set: impl Fn(f64) -> R + Send + Sync + 'static,
    ) -> Self {
        let spec = KnobSpec {
            name: name.into(),
            unit: "",
            min: *range.start(),
            max: *range.end(),
            step,
            cooldown: None,
            pinned: false,
            at_least: None,
            at_most: None,
        };
        Self {
            spec,
            get: Arc::new(get),
            set: Arc::new(move |value| set(value).into_result()),
        }
    }

    /// The unit, for the sentences: `"s"`, `" workers"`. Default: none.
    #[must_use]
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.spec.unit = unit;
        self
    }

    /// The shortest time between two changes. Default: that of the tuner.
    #[must_use]
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.spec.cooldown = Some(cooldown);
        self
    }

    /// Starts pinned: shown, never moved.
    #[must_use]
    pub fn pinned(mut self) -> Self {
        self.spec.pinned = true;
        self
    }

    /// Never goes below the value of this other knob: the most is no less than the least.
    #[must_use]
    pub fn at_least(mut self, knob: impl Into<String>) -> Self {
        self.spec.at_least = Some(knob.into());
        self
    }

    /// Never goes above the value of this other knob.
    #[must_use]
    pub fn at_most(mut self, knob: impl Into<String>) -> Self {
        self.spec.at_most = Some(knob.into());
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

impl fmt::Debug for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

/// What the setter of a [`Knob`] may return: nothing, or a `Result`.
pub trait SetResult {
    /// The error as a sentence.
    ///
    /// # Errors
    ///
    /// When the value could not be set.
    fn into_result(self) -> Result<(), String>;
}

impl SetResult for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> SetResult for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

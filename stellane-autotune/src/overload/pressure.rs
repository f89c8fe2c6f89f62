use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How much pressure the process is under, from 0 (none) to 1 (act at once): the highest of all
/// its sources, each scaled from where it begins to matter to where it must not go.
///
/// A cheap clone; reading the level is one atomic load. Somebody must call [`Pressure::refresh`],
/// a few times a second.
///
/// ```
/// use std::time::Duration;
/// use stellane_autotune::overload::Pressure;
///
/// let pressure = Pressure::builder().source("memory", 0.8, 0.95, || Some(0.875)).build();
/// pressure.refresh();
/// assert_eq!(pressure.level(), 0.5);
/// assert_eq!(pressure.scale(Duration::from_secs(60), 0.5), Duration::from_secs(45));
/// ```
#[derive(Clone)]
pub struct Pressure {
    shared: Arc<Shared>,
}

struct Shared {
    /// The bits of an `f64`.
    level: AtomicU64,
    sources: Vec<Source>,
}

struct Source {
    name: &'static str,
    low: f64,
    high: f64,
    read: Box<dyn Fn() -> Option<f64> + Send + Sync>,
}

impl Pressure {
    /// A builder without sources.
    #[must_use]
    pub fn builder() -> PressureBuilder {
        PressureBuilder {
            sources: Vec::new(),
        }
    }

    /// Reads all sources. A source that cannot be read adds no pressure.
    pub fn refresh(&self) -> f64 {
        let sources = self.shared.sources.iter();
        let level = sources.filter_map(Source::level).fold(0.0, f64::max);
        self.set_level(level);
        level
    }

    /// The level at the latest refresh.
    #[must_use]
    pub fn level(&self) -> f64 {
        f64::from_bits(self.shared.level.load(Ordering::Relaxed))
    }

    /// Sets the level by hand, until the next refresh.
    pub fn set_level(&self, level: f64) {
        let level = if level.is_nan() {
            0.0
        } else {
            level.clamp(0.0, 1.0)
        };
        self.shared.level.store(level.to_bits(), Ordering::Relaxed);
    }

    /// The level of each source now, for reports.
    #[must_use]
    pub fn sources(&self) -> Vec<(&'static str, Option<f64>)> {
        self.shared
            .sources
            .iter()
            .map(|source| (source.name, source.level()))
            .collect()
    }

    /// A timeout scaled by the level: all of it at 0, `pressed` of it at 1.
    #[must_use]
    pub fn scale(&self, timeout: Duration, pressed: f64) -> Duration {
        timeout.mul_f64((1.0 - self.level() * (1.0 - pressed)).clamp(0.0, 1.0))
    }
}

impl fmt::Debug for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pressure")
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

impl Source {
    fn level(&self) -> Option<f64> {
        let value = (self.read)().filter(|value| value.is_finite())?;
        let range = (self.high - self.low).max(f64::EPSILON);
        Some(((value - self.low) / range).clamp(0.0, 1.0))
    }
}

/// Builds a [`Pressure`].
pub struct PressureBuilder {
    sources: Vec<Source>,
}

impl PressureBuilder {
    /// A source: no pressure up to `low`, full pressure from `high`. See
    /// [`sources`](super::sources) for some.
    #[must_use]
    pub fn source(
        mut self,
        name: &'static str,
        low: f64,
        high: f64,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Self {
        self.sources.push(Source {
            name,
            low,
            high,
            read: Box::new(read),
        });
        self
    }

    /// Memory from 85 to 95 % of the tightest limit, memory stalls of a group near its limit from 1 to 10 % of the time,
    /// open files from 80 to 95 % of their limit: what Linux tells. Elsewhere these add no pressure.
    #[must_use]
    pub fn system(self) -> Self {
        self.source("memory", 0.85, 0.95, super::sources::memory)
            .source("memory_stall", 0.01, 0.10, super::sources::memory_stall)
            .source("open_files", 0.80, 0.95, super::sources::open_files)
    }

    /// Builds it, at level 0.
    #[must_use]
    pub fn build(self) -> Pressure {
        Pressure {
            shared: Arc::new(Shared {
                level: AtomicU64::new(0),
                sources: self.sources,
            }),
        }
    }
}

impl fmt::Debug for PressureBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.sources.iter().map(|source| source.name))
            .finish()
    }
}

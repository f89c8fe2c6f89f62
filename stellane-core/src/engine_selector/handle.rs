use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use stellane_router::RouteTable;

use super::{
    BreakerState, ConfigError, SelectorConfig,
    breaker::{Breaker, Permit},
};
use crate::of_threads::OfThreads;

/// Decides who answers; a cheap handle. See the [module docs](super).
///
/// ```
/// use stellane_core::engine_selector::EngineSelector;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let selector = EngineSelector::builder().route("/users/{id}").build()?;
/// assert_eq!(selector.stats().errors, 0);
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone)]
pub struct EngineSelector {
    pub(super) shared: Arc<Shared>,
    /// For attempts, which outlive the call: the references to each are counted by one thread.
    handles: Arc<OfThreads<Arc<Handle>>>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Handle(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SelectorConfig,
    pub(super) routes: RouteTable,
    pub(super) breaker: Breaker,
    timeout_millis: AtomicU64,
    counts: OfThreads<Counts>,
}

/// What one thread has decided.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counts {
    pub(super) accelerated: AtomicU64,
    pub(super) not_replayable: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) not_ready: AtomicU64,
    pub(super) declined: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) timeouts: AtomicU64,
}

/// What an [`EngineSelector`] has decided, about requests to accelerated routes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SelectorStats {
    /// Answered by the accelerated service.
    pub accelerated: u64,
    /// Sent to the native service at once, since they could not be sent again.
    pub not_replayable: u64,
    /// Answered by the native service because the breaker was open. For this and those below: refused with 503 if
    /// the fallback is off.
    pub open: u64,
    /// Because the accelerated service was not ready.
    pub not_ready: u64,
    /// Because it declined.
    pub declined: u64,
    /// Because it failed.
    pub errors: u64,
    /// Because it panicked.
    pub panics: u64,
    /// Because it took too long.
    pub timeouts: u64,
    /// The circuit breaker.
    pub breaker: BreakerState,
    /// How often the breaker has opened.
    pub breaker_opened: u64,
}

/// Builds an [`EngineSelector`].
#[derive(Debug, Default)]
#[must_use]
pub struct EngineSelectorBuilder {
    config: SelectorConfig,
}

impl EngineSelectorBuilder {
    /// The settings. Default: [`SelectorConfig::default`].
    pub fn config(mut self, config: SelectorConfig) -> Self {
        self.config = config;
        self
    }

    /// Adds a route to [`SelectorConfig::accelerated_routes`].
    pub fn route(mut self, template: &str) -> Self {
        self.config.accelerated_routes.push(template.to_owned());
        self
    }

    /// Builds the selector.
    ///
    /// # Errors
    /// Every setting that is out of range, or every route that is no template.
    pub fn build(self) -> Result<EngineSelector, BuildError> {
        self.config.validate().map_err(BuildError::Config)?;
        let routes = RouteTable::new(&self.config.accelerated_routes)
            .map_err(|report| BuildError::Routes(report.to_string()))?;
        Ok(EngineSelector {
            shared: Arc::new(Shared {
                routes,
                breaker: Breaker::new(&self.config),
                timeout_millis: AtomicU64::new(millis(self.config.timeout)),
                counts: OfThreads::default(),
                config: self.config,
            }),
            handles: Arc::default(),
        })
    }
}

impl EngineSelector {
    /// A builder with the default settings.
    pub fn builder() -> EngineSelectorBuilder {
        EngineSelectorBuilder::default()
    }

    /// What was decided so far.
    #[must_use]
    pub fn stats(&self) -> SelectorStats {
        let breaker = &self.shared.breaker;
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            let counts = &self.shared.counts;
            counts.sum(|counts| of(counts).load(Relaxed))
        };
        SelectorStats {
            accelerated: sum(|counts| &counts.accelerated),
            not_replayable: sum(|counts| &counts.not_replayable),
            open: sum(|counts| &counts.open),
            not_ready: sum(|counts| &counts.not_ready),
            declined: sum(|counts| &counts.declined),
            errors: sum(|counts| &counts.errors),
            panics: sum(|counts| &counts.panics),
            timeouts: sum(|counts| &counts.timeouts),
            breaker: breaker.state(),
            breaker_opened: breaker.opened(),
        }
    }

    /// Changes [`SelectorConfig::timeout`].
    pub fn set_timeout(&self, timeout: Duration) {
        let millis = millis(timeout);
        self.shared.timeout_millis.store(millis, Relaxed);
    }
}

impl Shared {
    pub(super) fn counts(&self) -> &Counts {
        self.counts.here(Counts::default)
    }

    pub(super) fn count(&self, cause: Cause) {
        let counts = self.counts();
        let count = match cause {
            Cause::Open => &counts.open,
            Cause::NotReady => &counts.not_ready,
            Cause::Declined => &counts.declined,
            Cause::Error => &counts.errors,
            Cause::Panic => &counts.panics,
            Cause::Timeout => &counts.timeouts,
        };
        count.fetch_add(1, Relaxed);
    }

    /// None is for ever.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let millis = self.timeout_millis.load(Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why the native service answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    Open,
    NotReady,
    Declined,
    Error,
    Panic,
    Timeout,
}

/// One try of the accelerated service; given up when it is dropped without an outcome.
#[derive(Debug)]
pub(super) struct Attempt {
    selector: Arc<Handle>,
    permit: Option<Permit>,
}

impl Attempt {
    /// None if the breaker is open.
    pub(super) fn begin(selector: &EngineSelector) -> Option<Self> {
        let permit = selector.shared.breaker.permit()?;
        let handle = || Arc::new(Handle(Arc::clone(&selector.shared)));
        Some(Self {
            selector: Arc::clone(selector.handles.here(handle)),
            permit: Some(permit),
        })
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.selector.0.timeout()
    }

    pub(super) fn succeed(mut self) {
        let shared = &self.selector.0;
        shared.counts().accelerated.fetch_add(1, Relaxed);
        if let Some(permit) = self.permit.take() {
            shared.breaker.record(&permit, true);
        }
    }

    pub(super) fn fail(mut self, cause: Cause) {
        self.selector.0.count(cause);
        let blameless = matches!(cause, Cause::Declined | Cause::NotReady | Cause::Open);
        if !blameless && let Some(permit) = self.permit.take() {
            self.selector.0.breaker.record(&permit, false);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.selector.0.breaker.forget(&permit);
        }
    }
}

/// The settings are wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Every setting that is out of range.
    Config(Vec<ConfigError>),
    /// Every route that is no template, or is there twice.
    Routes(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("engine selector: ")?;
        match self {
            Self::Config(errors) => {
                for (i, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if i > 0 { "; " } else { "" })?;
                }
                Ok(())
            }
            Self::Routes(report) => write!(f, "`accelerated_routes`: {report}"),
        }
    }
}

impl std::error::Error for BuildError {}

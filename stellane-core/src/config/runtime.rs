#[cfg(feature = "autotune")]
use std::collections::BTreeMap;
use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

#[cfg(feature = "tuner")]
use stellane_autotune::TunerConfig;
#[cfg(feature = "autotune")]
use stellane_autotune::{LimitConfig, overload::OverloadConfig};
#[cfg(feature = "metrics")]
use stellane_metrics::MetricsConfig;
#[cfg(feature = "pool")]
use stellane_pool::PoolConfig;
#[cfg(feature = "workers")]
use stellane_pool::WorkerPoolConfig;
#[cfg(feature = "router")]
use stellane_router::{InternerConfig, RouterConfig};

#[cfg(any(feature = "reload", all(feature = "admin", feature = "preset")))]
use super::source::Source;
use super::{
    AccessLogConfig, ConfigErrors, DevConfig, FleetConfig, HttpConfig, Loader, LogConfig, Problem,
    Profile, Secrets, ServerConfig, TraceConfig, secret,
};
#[cfg(feature = "connection")]
use crate::connection::ConnectionConfig;
#[cfg(feature = "engine")]
use crate::engine::EngineConfig;
#[cfg(feature = "engine-selector")]
use crate::engine_selector::SelectorConfig;
#[cfg(feature = "layers")]
use crate::{memory::MemoryConfig, strict_http1::StrictHttp1Config};

/// The configuration of the whole runtime: one section for each component.
///
/// ```
/// use std::time::Duration;
///
/// use stellane_core::RuntimeConfig;
///
/// let config = RuntimeConfig::default().with(|config| {
///     config.connection.idle_timeout = Duration::from_secs(30);
/// });
/// config.validate()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// Addresses, drain and the body limit of the preset.
    pub server: ServerConfig,
    /// Connections: their limits, deadlines and parking.
    #[cfg(feature = "connection")]
    pub connection: ConnectionConfig,
    /// Which HTTP/1 requests are refused as ambiguous or too large.
    #[cfg(feature = "layers")]
    pub strict_http1: StrictHttp1Config,
    /// Which engine runs the service: one runtime for all cores, or one for each.
    #[cfg(feature = "engine")]
    pub engine: EngineConfig,
    /// Accelerated routes, for a service that adds an `EngineSelectorLayer`.
    #[cfg(feature = "engine-selector")]
    pub selector: SelectorConfig,
    /// The worker pool for CPU-heavy work.
    #[cfg(feature = "workers")]
    pub workers: WorkerPoolConfig,
    /// How many bytes the bodies of requests and answers may hold.
    #[cfg(feature = "layers")]
    pub memory: MemoryConfig,
    /// Buffers and header maps that are used again.
    #[cfg(feature = "pool")]
    pub pool: PoolConfig,
    /// The bounded string interner; `max_bytes` of 0 turns it off.
    #[cfg(feature = "router")]
    pub interner: InternerConfig,
    /// The router. The application makes it, so this is for
    /// [`RouterBuilder::config`](stellane_router::RouterBuilder::config).
    #[cfg(feature = "router")]
    pub router: RouterConfig,
    /// Request metrics and the collector of all others.
    #[cfg(feature = "metrics")]
    pub metrics: MetricsConfig,
    /// The adaptive concurrency limit at the edge. In the preset a request waits for a place instead of
    /// being refused at once: `max_wait` is `500ms` and `max_waiters` is 1000.
    #[cfg(feature = "autotune")]
    pub limit: LimitConfig,
    /// Deadlines that requests bring along, and how far pressure shortens them.
    #[cfg(feature = "autotune")]
    pub overload: OverloadConfig,
    /// How often each client may ask: for each name a table, as [`RateLimits`](super::RateLimits) documents it. Default: none.
    #[cfg(feature = "autotune")]
    pub rate_limit: BTreeMap<String, super::RateLimits>,
    /// What replicas tell balancers and those whom they call. All off; needs the feature `fleet`.
    pub fleet: FleetConfig,
    /// The tuner that turns the knobs of the other sections.
    #[cfg(feature = "tuner")]
    pub tuner: TunerConfig,
    /// Layers of tower-http: request ids, CORS, compression and others, all off. They need the feature `http-layers`.
    pub http: HttpConfig,
    /// What is logged.
    pub log: LogConfig,
    /// A line for each request.
    pub access_log: AccessLogConfig,
    /// A span for each request, and a log of those that are slow.
    pub trace: TraceConfig,
    /// What helps while developing.
    pub dev: DevConfig,
    #[cfg(any(feature = "reload", all(feature = "admin", feature = "preset")))]
    #[serde(skip)]
    pub(super) source: Source<Self>,
}

#[cfg_attr(
    not(feature = "autotune"),
    expect(clippy::derivable_impls, reason = "the limit's defaults differ")
)]
impl Default for RuntimeConfig {
    fn default() -> Self {
        #[cfg(feature = "autotune")]
        let limit = {
            let mut limit = LimitConfig::default();
            limit.max_wait = Duration::from_millis(500);
            limit.max_waiters = 1000;
            limit
        };
        Self {
            server: ServerConfig::default(),
            #[cfg(feature = "connection")]
            connection: ConnectionConfig::default(),
            #[cfg(feature = "layers")]
            strict_http1: StrictHttp1Config::default(),
            #[cfg(feature = "engine")]
            engine: EngineConfig::default(),
            #[cfg(feature = "engine-selector")]
            selector: SelectorConfig::default(),
            #[cfg(feature = "workers")]
            workers: WorkerPoolConfig::default(),
            #[cfg(feature = "layers")]
            memory: MemoryConfig::default(),
            #[cfg(feature = "pool")]
            pool: PoolConfig::default(),
            #[cfg(feature = "router")]
            interner: InternerConfig::default(),
            #[cfg(feature = "router")]
            router: RouterConfig::default(),
            #[cfg(feature = "metrics")]
            metrics: MetricsConfig::default(),
            #[cfg(feature = "autotune")]
            limit,
            #[cfg(feature = "autotune")]
            overload: OverloadConfig::default(),
            #[cfg(feature = "autotune")]
            rate_limit: BTreeMap::new(),
            fleet: FleetConfig::default(),
            #[cfg(feature = "tuner")]
            tuner: TunerConfig::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
            access_log: AccessLogConfig::default(),
            trace: TraceConfig::default(),
            dev: DevConfig::default(),
            #[cfg(any(feature = "reload", all(feature = "admin", feature = "preset")))]
            source: Source::default(),
        }
    }
}

impl RuntimeConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The configuration of this process: see [`Loader::from_process`].
    ///
    /// # Errors
    /// Every mistake in the file and the environment, each with its place.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Loader::from_process().load()
    }

    /// The defaults of a profile.
    #[must_use]
    pub fn profile(profile: Profile) -> Self {
        match profile {
            Profile::Default => Self::default(),
            Profile::Production => Self::production(),
            Profile::Development => Self::development(),
        }
    }

    /// Defaults for a service under load, sized from the number of CPUs.
    #[must_use]
    pub fn production() -> Self {
        let mut config = Self::default();
        #[cfg(feature = "workers")]
        {
            let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            config.workers.min_workers = cpus * 2;
            config.workers.max_workers = cpus * 100;
            config.workers.queue_size = 50_000;
        }
        #[cfg(feature = "pool")]
        {
            config.pool.retain_percent = 50;
        }
        config.server.drain_delay = Duration::from_secs(5);
        config
    }

    /// Defaults for a developer's machine: everything is logged, and a restart does not wait long.
    #[must_use]
    pub fn development() -> Self {
        let mut config = Self::default();
        config.log.level = "debug".to_owned();
        config.dev.hot_reload = true;
        config.server.drain_timeout = Duration::from_secs(1);
        config
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Every value that is out of range or contradicts another.
    pub fn validate(&self) -> Result<(), ConfigErrors> {
        ConfigErrors::check(self.problems())
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.server.problems(&mut problems);
        self.log.problems(&mut problems);
        self.access_log.problems(&mut problems);
        self.trace.problems(&mut problems);
        self.dev.problems(&mut problems);
        self.fleet.problems(&mut problems);
        problems.extend(self.http.problems());
        // Each component checks its own section; here its keys get their full names.
        macro_rules! section {
            ($feature:literal, $name:ident) => {
                #[cfg(feature = $feature)]
                for error in self.$name.validate().err().into_iter().flatten() {
                    let key = concat!(stringify!($name), ".").to_owned() + error.key;
                    let message = format!(
                        "{} is out of range: expected {}",
                        error.value, error.expected
                    );
                    problems.push(Problem::new(super::Origin::Program, &key, message));
                }
            };
        }
        section!("connection", connection);
        section!("layers", strict_http1);
        section!("engine", engine);
        section!("engine-selector", selector);
        section!("workers", workers);
        section!("layers", memory);
        section!("pool", pool);
        section!("router", interner);
        section!("router", router);
        section!("metrics", metrics);
        section!("autotune", limit);
        section!("autotune", overload);
        #[cfg(feature = "autotune")]
        for (name, rate) in &self.rate_limit {
            rate.problems(name, &mut problems);
        }
        section!("tuner", tuner);
        problems
    }
}

/// As TOML, without what is [secret](Secrets).
impl fmt::Display for RuntimeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        secret::shown(self, &Secrets::default()).fmt(f)
    }
}

/// Without what is [secret](Secrets).
impl fmt::Debug for RuntimeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        secret::debug("RuntimeConfig", self, f)
    }
}

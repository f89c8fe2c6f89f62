//! One configuration for the whole runtime: defaults, profiles, a TOML file and the environment.
//!
//! A value is looked up in this order, the first that has it wins:
//!
//! 1. a setter called on [`RuntimeConfig`] by the program,
//! 2. the environment: `STELLANE__SECTION__KEY`, for example `STELLANE__CONNECTION__IDLE_TIMEOUT=30s`,
//! 3. the TOML file (`STELLANE_CONFIG`, or the path given to [`Loader::file`]),
//! 4. the profile: `STELLANE_ENV=production` or `development`,
//! 5. the defaults.
//!
//! Durations are written as humans write them (`"30s"`, `"5m"`); keys that end in `_bytes` accept a
//! number or a size (`"64KiB"`). Every mistake is reported, not only the first: an unknown key, a wrong
//! type or a value out of range is named with its place, the value and what would be valid.
//!
//! ```
//! use stellane_core::config::Loader;
//!
//! let config = Loader::new()
//!     .text("stellane.toml", "[server]\nmax_body_bytes = \"1MiB\"")
//!     .env([("STELLANE__SERVER__DRAIN_TIMEOUT", "5s")])
//!     .load()?;
//! assert_eq!(config.server.max_body_bytes, 1 << 20);
//!
//! let errors = Loader::new().text("stellane.toml", "[server]\nmax_body_byte = 1").load().unwrap_err();
//! assert!(errors.to_string().contains("did you mean `max_body_bytes`?"));
//! # Ok::<(), stellane_core::config::ConfigErrors>(())
//! ```
//!
//! # From the environment of the Go prototype
//!
//! | there | here |
//! |---|---|
//! | `min_workers`, `max_workers`, `queue_size` | `workers.min_workers`, `workers.max_workers`, `workers.queue_size` |
//! | `max_idle_conns`, `idle_timeout` | `connection.max_idle_connections`, `connection.idle_timeout` |
//! | `read_timeout` | `connection.head_timeout` (and `connection.first_byte_timeout` before it) |
//! | `write_timeout` | `connection.write_timeout` |
//! | `request_pool_size`, `response_pool_size` | `pool.request_pool_size`, `pool.response_pool_size` |
//! | `enable_string_interner` | by use: a service that wants one adds the router's `InternLayer` |
//! | `gc_percent` | `pool.retain_percent`: how much idle memory may stay |
//! | `disable_gc_percent` | `pool.trim_interval = "0s"` |
//! | `DisableLogging` | `log.level = "off"` |
//! | `EnableMetrics`, `EnableTracing` | `server.admin_address` (empty is off), `log.level` |
//! | `STELLANE_ENV` | the same |
//! | `STELLANE_LOG_LEVEL` | the same, or `log.level` |
//! | `STELLANE_HOT_RELOAD` | the same, or `dev.hot_reload` |
//! | `STELLANE_PROFILE_CPU`, `_MEM`, `_BLOCK` | the same, or `dev.profile_cpu`, `dev.profile_mem`, `dev.profile_block` |

mod access_log;
mod dev;
mod env;
mod error;
mod file;
mod fleet;
mod http;
#[cfg(feature = "reload")]
mod live;
mod load;
mod loader;
mod log;
#[cfg(all(feature = "admin", feature = "preset"))]
pub(crate) mod places;
#[cfg(feature = "autotune")]
mod rate_limit;
#[cfg(feature = "reload")]
mod reload;
mod runtime;
mod schema;
pub(crate) mod secret;
mod server;
#[cfg(any(feature = "reload", all(feature = "admin", feature = "preset")))]
mod source;
mod trace;

/// Every key with its default and its meaning, as a TOML file: what `stellane config --default` prints.
pub const REFERENCE: &str = include_str!("reference.toml");

#[cfg(feature = "reload")]
pub use self::live::{LiveTargets, live_keys};
#[cfg(feature = "autotune")]
pub use self::rate_limit::RateLimits;
#[cfg(all(feature = "preset", feature = "reload", feature = "restart", unix))]
pub(crate) use self::reload::Asked;
#[cfg(feature = "reload")]
pub use self::reload::{ConfigWatcher, KeyChange, Reload, ReloadStats};
#[cfg(feature = "preset")]
pub(crate) use self::server::is_address;
pub use self::{
    access_log::{AccessLogConfig, AccessLogField, AccessLogOutput},
    dev::DevConfig,
    env::Profile,
    error::{ConfigErrors, Origin, Problem},
    fleet::{FleetConfig, LoadReporting},
    http::{
        CompressionConfig, CorsConfig, CsrfConfig, HstsConfig, HttpConfig, RequestIdConfig,
        SecurityHeadersConfig,
    },
    loader::Loader,
    log::{LogConfig, LogFormat},
    runtime::RuntimeConfig,
    secret::Secrets,
    server::{DrainClass, ListenAddress, ListenTls, RouteLimits, ServerConfig, WhenDisconnected},
    trace::TraceConfig,
};

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

mod dev;
mod env;
mod error;
mod loader;
mod log;
#[cfg(feature = "reload")]
mod reload;
mod runtime;
mod schema;
mod server;

/// Every key with its default and its meaning, as a TOML file: what `stellane config --default` prints.
pub const REFERENCE: &str = include_str!("reference.toml");

#[cfg(feature = "reload")]
pub use self::reload::{ConfigWatcher, KeyChange, LIVE_KEYS, Reload, ReloadStats};
#[cfg(feature = "full")]
pub(crate) use self::server::is_socket_address;
pub use self::{
    dev::DevConfig,
    env::Profile,
    error::{ConfigErrors, Origin, Problem},
    loader::Loader,
    log::{LogConfig, LogFormat},
    runtime::RuntimeConfig,
    server::ServerConfig,
};

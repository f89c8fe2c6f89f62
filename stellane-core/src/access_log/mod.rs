//! A line for each request: [`AccessLogLayer`].
//!
//! One line when a request has ended, in whatever way: answered, refused, failed, or left by its client. It is given to a
//! [`LogWriter`](crate::logging::LogWriter), which never waits for whoever reads it; what clients have sent is escaped and
//! [cut](crate::config::AccessLogConfig::max_value_bytes). A [`Runtime`](crate::Runtime) has it outside of all else by the
//! section `[access_log]` of its configuration. It works in any tower stack:
//!
//! ```
//! use axum::{Router, routing::get};
//! use stellane_core::{access_log::AccessLogLayer, config::AccessLogConfig, logging::LogWriter};
//!
//! let writer = LogWriter::new(std::io::stdout(), |lost| format!("{lost} lines lost"))?;
//! let log = AccessLogLayer::new(&AccessLogConfig::default(), writer);
//! let app: Router = Router::new().route("/", get(async || "hello")).layer(log);
//! # let _ = app;
//! # Ok::<_, std::io::Error>(())
//! ```
//!
//! ```json
//! {"time":"2026-11-29T03:14:07.123Z","peer":"10.1.2.3:51234","method":"GET","route":"/users/{id}","path":"/users/7","version":"1.1","status":200,"response_bytes":13,"head_seconds":0.000041,"duration_seconds":0.000047,"end":"complete","user_agent":"curl/8.5.0"}
//! ```
//!
//! The route is known inside of a [`PresetLayer`](crate::PresetLayer) that this stands around, and inside of a
//! `MetricsLayer`.

mod body;
mod entry;
mod future;
mod layer;
mod line;
mod log;
mod notes;
mod service;

pub use body::AccessLogBody;
pub use future::AccessLogFuture;
pub use layer::AccessLogLayer;
#[cfg(feature = "preset")]
pub(crate) use notes::{Notes, is_noting, note};
pub use service::AccessLogService;

//! [`ConnectionManager`]: serves any tower service over HTTP/1 and HTTP/2, and owns every connection
//! from its accept to its typed end.
//!
//! - **Idle connections cost a socket and a small task.** hyper holds 16 KiB for an HTTP/1 connection
//!   for its whole life. The manager takes an idle one apart and puts it together again when bytes
//!   arrive; one that has not sent a byte yet is held the same way. See [`ConnectionConfig::park_after`].
//! - **Every wait has an end**: first byte, head, idle, body and response progress, age. The deadlines
//!   come from one sweep for all connections: no timer for a connection, none for a request.
//! - **Every connection ends with one [`CloseReason`]**, counted in [`ConnectionStats`].
//! - **A drain loses nothing**: accepting stops, responses say `Connection: close`, idle connections get
//!   a moment to be used once more, and what is left at the deadline is aborted and counted.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use http::{Request, Response};
//! use hyper::body::Incoming;
//! use stellane_core::connection::{ConnectionConfig, ConnectionManager};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let mut config = ConnectionConfig::default();
//! config.idle_timeout = Duration::from_secs(15);
//! let manager = ConnectionManager::builder().config(config).build()?;
//! let hello = tower::service_fn(|_: Request<Incoming>| async {
//!     Ok::<_, Infallible>(Response::new("hello".to_owned()))
//! });
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let serving = tokio::spawn(manager.serve(listener, hello));
//! // … and on a signal:
//! let report = manager.drain(Duration::from_secs(10)).await;
//! assert_eq!(report.aborted, 0);
//! serving.await??;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # What parking relies on
//!
//! hyper calls the `Timer` of its header timeout exactly when it begins to wait for a request head, and
//! drops that timer when the head is there. The manager installs a timer of its own that never fires
//! and so learns, through public API only, that a connection is between messages. A test
//! (`tests/connection_basics.rs`) fails loudly should hyper ever change that.

mod accept;
mod config;
mod entry;
mod framing;
#[cfg(feature = "http2")]
mod http2;
mod io;
mod listener;
mod lot;
mod manager;
#[cfg(feature = "proxy-protocol")]
mod proxy;
mod reason;
mod service;
mod signal;
mod stats;
mod sweep;
mod table;
mod task;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "http2")]
pub use self::http2::Http2Config;
#[cfg(feature = "proxy-protocol")]
pub use self::proxy::{ProxyProtocol, ProxyProtocolConfig};
#[cfg(feature = "tls")]
pub use self::tls::{TlsAcceptor, TlsConfig, TlsError};
pub use self::{
    config::{ConfigError, ConnectionConfig},
    entry::{ConnectionInfo, ConnectionState},
    listener::{ListenConfig, Listener, WhenFull},
    manager::{ConnectionManager, ConnectionManagerBuilder},
    reason::CloseReason,
    service::HttpService,
    stats::{BuildError, ConnectionStats, DrainReport, ServeError},
};

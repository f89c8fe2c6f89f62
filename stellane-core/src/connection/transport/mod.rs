//! Sockets, listeners, TLS and the PROXY header: what carries bytes, and knows no connection.

pub(crate) mod listener;
pub(crate) mod parked;
pub(crate) mod proxy_protocol;
pub(crate) mod socket;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(unix)]
pub(crate) mod watched;

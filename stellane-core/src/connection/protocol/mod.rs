//! What drives one connection from its first byte to its last.

mod abandoned;
pub(crate) mod adapter;
pub(crate) mod builders;
pub(crate) mod connect_info;
pub(crate) mod farewell;
pub(crate) mod http1;
#[cfg(feature = "http2")]
pub(crate) mod http2;
mod in_flight;
pub(crate) mod io;
pub(crate) mod lots;
pub(crate) mod open_body;
pub(crate) mod persistence;
pub(crate) mod scope;
pub(crate) mod service_source;
mod slot;
pub(crate) mod task;
pub(crate) mod terms;
pub(crate) mod upgraded;

//! What a service does for `stellane dev`: it takes over the listening socket, and open pages reload
//! when it restarts.
//!
//! ```
//! use stellane_core::hot_reload::{self, LiveReloadLayer};
//!
//! # fn main() -> std::io::Result<()> {
//! let listener = match hot_reload::inherited_listener()? {
//!     Some(listener) => listener,
//!     None => std::net::TcpListener::bind("127.0.0.1:0")?,
//! };
//! let pages = axum::Router::<()>::new().layer(LiveReloadLayer::new());
//! # let _ = (listener, pages);
//! # Ok(())
//! # }
//! ```
//!
//! The layer appends a script of one line to every `text/html` response that is not compressed, so it
//! belongs inside of a compression layer; it changes nothing else. The script asks `/__stellane/live`
//! twice a second which process answers, and loads the page again when it is another one. It is meant
//! for development: [`LiveReloadLayer::enabled`] turns it off without changing the type.

use std::{io, net::TcpListener};

mod body;
mod future;
mod layer;
mod service;

pub use self::{
    body::LiveReloadBody, future::LiveReloadFuture, layer::LiveReloadLayer,
    service::LiveReloadService,
};

/// The path at which a process says who it is.
pub const LIVE_PATH: &str = "/__stellane/live";

/// What is appended to pages: it loads a page again when another process answers than the one that sent it.
pub const SCRIPT: &str = "<script>(()=>{let id;setInterval(async()=>{try{\
    const r=await fetch('/__stellane/live',{cache:'no-store'});const now=await r.text();\
    if(id&&now!==id)location.reload();id=now}catch{}},500)})()</script>";

/// The listening socket that the parent process handed over by the protocol of systemd
/// (`LISTEN_FDS`), as `stellane dev`, systemd and `systemfd` do; `None` if there is none.
///
/// Nonblocking, ready for `tokio::net::TcpListener::from_std`. The second call finds nothing.
///
/// # Errors
/// What was handed over is not a TCP listener.
pub fn inherited_listener() -> io::Result<Option<TcpListener>> {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true)?;
    }
    Ok(listener)
}

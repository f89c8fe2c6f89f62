//! A new process takes over, and no request is lost: for new binaries and for settings that need a restart.
//!
//! [`Restart::hand_over`] starts the program again with the listening sockets of this process (by the protocol of
//! systemd: `LISTEN_FDS`), and waits until the new process says that it is [`ready`]. From then on both accept from the same
//! queues, and this process drains and ends. A connection that waits in a queue stays there, whoever closes the
//! socket. Should the new process fail to become ready, it is ended, and this one goes on as if nothing had been.
//!
//! The preset does all of it on `SIGUSR2`: `kill -USR2 PID`. Under systemd (`Type=notify`, `NotifyAccess=all`) it
//! also learns the number of the new process. The first process of a container refuses: see [`RestartError::First`].
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use stellane_core::{connection::Listener, restart::{self, Restart}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut listeners = Listener::inherited()?;
//! if listeners.is_empty() {
//!     listeners.push(tokio::net::TcpListener::bind("127.0.0.1:3000").await?.into());
//! }
//! let restart = Restart::from_process()?.with_listeners("http", &listeners)?;
//! // … serve, and when the first request can be answered:
//! restart::ready()?;
//! // … on a signal:
//! let successor = restart.hand_over(Duration::from_secs(30)).await?;
//! println!("process {successor} has taken over");
//! // … drain and end.
//! # Ok(())
//! # }
//! ```
//!
//! # What is not handed over
//!
//! Connections that are open stay with this process until their next response, which says `Connection: close`; HTTP/2 clients
//! are told by `GOAWAY`. Streams and upgraded connections have until the drain's deadline.

mod error;
mod notify;
mod process;
mod ready;

pub use self::{
    error::RestartError,
    process::Restart,
    ready::{names, ready},
};
#[cfg(feature = "preset")]
pub(crate) use self::{notify::notify, ready::is_successor};

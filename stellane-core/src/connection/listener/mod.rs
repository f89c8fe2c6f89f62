//! Where connections come from.

mod balance;
mod bind;
mod config;
mod detached;
mod rate;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use self::balance::Balance;
pub(super) use self::{balance::Seat, rate::Pace};
pub use self::{
    config::{ListenConfig, WhenFull},
    detached::DetachedListener,
};
use super::{io::Socket, simple::refusal::Early};

/// Where connections come from: a TCP or a Unix socket that listens.
///
/// Made from one of tokio's, by [`bind`](Self::bind) with the options of a [`ListenConfig`], or taken over from
/// the process that started this one (systemd and others) by `inherited`.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    balance: Option<Arc<Balance>>,
    #[cfg(feature = "tls")]
    tls: Option<super::TlsAcceptor>,
    pub(super) early: Early,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Listens on `HOST:PORT`, or on `unix:PATH`.
    ///
    /// A file that an ended process left at `PATH` is replaced; one that is still listened on is not.
    ///
    /// # Errors
    /// The address can't be resolved or listened on.
    pub async fn bind(address: &str, config: &ListenConfig) -> io::Result<Self> {
        bind::bind(address, config).await
    }

    /// Listens on the same address with [`ListenConfig::sockets`] sockets.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_all(address: &str, config: &ListenConfig) -> io::Result<Vec<Self>> {
        bind::bind_all(address, config).await
    }

    /// Every listening socket that the parent process handed over by the protocol of systemd
    /// (`LISTEN_FDS`); none if there are none. A second call finds nothing.
    ///
    /// # Errors
    /// What was handed over is neither a TCP nor a Unix socket that listens.
    #[cfg(feature = "listenfd")]
    pub fn inherited() -> io::Result<Vec<Self>> {
        bind::inherited()
    }

    /// Speaks TLS with whoever connects by TCP; Unix sockets stay as they are.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, acceptor: &super::TlsAcceptor) -> Self {
        self.tls = Some(acceptor.clone());
        self
    }

    /// The address, for TCP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Kind::Unix(_) => None,
        }
    }

    /// What is served here refuses some requests before it is called.
    #[cfg(feature = "full")]
    pub(crate) fn refuse_early(mut self, early: &Early) -> Self {
        self.early = early.clone();
        self
    }

    #[cfg(feature = "tls")]
    pub(super) fn acceptor(&self) -> Option<super::TlsAcceptor> {
        self.tls.clone()
    }

    /// The place among the loops that accept from the same socket, if there are others.
    pub(super) fn join(&mut self, group: u16) -> Option<Seat> {
        Some(self.balance.take()?.join(group))
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                Ok((Socket::Tcp(socket), Some(peer)))
            }
            #[cfg(unix)]
            Kind::Unix(listener) => {
                let (socket, _) = listener.accept().await?;
                Ok((Socket::Unix(socket), None))
            }
        }
    }

    /// Sets `TCP_NODELAY` for all connections to come, where they inherit it: one call less for each.
    /// False if each has to be told.
    pub(super) fn set_nodelay(&self) -> bool {
        match &self.kind {
            Kind::Tcp(listener) => {
                cfg!(target_os = "linux")
                    && socket2::SockRef::from(listener)
                        .set_tcp_nodelay(true)
                        .is_ok()
            }
            #[cfg(unix)]
            Kind::Unix(_) => true,
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            kind: Kind::Tcp(listener),
            balance: None,
            #[cfg(feature = "tls")]
            tls: None,
            early: Early::default(),
        }
    }
}

#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self {
            kind: Kind::Unix(listener),
            balance: None,
            #[cfg(feature = "tls")]
            tls: None,
            early: Early::default(),
        }
    }
}

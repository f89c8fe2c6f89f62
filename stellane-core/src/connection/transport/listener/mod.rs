//! Where connections come from.

pub(crate) mod balance;
mod bind;
pub(crate) mod detached;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::connection::{
    early::Early,
    transport::{
        listener::balance::{LoopBalance, LoopHandle},
        socket::Socket,
    },
};

/// Where connections come from: a TCP or a Unix socket that listens.
///
/// Made from one of tokio's, by [`bind`](Self::bind) with the options of a
/// [`ListenConfig`](crate::connection::ListenConfig), or taken over from
/// the process that started this one (systemd and others) by `inherited`.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    balance: Option<Arc<LoopBalance>>,
    #[cfg(feature = "tls")]
    tls: Option<crate::connection::transport::tls::TlsAcceptor>,
    early: Early,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Speaks TLS with whoever connects by TCP; Unix sockets stay as they are.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, acceptor: &crate::connection::transport::tls::TlsAcceptor) -> Self {
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

    /// The path of a Unix socket.
    #[cfg(feature = "preset")]
    pub(crate) fn path(&self) -> Option<std::path::PathBuf> {
        match &self.kind {
            Kind::Tcp(_) => None,
            #[cfg(unix)]
            Kind::Unix(listener) => Some(listener.local_addr().ok()?.as_pathname()?.to_owned()),
        }
    }

    /// What is served here refuses some requests before it is called.
    #[cfg(feature = "preset")]
    pub(crate) fn refuse_early(mut self, early: &Early) -> Self {
        self.early = early.clone();
        self
    }

    pub(crate) fn early(&self) -> Early {
        self.early.clone()
    }

    #[cfg(feature = "tls")]
    pub(crate) fn acceptor(&self) -> Option<crate::connection::transport::tls::TlsAcceptor> {
        self.tls.clone()
    }

    /// Whether TLS is spoken on it.
    #[cfg(feature = "preset")]
    pub(crate) fn speaks_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The place among the loops that accept from the same socket, if there are others.
    pub(crate) fn join(&mut self, group: u16) -> Option<LoopHandle> {
        Some(self.balance.take()?.join(group))
    }

    pub(crate) async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
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
    pub(crate) fn set_nodelay(&self) -> bool {
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

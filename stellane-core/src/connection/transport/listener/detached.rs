use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use crate::connection::{
    early::Early,
    transport::listener::{Kind, Listener, balance::LoopBalance},
};

/// A [`Listener`] that belongs to no runtime: to be moved to another thread's runtime, to be shared by
/// several, or to be handed over to another process.
///
/// Connections that wait in its queue stay there.
#[derive(Debug)]
pub struct DetachedListener {
    kind: Detached,
    balance: OnceLock<Arc<LoopBalance>>,
    #[cfg(feature = "tls")]
    tls: Option<crate::connection::transport::tls::TlsAcceptor>,
    early: Early,
}

#[derive(Debug)]
enum Detached {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Takes it off the runtime on which it was made.
    ///
    /// # Errors
    /// The runtime can't give it back.
    pub fn detach(self) -> io::Result<DetachedListener> {
        let kind = match self.kind {
            Kind::Tcp(listener) => Detached::Tcp(listener.into_std()?),
            #[cfg(unix)]
            Kind::Unix(listener) => Detached::Unix(listener.into_std()?),
        };
        Ok(DetachedListener {
            kind,
            balance: self.balance.map(OnceLock::from).unwrap_or_default(),
            #[cfg(feature = "tls")]
            tls: self.tls,
            early: self.early,
        })
    }
}

impl DetachedListener {
    /// Puts it on the runtime of the caller.
    ///
    /// # Errors
    /// The runtime can't take it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn attach(self) -> io::Result<Listener> {
        let kind = match self.kind {
            Detached::Tcp(listener) => Kind::Tcp(tokio::net::TcpListener::from_std(listener)?),
            #[cfg(unix)]
            Detached::Unix(listener) => Kind::Unix(tokio::net::UnixListener::from_std(listener)?),
        };
        Ok(Listener {
            kind,
            balance: self.balance.into_inner(),
            #[cfg(feature = "tls")]
            tls: self.tls,
            early: self.early,
        })
    }

    /// A second handle of the same socket: both accept from one queue, and each gives a new TCP connection to
    /// the one that has fewer, if it has clearly more itself.
    ///
    /// # Errors
    /// There are no more open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let kind = match &self.kind {
            Detached::Tcp(listener) => Detached::Tcp(listener.try_clone()?),
            #[cfg(unix)]
            Detached::Unix(listener) => Detached::Unix(listener.try_clone()?),
        };
        let balance = Arc::clone(self.balance.get_or_init(Arc::default));
        Ok(Self {
            kind,
            balance: balance.into(),
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            early: self.early.clone(),
        })
    }

    /// The address, for TCP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Detached::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Detached::Unix(_) => None,
        }
    }
}

impl From<std::net::TcpListener> for DetachedListener {
    /// The socket must be nonblocking.
    fn from(listener: std::net::TcpListener) -> Self {
        Self {
            kind: Detached::Tcp(listener),
            balance: OnceLock::new(),
            #[cfg(feature = "tls")]
            tls: None,
            early: Early::default(),
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for DetachedListener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match &self.kind {
            Detached::Tcp(listener) => listener.as_fd(),
            Detached::Unix(listener) => listener.as_fd(),
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(listener) => listener.as_fd(),
            Kind::Unix(listener) => listener.as_fd(),
        }
    }
}

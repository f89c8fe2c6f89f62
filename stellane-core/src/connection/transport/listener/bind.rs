use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

use crate::connection::{config::listen::ListenConfig, transport::listener::Listener};

impl Listener {
    /// Listens on `HOST:PORT`, on `:PORT` of all addresses of the machine, or on `unix:PATH`.
    ///
    /// A file that an ended process left at `PATH` is replaced; one that is still listened on is not.
    ///
    /// # Errors
    /// The address can't be resolved or listened on.
    pub async fn bind(address: &str, config: &ListenConfig) -> io::Result<Self> {
        bind(address, config).await
    }

    /// Listens on the same address with [`ListenConfig::sockets`] sockets.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_all(address: &str, config: &ListenConfig) -> io::Result<Vec<Self>> {
        bind_all(address, config).await
    }

    /// Whether it is what [`bind`](Self::bind) makes of this address.
    #[cfg(feature = "preset")]
    pub(crate) async fn is_at(&self, address: &str) -> bool {
        match (address.strip_prefix("unix:"), self.local_addr()) {
            (Some(path), None) => self
                .path()
                .is_some_and(|at| at == std::path::Path::new(path)),
            (None, Some(local)) => {
                let configured = candidates(address).await.unwrap_or_default();
                let is_it = |at: &SocketAddr| {
                    at.ip() == local.ip() && (at.port() == 0 || at.port() == local.port())
                };
                configured.iter().any(is_it)
            }
            _ => false,
        }
    }

    /// Every listening socket that the parent process handed over by the protocol of systemd
    /// (`LISTEN_FDS`); none if there are none. A second call finds nothing.
    ///
    /// # Errors
    /// What was handed over is neither a TCP nor a Unix socket that listens.
    pub fn inherited() -> io::Result<Vec<Self>> {
        inherited()
    }
}

async fn bind(name: &str, config: &ListenConfig) -> io::Result<Listener> {
    #[cfg(unix)]
    if let Some(path) = name.strip_prefix("unix:") {
        return unix(path.as_ref(), config).await;
    }
    #[cfg(not(unix))]
    if name.starts_with("unix:") {
        let why = "there are no Unix sockets on this system";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let mut failure = None;
    for address in candidates(name).await? {
        match tcp(address, config) {
            Ok(listener) => return Ok(listener.into()),
            // Of the two for all addresses the second is for machines without IPv6.
            Err(error) if name.starts_with(':') && error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error);
            }
            Err(error) => failure = Some(error),
        }
    }
    let nothing = || io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    Err(failure.unwrap_or_else(nothing))
}

/// The addresses that a name has; of a port alone, that of the whole machine by IPv6, and with it by IPv4, or by IPv4.
async fn candidates(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Some(port) = address.strip_prefix(':').and_then(|port| port.parse().ok()) {
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        return Ok(vec![v6, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]);
    }
    Ok(tokio::net::lookup_host(address).await?.collect())
}

async fn bind_all(address: &str, config: &ListenConfig) -> io::Result<Vec<Listener>> {
    let sockets = match config.sockets {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    if sockets == 1 || address.starts_with("unix:") {
        return Ok(vec![bind(address, config).await?]);
    }
    let config = ListenConfig {
        reuse_port: true,
        ..config.clone()
    };
    let first = bind(address, &config).await?;
    // The others take the port that the system may have chosen for the first.
    let address = first.local_addr();
    let mut listeners = vec![first];
    while let (true, Some(address)) = (listeners.len() < sockets, address) {
        listeners.push(tcp(address, &config)?.into());
    }
    Ok(listeners)
}

fn tcp(address: SocketAddr, config: &ListenConfig) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Elsewhere it would let another process take the address over.
    #[cfg(unix)]
    socket.set_reuse_address(config.reuse_address)?;
    #[cfg(unix)]
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if !config.keepalive.is_zero() {
        // Connections inherit it from the socket they are accepted on.
        let keepalive = TcpKeepalive::new().with_time(config.keepalive);
        #[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
        let keepalive = keepalive
            .with_interval(config.keepalive_interval)
            .with_retries(config.keepalive_retries);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

#[cfg(unix)]
async fn unix(path: &std::path::Path, config: &ListenConfig) -> io::Result<Listener> {
    use std::os::unix::fs::FileTypeExt;

    use tokio::net::{UnixListener, UnixStream};

    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        // Nobody answers: whoever made it is gone.
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    let listener = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket));
    Ok(UnixListener::from_std(listener)?.into())
}

fn inherited() -> io::Result<Vec<Listener>> {
    let mut handed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for i in 0..handed.len() {
        if let Ok(Some(listener)) = handed.take_tcp_listener(i) {
            listener.set_nonblocking(true)?;
            listeners.push(TcpListener::from_std(listener)?.into());
            continue;
        }
        #[cfg(unix)]
        if let Some(listener) = handed.take_unix_listener(i)? {
            listener.set_nonblocking(true)?;
            listeners.push(tokio::net::UnixListener::from_std(listener)?.into());
        }
    }
    Ok(listeners)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn silent_connections_are_asked_as_often_as_configured() {
        let config = ListenConfig::default().with(|config| {
            config.keepalive = Duration::from_secs(40);
            config.keepalive_interval = Duration::from_secs(7);
            config.keepalive_retries = 5;
        });
        let listener = tcp(([127, 0, 0, 1], 0).into(), &config).expect("listens");
        let address = listener.local_addr().expect("an address");
        let client = std::net::TcpStream::connect(address).expect("connects");
        let (accepted, _) = listener.accept().await.expect("accepts");
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.keepalive().expect("told"));
        assert_eq!(
            socket.tcp_keepalive_time().expect("told"),
            Duration::from_secs(40)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().expect("told"),
            Duration::from_secs(7)
        );
        assert_eq!(socket.tcp_keepalive_retries().expect("told"), 5);
        drop(client);
    }
}

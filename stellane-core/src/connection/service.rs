//! The manager as a service of connections.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::connection::{
    http_service::HttpService,
    manager::ConnectionManager,
    protocol::{connect_info::ConnectInfo, service_source::ServiceSource},
    reason::CloseReason,
    transport::socket::Socket,
};

impl ConnectionManager {
    /// The manager as a tower service of connections: it is called with whatever carries bytes, and its future serves
    /// that connection to its end, and says why it ended. So layers for connections go around it, and any loop that
    /// accepts may stand before it. `service` answers the requests of all of them.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use http::{Request, Response};
    /// use stellane_core::connection::{CloseReason, ConnectionManager, Incoming};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// use tower::{ServiceBuilder, ServiceExt};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let manager = ConnectionManager::builder().build()?;
    /// let hello = tower::service_fn(async |_: Request<Incoming>| {
    ///     Ok::<_, Infallible>(Response::new("hello".to_owned()))
    /// });
    /// let connections = ServiceBuilder::new()
    ///     .concurrency_limit(1000) // no more connections than that at a time,
    ///     .timeout(Duration::from_secs(3600)) // none longer than an hour
    ///     .service(manager.service(hello));
    ///
    /// let (mut client, server) = tokio::io::duplex(4096);
    /// let serving = tokio::spawn(connections.oneshot(server));
    /// client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer).await?;
    /// assert!(answer.ends_with("hello"));
    /// assert_eq!(serving.await??, CloseReason::Finished);
    /// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// Dropping the future, as a timeout does, closes the connection at once. When idle a connection is parked in its
    /// future, as by [`serve_connection`](Self::serve_connection): [`serve`](Self::serve) keeps it in less.
    pub fn service<S: HttpService>(&self, service: S) -> ConnectionService<SameService<S>> {
        self.make_service(SameService(service))
    }

    /// As [`service`](Self::service), with a service of its own for each connection: `make` is called with its
    /// [`ConnectInfo`] when the connection has a place. While `make` is waited for, nothing is read.
    ///
    /// Where it fails, the connection is closed, counted as [`CloseReason::ServiceError`], and the error is the
    /// future's.
    pub fn make_service<M>(&self, make: M) -> ConnectionService<M>
    where
        M: Service<ConnectInfo, Response: HttpService>,
    {
        ConnectionService {
            manager: self.clone(),
            make,
        }
    }
}

/// A [`ConnectionManager`] as a service of connections; made by [`ConnectionManager::service`] and
/// [`ConnectionManager::make_service`].
#[derive(Debug, Clone)]
pub struct ConnectionService<M> {
    manager: ConnectionManager,
    make: M,
}

impl<M, Io> Service<Io> for ConnectionService<M>
where
    M: Service<ConnectInfo, Response: HttpService, Error: Send, Future: Send>
        + Clone
        + Send
        + 'static,
    Io: Into<ConnectionIo>,
{
    type Response = CloseReason;
    type Error = M::Error;
    type Future = ConnectionFuture<M::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.make.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        let ConnectionIo { socket, peer } = io.into();
        // The one that is ready is called; the clone that stays must become ready first.
        let fresh = self.make.clone();
        let mut ready = std::mem::replace(&mut self.make, fresh);
        let make = move |info| async move { ready.call(info).await.map(ServiceSource::shared) };
        ConnectionFuture(Box::pin(self.manager.serve_made(socket, peer, make)))
    }
}

/// A connection that is served; resolves to why it ended. Dropping it closes the connection at once.
pub struct ConnectionFuture<E>(Pin<Box<dyn Future<Output = Result<CloseReason, E>> + Send>>);

impl<E> Future for ConnectionFuture<E> {
    type Output = Result<CloseReason, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<E> fmt::Debug for ConnectionFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFuture").finish_non_exhaustive()
    }
}

/// The same service for every connection; see [`ConnectionManager::service`].
#[derive(Debug, Clone)]
pub struct SameService<S>(S);

impl<S: Clone> Service<ConnectInfo> for SameService<S> {
    type Response = S;
    type Error = Infallible;
    type Future = Ready<Result<S, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: ConnectInfo) -> Self::Future {
        ready(Ok(self.0.clone()))
    }
}

/// What carries the bytes of a connection: a socket of tokio's, whose peer is known, or anything else that is
/// `AsyncRead` and `AsyncWrite`, such as a `DuplexStream`.
#[derive(Debug)]
pub struct ConnectionIo {
    socket: Socket,
    peer: Option<SocketAddr>,
}

impl ConnectionIo {
    /// Bytes of somebody with an address: through a tunnel, or behind TLS of one's own.
    pub fn with_peer(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
    ) -> Self {
        Self {
            peer: Some(peer),
            ..Self::from(io)
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> From<Io> for ConnectionIo {
    fn from(io: Io) -> Self {
        let socket = Socket::of(io);
        let peer = socket.peer_addr();
        Self { socket, peer }
    }
}

//! What connections come from: what `axum::serve` takes, and addresses, and several of them.

#[cfg(feature = "axum-08")]
use std::pin::Pin;
use std::{
    fmt, io,
    net::SocketAddr,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::RuntimeError;
use crate::{
    config::is_address,
    connection::{DetachedListener, ListenConfig, Listener, Socket},
};

/// What can be served on: a listener of tokio or of std (TCP, or Unix sockets), a [`Listener`] with its TLS, an address
/// (`"127.0.0.1:3000"`, `"unix:/run/app.sock"`, a `SocketAddr`), [connections] that come by other ways, or several of one
/// of these in an array or a `Vec`.
///
/// ```
/// use std::net::SocketAddr;
///
/// use stellane_core::{IntoListener, serve};
/// # use axum::Router;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = Router::new();
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// serve(listener, app.clone()).await?;
/// serve("unix:/run/app.sock", app.clone()).await?;
/// serve([SocketAddr::from(([127, 0, 0, 1], 3000)), "[::1]:3000".parse()?], app).await?;
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be listened on",
    note = "it is a `TcpListener` or `UnixListener` of tokio or std, an address, or an array or `Vec` of one of these",
    note = "axum's own kind of listener goes through `stellane_core::axum_listener`, a stream of connections through `stellane_core::connections`"
)]
pub trait IntoListener: Sized + Send {
    /// The address, if it is one of TCP and known already.
    ///
    /// # Errors
    /// An address that is not listened on yet, or none of TCP.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "not listened on yet, or no TCP: `bind().await` it first",
        ))
    }

    /// Listens; an address with these options.
    fn into_listeners(
        self,
        options: &ListenConfig,
    ) -> impl Future<Output = Result<Listeners, RuntimeError>> + Send;
}

/// What connections come from; see [`IntoListener`].
#[derive(Debug, Default)]
#[must_use]
pub struct Listeners {
    pub(super) sockets: Vec<Listener>,
    pub(super) sources: Vec<Source>,
    pub(super) redirects: Vec<Redirects>,
}

/// Sockets where requests are sent on to https.
#[derive(Debug)]
pub(super) struct Redirects {
    pub(super) sockets: Vec<Listener>,
    /// The port of https as it is configured, if it is.
    pub(super) port: Option<u16>,
}

impl Listeners {
    /// These and those: what serves on them serves on both.
    pub fn and(mut self, others: impl Into<Self>) -> Self {
        let others = others.into();
        self.sockets.extend(others.sockets);
        self.sources.extend(others.sources);
        self.redirects.extend(others.redirects);
        self
    }

    /// Where https is.
    pub(super) fn https_port(&self) -> u16 {
        let mut https = self.sockets.iter().filter(|one| one.speaks_tls());
        let port = https.find_map(|one| Some(one.local_addr()?.port()));
        port.unwrap_or(443)
    }

    /// All sockets that listen.
    pub(super) fn listening(&self) -> impl Iterator<Item = &Listener> {
        let redirects = self.redirects.iter().flat_map(|one| &one.sockets);
        self.sockets.iter().chain(redirects)
    }
}

impl From<Listener> for Listeners {
    fn from(listener: Listener) -> Self {
        vec![listener].into()
    }
}

impl From<Vec<Listener>> for Listeners {
    fn from(sockets: Vec<Listener>) -> Self {
        Self {
            sockets,
            ..Self::default()
        }
    }
}

const KEY: &str = "listener";

fn unusable(source: io::Error) -> RuntimeError {
    RuntimeError::Bind {
        key: KEY,
        address: "a socket that was brought along".to_owned(),
        source,
    }
}

impl IntoListener for Listeners {
    async fn into_listeners(self, _: &ListenConfig) -> Result<Self, RuntimeError> {
        Ok(self)
    }
}

impl IntoListener for Listener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    async fn into_listeners(self, _: &ListenConfig) -> Result<Listeners, RuntimeError> {
        Ok(self.into())
    }
}

impl IntoListener for DetachedListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    async fn into_listeners(self, _: &ListenConfig) -> Result<Listeners, RuntimeError> {
        Ok(self.attach().map_err(unusable)?.into())
    }
}

impl IntoListener for tokio::net::TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    async fn into_listeners(self, _: &ListenConfig) -> Result<Listeners, RuntimeError> {
        Ok(Listener::from(self).into())
    }
}

impl IntoListener for std::net::TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        let attach = || {
            self.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(self)
        };
        attach().map_err(unusable)?.into_listeners(options).await
    }
}

#[cfg(unix)]
impl IntoListener for tokio::net::UnixListener {
    async fn into_listeners(self, _: &ListenConfig) -> Result<Listeners, RuntimeError> {
        Ok(Listener::from(self).into())
    }
}

#[cfg(unix)]
impl IntoListener for std::os::unix::net::UnixListener {
    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        let attach = || {
            self.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(self)
        };
        attach().map_err(unusable)?.into_listeners(options).await
    }
}

impl IntoListener for &str {
    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        Ok(listen(KEY, self, options).await?.into())
    }
}

impl IntoListener for String {
    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        self.as_str().into_listeners(options).await
    }
}

impl IntoListener for SocketAddr {
    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        self.to_string().into_listeners(options).await
    }
}

impl<L: IntoListener> IntoListener for Vec<L> {
    /// That of the first that has one.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        let known = self.iter().find_map(|one| one.local_addr().ok());
        known.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        let mut all = Listeners::default();
        for one in self {
            all = all.and(one.into_listeners(options).await?);
        }
        Ok(all)
    }
}

impl<L: IntoListener, const N: usize> IntoListener for [L; N] {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        let known = self.iter().find_map(|one| one.local_addr().ok());
        known.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    async fn into_listeners(self, options: &ListenConfig) -> Result<Listeners, RuntimeError> {
        Vec::from(self).into_listeners(options).await
    }
}

/// One address that somebody wrote, of this key.
pub(super) async fn listen(
    key: &'static str,
    address: &str,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    if !is_address(address) {
        return Err(RuntimeError::Address {
            key,
            address: address.to_owned(),
        });
    }
    Listener::bind_all(address, options)
        .await
        .map_err(|source| RuntimeError::Bind {
            key,
            address: address.to_owned(),
            source,
        })
}

/// Connections that come by other ways than a socket that listens: in memory, through a tunnel, by a listener of another
/// crate. Of those that are sockets of tokio or its TLS streams handlers find what they find of others: addresses, who
/// is at the other end of a Unix socket, the certificate of a client. `next` is asked as a stream is; after its end nothing more comes, what is there is served on, and where nothing
/// else is listened on the server ends with the last of them. An error is logged (at `debug`) and survived; after more than
/// eight in a row it is asked again after a pause, of 1 ms that doubles up to 100 ms.
///
/// ```
/// use stellane_core::{connections, serve};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, sync::mpsc};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let app = axum::Router::new().route("/", axum::routing::get(async || "hello"));
/// let (send, mut receive) = mpsc::channel(1);
/// let incoming = connections(move |cx| receive.poll_recv(cx).map(|io| io.map(Ok)));
/// tokio::spawn(serve(incoming, app).into_future());
///
/// let (mut client, server) = tokio::io::duplex(4096);
/// send.send(server).await?;
/// client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await?;
/// assert!(answer.ends_with("hello"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn connections<Io>(
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<io::Result<Io>>> + Send + 'static,
) -> Listeners
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Source::new(move |cx| next(cx).map_ok(|io| (Socket::of(io), None))).into()
}

/// A listener of axum's kind, such as one with `tap_io`, or of another transport.
#[cfg(feature = "axum-08")]
pub fn axum_listener<L>(listener: L) -> Listeners
where
    L: axum::serve::Listener<Addr: 'static>,
{
    // The listener goes into its future and comes back with what was accepted, so that the future is kept between two
    // questions.
    let accept = |mut listener: L| -> Accepting<L> {
        Box::pin(async move { (listener.accept().await, listener) })
    };
    let mut accepting = accept(listener);
    Source::new(move |cx| {
        let ((io, address), listener) = std::task::ready!(accepting.as_mut().poll(cx));
        accepting = accept(listener);
        let peer = (&address as &dyn std::any::Any).downcast_ref();
        Poll::Ready(Some(Ok((Socket::of(io), peer.copied()))))
    })
    .into()
}

#[cfg(feature = "axum-08")]
type Accepting<L> = Pin<Box<dyn Future<Output = (AcceptedBy<L>, L)> + Send>>;
#[cfg(feature = "axum-08")]
type AcceptedBy<L> = (
    <L as axum::serve::Listener>::Io,
    <L as axum::serve::Listener>::Addr,
);

impl From<Source> for Listeners {
    fn from(source: Source) -> Self {
        Self {
            sources: vec![source],
            ..Self::default()
        }
    }
}

/// See [`connections`].
pub(super) struct Source {
    next: Box<NextFn>,
}

type NextFn = dyn FnMut(&mut Context<'_>) -> Poll<Option<io::Result<Accepted>>> + Send;
type Accepted = (Socket, Option<SocketAddr>);

impl Source {
    fn new(
        next: impl FnMut(&mut Context<'_>) -> Poll<Option<io::Result<Accepted>>> + Send + 'static,
    ) -> Self {
        Self {
            next: Box::new(next),
        }
    }

    pub(super) async fn next(&mut self) -> Option<io::Result<Accepted>> {
        std::future::poll_fn(|cx| (self.next)(cx)).await
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;

#[cfg(feature = "tls")]
use crate::connection::transport::tls::client::TlsClient;
use crate::connection::{lifecycle::Shared, table::record::Record, transport::socket::Socket};

/// The connection that a request came by, in the request's extensions when
/// [`ConnectionConfig::connect_info`](crate::connection::ConnectionConfig::connect_info) is on; a cheap handle, good for
/// as long as the connection lives.
///
/// A handler whose response has no end of its own, such as server-sent events, a long poll or an upgraded
/// connection, ends it when [`draining`](Self::draining) resolves:
///
/// ```
/// use stellane_core::connection::ConnectInfo;
///
/// async fn wait_for_news(request: http::Request<()>) -> &'static str {
///     let Some(connection) = request.extensions().get::<ConnectInfo>() else {
///         return "connect_info is off";
///     };
///     tokio::select! {
///         () = news() => "news",
///         () = connection.draining() => "none yet, ask again",
///     }
/// }
/// # async fn news() {}
/// ```
#[derive(Clone)]
pub struct ConnectInfo {
    inner: Arc<Inner>,
    /// As the proxies say.
    peer: Option<SocketAddr>,
}

struct Inner {
    local: Option<SocketAddr>,
    #[cfg(unix)]
    unix_peer: Option<UnixPeer>,
    #[cfg(all(feature = "tls", feature = "tonic-014"))]
    tonic_tls: Option<TonicTls>,
    #[cfg(feature = "tls")]
    tls: Option<TlsInfo>,
    record: Arc<Record>,
    shared: Arc<Shared>,
}

/// What client and server agreed on in the TLS handshake.
#[cfg(feature = "tls")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version, such as `TLSv1_3`.
    pub version: Option<&'static str>,
    /// The protocol chosen by ALPN, such as `h2`.
    pub alpn: Option<String>,
    /// The name the client asked for (SNI).
    pub server_name: Option<String>,
    /// The certificate of the client in DER, if one was asked for and shown.
    pub client_certificate: Option<Vec<u8>>,
    /// The client by that certificate; also in the extensions of each request of the connection.
    pub client: Option<TlsClient>,
}

/// Who is at the other end of a Unix socket.
#[cfg(unix)]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UnixPeer {
    /// Its address: that of a client has no name, as a rule.
    pub address: Option<Arc<tokio::net::unix::SocketAddr>>,
    /// Its user, group and process, when it connected.
    pub credentials: Option<tokio::net::unix::UCred>,
}

/// What tonic's handlers find of TLS; only tonic can make it, from the stream itself.
#[cfg(all(feature = "tls", feature = "tonic-014"))]
pub(crate) type TonicTls = <tokio_rustls::server::TlsStream<tokio::net::TcpStream> as
    tonic::transport::server::Connected>::ConnectInfo;

impl ConnectInfo {
    pub(crate) fn new(socket: &Socket, record: &Arc<Record>, shared: &Arc<Shared>) -> Self {
        Self {
            peer: record.peer(),
            inner: Arc::new(Inner {
                local: socket.local_addr(),
                #[cfg(unix)]
                unix_peer: socket.unix().map(UnixPeer::new),
                #[cfg(all(feature = "tls", feature = "tonic-014"))]
                tonic_tls: socket.tls_stream().map(|stream| {
                    let mut info = tonic::transport::server::Connected::connect_info(stream);
                    // A proxy may speak for somebody else.
                    info.get_mut().remote_addr = record.peer();
                    info
                }),
                #[cfg(feature = "tls")]
                tls: socket.tls().map(TlsInfo::new),
                record: Arc::clone(record),
                shared: Arc::clone(shared),
            }),
        }
    }

    /// Tells a request of it, and whose the request is if the proxies that are trusted say so.
    #[inline]
    pub(crate) fn tell<B>(&self, request: &mut Request<B>) {
        let forwarded = &self.inner.shared.forwarded;
        let of_request = Self {
            inner: Arc::clone(&self.inner),
            peer: match self.peer {
                // From elsewhere, whoever that is.
                None if !self.is_unix() => None,
                peer => forwarded.client(peer, request.headers()),
            },
        };
        request.extensions_mut().insert(of_request);
        #[cfg(feature = "tls")]
        if let Some(client) = self.tls().and_then(|tls| tls.client.as_ref()) {
            request.extensions_mut().insert(client.clone());
        }
    }

    fn is_unix(&self) -> bool {
        #[cfg(unix)]
        return self.inner.unix_peer.is_some();
        #[cfg(not(unix))]
        false
    }

    /// Names it to [`ConnectionManager::close`](crate::connection::ConnectionManager::close).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.record.id()
    }

    /// The client's address, as a trusted proxy said it if there is one: before the connection
    /// ([`proxy_protocol`](crate::connection::ConnectionConfig::proxy_protocol)), or in the head of the request
    /// ([`forwarded`](crate::connection::ConnectionConfig::forwarded)). `None` for Unix sockets.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The address it was accepted on; `None` for Unix sockets.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.inner.local
    }

    /// Who is at the other end, for Unix sockets.
    #[cfg(unix)]
    #[must_use]
    pub fn unix_peer(&self) -> Option<&UnixPeer> {
        self.inner.unix_peer.as_ref()
    }

    #[cfg(all(feature = "tls", feature = "tonic-014"))]
    pub(crate) fn tonic_tls(&self) -> Option<&TonicTls> {
        self.inner.tonic_tls.as_ref()
    }

    /// What TLS agreed on; `None` without it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.inner.tls.as_ref()
    }

    /// Time since it was accepted, exact to a tenth of a second.
    #[must_use]
    pub fn age(&self) -> Duration {
        let now = self.inner.shared.clock.now();
        Duration::from_millis(self.inner.record.age(now))
    }

    /// Requests begun on it, this one included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.inner.record.requests()
    }

    /// Makes the next response the last: `Connection: close`, or GOAWAY.
    pub fn close_after_response(&self) {
        self.inner.record.flags().close_after_response();
    }

    /// Resolves when a drain has begun. Nothing is shared between requests until this is awaited.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        self.inner.shared.drain.announced()
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.shared.drain.has_begun()
    }
}

impl fmt::Debug for ConnectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectInfo")
            .field("id", &self.id())
            .field("peer", &self.peer())
            .field("local", &self.local())
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "tls")]
impl TlsInfo {
    fn new(connection: &tokio_rustls::rustls::ServerConnection) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let certificate = connection.peer_certificates().and_then(|all| all.first());
        Self {
            version: connection.protocol_version().and_then(|v| v.as_str()),
            alpn: connection.alpn_protocol().map(text),
            server_name: connection.server_name().map(str::to_owned),
            client_certificate: certificate.map(|certificate| certificate.to_vec()),
            client: certificate.and_then(TlsClient::new),
        }
    }
}

#[cfg(unix)]
impl UnixPeer {
    fn new(socket: &tokio::net::UnixStream) -> Self {
        Self {
            address: socket.peer_addr().ok().map(Arc::new),
            credentials: socket.peer_cred().ok(),
        }
    }
}

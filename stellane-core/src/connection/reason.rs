use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a connection ended. Each connection ends with exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum CloseReason {
            $($(#[$doc])* $name,)+
        }

        impl CloseReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name used in metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// The client closed it between two requests.
    ClientClosed = "client_closed",
    /// One side asked for `Connection: close`, and the last response was sent.
    Finished = "finished",
    /// The connection was handed over to another protocol, and that has ended.
    Upgraded = "upgraded",
    /// Nothing was sent after the connect.
    FirstByteTimeout = "first_byte_timeout",
    /// A proxy did not say in time, or not as the PROXY protocol asks, whose connection it was.
    ProxyHeader = "proxy_header",
    /// The TLS handshake failed.
    HandshakeFailed = "handshake_failed",
    /// The TLS handshake took too long.
    HandshakeTimeout = "handshake_timeout",
    /// A request head was not complete in time; the client got 408.
    HeadTimeout = "head_timeout",
    /// The client sent the body of its request too slowly; if nothing was answered yet, it got 408.
    SlowBody = "slow_body",
    /// No further request came in time.
    IdleTimeout = "idle_timeout",
    /// The client read the response too slowly.
    SlowRead = "slow_read",
    /// The client ended its side behind a request, and the answer was not there within
    /// [`half_close_grace`](crate::connection::ConnectionConfig::half_close_grace).
    HalfClosed = "half_closed",
    /// It reached its greatest age.
    MaxAge = "max_age",
    /// It reached its greatest age, and what was open on it did not end within `max_age_grace`.
    MaxAgeGrace = "max_age_grace",
    /// It had its greatest number of requests.
    MaxRequests = "max_requests",
    /// It made room for a newer connection.
    Reclaimed = "reclaimed",
    /// There were too many connections, or too many of this peer.
    Refused = "refused",
    /// The client broke the protocol.
    ProtocolError = "protocol_error",
    /// Bytes stood behind a CONNECT that was refused: whether they are requests is not known.
    BytesBehindUpgrade = "bytes_behind_upgrade",
    /// The client made work without asking for anything: see `Http2Config::abuse_burst`.
    Abuse = "abuse",
    /// The client of an HTTP/2 connection did not answer a PING in time.
    PingTimeout = "ping_timeout",
    /// The socket failed, for example because the client reset it.
    IoError = "io_error",
    /// The service failed, so that no response could be made.
    ServiceError = "service_error",
    /// It ended in a drain, with nothing in progress.
    Drained = "drained",
    /// It was still busy when a drain's deadline passed, or when the manager was dropped.
    Aborted = "aborted",
    /// It was closed by hand.
    Killed = "killed",
}

impl CloseReason {
    /// Whether a connection that turns out to be in use is spared.
    pub(crate) fn yields_to_a_request(self) -> bool {
        matches!(
            self,
            Self::IdleTimeout
                | Self::Reclaimed
                | Self::Drained
                | Self::MaxAge
                | Self::FirstByteTimeout
        )
    }

    /// The reverse of `self as u8`.
    pub(crate) fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! The settings of a manager, and their checks.

pub(crate) mod check;
pub(crate) mod forwarded;
#[cfg(feature = "http2")]
pub(crate) mod http2;
pub(crate) mod listen;
pub(crate) mod network;
pub(crate) mod proxy_protocol;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::{ops::RangeInclusive, time::Duration};

#[cfg(feature = "http2")]
use crate::connection::config::http2::Http2Config;
use crate::connection::config::proxy_protocol::ProxyProtocolConfig;
#[cfg(feature = "tls")]
use crate::connection::config::tls::TlsConfig;
use crate::{
    config_error::ConfigError,
    connection::config::{
        check::{DAY, check_up_to_a_day},
        forwarded::ForwardedConfig,
        listen::{ListenConfig, WhenFull},
    },
};

/// Settings of a [`ConnectionManager`](crate::connection::ConnectionManager) (section `[connection]`).
///
/// A timeout of `0s` and a limit of `0` are off.
///
/// ```
/// use std::time::Duration;
///
/// use stellane_core::connection::{ConnectionConfig, ConnectionManager};
///
/// let mut config = ConnectionConfig::default();
/// config.idle_timeout = Duration::from_secs(15);
/// let manager = ConnectionManager::builder().config(config).build()?;
/// # drop(manager);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// Most connections at once. When it is reached, room is made for a new one by those that have been idle for
    /// longer than [`drain_idle`](Self::drain_idle), then by the oldest head or handshake that is unfinished after a
    /// second; others are asked to go with their next response. The new one waits for up to a second, and is then
    /// refused with 503. Too low refuses clients. Default `0`: as many as the limit of open files allows.
    pub max_connections: usize,
    /// Most connections of one peer address (of one /64 for IPv6). Too low hurts users behind one proxy,
    /// too high lets one client take all. Default `0`: off.
    pub max_connections_per_peer: usize,
    /// Most connections that may be idle; beyond it, the one idle longest is closed, if that is longer than
    /// [`drain_idle`](Self::drain_idle). Parked connections are cheap: default `0`, off.
    pub max_idle_connections: usize,
    /// Most connections accepted in a second; a tenth of it at once after a pause. More wait in the queue of
    /// the listening socket. Too low delays users, too high lets a burst of handshakes take all CPU. Default
    /// `0`: off.
    pub max_accepts_per_second: u32,
    /// Open files that connections leave to everything else: the admin address, files, databases. There are
    /// never more connections than the process's limit of open files less this, or less half of that limit where it is
    /// low; clients that are being refused may take half of it. Default 128.
    pub reserve_files: usize,
    /// What happens to a new connection when there is no room: `respond` (503) or `close`. Default `respond`.
    pub when_full: WhenFull,
    /// How long a new connection may take to send its first byte, while there is room: browsers connect before they
    /// know what to ask for, and load balancers keep some ready. Such a connection costs as little as a parked one, and
    /// makes room as one. Default `10m`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub first_byte_timeout: Duration,
    /// How long a request head may take from its first byte to its last, while there is room; then 408. Default `60s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub head_timeout: Duration,
    /// How long a connection may be idle between two requests. Too short, and a proxy or a pool of connections that keeps
    /// them for longer loses the requests that it sends just then: those of the large clouds do for a minute to ten,
    /// Envoy for an hour. Too long costs little: a parked connection makes room when it is needed. Default `75m`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub idle_timeout: Duration,
    /// Whether responses of HTTP/1.1 say how long the connection may be idle, in whole seconds, by
    /// `Keep-Alive: timeout=60`; it is then closed one second after that. A client that heeds it never sends a request
    /// into a connection that is just being closed; worth the 23 bytes where a proxy or a pool of connections is the
    /// client. Room for new connections is made, and drains go on, as without it. Default `false`.
    pub keep_alive_header: bool,
    /// How long the handler of a request may still take, or a response in pieces pause, when the client has ended its side
    /// of a connection: by FIN, or over TLS by `close_notify`. Who asks like that may be a script that reads the
    /// answer (`nc -N`), or a browser that has given up: the two look the same. Too short leaves the former without an
    /// answer, too long works for the latter. Then the handler is dropped and counted as cancelled. Default `5s`, `0s`:
    /// as long as it takes.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub half_close_grace: Duration,
    /// How long a response may stand still because the client does not read, while there is room; then the connection
    /// is reset, so that the client sees that it has not got all. Too short cuts downloads whose user pauses a video,
    /// too long keeps what dead clients hold. Default `10m`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub write_timeout: Duration,
    /// How many bytes of a request's body a client has to send in a second, on average over
    /// [`rate_grace`](Self::rate_grace) in which the server has room for them; a service that does not take what was
    /// sent is no fault of the client's. Of HTTP/1 with [`strict_http1`](Self::strict_http1), which follows the bodies;
    /// of HTTP/2 for each stream until it is answered, if it is no gRPC call: it gets 408 and is reset, and its
    /// connection lives. Too low lets a few clients hold requests open for hours, too high refuses uploads over bad
    /// networks. Default 240, `0`: off.
    pub min_body_rate_bytes: u64,
    /// How many bytes of a response a client has to take in a second, on average over
    /// [`rate_grace`](Self::rate_grace) in which the socket is full, or has no room for a stream of HTTP/2: that is
    /// reset, and its connection lives. Sockets take bytes by the tens of kilobytes: much more than 1 KiB needs a
    /// longer grace. Default 240, `0`: off.
    pub min_response_rate_bytes: u64,
    /// For how long a client may send or take nothing before it is slower than the two rates above, while there is
    /// room; one of half the rate lasts twice as long. Too short cuts uploads of users who change networks, too long
    /// lets those that do nothing keep their requests open. Default `10m`, `0s`: both rates are off.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub rate_grace: Duration,
    /// What the four timeouts that hold "while there is room" shrink to as places or memory run out: `first_byte_timeout`,
    /// `head_timeout`, `write_timeout` and `rate_grace`. One that is shorter, or off, stays as it is. Too short cuts
    /// clients on bad networks first, too long lets many slow ones keep others out. Default `1s`, `0s`: they
    /// never shrink.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub min_timeout: Duration,
    /// Greatest age of a connection, give or take a tenth, so that connections spread over new servers
    /// behind a load balancer. Its next response is then its last and says so (`Connection: close`, GOAWAY); without a
    /// request it is closed after [`drain_idle`](Self::drain_idle). Default `0s`: off.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub max_age: Duration,
    /// How long what is open on a connection of the greatest age may go on: a download, a stream, a WebSocket. Too
    /// short cuts them, too long keeps clients of long streams on old servers. Default `10m`, `0s`: for ever.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub max_age_grace: Duration,
    /// Most requests on one connection. Default `0`: off.
    pub max_requests: u64,
    /// How many requests whose clients have left may go on at a time, where
    /// [`OnDisconnect`](crate::on_disconnect::OnDisconnect) lets them: more are cancelled. Too few leaves work half-done, too
    /// many lets clients that ask and leave keep the server busy. Default 1024.
    pub max_abandoned: usize,
    /// Whether idle connections are taken apart until bytes arrive. Default `true`.
    pub park: bool,
    /// How long a connection is idle before it is parked. Too short parks connections that are busy and
    /// costs some 15 µs for each request, too long keeps 2 to 7 KiB each, or 16 KiB where hyper serves it. When more than
    /// 500 in a second come back soon after, it becomes sixteen times as long, and half of that again every 10 s.
    /// Default `1s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub park_after: Duration,
    /// How long a connection that is to go is left open without a request, so that one that is on its way still gets
    /// its answer: in a drain, at its greatest age, and when room is to be made. Shorter than a client's pauses, and
    /// that client may lose a request; longer, and drains take as long. Default `1s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub drain_idle: Duration,
    /// Over how long a drain of a thousand connections or more spreads its closing, so that their clients do not
    /// come back elsewhere in one instant; fewer take that much less, and none more than half of what the drain's
    /// deadline leaves. Default `2s`, `0s`: all at once.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub drain_spread: Duration,
    /// What clients of server-sent events are told by the field `retry:`, when a drain ends their stream: how long they
    /// are to wait before they come again. Too short and all of them come at once to the servers that are left; too
    /// long and they miss what happens. Default `0s`: nothing is said, and browsers wait for some seconds.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub sse_retry: Duration,
    /// Whether HTTP/1 is spoken. Without it a connection that does not begin as HTTP/2 does is ended in the words of HTTP/2,
    /// and the preset offers `h2` alone over TLS: for a port of gRPC that nobody else is to use. Default `true`.
    #[cfg(feature = "http2")]
    pub http1: bool,
    /// Whether bytes of an HTTP/1 connection that two parties could read differently are refused with 400
    /// where hyper would repair them in silence: a bare line feed as the end of a line, a `Content-Length`
    /// beside a `Transfer-Encoding` or given twice, what is no extension of a chunk, a `Content-Length`,
    /// `Transfer-Encoding` or `Host` in a trailer. A `Transfer-Encoding` that nobody knows is answered with 501. For
    /// clients that can't be mended, `false` leaves it to hyper. Over HTTP/2 a request whose `:authority` is not its
    /// `host`, that has several hosts, names a user or has pseudo-headers in its trailers is reset with
    /// `PROTOCOL_ERROR`. Default `true`.
    pub strict_http1: bool,
    /// Largest request head of HTTP/1, request line and all; a larger one is answered with 431. Too low refuses
    /// clients with many cookies, too high lets each connection take as much memory. Default 64 KiB.
    pub max_head_bytes: usize,
    /// How far the read buffer of an HTTP/1 connection may grow, and so what is read ahead of a slow handler; never
    /// less than `max_head_bytes`. It grows only for clients that keep filling it. Too low and uploads cost many
    /// reads (64 KiB: 17 for a MiB, and as many writes to disk), too high and a client whose body nobody reads
    /// takes as much memory. With a hyper before 1.12 it is `max_head_bytes`. Default 400 KiB.
    pub read_buffer_bytes: usize,
    /// How much of a request's body that its handler does not read (a 401, a 404, a refusal under load) is read and
    /// dropped, so that its HTTP/1 connection goes on. The answer to a request with a longer `Content-Length` says
    /// `Connection: close`. Too low costs connections, too high reads what nobody wants. Default 256 KiB.
    pub unread_body_bytes: u64,
    /// Whether each request carries a `ConnectInfo` in its extensions: who the client is, what TLS agreed on, and
    /// when a drain begins, which [`drain_token`](crate::connection::drain_token) tells without it. It costs each request three small allocations. Default `false`.
    pub connect_info: bool,
    /// Whether small writes are sent at once (`TCP_NODELAY`). Default `true`.
    pub nodelay: bool,
    /// Options of listening sockets.
    pub listen: ListenConfig,
    /// What proxies say in the head of a request about its client.
    pub forwarded: ForwardedConfig,
    /// HTTP/2.
    #[cfg(feature = "http2")]
    pub http2: Http2Config,
    /// The PROXY protocol.
    pub proxy_protocol: ProxyProtocolConfig,
    /// TLS.
    #[cfg(feature = "tls")]
    pub tls: TlsConfig,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            max_connections: 0,
            max_connections_per_peer: 0,
            max_idle_connections: 0,
            max_accepts_per_second: 0,
            reserve_files: 128,
            when_full: WhenFull::default(),
            first_byte_timeout: Duration::from_secs(600),
            head_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(75 * 60),
            keep_alive_header: false,
            half_close_grace: Duration::from_secs(5),
            write_timeout: Duration::from_secs(600),
            min_body_rate_bytes: 240,
            min_response_rate_bytes: 240,
            rate_grace: Duration::from_secs(600),
            min_timeout: Duration::from_secs(1),
            max_age: Duration::ZERO,
            max_age_grace: Duration::from_secs(600),
            max_requests: 0,
            max_abandoned: 1024,
            park: true,
            park_after: Duration::from_secs(1),
            drain_idle: Duration::from_secs(1),
            drain_spread: Duration::from_secs(2),
            sse_retry: Duration::ZERO,
            #[cfg(feature = "http2")]
            http1: true,
            strict_http1: true,
            max_head_bytes: 64 << 10,
            read_buffer_bytes: 400 << 10,
            unread_body_bytes: 256 << 10,
            connect_info: false,
            nodelay: true,
            listen: ListenConfig::default(),
            forwarded: ForwardedConfig::default(),
            #[cfg(feature = "http2")]
            http2: Http2Config::default(),
            proxy_protocol: ProxyProtocolConfig::default(),
            #[cfg(feature = "tls")]
            tls: TlsConfig::default(),
        }
    }
}

impl ConnectionConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What times may be; `0s` is off.
    pub const TIMES: RangeInclusive<Duration> = Duration::ZERO..=DAY;

    /// Checks every value.
    ///
    /// # Errors
    /// Every value that is out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        for (key, value) in [
            ("first_byte_timeout", self.first_byte_timeout),
            ("head_timeout", self.head_timeout),
            ("idle_timeout", self.idle_timeout),
            ("half_close_grace", self.half_close_grace),
            ("write_timeout", self.write_timeout),
            ("rate_grace", self.rate_grace),
            ("min_timeout", self.min_timeout),
            ("max_age", self.max_age),
            ("max_age_grace", self.max_age_grace),
            ("park_after", self.park_after),
            ("drain_idle", self.drain_idle),
            ("drain_spread", self.drain_spread),
            ("sse_retry", self.sse_retry),
        ] {
            check_up_to_a_day(&mut errors, key, value);
        }
        // hyper's own least; more than 1 MiB is no head.
        let heads = 8 << 10..=1 << 20;
        ConfigError::check(&mut errors, "max_head_bytes", self.max_head_bytes, heads);
        let buffers = 8 << 10..=16 << 20;
        ConfigError::check(
            &mut errors,
            "read_buffer_bytes",
            self.read_buffer_bytes,
            buffers,
        );
        for (key, value) in [
            ("min_body_rate_bytes", self.min_body_rate_bytes),
            ("min_response_rate_bytes", self.min_response_rate_bytes),
            ("unread_body_bytes", self.unread_body_bytes),
        ] {
            ConfigError::check(&mut errors, key, value, 0..=1 << 30);
        }
        #[cfg(feature = "http2")]
        self.http2.check(&mut errors);
        self.proxy_protocol.check(&mut errors);
        #[cfg(feature = "tls")]
        self.tls.check(&mut errors);
        errors.extend(self.listen.validate().err().into_iter().flatten());
        errors.extend(self.forwarded.validate().err().into_iter().flatten());
        ConfigError::all(errors)
    }
}

use std::time::Duration;

use crate::config_error::ConfigError;

/// Settings of HTTP/2 (section `[connection.http2]`).
///
/// What one connection can make the server hold is `max_concurrent_streams` × (`max_send_buffer_bytes` +
/// `max_header_list_bytes`), one `connection_window_bytes`, and `max_unread_bytes` of what services make at once.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Http2Config {
    /// Most requests in progress on one connection. Too few keep the calls of a gateway waiting that has one connection
    /// for all its clients (tonic's server has no such limit, hyper's 200), too many let one client take much memory. At
    /// most 16 384; default 1000.
    pub max_concurrent_streams: u32,
    /// Most streams that a client may open and reset before they were begun; then the connection ends
    /// (rapid reset, CVE-2023-44487). `0`: with the first of them. Default 20.
    pub max_pending_accept_reset_streams: usize,
    /// Most streams that the server itself has to reset for the client's errors; then the connection ends
    /// (CVE-2025-8671). Default 128.
    pub max_local_error_reset_streams: usize,
    /// Largest head of a request, as HTTP/2 counts it; more is refused with 431, and a flood of CONTINUATION
    /// ends the connection. Default 16 KiB.
    pub max_header_list_bytes: u32,
    /// Largest frame that a client may send. Larger ones cost uploads of large pieces fewer frames, and hold up the other
    /// streams of their connection for longer. 16 KiB, the least that the protocol knows, to 16 MiB less one byte;
    /// default 16 KiB.
    pub max_frame_bytes: u32,
    /// What a client's encoder may keep of the fields of earlier requests (HPACK), so that it need not send them again.
    /// Each connection may hold as much. Default 4 KiB, `0`: nothing.
    pub header_table_bytes: u32,
    /// Most bytes of one response that wait for a client that does not read. Default 64 KiB.
    pub max_send_buffer_bytes: usize,
    /// Most bytes that the responses of one connection may hold together that its client does not take: pieces that
    /// the service has made and of which nothing was taken for ten seconds, or for half of `rate_grace` if that is
    /// less, as under pressure. Beyond it the streams are reset that have waited longest. Too low cuts large responses
    /// that a client has paused, too high lets one client take as much memory. Default 256 MiB, `0`: off.
    pub max_unread_bytes: u64,
    /// How much of a request's body a client may send ahead of the handler. Too little slows uploads from
    /// far away. Default 256 KiB.
    pub stream_window_bytes: u32,
    /// The same for all requests of a connection together. Default 1 MiB.
    pub connection_window_bytes: u32,
    /// Whether the two windows follow the bandwidth and the distance of the client instead of being what is written
    /// above: they begin at 64 KiB and may grow to 16 MiB. Faster uploads from far away, for more memory, and a
    /// PING now and then. Default `false`.
    pub adaptive_window: bool,
    /// Whether clients may ask by extended CONNECT (RFC 8441) for another protocol on a stream, which is how WebSocket
    /// goes over HTTP/2. Such a stream counts as a request in progress for as long as it is open; the least rates do not
    /// hold for it, and a drain waits for it as for an upgraded connection of HTTP/1. Default `true`.
    pub extended_connect: bool,
    /// How often a client is asked whether it is still there; `0s` is off. Default `30s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub ping_interval: Duration,
    /// How long it may take to answer that. A client that has paused a download does not read, and can't answer: too short
    /// cuts it, too long keeps dead clients. Default `10m`, as `write_timeout`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub ping_timeout: Duration,
    /// What a client may cost at once: one for each of the pings, settings, empty frames and others that make work but
    /// ask for nothing, two for a reset that follows its request at once, a quarter for a `WINDOW_UPDATE`. It pays one with each request, the head and
    /// each piece of an answer, and 1024 bytes of a body in either direction; `WINDOW_UPDATE` costs nothing while there
    /// is one for every 256 bytes taken; and time pays (`abuse_per_second`). With a quarter left the connection is asked
    /// to go (GOAWAY), with none it is closed (GOAWAY with `ENHANCE_YOUR_CALM`). Too low ends odd clients, too high has
    /// floods take CPU time for longer. `0` is off. Default 1000.
    pub abuse_burst: u32,
    /// How much of that each second pays off. Default 50.
    pub abuse_per_second: u32,
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1000,
            max_pending_accept_reset_streams: 20,
            max_local_error_reset_streams: 128,
            max_header_list_bytes: 16 << 10,
            max_frame_bytes: 16 << 10,
            header_table_bytes: 4 << 10,
            max_send_buffer_bytes: 64 << 10,
            max_unread_bytes: 256 << 20,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 1 << 20,
            adaptive_window: false,
            extended_connect: true,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(600),
            abuse_burst: 1000,
            abuse_per_second: 50,
        }
    }
}

impl Http2Config {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What the record of a connection can count.
    const MOST_STREAMS: u64 = 1 << 14;

    pub(crate) fn check(&self, errors: &mut Vec<ConfigError>) {
        let mut check = |key, value: u64, min, max| {
            ConfigError::check(errors, key, value, min..=max);
        };
        let window = u64::from(u32::MAX / 2);
        check(
            "http2.max_concurrent_streams",
            self.max_concurrent_streams.into(),
            1,
            Self::MOST_STREAMS,
        );
        check(
            "http2.max_pending_accept_reset_streams",
            self.max_pending_accept_reset_streams as u64,
            0,
            1 << 20,
        );
        check(
            "http2.max_local_error_reset_streams",
            self.max_local_error_reset_streams as u64,
            1,
            1 << 20,
        );
        check(
            "http2.max_header_list_bytes",
            self.max_header_list_bytes.into(),
            1024,
            1 << 20,
        );
        check(
            "http2.max_frame_bytes",
            self.max_frame_bytes.into(),
            1 << 14,
            (1 << 24) - 1,
        );
        check(
            "http2.header_table_bytes",
            self.header_table_bytes.into(),
            0,
            1 << 20,
        );
        check(
            "http2.max_send_buffer_bytes",
            self.max_send_buffer_bytes as u64,
            1024,
            1 << 30,
        );
        check("http2.max_unread_bytes", self.max_unread_bytes, 0, 1 << 40);
        check(
            "http2.stream_window_bytes",
            self.stream_window_bytes.into(),
            1024,
            window,
        );
        check(
            "http2.connection_window_bytes",
            self.connection_window_bytes.into(),
            65_535,
            window,
        );
        let mut time = |key, value: Duration, min: Duration| {
            let max = Duration::from_secs(86_400);
            if !(min..=max).contains(&value) {
                errors.push(ConfigError {
                    key,
                    value: format!("{value:?}"),
                    expected: format!("{min:?} to 1 day"),
                });
            }
        };
        time("http2.ping_interval", self.ping_interval, Duration::ZERO);
        time(
            "http2.ping_timeout",
            self.ping_timeout,
            Duration::from_millis(1),
        );
    }
}

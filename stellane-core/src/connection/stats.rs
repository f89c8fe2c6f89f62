//! What the manager reports: its statistics, and a drain.

use std::time::Duration;

use crate::{connection::reason::CloseReason, on_disconnect::AbandonedStats};

/// What a [`ConnectionManager`](crate::connection::ConnectionManager) has seen; totals are since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Connections that are open: the sum of the next five.
    pub open: u64,
    /// Open, nothing sent yet.
    pub new: u64,
    /// Open, between two requests, ready at once.
    pub idle: u64,
    /// Open, between two requests, taken apart.
    pub parked: u64,
    /// Open, with a request, a part of one, in a TLS handshake, or closing.
    pub active: u64,
    /// Open, handed over to another protocol.
    pub upgraded: u64,
    /// Connections accepted, refused ones included.
    pub accepted_total: u64,
    /// Connections accepted, refused ones included, in the latest whole second in which anything was served.
    pub accepted_per_second: u64,
    /// Failed accepts, such as those for lack of open files.
    pub accept_errors_total: u64,
    /// Connections ended, by `CloseReason as usize`; see [`closed`](Self::closed).
    pub(crate) closed_total: [u64; CloseReason::ALL.len()],
    /// Requests begun.
    pub requests_total: u64,
    /// Requests begun in the latest whole second in which anything was served.
    pub requests_per_second: u64,
    /// Requests whose handler waits for something, and those of HTTP/2 whose response is not sent to its end.
    pub requests_in_flight: u64,
    /// Requests whose client left before the response head.
    pub requests_cancelled_total: u64,
    /// Of those, the requests that [`OnDisconnect`](crate::on_disconnect::OnDisconnect) lets go on.
    pub abandoned: AbandonedStats,
    /// Times a parked connection was put together again.
    pub unparked_total: u64,
    /// TLS handshakes that were done.
    pub tls_total: u64,
    /// Connections that began to speak HTTP/2.
    pub http2_total: u64,
    /// How long a connection is idle now before it is parked: see
    /// [`park_after`](crate::connection::ConnectionConfig::park_after).
    pub park_after: Duration,
    /// Bytes read from all sockets.
    pub bytes_read_total: u64,
    /// Bytes written to all sockets.
    pub bytes_written_total: u64,
}

impl Default for ConnectionStats {
    fn default() -> Self {
        Self {
            open: 0,
            new: 0,
            idle: 0,
            parked: 0,
            active: 0,
            upgraded: 0,
            accepted_total: 0,
            accepted_per_second: 0,
            accept_errors_total: 0,
            closed_total: [0; CloseReason::ALL.len()],
            requests_total: 0,
            requests_per_second: 0,
            requests_in_flight: 0,
            requests_cancelled_total: 0,
            abandoned: AbandonedStats::default(),
            unparked_total: 0,
            tls_total: 0,
            http2_total: 0,
            park_after: Duration::ZERO,
            bytes_read_total: 0,
            bytes_written_total: 0,
        }
    }
}

impl ConnectionStats {
    /// How many connections ended for this reason.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed_total[reason as usize]
    }

    /// How many connections ended.
    #[must_use]
    pub fn closed_total(&self) -> u64 {
        self.closed_total.iter().sum()
    }
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Connections that ended during the drain, the aborted ones included.
    pub closed: u64,
    /// Streams that went on to the end of their time, and were then ended in the words of their protocol: event streams
    /// between two events, calls of gRPC with the status `UNAVAILABLE`, WebSockets with the code 1012.
    pub farewells: u64,
    /// Connections that were still busy at the end of their time.
    pub aborted: u64,
    /// Connections that could not even be aborted, since their handler blocks its thread.
    pub left: usize,
    /// Requests that went on without their clients during the drain: see
    /// [`OnDisconnect`](crate::on_disconnect::OnDisconnect).
    pub abandoned: u64,
    /// Those of them that had not come to their end when their time was over.
    pub abandoned_stopped: u64,
}

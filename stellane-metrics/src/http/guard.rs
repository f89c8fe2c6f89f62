//! The life of one request: opened in `call`, moved into the body, closed exactly once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::{Response, StatusCode};

use super::{
    labels::{self, NO_GRPC, Outcome, SeriesKey},
    registry::{Record, RouteId, Table, UNMATCHED},
};
use crate::HttpMetrics;

/// Counts a request as in flight until it is finished or dropped.
pub(crate) struct Guard {
    table: &'static Table,
    start: u64,
    head_ns: Option<u64>,
    request_bytes: Option<u64>,
    request_counter: Option<Arc<AtomicU64>>,
    pub(crate) response_bytes: u64,
    pub(crate) route: RouteId,
    status: u16,
    method: u8,
    version: u8,
    https: bool,
    grpc: u8,
    panicked: bool,
    finished: bool,
}

impl Guard {
    #[inline]
    pub(crate) fn open<B: http_body::Body>(http: HttpMetrics, request: &http::Request<B>) -> Self {
        let table = http.table;
        let method = labels::method_index(request.method());
        table.started(method);
        Self {
            table,
            start: table.now(),
            head_ns: None,
            request_bytes: request.body().size_hint().exact(),
            request_counter: None,
            response_bytes: 0,
            route: UNMATCHED,
            status: 0,
            method,
            version: labels::version_index(request.version()),
            https: request
                .uri()
                .scheme()
                .map_or(table.config.https, |s| *s == http::uri::Scheme::HTTPS),
            grpc: NO_GRPC,
            panicked: false,
            finished: false,
        }
    }

    pub(crate) fn table(&self) -> &'static Table {
        self.table
    }

    /// The head of the response is there. Finishes the request if nothing of a body can follow.
    #[inline]
    pub(crate) fn head<B: http_body::Body>(&mut self, response: &Response<B>) {
        self.head_ns = Some(self.table.elapsed_ns(self.start));
        self.status = response.status().as_u16();
        // gRPC needs HTTP/2, so HTTP/1 need not look for its header (the status of a call that failed at once).
        if self.version > 2
            && let Some(status) = response.headers().get("grpc-status")
        {
            self.grpc = labels::grpc_index(status);
        }
        if response.body().is_end_stream() || self.has_no_body(response.status()) {
            self.close(Outcome::Complete, self.head_ns);
        }
    }

    /// The server never polls the body of such a response.
    fn has_no_body(&self, status: StatusCode) -> bool {
        self.method == labels::HEAD
            || matches!(
                status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
            )
            || (self.method == labels::CONNECT && status.is_success())
    }

    pub(crate) fn trailers(&mut self, trailers: &http::HeaderMap) {
        if let Some(status) = trailers.get("grpc-status") {
            self.grpc = labels::grpc_index(status);
        }
    }

    /// Says that a poll is unwinding: the drop that follows may come after the panic was caught.
    pub(crate) fn panicked(&mut self) {
        self.panicked = true;
    }

    /// Takes the size of the request body from this counter when the request ends.
    #[inline]
    pub(crate) fn count_request(&mut self, counter: Option<Arc<AtomicU64>>) {
        self.request_counter = counter;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    #[inline]
    pub(crate) fn finish(&mut self, outcome: Outcome) {
        self.close(outcome, None);
    }

    /// Takes the duration if it is known, so that nobody looks at the clock twice.
    #[inline]
    fn close(&mut self, outcome: Outcome, full_ns: Option<u64>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let full_ns = full_ns.unwrap_or_else(|| self.table.elapsed_ns(self.start));
        let status = match outcome {
            // What nginx logs for a client that went away.
            Outcome::Cancelled if self.status == 0 => 499,
            _ => self.status,
        };
        self.table.record(&Record {
            key: SeriesKey {
                route: self.route,
                method: self.method,
                status,
                version: self.version,
                https: self.https,
                grpc: self.grpc,
                outcome,
            },
            full_ns,
            head_ns: self.head_ns,
            request_bytes: match &self.request_counter {
                None => self.request_bytes,
                Some(counter) => Some(counter.load(Relaxed)),
            },
            response_bytes: self.head_ns.map(|_| self.response_bytes),
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let outcome = if self.panicked {
            Outcome::Panic
        } else {
            Outcome::Cancelled
        };
        self.finish(outcome);
    }
}

//! What is known of a request until its line is written.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use http_body::Body;

use super::{
    line,
    log::Log,
    notes::{self, Notes},
};
use crate::config::AccessLogField as Field;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Cancelled,
    BodyError,
    ServiceError,
    Panic,
}

impl End {
    /// That of what is dropped before its end.
    pub(super) fn dropped() -> Self {
        match thread::panicking() {
            true => Self::Panic,
            false => Self::Cancelled,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::BodyError => "body_error",
            Self::ServiceError => "service_error",
            Self::Panic => "panic",
        }
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) log: Arc<Log>,
    pub(super) at: SystemTime,
    begun: Instant,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) peer: Option<SocketAddr>,
    pub(super) host: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) id: Option<HeaderValue>,
    pub(super) traceparent: Option<HeaderValue>,
    pub(super) request_bytes: Option<u64>,
    pub(super) status: u16,
    pub(super) grpc: Option<HeaderValue>,
    pub(super) head: Option<Duration>,
    pub(super) response_bytes: u64,
    /// How long the body of the answer is to be.
    expected: Option<u64>,
    /// Nothing of a body follows the head: nobody asks for it.
    is_whole: bool,
    pub(super) notes: Option<Notes>,
}

impl Entry {
    pub(super) fn new<B: Body>(log: Arc<Log>, request: &Request<B>) -> Box<Self> {
        let headers = request.headers();
        let take = |field, name: &HeaderName| {
            let wanted = log.has(field).then(|| headers.get(name));
            wanted.flatten().cloned()
        };
        Box::new(Self {
            at: SystemTime::now(),
            begun: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            peer: log
                .peer
                .as_ref()
                .and_then(|find| find(request.extensions())),
            host: take(Field::Host, &header::HOST),
            user_agent: take(Field::UserAgent, &header::USER_AGENT),
            referer: take(Field::Referer, &header::REFERER),
            id: take(Field::RequestId, &log.id),
            traceparent: take(Field::TraceId, &TRACEPARENT),
            request_bytes: request.body().size_hint().exact(),
            status: 0,
            grpc: None,
            head: None,
            response_bytes: 0,
            expected: None,
            is_whole: false,
            notes: None,
            log,
        })
    }

    /// Runs what the request does, and hears what is noted of it there.
    pub(super) fn watch<T>(&mut self, run: impl FnOnce() -> T) -> T {
        notes::noting(&mut self.notes, run)
    }

    /// The head of the answer is there.
    pub(super) fn head<B: Body>(&mut self, response: &Response<B>) {
        let headers: &HeaderMap = response.headers();
        self.head = Some(self.begun.elapsed());
        self.status = response.status().as_u16();
        self.take_route();
        self.grpc = headers.get(GRPC_STATUS).cloned();
        if self.log.has(Field::RequestId)
            && let Some(id) = headers.get(&self.log.id)
        {
            self.id = Some(id.clone());
        }
        let declared = || {
            let length = headers.get(header::CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        };
        self.expected = response.body().size_hint().exact().or_else(declared);
        let status = response.status();
        self.is_whole = response.body().is_end_stream()
            || self.method == Method::HEAD
            || matches!(
                status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
            )
            || (self.method == Method::CONNECT && status.is_success());
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// A server stops asking where the answer ends by its length.
    pub(super) fn is_all_out(&self) -> bool {
        self.is_whole || self.expected == Some(self.response_bytes)
    }

    pub(super) fn end(&mut self, end: End) {
        if self.status == 0 && end == End::Cancelled {
            self.status = 499;
        }
        self.take_route();
        line::write(self, end, self.begun.elapsed());
    }

    /// Inside of a `MetricsLayer`, which tells it while the future is polled.
    fn take_route(&mut self) {
        #[cfg(feature = "metrics")]
        if self.notes.is_none() && self.log.has(Field::Route) {
            let route = stellane_metrics::current_route();
            self.notes = route.map(|route| Notes::new(Some(route), None));
        }
    }
}

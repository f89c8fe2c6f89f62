//! The life of one request: opened in `call`, moved into the body, closed exactly once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Buf;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Frame;

#[cfg(feature = "tracing")]
use super::{exemplars::Exemplar, histogram::cell_of};
use super::{
    grpc::Call,
    handles::Handle,
    labels::{self, GRPC, METHODS, NO_GRPC, Outcome, RouteId, SeriesKey, VERSIONS},
    registry::{Record, UNMATCHED},
};
use crate::{
    HttpMetrics,
    layer::{Entered, scope},
};

/// Parsed once: every answer over HTTP/2 is asked for it.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The record of one request, for a service that wraps futures and bodies anyway: what
/// [`MetricsLayer`](crate::MetricsLayer) does, without a future and a body of its own.
///
/// The request counts as in flight until its record is finished or dropped. A drop is a cancellation, unless the
/// response said how long its body is (by its size hint or `Content-Length`) and all of it was handed over: an HTTP server
/// stops polling there.
///
/// ```
/// use http::{Request, Response};
/// use stellane_metrics::HttpMetrics;
///
/// let http = HttpMetrics::builder().build()?;
/// let mut recording = http.begin(&Request::new(String::new()));
/// let entered = recording.enter(); // around the call, and around each poll of the future
/// stellane_metrics::label_route("/");
/// entered.leave();
/// let response = Response::new(String::new());
/// recording.head(&response); // its body is empty, so nothing can follow
/// assert!(recording.is_finished());
/// assert_eq!(http.routes()[0].route, "/");
/// # Ok::<_, stellane_metrics::BuildError>(())
/// ```
#[must_use = "dropping the record counts the request as cancelled"]
pub struct Recording {
    /// Not here while the request is the current one of its thread: the scope has it then.
    pub(crate) table: Option<Arc<Handle>>,
    start: u64,
    head_ns: Option<u64>,
    /// With `outcome`, once it is finished.
    full_ns: u64,
    outcome: Outcome,
    request_bytes: Option<u64>,
    request_counter: Option<Arc<AtomicU64>>,
    response_bytes: u64,
    /// How long the body said it would be.
    expected: Option<u64>,
    pub(crate) route: RouteId,
    status: u16,
    pub(crate) method: u8,
    version: u8,
    https: bool,
    grpc: u8,
    call: Call,
    /// Whether the service knows the method of the call.
    answered: bool,
    panicked: bool,
    finished: bool,
}

impl HttpMetrics {
    /// Begins the record of a request.
    #[inline]
    pub fn begin<B: http_body::Body>(&self, request: &http::Request<B>) -> Recording {
        Recording::open(Arc::clone(self.table.here()), request)
    }
}

impl Recording {
    #[inline]
    fn open<B: http_body::Body>(table: Arc<Handle>, request: &http::Request<B>) -> Self {
        let method = labels::method_index(request.method());
        table.started(method);
        Self {
            start: table.now(),
            head_ns: None,
            full_ns: 0,
            outcome: Outcome::Complete,
            request_bytes: request.body().size_hint().exact(),
            request_counter: None,
            response_bytes: 0,
            expected: None,
            route: UNMATCHED,
            status: 0,
            method,
            version: labels::version_index(request.version()),
            https: request
                .uri()
                .scheme()
                .map_or(table.config.https, |s| *s == http::uri::Scheme::HTTPS),
            grpc: NO_GRPC,
            call: Call::of(request, method, &table),
            answered: false,
            panicked: false,
            finished: false,
            table: Some(table),
        }
    }

    /// Begins the record of another request in the place of this one, which ends if it has not. For who keeps records: that
    /// counts no reference to the table, which [`begin`](HttpMetrics::begin) does.
    #[inline]
    pub fn begin_again<B: http_body::Body>(
        &mut self,
        http: &HttpMetrics,
        request: &http::Request<B>,
    ) {
        self.end();
        let same = |table: &Arc<Handle>| table.is_of(&http.table);
        let kept = self.table.take().filter(same);
        let table = kept.unwrap_or_else(|| Arc::clone(http.table.here()));
        *self = Self::open(table, request);
    }

    /// The route, as the request itself or its answer says.
    #[inline]
    pub(crate) fn name(&mut self, template: &str) {
        if let Some(table) = &self.table {
            self.route = table.route_id(template);
        }
    }

    /// The head of the response is there. Finishes the record if nothing of a body can follow.
    #[inline]
    pub fn head<B: http_body::Body>(&mut self, response: &Response<B>) {
        let elapsed = |table: &Arc<Handle>| table.elapsed_ns(self.start);
        self.head_ns = self.table.as_ref().map(elapsed);
        self.status = response.status().as_u16();
        // The status of a call that failed at once. gRPC needs HTTP/2, and of gRPC-Web such an answer has no body: others of
        // HTTP/1 need not be looked into.
        if (self.call.is_some() || self.version > 2 || response.body().is_end_stream())
            && let Some(status) = grpc_status(response.headers())
        {
            self.grpc = labels::grpc_index(status);
        }
        self.answered = self.call.is_answered(response, self.grpc);
        if response.body().is_end_stream() || labels::has_no_body(self.method, response.status()) {
            self.close(Outcome::Complete, self.head_ns);
        } else {
            // A file knows no length, and over HTTP/1 nobody asks it for its end once as much as the head says is out.
            let declared = || {
                let length = response.headers().get(CONTENT_LENGTH)?;
                length.to_str().ok()?.parse().ok()
            };
            self.expected = response.body().size_hint().exact().or_else(declared);
        }
    }

    /// All of an answer is there, that is no [`Response`] and none of gRPC: its status, and a body of so many bytes.
    #[inline]
    pub fn answered(&mut self, status: StatusCode, bytes: u64) {
        let elapsed = |table: &Arc<Handle>| table.elapsed_ns(self.start);
        self.head_ns = self.table.as_ref().map(elapsed);
        self.status = status.as_u16();
        self.response_bytes = bytes;
        self.close(Outcome::Complete, self.head_ns);
    }

    /// The service failed instead of answering.
    pub fn failed(&mut self) {
        self.finish(Outcome::ServiceError);
    }

    /// A frame of the response body, or its end; `ended` says that no other follows. Whether the record is finished.
    #[inline]
    pub fn frame<D: Buf, E>(
        &mut self,
        frame: Option<&Result<Frame<D>, E>>,
        ended: impl FnOnce() -> bool,
    ) -> bool {
        let outcome = match frame {
            None => Outcome::Complete,
            Some(Err(_)) => Outcome::BodyError,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.response_bytes += data.remaining() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers(trailers);
                }
                if !frame.is_trailers() && !ended() {
                    return false;
                }
                Outcome::Complete
            }
        };
        self.finish(outcome);
        true
    }

    /// Makes this request the one that [`label_route`](crate::label_route) names, until
    /// [`Entered::leave`].
    #[inline(always)]
    pub fn enter(&mut self) -> Entered<'_> {
        scope::enter(self)
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.grpc = labels::grpc_index(status);
        }
    }

    /// Says that a poll is unwinding: the drop that follows may come after the panic was caught.
    pub(crate) fn panicked(&mut self) {
        self.panicked = true;
    }

    /// Takes the size of the request body from this counter when the request ends.
    #[inline]
    pub(crate) fn count_request(&mut self, counter: Arc<AtomicU64>) {
        self.request_counter = Some(counter);
    }

    /// Ends the record as a drop does.
    #[inline]
    pub fn end(&mut self) {
        if self.finished {
            return;
        }
        self.finish(if self.expected == Some(self.response_bytes) {
            Outcome::Complete
        } else if self.panicked {
            Outcome::Panic
        } else {
            Outcome::Cancelled
        });
    }

    /// When it began, as a reading of the [clock](HttpMetrics::ticks).
    #[inline]
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.start
    }

    /// How long it took, in nanoseconds, and whether it was answered to its end: once it is finished.
    #[inline]
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        let (full_ns, outcome) = (self.full_ns, self.outcome);
        self.finished.then_some(Ended { full_ns, outcome })
    }

    /// The status, zero before there is one: 499 of a client that left before it.
    #[inline]
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the series knows of it by now, for who keeps more about a request than the series do.
    #[must_use]
    pub fn told(&self) -> Told {
        let table = self.table.as_deref();
        let bytes = |counter: &Arc<AtomicU64>| counter.load(Relaxed);
        Told {
            method: METHODS[usize::from(self.method)],
            version: VERSIONS[usize::from(self.version)],
            route: table.and_then(|table| table.template(self.route).cloned()),
            status: self.status,
            grpc: GRPC.get(usize::from(self.grpc)).copied(),
            head_ns: self.head_ns,
            request_bytes: self
                .request_counter
                .as_ref()
                .map(bytes)
                .or(self.request_bytes),
            response_bytes: self.response_bytes,
        }
    }

    /// It leads to this span: the latest of its bucket does.
    #[cfg(feature = "tracing")]
    pub(crate) fn keep_exemplar(&self, trace_id: u128, span_id: u64) {
        if let Some(table) = &self.table
            && self.finished
        {
            let bucket = table.duration_bucket(cell_of(self.full_ns), self.full_ns);
            let exemplar = Exemplar {
                value: self.full_ns as f64 / 1e9,
                trace_id,
                span_id,
                at: std::time::SystemTime::now(),
            };
            table.exemplars.put(self.key().pack(), bucket, exemplar);
        }
    }

    /// OpenTelemetry's `error.type`, once it is finished: absent when all went well.
    #[cfg(feature = "tracing")]
    pub(crate) fn error_type(&self) -> Option<std::borrow::Cow<'static, str>> {
        self.key().error_type()
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn scheme(&self) -> &'static str {
        self.key().scheme()
    }

    #[inline]
    fn key(&self) -> SeriesKey {
        SeriesKey {
            route: self.route,
            method: self.method,
            status: self.status,
            version: self.version,
            https: self.https,
            grpc: self.grpc,
            outcome: self.outcome,
        }
    }

    /// Whether the request is counted as ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    #[inline]
    fn finish(&mut self, outcome: Outcome) {
        self.close(outcome, None);
    }

    /// Takes the duration if it is known, so that nobody looks at the clock twice.
    #[inline]
    fn close(&mut self, outcome: Outcome, full_ns: Option<u64>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let Some(table) = &self.table else { return };
        let full_ns = full_ns.unwrap_or_else(|| table.elapsed_ns(self.start));
        (self.full_ns, self.outcome) = (full_ns, outcome);
        // What nginx logs for a client that went away.
        if outcome == Outcome::Cancelled && self.status == 0 {
            self.status = 499;
        }
        if self.call.is_some() {
            self.route = self.call.route(self.route, self.answered, table);
            if self.grpc == NO_GRPC {
                self.grpc = self.call.status(outcome, self.status);
            }
        }
        table.record(&Record {
            key: self.key(),
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

/// By a walk: there are few fields, and the hash of a name of one's own costs as much as ten of them.
#[inline]
fn grpc_status(fields: &HeaderMap) -> Option<&HeaderValue> {
    let (_, status) = fields.iter().find(|(name, _)| **name == GRPC_STATUS)?;
    Some(status)
}

/// How a request ended; see [`Recording::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// From its begin to its end, in nanoseconds.
    pub full_ns: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a series is told of a request; see [`Recording::told`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Told {
    /// The method; `_OTHER` for what a client has made up.
    pub method: &'static str,
    /// The version of HTTP, such as `1.1`.
    pub version: &'static str,
    /// The template of its route.
    pub route: Option<Arc<str>>,
    /// The status: 499 of a client that left before there was one, zero where there was none.
    pub status: u16,
    /// The code of a call of gRPC.
    pub grpc: Option<&'static str>,
    /// From its begin to the head of its answer, in nanoseconds.
    pub head_ns: Option<u64>,
    /// The size of its body, as far as it is known.
    pub request_bytes: Option<u64>,
    /// The size of the body of its answer, as far as it was handed over.
    pub response_bytes: u64,
}

impl Drop for Recording {
    #[inline]
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

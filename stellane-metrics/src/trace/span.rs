//! The span of one request, under the names of OpenTelemetry's semantic conventions.

use std::cell::Cell;

use http::{Request, header::USER_AGENT};
use tracing::{Span, field, record_all};

use super::context::{TRACEPARENT, TraceContext, random};
use crate::requests::{
    Recording,
    labels::{METHODS, VERSIONS, method_index, version_index},
};

/// Which requests get a span, for [`embed`](crate::embed): what [`TraceLayer`](crate::TraceLayer) does, for a service that
/// wraps futures and bodies anyway, and cheaper where most requests get none.
///
/// A request without a span costs a look at its headers: it is passed on as it came, with whatever `traceparent` it has, and
/// no ids are made for it.
#[derive(Debug, Clone)]
pub struct Spans {
    /// Of 2^64.
    sample: u64,
    accept: bool,
    begin: Option<BeginSpan>,
}

/// Tells whoever exports a span who its parent is, before it is entered; what that one calls it is what is passed on.
pub type BeginSpan = fn(&Span, Option<TraceContext>) -> Option<TraceContext>;

impl Spans {
    /// For this share of the requests, 0 to 1.
    #[must_use]
    pub fn new(sample: f64) -> Self {
        Self {
            // A cast of floats to integers saturates.
            sample: (sample * u64::MAX as f64) as u64,
            accept: true,
            begin: None,
        }
    }

    /// Whether the `traceparent` of a request goes on, and decides whether it gets a span. Default `true`.
    #[must_use]
    pub fn accept(mut self, accept: bool) -> Self {
        self.accept = accept;
        self
    }

    /// Has an exporter hear of each span.
    #[must_use]
    pub fn on_begin(mut self, begin: BeginSpan) -> Self {
        self.begin = Some(begin);
        self
    }

    /// A request begins: the trace that it is of, if it says so or gets one, and its span, if it gets one.
    pub fn begin<B>(&self, request: &mut Request<B>) -> (Option<u128>, Option<RequestSpan>) {
        let parent = self.accept.then(|| TraceContext::of(request.headers()));
        let parent = parent.flatten();
        let is_sampled = match parent {
            Some(parent) => parent.sampled,
            None => is_in(self.sample),
        };
        if !is_sampled {
            return (parent.map(|parent| parent.trace_id), None);
        }
        let span = open(request);
        if span.is_disabled() {
            // Nobody listens: who is called next has the caller for its parent.
            return (parent.map(|parent| parent.trace_id), None);
        }
        let named = self.begin.and_then(|begin| begin(&span, parent));
        let context = named.unwrap_or_else(|| TraceContext::below(parent));
        let span = RequestSpan::new(span, context, parent);
        request.headers_mut().insert(TRACEPARENT, context.header());
        request.extensions_mut().insert(context);
        (Some(context.trace_id), Some(span))
    }
}

/// Whether it falls into the share, of 2^64. Cheap: of each request without a caller's decision it is asked.
fn is_in(share: u64) -> bool {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    if share == 0 || share == u64::MAX {
        return share > 0;
    }
    STATE.with(|state| {
        let mut x = match state.get() {
            0 => random(),
            x => x,
        };
        // xorshift64*
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) < share
    })
}

/// So much of what a client has sent stands in a span.
const MOST_BYTES: usize = 1024;

/// Opens the span of a request, which is disabled where nobody listens.
pub(super) fn open<B>(request: &Request<B>) -> Span {
    let method = METHODS[usize::from(method_index(request.method()))];
    let sent = request.method().as_str();
    let original = (method != sent).then(|| cut(sent));
    let agent = request.headers().get(USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok()).map(cut);
    tracing::info_span!(
        target: "stellane_metrics::trace",
        "request",
        otel.kind = "server",
        otel.name = method,
        otel.status_code = field::Empty,
        http.request.method = method,
        http.request.method_original = original,
        http.route = field::Empty,
        http.response.status_code = field::Empty,
        http.request.body.size = field::Empty,
        http.response.body.size = field::Empty,
        rpc.response.status_code = field::Empty,
        url.path = cut(request.uri().path()),
        url.scheme = request.uri().scheme_str(),
        network.protocol.version = VERSIONS[usize::from(version_index(request.version()))],
        network.peer.address = field::Empty,
        network.peer.port = field::Empty,
        user_agent.original = agent,
        error.r#type = field::Empty,
        trace_id = field::Empty,
        span_id = field::Empty,
        parent_id = field::Empty,
        request_id = field::Empty,
        stellane.head_seconds = field::Empty,
        stellane.computing_seconds = field::Empty,
        stellane.blocking_seconds = field::Empty,
        stellane.before_call_seconds = field::Empty,
        stellane.poll_delay_seconds = field::Empty,
        stellane.waiting_seconds = field::Empty,
        stellane.client_reading_seconds = field::Empty,
        stellane.waits = field::Empty,
    )
}

fn cut(text: &str) -> &str {
    crate::text::cut(text, MOST_BYTES)
}

/// The span of a request under way. It closes when it is dropped.
#[derive(Debug)]
pub struct RequestSpan {
    span: Span,
    context: TraceContext,
    is_entered: bool,
}

impl RequestSpan {
    /// An open span, which is told its ids.
    pub(super) fn new(span: Span, context: TraceContext, parent: Option<TraceContext>) -> Self {
        let TraceContext {
            trace_id, span_id, ..
        } = context;
        record_all!(
            span,
            trace_id = %format!("{trace_id:032x}"),
            span_id = %format!("{span_id:016x}"),
            parent_id = parent.map(|parent| field::display(format!("{:016x}", parent.span_id))),
        );
        Self {
            span,
            context,
            is_entered: false,
        }
    }

    /// The trace, and this span in it.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// The span itself, to tell it more.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// What happens on this thread until [`leave`](Self::leave) happens in the span.
    pub fn enter(&mut self) {
        if !std::mem::replace(&mut self.is_entered, true) {
            self.span.with_subscriber(|(id, to)| to.enter(id));
        }
    }

    /// The end of what [`enter`](Self::enter) began, on the same thread.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.is_entered) {
            self.span.with_subscriber(|(id, to)| to.exit(id));
        }
    }

    /// [`enter`](Self::enter), and [`leave`](Self::leave) when what is returned is dropped.
    pub(super) fn entered(&mut self) -> impl Drop + '_ {
        self.enter();
        Inside(self)
    }

    /// Tells the span what has come of its request, which has ended.
    pub fn tell(&self, recording: &Recording) {
        let (told, span) = (recording.told(), &self.span);
        if let Some(route) = &told.route {
            tell_route(span, told.method, route);
        }
        // At once: each subscriber looks its span up for each record.
        record_all!(
            span,
            http.response.status_code = (told.status > 0).then_some(told.status),
            http.request.body.size = told.request_bytes,
            http.response.body.size = told.response_bytes,
            rpc.response.status_code = told.grpc,
            url.scheme = recording.scheme(),
            stellane.head_seconds = told.head_ns.map(|ns| ns as f64 / 1e9),
        );
        if let Some(error) = recording.error_type() {
            tell_error(span, &error);
        }
        let TraceContext {
            trace_id, span_id, ..
        } = self.context;
        recording.keep_exemplar(trace_id, span_id);
    }
}

struct Inside<'a>(&'a mut RequestSpan);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        self.leave();
    }
}

pub(super) fn tell_route(span: &Span, method: &str, route: &str) {
    record_all!(
        span,
        http.route = route,
        otel.name = %format!("{method} {route}"),
    );
}

/// What the client did is no error of the server: its span is not marked as one.
pub(super) fn tell_error(span: &Span, error: &str) {
    span.record("error.type", error);
    if error != "cancelled" {
        span.record("otel.status_code", "ERROR");
    }
}

//! The span of one request, under the names of OpenTelemetry's semantic conventions.

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::{HeaderMap, Request, header::USER_AGENT};
use tracing::{Span, field, record_all};

use super::context::{TRACEPARENT, Text, TraceContext, random};
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
    /// Whether the last one was heard of there.
    is_exported: Arc<AtomicBool>,
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
            is_exported: Arc::default(),
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
        self.is_exported = Arc::new(AtomicBool::new(true));
        self
    }

    /// Whether a request that begins is to [`begin`](Self::begin) here. All are asked, and most are not.
    #[inline]
    #[must_use]
    pub fn ask(&self, headers: &HeaderMap) -> Option<Asked> {
        if self.accept && TraceContext::is_in(headers) {
            return Some(Asked::ItsCaller);
        }
        is_in(self.sample).then_some(Asked::TheShare)
    }

    /// A request begins: the trace that it is of, if it says so or gets one, and its span, if it gets one. What is `known`
    /// of it besides stands in its span.
    pub fn begin<'a, B>(
        &self,
        asked: Asked,
        request: &mut Request<B>,
        known: impl FnOnce(&Request<B>) -> Known<'a>,
    ) -> (Option<u128>, Option<RequestSpan>) {
        let (parent, is_sampled) = match asked {
            Asked::TheShare => (None, true),
            Asked::ItsCaller => match TraceContext::of(request.headers()) {
                Some(parent) => (Some(parent), parent.sampled),
                // What it says is nothing.
                None => (None, is_in(self.sample)),
            },
        };
        let of_parent = parent.map(|parent| parent.trace_id);
        if !is_sampled {
            return (of_parent, None);
        }
        // Who exports it calls it something else. Whether somebody does is seen by the one before: ids are told once.
        let is_exported = self.begin.is_some() && self.is_exported.load(Relaxed);
        let own = || Ids::new(TraceContext::below(parent), parent);
        let ids = (!is_exported).then(own);
        let span = open(request, ids.as_ref(), None, known(request));
        if span.is_disabled() {
            // Nobody listens: who is called next has the caller for its parent.
            return (of_parent, None);
        }
        let named = self.begin.and_then(|begin| begin(&span, parent));
        if is_exported != named.is_some() {
            self.is_exported.store(named.is_some(), Relaxed);
        }
        let ids = match (named, ids) {
            (None, Some(ids)) => ids,
            (named, _) => {
                let ids = named.map_or_else(own, |named| Ids::new(named, parent));
                ids.tell(&span);
                ids
            }
        };
        let context = ids.context;
        let mut span = RequestSpan::new(span, context);
        span.has_scheme = request.uri().scheme().is_some();
        let headers = request.headers_mut();
        headers.insert(TRACEPARENT.clone(), ids.own.header());
        request.extensions_mut().insert(context);
        (Some(context.trace_id), Some(span))
    }
}

/// Those of a span and of its parent, as they are written.
pub(super) struct Ids {
    context: TraceContext,
    own: Text,
    parent: Option<Text>,
}

impl Ids {
    pub(super) fn new(own: TraceContext, parent: Option<TraceContext>) -> Self {
        Self {
            context: own,
            own: own.text(),
            parent: parent.map(TraceContext::text),
        }
    }

    fn parent(&self) -> Option<&str> {
        self.parent.as_ref().map(Text::span_id)
    }

    fn tell(&self, span: &Span) {
        record_all!(
            span,
            trace_id = %self.own.trace_id(),
            span_id = %self.own.span_id(),
            parent_id = self.parent().map(field::display),
        );
    }
}

/// Who says whether a request has a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Its caller.
    ItsCaller,
    /// The share, and it has one.
    TheShare,
}

/// What whoever opens a span knows of its request besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Its id.
    pub id: Option<&'a str>,
    /// Its client.
    pub peer: Option<SocketAddr>,
}

/// Whether it falls into the share, of 2^64. Cheap: of each request without a caller's decision it is asked.
#[inline]
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
///
/// What is told at the end comes first: fields are looked for from the first on, by their names.
pub(super) fn open<B>(
    request: &Request<B>,
    ids: Option<&Ids>,
    body_bytes: Option<u64>,
    known: Known<'_>,
) -> Span {
    let method = METHODS[usize::from(method_index(request.method()))];
    let sent = request.method().as_str();
    let original = (method != sent).then(|| cut(sent));
    let agent = request.headers().get(USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok()).map(cut);
    tracing::info_span!(
        target: "stellane_metrics::trace",
        "request",
        otel.name = method,
        otel.status_code = field::Empty,
        http.route = field::Empty,
        http.response.status_code = field::Empty,
        http.request.body.size = body_bytes,
        http.response.body.size = field::Empty,
        rpc.response.status_code = field::Empty,
        error.r#type = field::Empty,
        stellane.head_seconds = field::Empty,
        stellane.before_call_seconds = field::Empty,
        stellane.computing_seconds = field::Empty,
        stellane.blocking_seconds = field::Empty,
        stellane.poll_delay_seconds = field::Empty,
        stellane.waiting_seconds = field::Empty,
        stellane.client_reading_seconds = field::Empty,
        stellane.waits = field::Empty,
        otel.kind = "server",
        http.request.method = method,
        http.request.method_original = original,
        url.path = cut(request.uri().path()),
        url.scheme = request.uri().scheme_str(),
        network.protocol.version = VERSIONS[usize::from(version_index(request.version()))],
        user_agent.original = agent,
        trace_id = ids.map(|ids| field::display(ids.own.trace_id())),
        span_id = ids.map(|ids| field::display(ids.own.span_id())),
        parent_id = ids.and_then(|ids| ids.parent().map(field::display)),
        request_id = known.id,
        network.peer.address = known.peer.map(|peer| field::display(peer.ip())),
        network.peer.port = known.peer.map(|peer| peer.port()),
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
    /// Its request has said it.
    has_scheme: bool,
    is_entered: bool,
}

/// Where the time of a request went, in seconds.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names are those of the ledger")]
pub struct Spent {
    pub before_call: f64,
    pub computing: f64,
    pub blocking: f64,
    pub poll_delay: f64,
    pub waiting: f64,
    pub client_reading: f64,
    /// Those with a name, such as `db=0.005000 limit=0.001000`.
    pub waits: Option<String>,
}

impl RequestSpan {
    pub(super) fn new(span: Span, context: TraceContext) -> Self {
        Self {
            span,
            context,
            has_scheme: false,
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
    pub fn tell(&self, recording: &Recording, spent: Option<&Spent>) {
        let told = recording.told();
        let (method, route) = (told.method, told.route.as_deref());
        let error = recording.error_type();
        // At once: each subscriber looks its span up for each record.
        record_all!(
            self.span,
            otel.name = route.map(|route| field::display(Name { method, route })),
            otel.status_code = error.as_deref().and_then(status_code),
            http.route = route,
            http.response.status_code = (told.status > 0).then_some(told.status),
            http.request.body.size = told.request_bytes,
            http.response.body.size = told.response_bytes,
            rpc.response.status_code = told.grpc,
            error.r#type = error.as_deref(),
            stellane.head_seconds = told.head_ns.map(|ns| ns as f64 / 1e9),
            stellane.before_call_seconds = spent.map(|spent| spent.before_call),
            stellane.computing_seconds = spent.map(|spent| spent.computing),
            stellane.blocking_seconds = spent.map(|spent| spent.blocking),
            stellane.poll_delay_seconds = spent.map(|spent| spent.poll_delay),
            stellane.waiting_seconds = spent.map(|spent| spent.waiting),
            stellane.client_reading_seconds = spent.map(|spent| spent.client_reading),
            stellane.waits = spent.and_then(|spent| spent.waits.as_deref()),
            url.scheme = (!self.has_scheme).then(|| recording.scheme()),
        );
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

/// What a span is called once its route is known.
pub(super) struct Name<'a> {
    pub(super) method: &'a str,
    pub(super) route: &'a str,
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        [self.method, " ", self.route]
            .iter()
            .try_for_each(|part| f.write_str(part))
    }
}

/// What the client did is no error of the server: its span is not marked as one.
pub(super) fn status_code(error: &str) -> Option<&'static str> {
    (error != "cancelled").then_some("ERROR")
}

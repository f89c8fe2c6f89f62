//! Where the time of a request goes.
//!
//! A request whose answer is there at its first poll costs no reading of the clock beyond those of its record: all of
//! its time up to the head is one poll. Who waits pays two for each wait, and a third for the wake.
//!
//! Each reading moves a mark and adds what lies between to one account, so the accounts add up to the whole.

mod kept;
mod marks;
mod stamp;
mod waits;

use std::{
    fmt::{self, Write},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Request};
use stellane_autotune::Waited;
use stellane_metrics::{
    HttpMetrics,
    embed::{Recording, Spans, Spent, Ticks},
};

pub(super) use self::{
    kept::Kept,
    waits::{CLIENT_BODY, LIMIT, WORKERS, name_wait},
};
pub use self::{
    kept::{KeptAs, KeptRequest},
    waits::{WaitsFor, waits_for},
};
use self::{marks::Marks, stamp::Stamp};
use crate::{
    access_log::Notes,
    config::RuntimeConfig,
    connection::{Readings, WakeClock, look_back_from, thread_was_held, woken},
};

/// What the tasks of connections note by when they are woken, for the ledgers.
pub(super) fn wake_clock(metrics: &HttpMetrics) -> WakeClock {
    struct Clock(Ticks);
    impl Readings for Clock {
        fn now(&self) -> u64 {
            self.0.now()
        }

        fn before(&self, now: u64, age: Duration) -> u64 {
            // What so many of its readings last.
            const MANY: u64 = 1 << 32;
            let lasts = self.0.nanos(0, MANY).max(1);
            let readings = age.as_nanos() * u128::from(MANY) / u128::from(lasts);
            now.saturating_sub(u64::try_from(readings).unwrap_or(u64::MAX))
        }
    }
    WakeClock::new(Clock(metrics.ticks()))
}

/// What the ledgers of all requests share.
#[derive(Debug, Clone)]
pub(super) struct Ledgers {
    pub(super) kept: Arc<Kept>,
    ticks: Ticks,
    /// Where a request has its id.
    pub(super) id: Option<HeaderName>,
    /// Whether answers tell where their time went.
    pub(super) server_timing: bool,
    /// Which requests get a span, if any does.
    spans: Option<Spans>,
}

impl Ledgers {
    pub(super) fn new(config: &RuntimeConfig, metrics: &HttpMetrics) -> Self {
        let id = &config.http.request_id;
        let header = id.enabled.then(|| id.header.parse().ok());
        let trace = &config.trace;
        let spans = || {
            let spans = Spans::new(trace.sample).accept(trace.accept);
            #[cfg(feature = "otlp")]
            let spans = spans.on_begin(crate::otlp::begin);
            spans
        };
        Self {
            kept: Arc::new(Kept::new(trace.slow)),
            ticks: metrics.ticks(),
            id: header.flatten(),
            server_timing: config.dev.server_timing,
            spans: trace.enabled.then(spans),
        }
    }

    /// Whether a request has more than its ledger: an id, or a span.
    pub(super) fn mark_requests(&self) -> bool {
        self.id.is_some() || self.spans.is_some()
    }

    /// Tells the limit how long a request has waited to be read, if that is long, and has what is read next asked for it.
    #[cold]
    pub(super) fn tell_waited<B>(&self, request: &mut Request<B>) {
        let now = self.ticks.now();
        let waited = Duration::from_nanos(self.ticks.nanos(0, before_call(now)));
        look_back_from(now);
        if waited >= Waited::SOME {
            request.extensions_mut().insert(Waited(waited));
        }
    }

    /// A request that was refused before it came to a ledger of its own.
    pub(super) fn refused<B>(&self, recording: &Recording, request: &mut Request<B>) {
        let Some(ended) = recording.ended() else {
            return;
        };
        let has_room = self.kept.has_room(KeptAs::Refused);
        if !has_room && self.spans.is_none() {
            return;
        }
        let mut marks = Marks::default();
        marks.begin(request, self.id.as_ref(), self.spans.as_ref());
        if let Some(span) = &marks.span {
            span.tell(recording, None);
        }
        if has_room {
            let before = before_call(recording.begun());
            let mut accounts = Accounts::default();
            accounts.poll(ended.full_ns, ended.full_ns >= LONG_POLL_NS);
            accounts.before_call = self.ticks.nanos(0, before);
            let row = kept::Row::new(recording.told(), ended, accounts, &marks, true);
            self.kept.put(row, self.now());
        }
    }

    /// A minute that begins has room for its own.
    pub(super) fn tick(&self) {
        self.kept.tick(self.now());
    }

    fn now(&self) -> u64 {
        self.ticks.nanos(0, self.ticks.now())
    }
}

/// A poll that takes so long holds up others.
const LONG_POLL_NS: u64 = 1_000_000;
/// After one that takes so long it is looked how long the bytes of others have lain in their sockets.
const HELD_NS: u64 = 10_000_000;

/// How many things that a request waits for have an account of their own.
const NAMES: usize = 6;

/// What a request has spent its time with: readings of the clock, or nanoseconds once it has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Accounts {
    pub(super) polls: u32,
    /// Since its connection was woken, until it began: of the whole, and of nothing else that is measured.
    pub(super) before_call: u64,
    pub(super) computing: u64,
    pub(super) blocking: u64,
    pub(super) longest_poll: u64,
    pub(super) poll_delay: u64,
    waits: [(&'static str, u64); NAMES],
    /// What nobody has named, and what found no account.
    pub(super) waiting: u64,
    pub(super) client_reading: u64,
}

impl Accounts {
    /// The waits that have a name.
    pub(super) fn waits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let waits = self.waits.into_iter();
        waits.filter(|(name, _)| !name.is_empty())
    }

    /// All of them by name.
    fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let own = [
            ("before_call", self.before_call),
            ("computing", self.computing),
            ("blocking", self.blocking),
            ("poll_delay", self.poll_delay),
            ("waiting", self.waiting),
            ("client_reading", self.client_reading),
        ];
        self.waits().chain(own)
    }

    fn wait(&mut self, name: Option<&'static str>, took: u64) {
        let account = name.and_then(|name| {
            let is_its = |(of, _): &&mut (&str, u64)| of.is_empty() || *of == name;
            let account = self.waits.iter_mut().find(is_its)?;
            account.0 = name;
            Some(&mut account.1)
        });
        *account.unwrap_or(&mut self.waiting) += took;
    }

    fn poll(&mut self, took: u64, is_long: bool) {
        self.polls += 1;
        self.longest_poll = self.longest_poll.max(took);
        match is_long {
            true => self.blocking += took,
            false => self.computing += took,
        }
    }

    /// Since it began.
    fn sum(&self) -> u64 {
        let waits: u64 = self.waits.iter().map(|(_, took)| took).sum();
        let polls = self.computing + self.blocking;
        polls + self.poll_delay + waits + self.waiting + self.client_reading
    }
}

/// For how long the connection that this thread polls is awake, when a request of it begins.
#[inline]
fn before_call(begun: u64) -> u64 {
    begun.saturating_sub(woken().unwrap_or(begun))
}

/// The accounts of one request.
pub(super) struct Ledger {
    ticks: Ticks,
    stamp: Arc<Stamp>,
    /// Of the stamp: what the request is polled with. Nobody counts a reference who does not wait.
    waker: Waker,
    mark: u64,
    phase: Phase,
    accounts: Accounts,
    marks: Marks,
}

/// What lies between the mark and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All since the begin: the mark means nothing yet.
    First,
    Polling,
    Waiting(Option<&'static str>),
    /// The client takes the answer.
    Reading,
}

impl Ledger {
    pub(super) fn new(metrics: &HttpMetrics) -> Self {
        let ticks = metrics.ticks();
        let stamp = Stamp::new(ticks.clone());
        Self {
            waker: Waker::from(Arc::clone(&stamp)),
            stamp,
            ticks,
            mark: 0,
            phase: Phase::First,
            accounts: Accounts::default(),
            marks: Marks::default(),
        }
    }

    /// A request begins.
    #[inline]
    pub(super) fn begin(&mut self, begun: u64) {
        self.accounts.before_call = before_call(begun);
    }

    /// It may have more than its ledger. Until [`called`](Self::called) its span is entered.
    #[cold]
    pub(super) fn mark<B>(&mut self, ledgers: &Ledgers, request: &mut Request<B>, begun: u64) {
        let (id, spans) = (ledgers.id.as_ref(), ledgers.spans.as_ref());
        self.marks.begin(request, id, spans);
        if let Some(span) = &mut self.marks.span {
            span.enter();
            // One with a span is never as simple as the others: its polls are told from each other from the begin on.
            self.mark = begun;
            self.phase = Phase::Polling;
        }
    }

    /// The service was called, which is polled next.
    #[inline]
    pub(super) fn called(&mut self) {
        if let Some(span) = &mut self.marks.span {
            span.leave();
        }
    }

    /// Whether it waits, and nothing that it waits for has woken it: its connection is polled for another reason. A wake
    /// goes to this task from then on.
    #[inline]
    pub(super) fn still_waits(&self, cx: &Context<'_>) -> bool {
        let waits = matches!(self.phase, Phase::Waiting(_)) && !self.stamp.is_woken();
        if waits {
            self.stamp.hear(cx.waker());
        }
        waits
    }

    /// A poll begins: with this waker.
    #[inline]
    pub(super) fn enter(&mut self) -> &Waker {
        if self.phase != Phase::First {
            self.resume();
        }
        name_wait(None);
        &self.waker
    }

    /// What lies between two polls.
    fn resume(&mut self) {
        if let Some(span) = &mut self.marks.span {
            span.enter();
        }
        let now = self.ticks.now();
        match self.phase {
            // Since it has begun.
            Phase::First | Phase::Polling => return,
            Phase::Waiting(name) => {
                // Polled for another reason than its own, it was not delayed.
                let woken = self.stamp.take().unwrap_or(now).clamp(self.mark, now);
                self.accounts.poll_delay += now - woken;
                self.accounts.wait(name, woken - self.mark);
            }
            Phase::Reading => self.accounts.client_reading += now.saturating_sub(self.mark),
        }
        self.mark = now;
        self.phase = Phase::Polling;
    }

    /// A poll ends without an answer: the request waits for what has this name, or what it said itself.
    pub(super) fn pending(&mut self, begun: u64, name: Option<&'static str>, cx: &Context<'_>) {
        self.poll_ended(begun);
        let said = waits::take_name();
        self.phase = Phase::Waiting(name.or(said));
        self.stamp.hear(cx.waker());
    }

    fn poll_ended(&mut self, begun: u64) {
        let now = self.ticks.now();
        let from = match self.phase {
            Phase::First => begun,
            _ => {
                self.called();
                self.mark
            }
        };
        let took = now.saturating_sub(from);
        let took_ns = self.ticks.nanos(0, took);
        if took_ns >= HELD_NS {
            thread_was_held(from, now);
        }
        self.accounts.poll(took, took_ns >= LONG_POLL_NS);
        self.mark = now;
    }

    /// The head of the answer is there. For one that never waited nothing is to be done.
    #[inline]
    pub(super) fn head(&mut self, begun: u64) {
        if self.phase != Phase::First {
            self.poll_ended(begun);
            self.phase = Phase::Reading;
        }
    }

    /// What `Server-Timing` is to say, in milliseconds: where the time went until the head of the answer.
    #[cold]
    pub(super) fn server_timing(&self, begun: u64) -> HeaderValue {
        let head_ns = self.ticks.nanos(begun, self.ticks.now());
        let accounts = self.closed(head_ns, Some(head_ns));
        let total = [("total", head_ns + accounts.before_call)];
        let parts = accounts.named().chain(total).filter(|(_, took)| *took > 0);
        let parts = parts.map(|(name, took)| {
            // A name is the program's: no other characters than those of a token.
            let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
            format!("{name};dur={:.3}", took as f64 / 1e6)
        });
        let text = parts.collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// The body has handed out a frame, which was not the last.
    #[inline]
    pub(super) fn hand_over(&mut self, begun: u64) {
        self.poll_ended(begun);
        self.phase = Phase::Reading;
    }

    /// The request has ended. Whoever was slow, refused, or did not end well is kept.
    #[inline]
    pub(super) fn end(&mut self, recording: &Recording, is_refused: bool, kept: &Kept) {
        if let Some(mut ended) = recording.ended() {
            if self.phase == Phase::First && ended.full_ns >= HELD_NS {
                self.held(recording);
            }
            ended.full_ns += self.ticks.nanos(0, self.accounts.before_call);
            if kept.wants(&ended, recording.status(), is_refused) {
                self.keep(recording, is_refused, kept);
            }
        }
        if self.phase != Phase::First {
            self.tell_span(recording);
            self.reset();
        }
    }

    /// What the access log is to say of it.
    #[cold]
    pub(super) fn notes(&self, recording: &Recording) -> Notes {
        let told = recording.told();
        let full_ns = recording.ended().map_or(0, |ended| ended.full_ns);
        let accounts = self.closed(full_ns, told.head_ns);
        let notes = Notes::new(told.route, told.grpc).timing(accounts.named());
        notes.of_trace(self.marks.trace_id)
    }

    /// Of a request with a span.
    fn tell_span(&mut self, recording: &Recording) {
        let Some(mut span) = self.marks.span.take() else {
            return;
        };
        span.leave();
        let full_ns = recording.ended().map_or(0, |ended| ended.full_ns);
        let accounts = self.closed(full_ns, recording.told().head_ns);
        let mut waits = String::new();
        for (i, (name, took)) in accounts.waits().enumerate() {
            let space = if i > 0 { " " } else { "" };
            // A `String` takes all.
            let _ = write!(waits, "{space}{name}={:.6}", took as f64 / 1e9);
        }
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let spent = Spent {
            before_call: seconds(accounts.before_call),
            computing: seconds(accounts.computing),
            blocking: seconds(accounts.blocking),
            poll_delay: seconds(accounts.poll_delay),
            waiting: seconds(accounts.waiting),
            client_reading: seconds(accounts.client_reading),
            waits: (!waits.is_empty()).then_some(waits),
        };
        span.tell(recording, Some(&spent));
    }

    /// One that never waited has held its thread for all of its time.
    #[cold]
    fn held(&self, recording: &Recording) {
        let head_ns = recording.told().head_ns.unwrap_or(u64::MAX);
        if head_ns >= HELD_NS {
            thread_was_held(recording.begun(), self.ticks.now());
        }
    }

    #[cold]
    fn reset(&mut self) {
        self.stamp.take();
        if !self.stamp.is_free() {
            // A timer or a channel may still wake who is no longer there.
            self.stamp = Stamp::new(self.ticks.clone());
            self.waker = Waker::from(Arc::clone(&self.stamp));
        }
        self.phase = Phase::First;
        self.accounts = Accounts::default();
    }

    #[cold]
    fn keep(&self, recording: &Recording, is_refused: bool, kept: &Kept) {
        if let Some(ended) = recording.ended() {
            let told = recording.told();
            let accounts = self.closed(ended.full_ns, told.head_ns);
            let end = self.ticks.nanos(0, self.ticks.now());
            let row = kept::Row::new(told, ended, accounts, &self.marks, is_refused);
            kept.log_if_slow(&row, end);
            kept.put(row, end);
        }
    }

    /// In nanoseconds, with what lies between the mark and the end.
    fn closed(&self, full_ns: u64, head_ns: Option<u64>) -> Accounts {
        let ns = |ticks| self.ticks.nanos(0, ticks);
        let now = &self.accounts;
        let mut closed = Accounts {
            polls: now.polls,
            before_call: ns(now.before_call),
            computing: ns(now.computing),
            blocking: ns(now.blocking),
            longest_poll: ns(now.longest_poll),
            poll_delay: ns(now.poll_delay),
            waits: now.waits.map(|(name, took)| (name, ns(took))),
            waiting: ns(now.waiting),
            client_reading: ns(now.client_reading),
        };
        let rest = full_ns.saturating_sub(closed.sum());
        match self.phase {
            Phase::First => {
                let head = head_ns.unwrap_or(full_ns);
                closed.poll(head, head >= LONG_POLL_NS);
                closed.client_reading += full_ns.saturating_sub(head);
            }
            Phase::Waiting(name) => closed.wait(name, rest),
            Phase::Polling => closed.poll(rest, rest >= LONG_POLL_NS),
            Phase::Reading => closed.client_reading += rest,
        }
        closed
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("phase", &self.phase)
            .field("accounts", &self.accounts)
            .finish_non_exhaustive()
    }
}

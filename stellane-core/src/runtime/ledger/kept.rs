//! The requests that somebody may ask about: the slowest of the last ten minutes, and some of those that did not end well.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, Serializer};
use stellane_metrics::embed::{Ended, Outcome, Told};

use super::{
    Accounts,
    marks::{Marks, RequestId},
};

/// So many minutes are kept,
const MINUTES: u64 = 10;
const MINUTE_NS: u64 = 60_000_000_000;
/// of each the slowest,
const SLOWEST: usize = 8;
/// and the first of those that were refused, failed, or left.
const OTHERS: usize = 4;

/// Why a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeptAs {
    /// One of the slowest of its minute.
    Slow,
    /// Refused by the limit, or over its deadline.
    Refused,
    /// Ended in a 5xx, an error or a panic.
    Failed,
    /// Its client has left before the end.
    Cancelled,
}

impl KeptAs {
    const OTHERS: [Self; 3] = [Self::Refused, Self::Failed, Self::Cancelled];

    /// Its bit among those of which the minute has enough.
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A request of the last ten minutes, with where its time went: see
/// [`Components::kept_requests`](super::super::Components::kept_requests). What it tells adds up to
/// [`duration`](Self::duration). Durations are serialised in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeptRequest {
    /// Why it is kept.
    pub kept_as: KeptAs,
    /// When it ended. Serialised in seconds since 1970.
    #[serde(serialize_with = "unix")]
    pub at: SystemTime,
    /// Its id, as the section `[http.request_id]` of the configuration gives it one.
    pub id: Option<String>,
    /// The id of its trace, as 32 hexadecimal digits, if [`trace`](crate::config::TraceConfig) is on: that of its caller, or
    /// its own if it has a span.
    pub trace_id: Option<String>,
    /// The method; `_OTHER` for what a client has made up.
    pub method: &'static str,
    /// The template of its route; never the path.
    pub route: Option<String>,
    /// The status of the answer: 499 of a client that left before there was one, zero where there was none.
    pub status: u16,
    /// How it ended: `complete`, `cancelled`, `body_error`, `service_error` or `panic`.
    pub end: &'static str,
    /// What took most of its time, in words.
    pub why: String,
    /// From when its connection was woken for it to the end of its answer: `before_call`, and what
    /// `http_server_request_duration_seconds` has.
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,
    /// The same to the head of its answer.
    #[serde(serialize_with = "optional_seconds")]
    pub head: Option<Duration>,
    /// How often it was polled.
    pub polls: u32,
    /// The longest of these polls.
    #[serde(serialize_with = "seconds")]
    pub longest_poll: Duration,
    /// Since its connection was woken, until the request began: its connection waited for a thread, read the head, and
    /// called for those before it. Zero where connections are not served by this crate.
    #[serde(serialize_with = "seconds")]
    pub before_call: Duration,
    /// In polls of less than a millisecond.
    #[serde(serialize_with = "seconds")]
    pub computing: Duration,
    /// In polls of a millisecond and more: it has blocked its thread, or computed for long, and others have waited
    /// for that.
    #[serde(serialize_with = "seconds")]
    pub blocking: Duration,
    /// Between a wake and the poll that it was for: it has waited for a thread.
    #[serde(serialize_with = "seconds")]
    pub poll_delay: Duration,
    /// Waiting, by what for: `limit` for a place, `client_body` for what its client sends, `workers` for the worker pool,
    /// and what the program [names](crate::waits_for).
    #[serde(serialize_with = "by_name")]
    pub waits: Vec<(&'static str, Duration)>,
    /// Waiting for what nobody has named.
    #[serde(serialize_with = "seconds")]
    pub waiting: Duration,
    /// Between two pieces of the answer and after the last: handed over, or not taken by the client yet.
    #[serde(serialize_with = "seconds")]
    pub client_reading: Duration,
}

/// A request as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Row {
    at: SystemTime,
    told: Told,
    ended: Ended,
    accounts: Accounts,
    id: RequestId,
    /// Zero for none; in bytes, which need no alignment.
    trace_id: [u8; 16],
    is_refused: bool,
}

impl Row {
    pub(super) fn new(
        mut told: Told,
        mut ended: Ended,
        accounts: Accounts,
        marks: &Marks,
        is_refused: bool,
    ) -> Self {
        ended.full_ns += accounts.before_call;
        told.head_ns = told.head_ns.map(|head| head + accounts.before_call);
        Self {
            at: SystemTime::now(),
            told,
            ended,
            accounts,
            id: marks.id,
            trace_id: marks.trace_id.unwrap_or_default().to_ne_bytes(),
            is_refused,
        }
    }

    fn trace_id(&self) -> Option<String> {
        let id = u128::from_ne_bytes(self.trace_id);
        (id != 0).then(|| format!("{id:032x}"))
    }

    fn shown(&self, kept_as: KeptAs) -> KeptRequest {
        let accounts = &self.accounts;
        let duration = Duration::from_nanos;
        let waits = accounts.waits();
        KeptRequest {
            kept_as,
            at: self.at,
            id: self.id.text().map(str::to_owned),
            trace_id: self.trace_id(),
            method: self.told.method,
            route: self.told.route.as_deref().map(str::to_owned),
            status: self.told.status,
            end: match self.ended.outcome {
                Outcome::Complete => "complete",
                Outcome::Cancelled => "cancelled",
                Outcome::BodyError => "body_error",
                Outcome::ServiceError => "service_error",
                Outcome::Panic => "panic",
            },
            why: self.why(),
            duration: duration(self.ended.full_ns),
            head: self.told.head_ns.map(duration),
            polls: accounts.polls,
            longest_poll: duration(accounts.longest_poll),
            before_call: duration(accounts.before_call),
            computing: duration(accounts.computing),
            blocking: duration(accounts.blocking),
            poll_delay: duration(accounts.poll_delay),
            waits: waits.map(|(name, took)| (name, duration(took))).collect(),
            waiting: duration(accounts.waiting),
            client_reading: duration(accounts.client_reading),
        }
    }

    fn why(&self) -> String {
        let accounts = &self.accounts;
        let named = accounts.waits().map(|(name, took)| {
            let what = match name {
                super::LIMIT => "waited for a place under the limit".to_owned(),
                super::CLIENT_BODY => "waited for its client's body".to_owned(),
                super::WORKERS => "waited for the worker pool".to_owned(),
                name => format!("waited for {name}"),
            };
            (what, took)
        });
        let own = [
            (
                "waited for a thread, before it was called",
                accounts.before_call,
            ),
            ("computed", accounts.computing),
            (
                "held its thread: it blocked, or computed for long",
                accounts.blocking,
            ),
            ("waited for a thread", accounts.poll_delay),
            ("waited for what the handler awaits", accounts.waiting),
            ("waited for its client to read", accounts.client_reading),
        ];
        let own = own.map(|(what, took)| (what.to_owned(), took));
        let all = named.chain(own);
        let most = all.max_by_key(|(_, took)| *took);
        most.map_or_else(String::new, |(what, took)| {
            let share = took as f64 / self.ended.full_ns.max(1) as f64 * 100.0;
            format!("{share:.0} % of the time it {what}")
        })
    }
}

/// What a request is beside perhaps being slow.
#[inline]
fn other(outcome: Outcome, status: u16, is_refused: bool) -> Option<KeptAs> {
    match outcome {
        _ if is_refused => Some(KeptAs::Refused),
        Outcome::Cancelled => Some(KeptAs::Cancelled),
        Outcome::Complete if status < 500 => None,
        _ => Some(KeptAs::Failed),
    }
}

/// What is kept; 82 KiB at most.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Kept {
    /// What a request must take to be among the slowest of its minute, or to be logged.
    slow: AtomicU64,
    /// Of what this minute has enough.
    enough: AtomicU8,
    rows: Mutex<Rows>,
    slow_log: Option<SlowLog>,
}

/// Who takes so long is logged.
#[derive(Debug)]
struct SlowLog {
    from_ns: u64,
    /// The second of the last line, and how many there were in it: the second times 2^20.
    lines: AtomicU64,
    left_out: AtomicU64,
}

impl SlowLog {
    /// In a second.
    const MOST: u64 = 10;

    fn has_room(&self, now_ns: u64) -> bool {
        let second = (now_ns / 1_000_000_000) << 20;
        let count = |last: u64| match last {
            last if last < second => Some(second + 1),
            last if last - second < Self::MOST => Some(last + 1),
            _ => None,
        };
        self.lines.fetch_update(Relaxed, Relaxed, count).is_ok()
    }
}

#[derive(Debug, Default)]
struct Rows {
    minutes: [Minute; MINUTES as usize],
    /// The latest one.
    minute: u64,
}

#[derive(Debug, Default)]
struct Minute {
    slowest: Vec<Row>,
    others: [Vec<Row>; KeptAs::OTHERS.len()],
}

impl Kept {
    /// Logs who takes longer than that, unless it is zero.
    pub(super) fn new(slow: Duration) -> Self {
        let from_ns = u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX);
        Self {
            slow_log: (from_ns > 0).then(|| SlowLog {
                from_ns,
                lines: AtomicU64::default(),
                left_out: AtomicU64::default(),
            }),
            ..Self::default()
        }
    }

    /// Logs it if it was slow. `now` is a time that never goes back.
    pub(super) fn log_if_slow(&self, row: &Row, now_ns: u64) {
        let Some(log) = &self.slow_log else { return };
        if row.ended.full_ns < log.from_ns || row.is_refused {
            return;
        }
        if !log.has_room(now_ns) {
            log.left_out.fetch_add(1, Relaxed);
            return;
        }
        let left_out = log.left_out.swap(0, Relaxed);
        tracing::warn!(
            target: "stellane_core::slow",
            message = "slow request",
            http.request.method = row.told.method,
            http.route = row.told.route.as_deref(),
            http.response.status_code = row.told.status,
            duration_seconds = row.ended.full_ns as f64 / 1e9,
            request_id = row.id.text(),
            trace_id = row.trace_id(),
            why = row.why(),
            not_logged_before = (left_out > 0).then_some(left_out),
        );
    }

    /// Whether there is room for what it is, or it would be among the slowest.
    #[inline]
    pub(super) fn wants(&self, ended: &Ended, status: u16, is_refused: bool) -> bool {
        let other = other(ended.outcome, status, is_refused);
        other.is_some_and(|kind| self.has_room(kind)) || self.is_slow(ended.full_ns) && !is_refused
    }

    /// Whether it would be among the slowest.
    #[inline]
    fn is_slow(&self, full_ns: u64) -> bool {
        full_ns >= self.slow.load(Relaxed)
    }

    /// Whether the minute has not enough of it yet.
    #[inline]
    pub(super) fn has_room(&self, kind: KeptAs) -> bool {
        self.enough.load(Relaxed) & kind.bit() == 0
    }

    /// Keeps it, if there is room for what it is. `now` is a time that never goes back.
    pub(super) fn put(&self, row: Row, now_ns: u64) {
        let other = other(row.ended.outcome, row.told.status, row.is_refused);
        let is_full = other.is_none_or(|kind| !self.has_room(kind));
        let is_slow = self.is_slow(row.ended.full_ns) && !row.is_refused;
        if is_full && !is_slow {
            return;
        }
        // Nobody waits for this lock on the way of a request.
        let Ok(mut rows) = self.rows.try_lock() else {
            return;
        };
        self.begin(&mut rows, now_ns);
        let minute = rows.latest();
        if let Some(kind) = other.filter(|_| !is_full) {
            let others = &mut minute.others[kind as usize - 1];
            others.push(row.clone());
            if others.len() >= OTHERS {
                self.enough.fetch_or(kind.bit(), Relaxed);
            }
        }
        if is_slow {
            let slowest = &mut minute.slowest;
            if slowest.len() < SLOWEST {
                slowest.push(row);
            } else if let Some(least) = slowest.iter_mut().min_by_key(|row| row.ended.full_ns)
                && least.ended.full_ns < row.ended.full_ns
            {
                *least = row;
            }
            if slowest.len() == SLOWEST {
                let least = slowest.iter().map(|row| row.ended.full_ns).min();
                let logged = self.slow_log.as_ref().map(|log| log.from_ns);
                let least = least.into_iter().chain(logged).min();
                self.slow.store(least.unwrap_or_default(), Relaxed);
            }
        }
    }

    /// To be called a few times a second: a minute that begins has room.
    pub(in crate::runtime) fn tick(&self, now_ns: u64) {
        self.begin(&mut self.rows(), now_ns);
    }

    fn begin(&self, rows: &mut Rows, now_ns: u64) {
        if rows.begin(now_ns / MINUTE_NS) {
            self.slow.store(0, Relaxed);
            self.enough.store(0, Relaxed);
        }
    }

    /// All of them: the slowest first, then the others, the latest first.
    pub(in crate::runtime) fn list(&self) -> Vec<KeptRequest> {
        let rows = self.rows();
        let minutes = || rows.minutes.iter();
        let slowest = minutes().flat_map(|minute| &minute.slowest);
        let mut all: Vec<_> = slowest.map(|row| row.shown(KeptAs::Slow)).collect();
        all.sort_by_key(|request| std::cmp::Reverse(request.duration));
        let kinds = KeptAs::OTHERS.into_iter().enumerate();
        let others = kinds.flat_map(|(at, kind)| {
            let rows = minutes().flat_map(move |minute| &minute.others[at]);
            rows.map(move |row| row.shown(kind))
        });
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(|request| std::cmp::Reverse(request.at));
        all.extend(others);
        all
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn begin(&mut self, minute: u64) -> bool {
        let begins = minute > self.minute;
        let over = (minute.saturating_sub(self.minute)).min(MINUTES);
        for ago in 0..over {
            self.minutes[((minute - ago) % MINUTES) as usize] = Minute::default();
        }
        self.minute = self.minute.max(minute);
        begins
    }

    fn latest(&mut self) -> &mut Minute {
        &mut self.minutes[(self.minute % MINUTES) as usize]
    }
}

const _: () = assert!(
    size_of::<Row>() * (SLOWEST + OTHERS * KeptAs::OTHERS.len()) * MINUTES as usize <= 82 << 10
);

fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}

fn by_name<S: Serializer>(waits: &[(&'static str, Duration)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(waits.iter().map(|(name, took)| (name, took.as_secs_f64())))
}

fn unix<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    to.serialize_f64(since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use stellane_metrics::HttpMetrics;

    use super::*;

    /// A request that took so long, and ended with this status.
    fn row(ms: u64, status: u16, is_refused: bool) -> Row {
        let http = HttpMetrics::builder().build().expect("valid");
        let mut recording = http.begin(&http::Request::new(String::new()));
        let mut response = http::Response::new(String::new());
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        recording.head(&response);
        let mut ended = recording.ended().expect("ended");
        ended.full_ns = ms * 1_000_000;
        let accounts = Accounts::default();
        Row::new(
            recording.told(),
            ended,
            accounts,
            &Marks::default(),
            is_refused,
        )
    }

    fn slowest(kept: &Kept) -> Vec<u128> {
        let all = kept.list().into_iter();
        let slow = all.filter(|one| one.kept_as == KeptAs::Slow);
        slow.map(|one| one.duration.as_millis()).collect()
    }

    #[test]
    fn the_slowest_of_each_of_the_last_ten_minutes_are_kept() {
        let kept = Kept::default();
        for minute in 0..25 {
            let now = minute * MINUTE_NS;
            for n in 0..50 {
                let ms = 1 + minute * 100 + n * 37 % 50;
                let row = row(ms, 200, false);
                if kept.wants(&row.ended, 200, false) {
                    kept.put(row, now + n);
                }
            }
            kept.tick(now + 100);
        }
        let slowest = slowest(&kept);
        let expected: Vec<u128> = (15..25)
            .rev()
            .flat_map(|minute| (43..=50).rev().map(move |n| minute * 100 + n))
            .collect();
        assert_eq!(slowest, expected);
        // An hour later there is nothing.
        kept.tick(90 * MINUTE_NS);
        assert!(kept.list().is_empty());
    }

    #[test]
    fn each_kind_has_room_of_its_own_and_refusals_are_not_the_slowest() {
        let kept = Kept::default();
        for n in 0..20 {
            for (status, is_refused) in [(503, true), (502, false), (200, false)] {
                let row = row(if is_refused { 9000 } else { n }, status, is_refused);
                if kept.wants(&row.ended, status, is_refused) {
                    kept.put(row, n);
                }
            }
        }
        let all = kept.list();
        let count = |kind| all.iter().filter(|one| one.kept_as == kind).count();
        assert_eq!(count(KeptAs::Slow), SLOWEST);
        assert_eq!(
            (count(KeptAs::Refused), count(KeptAs::Failed)),
            (OTHERS, OTHERS)
        );
        assert!(slowest(&kept).iter().all(|ms| *ms < 20));
        // The next minute has room again.
        kept.tick(MINUTE_NS);
        assert!(
            kept.has_room(KeptAs::Refused) && kept.wants(&row(0, 200, false).ended, 200, false)
        );
    }

    #[test]
    fn whoever_is_slow_is_logged_and_no_more_than_can_be_read() {
        use std::sync::Arc;
        use tracing_subscriber::{Registry, layer::SubscriberExt};

        #[derive(Clone, Default)]
        struct Count(Arc<AtomicU64>);
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Count {
            fn on_event(
                &self,
                _: &tracing::Event<'_>,
                _: tracing_subscriber::layer::Context<'_, S>,
            ) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let count = Count::default();
        let _listens = tracing::subscriber::set_default(Registry::default().with(count.clone()));
        let kept = Kept::new(Duration::from_millis(100));
        let end = |ms, is_refused, second: u64| {
            let row = row(ms, 200, is_refused);
            if kept.wants(&row.ended, 200, is_refused) {
                kept.log_if_slow(&row, second * 1_000_000_000);
                kept.put(row, second * 1_000_000_000);
            }
            count.0.load(Relaxed)
        };
        assert_eq!(end(99, false, 0), 0, "fast");
        assert_eq!(end(5000, true, 0), 0, "refused");
        // The slowest of the minute are slower than what is logged.
        for n in 1..=8 {
            assert_eq!(end(9000, false, n), n);
        }
        assert_eq!(end(100, false, 9), 9);
        for n in 0..30 {
            assert_eq!(end(100, false, 10), (10 + n).min(19));
        }
        assert_eq!(end(100, false, 11), 20);
        // Of nobody is it asked twice.
        assert!(!kept.wants(&row(99, 200, false).ended, 200, false));
    }
}

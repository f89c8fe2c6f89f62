//! Sends the requests and counts what comes back.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    net::TcpStream,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use stellane_cli::load::{Answer, Exchange, Failure, Generator, Load, Observer, Pace};

use super::target::Target;

/// What to send.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    /// Requests due per second; `None` is a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) duration: Duration,
    pub(super) timeout: Duration,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Outcome {
    /// In nanoseconds. Requests that ran into the timeout are in it with what they had waited.
    pub(super) latency: Histogram<u64>,
    /// How late requests were sent, in nanoseconds; empty in a closed loop.
    pub(super) lateness: Histogram<u64>,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) bytes: u64,
    /// Requests that were due and never sent, because no connection came free.
    pub(super) unsent: u64,
    pub(super) elapsed: Duration,
}

impl Outcome {
    fn new() -> Self {
        Self {
            latency: histogram(),
            lateness: histogram(),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            bytes: 0,
            unsent: 0,
            elapsed: Duration::ZERO,
        }
    }

    pub(super) fn responses(&self) -> u64 {
        self.statuses.values().sum()
    }

    fn add(&mut self, other: Self) {
        // Both have the same bounds.
        let _ = self.latency.add(other.latency);
        let _ = self.lateness.add(other.lateness);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.bytes += other.bytes;
        self.unsent += other.unsent;
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// From a microsecond to an hour; a thousandth is told apart.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("the bounds are in order")
}

/// Counts what one thread sees.
struct Counting<'a> {
    outcome: Outcome,
    shared: &'a Shared,
}

impl Observer for Counting<'_> {
    fn sent(&mut self, late: Duration) {
        self.outcome.lateness.saturating_record(nanoseconds(late));
    }

    fn answered(&mut self, answer: Answer, after: Duration) {
        *self.outcome.statuses.entry(answer.status).or_default() += 1;
        self.outcome.bytes += answer.bytes;
        self.outcome.latency.saturating_record(nanoseconds(after));
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&mut self, failure: Failure, after: Duration) {
        if let Failure::TimedOut | Failure::NoConnection = failure {
            // It waited that long at least: to leave it out would flatter.
            self.outcome.latency.saturating_record(nanoseconds(after));
        }
        match failure {
            Failure::NoConnection => self.outcome.unsent += 1,
            _ => *self.outcome.errors.entry(failure.as_str()).or_default() += 1,
        }
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs the plan to its end.
///
/// # Errors
/// When not one connection can be opened.
pub(super) fn run(plan: &Plan) -> io::Result<Outcome> {
    TcpStream::connect_timeout(&plan.target.address, plan.timeout).map_err(|error| {
        let text = format!("{}: {error}", plan.target.url);
        io::Error::new(error.kind(), text)
    })?;
    let shared = &Shared {
        connected: Barrier::new(plan.threads + 1),
        done: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let outcomes = thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads)
            .map(|number| scope.spawn(move || worker(plan, shared, number)))
            .collect();
        shared.connected.wait();
        if io::stderr().is_terminal() {
            scope.spawn(move || progress(plan, shared, Instant::now()));
        }
        let outcomes: Vec<_> = workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        shared.done.store(true, Ordering::Relaxed);
        outcomes
    });
    let mut all = Outcome::new();
    for outcome in outcomes {
        let outcome =
            outcome.map_err(|_| io::Error::other("a thread of the load generator panicked"))??;
        all.add(outcome);
    }
    Ok(all)
}

#[derive(Debug)]
struct Shared {
    /// All connections are open.
    connected: Barrier,
    done: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// How often the progress is shown.
const TICK: Duration = Duration::from_millis(200);

fn worker(plan: &Plan, shared: &Shared, number: usize) -> io::Result<Outcome> {
    let exchange = Exchange::new(&plan.target.request);
    let connections =
        plan.connections / plan.threads + usize::from(number < plan.connections % plan.threads);
    let mut load = Load::closed(connections, [exchange].into());
    load.patience = plan.timeout;
    load.retry = true;
    // The threads take turns: of what is due in all, each has its share.
    let mut begins = Duration::ZERO;
    if let Some(rate) = plan.rate {
        begins = Duration::from_secs_f64((number as f64 / rate).min(plan.duration.as_secs_f64()));
        load.pace = Pace::Open {
            rate: rate / plan.threads as f64,
            spin: false,
        };
    }
    let opened = Generator::connect(plan.target.address, load)
        .and_then(|mut generator| generator.until_open().map(|()| generator));
    // Every thread passes it, whatever happened before.
    shared.connected.wait();
    let mut generator = opened?;
    thread::sleep(begins);
    let mut counting = Counting {
        outcome: Outcome::new(),
        shared,
    };
    let elapsed = generator.run(plan.duration - begins, &mut counting)?;
    counting.outcome.elapsed = begins + elapsed;
    Ok(counting.outcome)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One line that is written over until the end.
fn progress(plan: &Plan, shared: &Shared, start: Instant) {
    const WIDTH: usize = 30;
    let (mut last, mut last_at) = (0, start);
    while !shared.done.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        let answered = shared.answered.load(Ordering::Relaxed);
        let (elapsed, now) = (start.elapsed(), Instant::now());
        let rate = (answered - last) as f64 / (now - last_at).as_secs_f64();
        let part = (elapsed.as_secs_f64() / plan.duration.as_secs_f64()).min(1.0);
        let bar = "=".repeat((part * WIDTH as f64) as usize);
        eprint!(
            "\r[{bar:<WIDTH$}] {:4.1} s  {rate:9.0}/s  {answered} answered  {} failed ",
            elapsed.as_secs_f64(),
            shared.failed.load(Ordering::Relaxed),
        );
        let _ = io::stderr().flush();
        (last, last_at) = (answered, now);
    }
    eprint!("\r{:80}\r", "");
}

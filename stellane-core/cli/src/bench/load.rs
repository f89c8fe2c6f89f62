//! Sends the requests and times them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::poll_fn,
    io::{self, IsTerminal, Write},
    pin::{Pin, pin},
    sync::{
        Barrier, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use tokio::{runtime, sync::Semaphore, time::Sleep};

use super::client::{Answer, Connection, Target};

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
    pub(super) errors: BTreeMap<String, u64>,
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

    /// Counts one exchange that ends now; whether it was answered.
    fn record(
        &mut self,
        exchange: Option<io::Result<Answer>>,
        start: Instant,
        lateness: Option<Duration>,
        due: Instant,
    ) -> bool {
        let now = Instant::now();
        self.elapsed = now - start;
        if let Some(lateness) = lateness {
            self.lateness.saturating_record(nanoseconds(lateness));
        }
        let error = match exchange {
            Some(Ok(answer)) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                self.bytes += answer.bytes;
                self.latency.saturating_record(nanoseconds(now - due));
                return true;
            }
            Some(Err(error)) => error.to_string(),
            None => {
                // It waited that long at least: to leave it out would flatter.
                self.latency.saturating_record(nanoseconds(now - due));
                "timed out".to_owned()
            }
        };
        *self.errors.entry(error).or_default() += 1;
        false
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
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// From a microsecond to an hour; a thousandth is told apart.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("the bounds are in order")
}

/// Runs the plan to its end.
///
/// # Errors
/// When not one connection can be opened.
pub(super) fn run(plan: &Plan) -> io::Result<Outcome> {
    let shared = &Shared {
        schedule: plan.rate.map(|rate| Schedule {
            rate,
            total: (rate * plan.duration.as_secs_f64()).round().max(1.0) as u64,
            due: Semaphore::new(0),
            next: AtomicU64::new(0),
        }),
        start: OnceLock::new(),
        connected: Barrier::new(plan.threads + 1),
        started: Barrier::new(plan.threads + 1),
        done: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let outcomes = thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads)
            .map(|i| {
                let connections = plan.connections / plan.threads
                    + usize::from(i < plan.connections % plan.threads);
                scope.spawn(move || worker(plan, shared, connections))
            })
            .collect();
        shared.connected.wait();
        let start = *shared.start.get_or_init(Instant::now);
        shared.started.wait();
        if let Some(schedule) = &shared.schedule {
            scope.spawn(move || schedule.pace(start, &shared.done, plan.connections));
        }
        if io::stderr().is_terminal() {
            scope.spawn(move || progress(plan, shared, start));
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
    if let Some(schedule) = &shared.schedule {
        all.unsent = schedule
            .total
            .saturating_sub(schedule.next.load(Ordering::Relaxed));
    }
    Ok(all)
}

#[derive(Debug)]
struct Shared {
    /// `None` is a closed loop.
    schedule: Option<Schedule>,
    /// Set when all connections are open.
    start: OnceLock<Instant>,
    connected: Barrier,
    started: Barrier,
    done: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// When requests are due. The permits of `due` are the backlog: a connection takes one, and with it the
/// number of its request, from which follows the time at which it was due.
#[derive(Debug)]
struct Schedule {
    rate: f64,
    total: u64,
    due: Semaphore,
    next: AtomicU64,
}

impl Schedule {
    fn due_at(&self, start: Instant, number: u64) -> Instant {
        start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// Runs on a thread of its own, since the timers of an async runtime are a millisecond coarse.
    fn pace(&self, start: Instant, done: &AtomicBool, connections: usize) {
        let mut released = 0;
        while released < self.total && !done.load(Ordering::Relaxed) {
            let wait = self
                .due_at(start, released)
                .saturating_duration_since(Instant::now());
            if wait > TICK {
                thread::sleep(TICK);
                continue;
            }
            thread::sleep(wait);
            let due = (start.elapsed().as_secs_f64() * self.rate) as u64 + 1;
            let due = due.clamp(released + 1, self.total);
            self.due.add_permits((due - released) as usize);
            released = due;
        }
        // Lets every connection see that there is nothing left.
        self.due.add_permits(connections);
    }

    /// The time at which the next request was due, once it is; `None` when all are sent.
    async fn next(&self, start: Instant) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then(|| self.due_at(start, number))
    }
}

/// How long a thread sleeps at most before it looks whether all is over.
const TICK: Duration = Duration::from_millis(200);

fn worker(plan: &Plan, shared: &Shared, connections: usize) -> io::Result<Outcome> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let opened = runtime
        .as_ref()
        .map(|runtime| runtime.block_on(open(plan, connections)));
    // Every thread passes both barriers, whatever happened before.
    shared.connected.wait();
    shared.started.wait();
    let start = *shared.start.get_or_init(Instant::now);
    let opened = match opened {
        Ok(opened) => opened?,
        Err(_) => return Err(io::Error::other("the async runtime could not be started")),
    };
    let runtime = runtime?;

    let outcome = RefCell::new(Outcome::new());
    let end = start + plan.duration;
    runtime.block_on(async {
        let mut all: FuturesUnordered<_> = opened
            .into_iter()
            .map(|connection| drive(plan, shared, start, end, connection, &outcome))
            .collect();
        // A server that stops answering does not hold us longer than the timeout.
        let last = tokio::time::Instant::from_std(end + plan.timeout);
        let _ = tokio::time::timeout_at(last, async { while all.next().await.is_some() {} }).await;
    });
    Ok(outcome.into_inner())
}

/// Opens the connections one after the other, so that the listener's backlog can't overflow.
///
/// # Errors
/// When the first can't be opened; later ones are tried again when they are used.
async fn open(plan: &Plan, connections: usize) -> io::Result<Vec<Connection>> {
    let mut opened = Vec::with_capacity(connections);
    for i in 0..connections {
        let mut connection = Connection::default();
        let opening = tokio::time::timeout(plan.timeout, connection.open(&plan.target));
        let result = opening
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = result
            && i == 0
        {
            return Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", plan.target.url),
            ));
        }
        opened.push(connection);
    }
    Ok(opened)
}

/// Sends requests over one connection until the end.
async fn drive(
    plan: &Plan,
    shared: &Shared,
    start: Instant,
    end: Instant,
    mut connection: Connection,
    outcome: &RefCell<Outcome>,
) {
    let mut timer = pin!(tokio::time::sleep(plan.timeout));
    loop {
        let due = match &shared.schedule {
            Some(schedule) => match schedule.next(start).await {
                Some(due) => due,
                None => return,
            },
            None => Instant::now(),
        };
        if shared.schedule.is_none() && due >= end {
            return;
        }
        let sent = match shared.schedule {
            Some(_) => Instant::now(),
            None => due,
        };
        let exchange = connection.exchange(&plan.target);
        let exchange = within(timer.as_mut(), sent + plan.timeout, exchange).await;
        let lateness = shared.schedule.as_ref().map(|_| sent - due);
        let answered = outcome.borrow_mut().record(exchange, start, lateness, due);
        if answered {
            shared.answered.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        shared.failed.fetch_add(1, Ordering::Relaxed);
        connection.close();
        if shared.schedule.is_none() {
            // A refused connection fails at once: not to spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// `None` if it takes longer. The timer is one for all exchanges of a connection and is moved only when it
/// fires: a timer for each would cost more than to read the answer.
async fn within<F: Future>(
    mut timer: Pin<&mut Sleep>,
    deadline: Instant,
    exchange: F,
) -> Option<F::Output> {
    let mut exchange = pin!(exchange);
    poll_fn(|context| {
        if let Poll::Ready(output) = exchange.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(deadline.into());
        }
        Poll::Pending
    })
    .await
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

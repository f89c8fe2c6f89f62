//! The load generator: one thread, many connections, every answer checked.
//!
//! Closed loop: each connection sends its next request when the last one is answered. Open loop: requests
//! are due at a fixed rate whether or not the server keeps up, and latency counts from when a request was
//! due, so that a server that stalls can't hide it.
//!
//! It is not `stellane bench`, which a stranger points at any server: that one takes chunked answers and those that end with the
//! connection, opens what was closed and draws what it saw, on a runtime. This one measures servers on the core beside it, and
//! what it costs itself would be in the figures: it knows the bytes that it has to get.

mod connection;
pub(crate) mod wrk;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};
use rustix::time::{ClockId, clock_gettime};

use connection::{Connection, Outcome};

/// A request as it is sent, and the body that must come back.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The request, as often as it may be sent at once.
    bytes: Vec<u8>,
    times: usize,
    body: Vec<u8>,
}

impl Exchange {
    pub(crate) fn new(request: &[u8], body: &[u8]) -> Self {
        Self {
            bytes: request.to_vec(),
            times: 1,
            body: body.to_vec(),
        }
    }

    /// For pipelining: so many requests in one write.
    pub(crate) fn repeated(self, times: usize) -> Self {
        Self {
            bytes: self.bytes.repeat(times),
            times,
            ..self
        }
    }

    fn length(&self) -> usize {
        self.bytes.len() / self.times
    }
}

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as the server answers, with so many requests under way on each connection.
    Closed { pipeline: usize },
    /// So many a second.
    Open { rate: f64 },
}

/// What is done to a server.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub connections: usize,
    /// Each connection keeps to one of them.
    pub exchanges: Arc<[Exchange]>,
    pub pace: Pace,
    /// Requests after which the client closes the connection and opens another; 0 is never.
    pub reconnect_after: u64,
    /// When a client gives up on an answer and closes the connection.
    pub patience: Duration,
    /// Statuses that are an answer too, besides 200: refusals under overload.
    pub accepted: &'static [u16],
}

impl Load {
    pub(crate) fn closed(connections: usize, exchanges: Arc<[Exchange]>) -> Self {
        Self {
            connections,
            exchanges,
            pace: Pace::Closed { pipeline: 1 },
            reconnect_after: 0,
            patience: Duration::from_secs(10),
            accepted: &[],
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Answers with status 200 and the right body.
    pub good: u64,
    /// Answers with another status.
    pub statuses: BTreeMap<u16, u64>,
    /// Everything that must not happen, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// Of good answers, in nanoseconds.
    pub latency: Histogram<u64>,
    pub elapsed: Duration,
    /// How much of a core's time the generator used; none where it waits by looking again and again.
    pub busy: Option<f64>,
}

impl Answers {
    pub(crate) fn per_second(&self) -> f64 {
        self.good as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn new() -> Self {
        let latency = Histogram::new_with_bounds(100, 600_000_000_000, 3);
        Self {
            good: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: latency.expect("the bounds are constant and right"),
            elapsed: Duration::ZERO,
            busy: None,
        }
    }

    fn fail(&mut self, what: &str) {
        match self.failures.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.failures.insert(what.to_owned(), 1);
            }
        }
    }
}

/// Many connections to one server.
#[derive(Debug)]
pub(crate) struct Generator {
    address: SocketAddr,
    load: Load,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connections without a request, in the open loop; they take turns.
    free: VecDeque<usize>,
    /// Requests that are due and have no connection yet.
    due: VecDeque<Instant>,
}

impl Generator {
    /// Opens the connections.
    pub(crate) fn connect(address: SocketAddr, load: Load) -> io::Result<Self> {
        let mut generator = Self {
            address,
            poll: Poll::new()?,
            connections: (0..load.connections).map(|_| Connection::new()).collect(),
            free: (0..load.connections).collect(),
            due: VecDeque::new(),
            load,
        };
        for number in 0..generator.connections.len() {
            generator.open(number)?;
            if number % 128 == 127 {
                // Fewer than any server's queue of connections to accept.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(generator)
    }

    /// Sends for `duration`, then waits for what is under way.
    pub(crate) fn run(&mut self, duration: Duration) -> io::Result<Answers> {
        let mut answers = Answers::new();
        let mut events = Events::with_capacity(1024);
        let (start, cpu) = (Instant::now(), thread_cpu());
        let end = start + duration;
        let (mut next_due, mut next_sweep) = (start, start);
        let mut now = start;
        loop {
            let sending = now < end;
            if let Pace::Open { rate } = self.load.pace {
                while sending && next_due <= now {
                    self.due.push_back(next_due);
                    next_due += Duration::from_secs_f64(1.0 / rate);
                }
                self.assign(now, &mut answers)?;
            }
            if now >= next_sweep {
                self.sweep(now, sending, &mut answers)?;
                next_sweep = now + Duration::from_millis(20);
            }
            if !sending
                && self.due.is_empty()
                && self.connections.iter().all(|c| c.asked.is_empty())
            {
                break;
            }
            let wait = match self.load.pace {
                // Waits by looking again and again: to sleep would be late.
                Pace::Open { .. } => Duration::ZERO,
                Pace::Closed { .. } => Duration::from_millis(20),
            };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            // One look at the clock for all answers that came together.
            now = Instant::now();
            for event in &events {
                let Token(number) = event.token();
                if event.is_readable() {
                    self.connections[number].readable = true;
                }
                self.drive(number, now, now < end, &mut answers)?;
            }
        }
        // With what came after the last was sent: it is counted, and so is the CPU time it took.
        answers.elapsed = start.elapsed();
        if let Pace::Closed { .. } = self.load.pace {
            let used = thread_cpu().saturating_sub(cpu);
            answers.busy = Some(used.as_secs_f64() / answers.elapsed.as_secs_f64());
        }
        Ok(answers)
    }

    fn open(&mut self, number: usize) -> io::Result<()> {
        self.connections[number].open(self.address, Token(number), &self.poll)
    }

    /// Gives due requests to free connections.
    fn assign(&mut self, now: Instant, answers: &mut Answers) -> io::Result<()> {
        while let Some(due) = self.due.front().copied() {
            if now.duration_since(due) > self.load.patience {
                answers.fail("gave up: no connection was free");
            } else if let Some(number) = self.free.pop_front() {
                if !self.connections[number].is_open() {
                    self.open(number)?;
                }
                self.connections[number].ask(due);
                self.drive(number, now, true, answers)?;
            } else {
                return Ok(());
            }
            self.due.pop_front();
        }
        Ok(())
    }

    /// Closes connections whose answer does not come; in the closed loop, also begins what is not under way.
    fn sweep(&mut self, now: Instant, sending: bool, answers: &mut Answers) -> io::Result<()> {
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            let late = |asked: &Instant| now.duration_since(*asked) > self.load.patience;
            if connection.asked.front().is_some_and(late) {
                self.fail(number, "gave up: no answer in time", answers);
            }
            if let Pace::Closed { pipeline } = self.load.pace
                && sending
                && self.connections[number].asked.is_empty()
            {
                if !self.connections[number].is_open() {
                    self.open(number)?;
                }
                for _ in 0..pipeline {
                    self.connections[number].ask(now);
                }
                self.drive(number, now, sending, answers)?;
            }
        }
        Ok(())
    }

    /// Closes a connection; the next request on it opens it again.
    fn fail(&mut self, number: usize, what: &str, answers: &mut Answers) {
        let connection = &mut self.connections[number];
        if !connection.asked.is_empty() {
            for _ in &connection.asked {
                answers.fail(what);
            }
            self.free.push_back(number);
        }
        connection.close();
    }

    /// Sends and receives on one connection until nothing more can be done now.
    fn drive(
        &mut self,
        number: usize,
        now: Instant,
        sending: bool,
        answers: &mut Answers,
    ) -> io::Result<()> {
        let exchanges = Arc::clone(&self.load.exchanges);
        let exchange = &exchanges[number % exchanges.len()];
        loop {
            let connection = &mut self.connections[number];
            let status = match connection.step(exchange) {
                Outcome::Wait => return Ok(()),
                Outcome::Failed(what) => {
                    self.fail(number, what, answers);
                    return Ok(());
                }
                Outcome::Answer(status) => status,
            };
            let asked = connection.asked.pop_front().unwrap_or(now);
            if status == 200 {
                answers.good += 1;
                let nanos = now.duration_since(asked).as_nanos();
                answers.latency.saturating_record(nanos as u64);
            } else {
                *answers.statuses.entry(status).or_default() += 1;
                if !self.load.accepted.contains(&status) {
                    answers.fail(&format!("status {status}"));
                }
            }
            let enough = connection.answered == self.load.reconnect_after;
            let over = connection.closing || enough;
            match self.load.pace {
                Pace::Closed { .. } if sending => connection.ask(now),
                Pace::Closed { .. } => {}
                Pace::Open { .. } => self.free.push_back(number),
            }
            if over {
                self.open(number)?;
            }
        }
    }
}

/// CPU time of the calling thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

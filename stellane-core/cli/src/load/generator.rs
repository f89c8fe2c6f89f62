//! Many connections to one server.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};

use super::{
    Answer, Failure, Load, Observer, Pace,
    connection::{Connection, Outcome},
};

/// How long it waits at most before it looks who is late and who does nothing.
const TICK: Duration = Duration::from_millis(20);
const WAKE: Token = Token(usize::MAX);

/// Many connections to one server.
#[derive(Debug)]
pub struct Generator {
    address: SocketAddr,
    load: Load,
    poll: Poll,
    /// Wakes the poll.
    waker: Arc<Waker>,
    connections: Vec<Connection>,
    /// Connections without a request, in the open loop; they take turns.
    free: VecDeque<usize>,
    /// Requests that are due and have no connection yet.
    due: VecDeque<Instant>,
}

impl Generator {
    /// Begins to open the connections.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn connect(address: SocketAddr, load: Load) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut generator = Self {
            address,
            waker: Arc::new(Waker::new(poll.registry(), WAKE)?),
            poll,
            connections: (0..load.connections).map(|_| Connection::new()).collect(),
            free: (0..load.connections).collect(),
            due: VecDeque::new(),
            load,
        };
        for number in 0..generator.connections.len() {
            generator.connections[number].open(
                address,
                Token(number),
                &generator.poll,
                &generator.load,
            )?;
            if number % 128 == 127 {
                // Fewer than any server's queue of connections to accept.
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(generator)
    }

    /// Waits until each connection is open or has failed, but not longer than the clients' patience.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn until_open(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let end = Instant::now() + self.load.patience;
        while self.connections.iter().any(|c| !c.settled) && Instant::now() < end {
            poll(&mut self.poll, &mut events, TICK)?;
            for event in &events {
                if let Some(connection) = self.connections.get_mut(event.token().0) {
                    connection.note(event);
                }
            }
        }
        Ok(())
    }

    /// Sends for `duration`, then waits for what is under way: how long it took in all.
    ///
    /// # Errors
    /// When the system can't say what has come.
    pub fn run(
        &mut self,
        duration: Duration,
        observer: &mut impl Observer,
    ) -> io::Result<Duration> {
        let start = Instant::now();
        let Pace::Open { rate, spin: false } = self.load.pace else {
            return self.send(start, duration, observer);
        };
        let (waker, over) = (Arc::clone(&self.waker), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| wake(&waker, start, duration, rate, &over));
            let took = self.send(start, duration, observer);
            over.store(true, Ordering::Relaxed);
            took
        })
    }

    fn send(
        &mut self,
        start: Instant,
        duration: Duration,
        observer: &mut impl Observer,
    ) -> io::Result<Duration> {
        let mut events = Events::with_capacity(1024);
        let end = start + duration;
        let (mut number, mut next_sweep) = (0, start);
        let mut now = start;
        loop {
            let mut sending = now < end;
            if let Pace::Open { rate, .. } = self.load.pace {
                // Also those that were due before the end and are seen after it.
                let mut next = due_at(start, number, rate);
                while next <= now && next < end {
                    self.due.push_back(next);
                    number += 1;
                    next = due_at(start, number, rate);
                }
                sending = next < end;
                self.assign(now, observer);
            }
            if now >= next_sweep {
                self.sweep(now, sending, observer);
                next_sweep = now + TICK;
            }
            if !sending && self.due.is_empty() && self.connections.iter().all(Connection::is_idle) {
                break;
            }
            let wait = match self.load.pace {
                Pace::Open { spin: true, .. } => Duration::ZERO,
                _ => TICK,
            };
            poll(&mut self.poll, &mut events, wait)?;
            // One look at the clock for all answers that came together.
            now = Instant::now();
            for event in &events {
                let Token(number) = event.token();
                let Some(connection) = self.connections.get_mut(number) else {
                    continue; // woken
                };
                connection.note(event);
                self.drive(number, now, now < end, observer);
            }
        }
        // With what came after the last was sent: it is counted, and so is the CPU time it took.
        Ok(start.elapsed())
    }

    fn open(&mut self, number: usize, now: Instant, observer: &mut impl Observer) {
        let connection = &mut self.connections[number];
        if let Err(error) = connection.open(self.address, Token(number), &self.poll, &self.load) {
            self.fail(number, error.into(), now, observer);
        }
    }

    /// Gives due requests to free connections.
    fn assign(&mut self, now: Instant, observer: &mut impl Observer) {
        while let Some(due) = self.due.front().copied() {
            if now.duration_since(due) > self.load.patience {
                observer.failed(Failure::NoConnection, now - due);
            } else if let Some(number) = self.free.pop_front() {
                observer.sent(now - due);
                self.ask(number, due, 1, now, observer);
            } else {
                return;
            }
            self.due.pop_front();
        }
    }

    /// Sends so many requests over a connection that has none under way.
    fn ask(
        &mut self,
        number: usize,
        due: Instant,
        times: usize,
        now: Instant,
        observer: &mut impl Observer,
    ) {
        for _ in 0..times {
            self.connections[number].ask(due, self.load.exchange(number));
        }
        if !self.connections[number].is_open() {
            self.open(number, now, observer);
        }
        self.drive(number, now, true, observer);
    }

    /// Closes connections whose answer does not come; in the closed loop, also begins what is not under way.
    fn sweep(&mut self, now: Instant, sending: bool, observer: &mut impl Observer) {
        for number in 0..self.connections.len() {
            let oldest = self.connections[number].asked().next();
            if oldest.is_some_and(|due| now.duration_since(due) > self.load.patience) {
                self.fail(number, Failure::TimedOut, now, observer);
            }
            if let Pace::Closed { pipeline } = self.load.pace
                && sending
                && self.connections[number].is_idle()
            {
                self.ask(number, now, pipeline, now, observer);
            }
        }
    }

    /// Closes a connection; the next request on it opens it again.
    fn fail(
        &mut self,
        number: usize,
        failure: Failure,
        now: Instant,
        observer: &mut impl Observer,
    ) {
        let connection = &mut self.connections[number];
        if !connection.is_idle() {
            for due in connection.asked() {
                observer.failed(failure, now.duration_since(due));
            }
            self.free.push_back(number);
        }
        connection.close();
    }

    /// Sends and receives on one connection until nothing more can be done now.
    fn drive(&mut self, number: usize, now: Instant, sending: bool, observer: &mut impl Observer) {
        let exchanges = Arc::clone(&self.load.exchanges);
        let place = number % exchanges.len();
        let exchange = &exchanges[place];
        loop {
            let connection = &mut self.connections[number];
            let (answer, due) = match connection.step(exchange) {
                Outcome::Wait => return,
                Outcome::Failed(Failure::Closed | Failure::Reset)
                    if self.load.retry
                        && !connection.is_idle()
                        && connection.may_have_been_closed_before() =>
                {
                    self.open(number, now, observer);
                    continue;
                }
                Outcome::Failed(failure) => return self.fail(number, failure, now, observer),
                Outcome::Answer(answer, due) => (answer, due),
            };
            let answer = Answer {
                exchange: place,
                ..answer
            };
            observer.answered(answer, now.duration_since(due));
            let enough = connection.answered == self.load.reconnect_after;
            let over = connection.is_closing() || enough;
            match self.load.pace {
                Pace::Closed { .. } if sending => connection.ask(now, exchange),
                Pace::Closed { .. } => {}
                Pace::Open { .. } => self.free.push_back(number),
            }
            if over {
                self.open(number, now, observer);
            }
        }
    }
}

fn due_at(start: Instant, number: u64, rate: f64) -> Instant {
    const NEVER: f64 = 1e9;
    start + Duration::from_secs_f64((number as f64 / rate).min(NEVER))
}

fn poll(poll: &mut Poll, events: &mut Events, wait: Duration) -> io::Result<()> {
    match poll.poll(events, Some(wait)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

/// Wakes a generator whenever a request is due: how long the system's poll waits is a millisecond coarse.
fn wake(waker: &Waker, start: Instant, duration: Duration, rate: f64, over: &AtomicBool) {
    let mut next = start;
    while next < start + duration && !over.load(Ordering::Relaxed) {
        let wait = next.saturating_duration_since(Instant::now());
        thread::sleep(wait.min(TICK));
        if wait > TICK {
            continue;
        }
        if waker.wake().is_err() {
            return; // it looks every tick besides
        }
        let number = (start.elapsed().as_secs_f64() * rate) as u64 + 1;
        next = due_at(start, number, rate);
    }
}

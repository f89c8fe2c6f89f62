use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::scenario::{Discipline, Plant, Scenario, exponential};
use super::sharing::Sharing;
use super::waiting::{Asking, Waiting};
use crate::clock::Rng;
use crate::{
    AdaptiveLimit, Algorithm, AlgorithmKind, LimitConfig, LocalSignal, ManualClock, Outcome, Permit,
};

/// What stands in front of the service.
#[derive(Debug, Clone)]
pub enum Contender {
    /// The default limit, as it is configured if nothing is.
    Default,
    /// Nothing.
    NoLimit,
    /// One of the algorithms of this crate, with its initial limit.
    Kind(AlgorithmKind, u32),
    /// An algorithm of your own, from a seed.
    Own(fn(u64) -> Box<dyn Algorithm>),
}

impl Contender {
    fn build(&self, clock: &ManualClock, seed: u64, signal: &LocalSignal) -> AdaptiveLimit {
        let mut config = LimitConfig::default();
        let builder = AdaptiveLimit::builder().clock(clock.clock()).seed(seed);
        let builder = builder.local_signal(signal).simulated();
        let builder = match self {
            Self::Default => builder,
            Self::NoLimit => {
                config.algorithm = AlgorithmKind::Fixed;
                (config.initial, config.max) = (u32::MAX, u32::MAX);
                builder
            }
            Self::Kind(kind, initial) => {
                config.algorithm = *kind;
                config.initial = *initial;
                config.min = config.min.min(*initial);
                builder
            }
            Self::Own(build) => builder.boxed_algorithm(build(seed)),
        };
        builder
            .config(config)
            .build()
            .unwrap_or_else(|error| unreachable!("valid: {error}"))
    }
}

/// What happened in one run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Every answer: when, after how long, and whether somebody still waited for it, in seconds.
    pub answers: Vec<(f64, f32, bool)>,
    /// The state of the limit ten times a second.
    pub samples: Vec<Sample>,
    /// Requests that arrived, retries included.
    pub arrived: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// When.
    pub refused_at: Vec<f32>,
    /// The most requests in flight at a time.
    pub peak: u32,
    slo: f64,
}

/// The state of the limit at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When, in seconds.
    pub at: f64,
    /// The limit.
    pub limit: u32,
    /// Requests in flight.
    pub in_flight: u32,
}

impl Run {
    /// Answers in time per second, between two moments.
    #[must_use]
    pub fn goodput(&self, from: f64, to: f64) -> f64 {
        let good = self
            .answers
            .iter()
            .filter(|(at, latency, wanted)| {
                (from..to).contains(at) && *wanted && f64::from(*latency) <= self.slo
            })
            .count();
        good as f64 / (to - from)
    }

    /// A quantile of the latency of the answers between two moments, in seconds.
    #[must_use]
    pub fn latency(&self, q: f64, from: f64, to: f64) -> f64 {
        let within = self
            .answers
            .iter()
            .filter(|(at, ..)| (from..to).contains(at));
        let mut latencies: Vec<f32> = within.map(|(_, latency, _)| *latency).collect();
        if latencies.is_empty() {
            return 0.0;
        }
        latencies.sort_by(f32::total_cmp);
        f64::from(latencies[((latencies.len() - 1) as f64 * q) as usize])
    }

    /// How far the limit strays from its median between two moments, as a fraction of it: nine in ten of its means
    /// over a second are within this.
    #[must_use]
    pub fn limit_band(&self, from: f64, to: f64) -> f64 {
        let seconds = (0..(to - from) as u32).map(|second| from + f64::from(second));
        let mut means: Vec<f64> = seconds.map(|at| self.limits(at, at + 1.0).0).collect();
        means.sort_by(f64::total_cmp);
        let Some(median) = means.get(means.len() / 2).copied() else {
            return 0.0;
        };
        let mut off: Vec<f64> = means.iter().map(|m| (m / median - 1.0).abs()).collect();
        off.sort_by(f64::total_cmp);
        off[(off.len() - 1) * 9 / 10]
    }

    /// The mean, lowest and highest limit between two moments.
    #[must_use]
    pub fn limits(&self, from: f64, to: f64) -> (f64, u32, u32) {
        let within = self
            .samples
            .iter()
            .filter(|sample| (from..to).contains(&sample.at));
        let limits: Vec<u32> = within.map(|sample| sample.limit).collect();
        let mean =
            limits.iter().map(|limit| f64::from(*limit)).sum::<f64>() / limits.len().max(1) as f64;
        let low = limits.iter().copied().min().unwrap_or(0);
        (mean, low, limits.iter().copied().max().unwrap_or(0))
    }
}

/// Runs one scenario.
#[must_use]
pub fn run(scenario: &Scenario, contender: &Contender, seed: u64) -> Run {
    run_shared(scenario, std::slice::from_ref(contender), seed).remove(0)
}

/// Runs one scenario with several clients that share the service, each behind a limit of its own
/// and with an equal part of the load.
#[must_use]
pub fn run_shared(scenario: &Scenario, contenders: &[Contender], seed: u64) -> Vec<Run> {
    Engine::new(scenario, contenders, None, seed).run()
}

/// Runs one scenario behind two limits, one after the other, as of a client and of the service itself. The run
/// shows the limit of the first.
#[must_use]
pub fn run_in_series(scenario: &Scenario, contenders: [&Contender; 2], seed: u64) -> Run {
    let [first, second] = contenders;
    Engine::new(scenario, std::slice::from_ref(first), Some(second), seed)
        .run()
        .remove(0)
}

struct Engine<'a> {
    scenario: &'a Scenario,
    clock: ManualClock,
    signal: LocalSignal,
    limits: Vec<AdaptiveLimit>,
    /// Stands behind each of the others.
    second: Option<AdaptiveLimit>,
    waiting: Waiting,
    /// For each limit, whether somebody looks when its next step is due.
    stepping: Vec<bool>,
    rng: Rng,
    now: f64,
    plant: Plant,
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    jobs: Vec<Job>,
    free: Vec<usize>,
    sharing: Sharing,
    queue: VecDeque<usize>,
    busy: usize,
    /// Requests whose work has not begun.
    delayed: usize,
    tokens: f64,
    tokens_at: f64,
    runs: Vec<Run>,
}

struct Job {
    permit: Option<Permit>,
    second: Option<Permit>,
    generation: u32,
    arrived: f64,
    work: f64,
    attempt: u32,
    client: usize,
    user: Option<usize>,
    stream: bool,
    wanted: bool,
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Event {
    at: f64,
    sequence: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Arrival,
    /// A client of a closed loop asks.
    User(usize),
    Stream(u32),
    Retry {
        attempt: u32,
        client: usize,
    },
    /// The delay of a request is over: its work begins.
    Begin(usize),
    /// A first-come-first-served request is done.
    Done(usize),
    Answer(usize, Reply),
    Timeout(usize, u32),
    /// Of one who waits, in which slot, and since when.
    WaitedTooLong(usize, f64),
    /// What may begin at once may rise.
    Step(usize),
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Reply {
    BadRequest,
    TooMany,
}

impl Eq for Event {}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at
            .total_cmp(&other.at)
            .then(self.sequence.cmp(&other.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How often the functions of time are looked at, at least.
const RESOLUTION: f64 = 0.005;

impl<'a> Engine<'a> {
    fn new(
        scenario: &'a Scenario,
        contenders: &[Contender],
        second: Option<&Contender>,
        seed: u64,
    ) -> Self {
        let (clock, signal) = (ManualClock::default(), LocalSignal::new());
        // Who calls the service hears nothing of its machine.
        let none = LocalSignal::new();
        let hears = if second.is_some() || contenders.len() > 1 {
            &none
        } else {
            &signal
        };
        let limits: Vec<_> = contenders
            .iter()
            .zip(seed..)
            .map(|(contender, seed)| contender.build(&clock, seed, hears))
            .collect();
        let second = second.map(|contender| contender.build(&clock, seed, &signal));
        let runs = vec![
            Run {
                slo: scenario.slo,
                ..Run::default()
            };
            limits.len()
        ];
        Self {
            scenario,
            clock,
            signal,
            stepping: vec![false; limits.len()],
            limits,
            second,
            waiting: Waiting::default(),
            rng: Rng::new(seed ^ 0x5eed_0f10_ad5e_ed00),
            now: 0.0,
            plant: (scenario.plant)(0.0),
            events: BinaryHeap::new(),
            sequence: 0,
            jobs: Vec::new(),
            free: Vec::new(),
            sharing: Sharing::default(),
            queue: VecDeque::new(),
            busy: 0,
            delayed: 0,
            tokens: 0.0,
            tokens_at: 0.0,
            runs,
        }
    }

    fn run(mut self) -> Vec<Run> {
        self.schedule(0.0, What::Arrival);
        self.schedule(0.0, What::Sample);
        if let Some(closed) = self.scenario.closed {
            for user in 0..closed.clients {
                let at = self.rng.between(0.0, closed.within.max(1e-9));
                self.schedule(at, What::User(user));
            }
        }
        if let Some((from, _, _)) = self.scenario.streams {
            self.schedule(from, What::Stream(1));
        }
        let mut looked = 0.0;
        loop {
            if self.now - looked >= RESOLUTION {
                looked = self.now;
                self.plant = (self.scenario.plant)(self.now);
                if self.scenario.run_queue {
                    let tasks = self.sharing.len() + self.busy + self.queue.len();
                    self.signal.report(tasks as f64 / self.plant.cores);
                }
            }
            let next_event = self.events.peek().map_or(f64::INFINITY, |event| event.0.at);
            let next_done = self.sharing.next(self.now, &self.plant);
            let at = next_event.min(next_done).min(self.now + RESOLUTION);
            if at > self.scenario.duration {
                return self.runs;
            }
            self.sharing.pass(at - self.now, &self.plant);
            self.now = at;
            self.clock.set(Duration::from_secs_f64(at));
            if at == next_done {
                if let Some(job) = self.sharing.pop() {
                    self.finish(job, Outcome::Success);
                }
            } else if at == next_event
                && let Some(Reverse(event)) = self.events.pop()
            {
                self.happen(event.what);
            }
            while let Some((asking, permit)) = self.waiting.next() {
                match permit {
                    Some(permit) => self.enter(asking, permit),
                    None => self.refuse(asking),
                }
            }
        }
    }

    fn schedule(&mut self, at: f64, what: What) {
        self.sequence += 1;
        self.events.push(Reverse(Event {
            at,
            sequence: self.sequence,
            what,
        }));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrival => {
                let rate = self.scenario.scale * (self.scenario.load)(self.now);
                let pause = if rate > 0.0 {
                    exponential(&mut self.rng, 1.0 / rate)
                } else {
                    0.01
                };
                self.schedule(self.now + pause, What::Arrival);
                if rate > 0.0 {
                    let n = self.limits.len();
                    let mut client = self.rng.next() as usize % n;
                    if !self.scenario.equal {
                        // As 1, 1/2, 1/3 and so on.
                        let sum: f64 = (1..=n).map(|i| 1.0 / i as f64).sum();
                        let mut left = self.rng.between(0.0, sum);
                        client = (0..n)
                            .find(|i| {
                                left -= 1.0 / (*i as f64 + 1.0);
                                left <= 0.0
                            })
                            .unwrap_or(0);
                    }
                    self.arrive(0, client, None, false);
                }
            }
            What::Retry { attempt, client } => self.arrive(attempt, client, None, false),
            What::User(user) => {
                let client = user % self.limits.len();
                self.arrive(0, client, Some(user), false);
            }
            What::Stream(n) => {
                self.arrive(0, 0, None, true);
                if let Some((_, rate, most)) = self.scenario.streams
                    && n < most
                {
                    self.schedule(self.now + 1.0 / rate, What::Stream(n + 1));
                }
            }
            What::Begin(job) => {
                self.delayed -= 1;
                self.begin(job);
            }
            What::Done(job) => {
                self.finish(job, Outcome::Success);
                self.busy -= 1;
                self.start_queued();
            }
            What::Answer(job, Reply::BadRequest) => self.finish(job, Outcome::Ignore),
            What::Answer(job, Reply::TooMany) => self.finish(job, Outcome::Overload),
            What::Timeout(job, generation) => self.give_up(job, generation),
            What::WaitedTooLong(slot, since) => {
                if let Some(asking) = self.waiting.time_out(slot, since) {
                    self.refuse(asking);
                }
            }
            What::Step(client) => {
                self.stepping[client] = false;
                self.limits[client].shared.step();
                if self.limits[client].shared.gate.has_waiters() {
                    self.await_step(client);
                }
            }
            What::Sample => {
                for (run, limit) in self.runs.iter_mut().zip(&self.limits) {
                    let (in_flight, limit) = limit.shared.load();
                    run.samples.push(Sample {
                        at: self.now,
                        limit,
                        in_flight,
                    });
                }
                self.schedule(self.now + 0.1, What::Sample);
            }
        }
    }

    fn ask_again(&mut self, user: usize, refused: bool) {
        let Some(closed) = self.scenario.closed else {
            return;
        };
        let mean = if refused {
            closed.backoff
        } else {
            closed.think
        };
        let pause = exponential(&mut self.rng, mean.max(1e-9));
        self.schedule(self.now + pause, What::User(user));
    }

    fn arrive(&mut self, attempt: u32, client: usize, user: Option<usize>, stream: bool) {
        self.runs[client].arrived += 1;
        let asking = Asking {
            since: self.now,
            attempt,
            client,
            user,
            stream,
        };
        let limit = &self.limits[client];
        if let Ok(permit) = limit.try_acquire() {
            return self.enter(asking, permit);
        }
        let Some(wait) = limit.shared.may_wait() else {
            return self.refuse(asking);
        };
        let Some(slot) = self.waiting.join(limit, asking) else {
            return self.refuse(asking);
        };
        let until = self.now + wait.as_secs_f64();
        self.schedule(until, What::WaitedTooLong(slot, self.now));
        self.await_step(client);
    }

    fn await_step(&mut self, client: usize) {
        if !std::mem::replace(&mut self.stepping[client], true) {
            let at = self.now + self.limits[client].shared.next_step().as_secs_f64();
            self.schedule(at, What::Step(client));
        }
    }

    fn refuse(&mut self, asking: Asking) {
        self.runs[asking.client].refused += 1;
        self.runs[asking.client].refused_at.push(self.now as f32);
        match asking.user {
            Some(user) => self.ask_again(user, true),
            None if asking.stream => {}
            None => self.retry(asking.attempt, asking.client),
        }
    }

    fn enter(&mut self, asking: Asking, permit: Permit) {
        let Asking {
            since,
            attempt,
            client,
            user,
            stream,
        } = asking;
        let second = match self.second.as_ref().map(AdaptiveLimit::try_acquire) {
            None => None,
            Some(Ok(permit)) => Some(permit),
            Some(Err(_)) => {
                // Which the first one hears as an overload of what is behind it.
                permit.finish(Outcome::Overload);
                self.runs[client].refused += 1;
                return self.retry(attempt, client);
            }
        };
        let (in_flight, _) = self.limits[client].shared.gate.load();
        self.runs[client].peak = self.runs[client].peak.max(in_flight);
        let job = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(Job {
                permit: None,
                second: None,
                generation: 0,
                arrived: 0.0,
                work: 0.0,
                attempt: 0,
                client: 0,
                user: None,
                stream: false,
                wanted: false,
                lost: false,
            });
            self.jobs.len() - 1
        });
        let plant = self.plant;
        let work = self.scenario.work.draw(&mut self.rng);
        let lost = plant.black_hole > 0.0 && self.rng.between(0.0, 1.0) < plant.black_hole;
        let slot = &mut self.jobs[job];
        (slot.permit, slot.second) = (Some(permit), second);
        slot.generation = slot.generation.wrapping_add(1);
        (slot.arrived, slot.work, slot.attempt, slot.client) = (since, work, attempt, client);
        (slot.wanted, slot.lost) = (true, lost);
        (slot.user, slot.stream) = (user, stream);
        let generation = slot.generation;
        if self.scenario.clients.timeout.is_finite() {
            let at = self.now + self.scenario.clients.timeout;
            self.schedule(at, What::Timeout(job, generation));
        }
        if lost || stream {
            return;
        }
        if plant.bad_requests > 0.0 && self.rng.between(0.0, 1.0) < plant.bad_requests {
            return self.schedule(self.now + 0.001, What::Answer(job, Reply::BadRequest));
        }
        let inside = self.delayed + self.sharing.len() + self.busy + self.queue.len();
        let is_full = inside >= plant.places;
        if is_full && plant.drops {
            self.jobs[job].lost = true;
            return;
        }
        if is_full || plant.quota.is_finite() && !self.take_token(plant.quota) {
            let at = self.now + plant.refusal;
            return self.schedule(at, What::Answer(job, Reply::TooMany));
        }
        if plant.delay > 0.0 {
            self.delayed += 1;
            self.schedule(self.now + plant.delay, What::Begin(job));
        } else {
            self.begin(job);
        }
    }

    fn take_token(&mut self, quota: f64) -> bool {
        let fresh = (self.now - self.tokens_at) * quota;
        self.tokens = (self.tokens + fresh).min(quota * 0.05);
        self.tokens_at = self.now;
        let taken = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(taken));
        taken
    }

    fn begin(&mut self, job: usize) {
        match self.scenario.discipline {
            Discipline::Sharing => {
                self.sharing.begin(job, self.jobs[job].work);
            }
            Discipline::Fifo => {
                self.queue.push_back(job);
                self.start_queued();
            }
        }
    }

    fn start_queued(&mut self) {
        while (self.busy as f64) < self.plant.cores {
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            self.busy += 1;
            self.schedule(self.now + self.jobs[job].work, What::Done(job));
        }
    }

    fn finish(&mut self, job: usize, outcome: Outcome) {
        let slot = &mut self.jobs[job];
        for permit in [slot.permit.take(), slot.second.take()]
            .into_iter()
            .flatten()
        {
            permit.finish(outcome);
        }
        if outcome == Outcome::Success {
            let latency = (self.now - slot.arrived) as f32;
            self.runs[slot.client]
                .answers
                .push((self.now, latency, slot.wanted));
        }
        slot.generation = slot.generation.wrapping_add(1);
        let user = slot.user.take();
        self.free.push(job);
        if let Some(user) = user {
            self.ask_again(user, outcome == Outcome::Overload);
        }
    }

    fn give_up(&mut self, job: usize, generation: u32) {
        let slot = &mut self.jobs[job];
        if slot.generation != generation || !slot.wanted {
            return;
        }
        slot.wanted = false;
        let (attempt, client) = (slot.attempt, slot.client);
        if self.scenario.clients.cancels || slot.lost {
            // Dropping the permit: the request counts as cancelled. Its work goes on.
            (slot.permit, slot.second) = (None, None);
        }
        if slot.lost {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(job);
        }
        self.retry(attempt, client);
    }

    fn retry(&mut self, attempt: u32, client: usize) {
        let clients = self.scenario.clients;
        if attempt < clients.retries {
            let pause = clients.backoff * self.rng.between(0.5, 1.5);
            self.schedule(
                self.now + pause,
                What::Retry {
                    attempt: attempt + 1,
                    client,
                },
            );
        }
    }
}

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use super::{
    Contender, Member, Run, Sample,
    fleet::{Dates, Parts},
    job::{Job, Seats},
    scenario::{Plant, Scenario, exponential},
    sharing::Sharing,
    waiting::{Asking, Waiting, Who},
};
use crate::{AdaptiveLimit, LimitConfig, LocalSignal, ManualClock, Outcome, clock::Rng};

/// Runs one scenario.
#[must_use]
pub fn run(scenario: &Scenario, contender: &Contender, seed: u64) -> Run {
    run_shared(scenario, std::slice::from_ref(contender), seed).remove(0)
}

/// Runs one scenario with several clients that share the service, each behind a limit of its own
/// and with an equal part of the load. They hear nothing of the machine of the service.
#[must_use]
pub fn run_shared(scenario: &Scenario, contenders: &[Contender], seed: u64) -> Vec<Run> {
    let members: Vec<_> = contenders.iter().cloned().map(Member::new).collect();
    run_fleet(scenario, &members, seed)
}

/// The same with clients that come and go, and have unequal parts of the load.
#[must_use]
pub fn run_fleet(scenario: &Scenario, members: &[Member], seed: u64) -> Vec<Run> {
    Engine::new(scenario, members, None, seed).run()
}

/// Runs one scenario behind two limits, one after the other, as of a client and of the service itself. The run
/// shows the limit of the first.
#[must_use]
pub fn run_in_series(scenario: &Scenario, contenders: [&Contender; 2], seed: u64) -> Run {
    let [first, second] = contenders;
    let first = Member::new(first.clone());
    Engine::new(scenario, &[first], Some(second), seed)
        .run()
        .remove(0)
}

pub(super) struct Engine<'a> {
    pub(super) scenario: &'a Scenario,
    clock: ManualClock,
    signal: LocalSignal,
    pub(super) limits: Vec<AdaptiveLimit>,
    parts: Parts,
    pub(super) dates: Dates,
    /// Stands behind each of the others.
    pub(super) second: Option<AdaptiveLimit>,
    waiting: Waiting,
    /// For each limit, whether somebody looks when its next step is due.
    stepping: Vec<bool>,
    pub(super) rng: Rng,
    pub(super) now: f64,
    pub(super) plant: Plant,
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    pub(super) jobs: Vec<Job>,
    pub(super) free: Vec<usize>,
    pub(super) sharing: Sharing,
    pub(super) queue: VecDeque<usize>,
    pub(super) busy: usize,
    /// Requests whose work has not begun.
    pub(super) delayed: usize,
    pub(super) seats: Seats,
    pub(super) tokens: f64,
    pub(super) tokens_at: f64,
    pub(super) runs: Vec<Run>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Event {
    at: f64,
    sequence: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum What {
    Arrival,
    /// A client of a closed loop asks.
    User(usize),
    /// One of the others, and its number.
    Other(u32),
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
    /// One of the others has sent its request,
    Sent(usize),
    /// and read its answer.
    Read(usize),
    /// Of one who waits, in which slot, and since when.
    WaitedTooLong(usize, f64),
    /// What may begin at once may rise.
    Step(usize),
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reply {
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
        members: &[Member],
        second: Option<&Contender>,
        seed: u64,
    ) -> Self {
        let (clock, signal) = (ManualClock::default(), LocalSignal::new());
        // Who calls the service hears nothing of its machine.
        let none = LocalSignal::new();
        let is_there = second.is_none() && members.len() == 1;
        let walls: Vec<_> = members.iter().map(|m| m.wall(&clock)).collect();
        let limits: Vec<_> = members
            .iter()
            .zip(seed..)
            .zip(&walls)
            .map(|((member, seed), wall)| {
                let heard = if is_there { &signal } else { &none };
                let contender = &member.contender;
                contender.build(&clock, seed, heard, member.min, wall.as_ref())
            })
            .collect();
        let min = LimitConfig::default().min;
        let second = second.map(|contender| contender.build(&clock, seed, &signal, min, None));
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
            parts: Parts::of(members),
            dates: Dates::of(members, &walls),
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
            seats: Seats::default(),
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
        if let Some(others) = self.scenario.others {
            self.schedule(others.from, What::Other(1));
        }
        let mut looked = 0.0;
        loop {
            if self.now - looked >= RESOLUTION {
                looked = self.now;
                self.plant = (self.scenario.plant)(self.now);
                if self.scenario.signal {
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

    pub(super) fn schedule(&mut self, at: f64, what: What) {
        if at.is_finite() {
            self.sequence += 1;
            self.events.push(Reverse(Event {
                at,
                sequence: self.sequence,
                what,
            }));
        }
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
                    let client = self.parts.draw(self.now, &mut self.rng);
                    self.arrive(0, client, Who::Anybody);
                }
            }
            What::Retry { attempt, client } => self.arrive(attempt, client, Who::Anybody),
            What::User(user) => self.arrive(0, user % self.limits.len(), Who::User(user)),
            What::Other(number) => {
                self.arrive(0, 0, Who::Other);
                if let Some(others) = self.scenario.others
                    && number < others.most
                {
                    self.schedule(self.now + 1.0 / others.rate, What::Other(number + 1));
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
            What::Sent(job) => self.sent(job),
            What::Read(job) => self.read(job),
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
            What::Sample => self.sample(),
        }
    }

    fn sample(&mut self) {
        for (run, limit) in self.runs.iter_mut().zip(&self.limits) {
            let (in_flight, now) = limit.shared.load();
            run.samples.push(Sample {
                at: self.now,
                limit: now,
                in_flight,
            });
            let stats = limit.stats();
            if run.said.len() as u64 <= stats.changes {
                run.said.push((self.now, limit.explain()));
            }
        }
        self.schedule(self.now + 0.1, What::Sample);
    }

    fn arrive(&mut self, attempt: u32, client: usize, who: Who) {
        if who == Who::Other {
            self.runs[client].others.0 += 1;
        } else {
            self.runs[client].arrived += 1;
        }
        let asking = Asking {
            since: self.now,
            attempt,
            client,
            who,
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

    pub(super) fn refuse(&mut self, asking: Asking) {
        let run = &mut self.runs[asking.client];
        if asking.who == Who::Other {
            run.others.1 += 1;
            return;
        }
        run.refused += 1;
        run.refused_at.push(self.now as f32);
        match asking.who {
            Who::User(user) => self.ask_again(user, true),
            _ => self.retry(asking.attempt, asking.client),
        }
    }

    pub(super) fn ask_again(&mut self, user: usize, refused: bool) {
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

    pub(super) fn retry(&mut self, attempt: u32, client: usize) {
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

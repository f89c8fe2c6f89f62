use std::time::Duration;

use super::curve::Curve;
use super::overloads::Overloads;
use super::surge::Surge;
use super::{LimitEvidence, Tick, Window, clamp_limit, round};

/// While nothing says that the service is full: looks for what would, and lets a surge in step by step.
///
/// The steps are not there to refuse anybody: what is above them waits for the next. They keep a thousand requests that
/// come within the same millisecond from being inside of a service that can do twenty before it is known that it can
/// not do more.
#[derive(Debug, Clone)]
pub(super) struct Open {
    /// What may begin at once.
    cap: f64,
    /// The lowest that it is.
    least: f64,
    min: u32,
    max: u32,
    stepped_at: Duration,
    /// Answers since then.
    answers: u64,
    curve: Curve,
    target: Option<f64>,
    /// Of the latest window, in seconds.
    median: f64,
    /// When the machine was last seen to have more to run than it can, and how much that has been since it began.
    queued: Option<(Duration, f64)>,
    /// Where others share the service.
    surge: Option<Surge>,
}

/// From where to limit, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) limit: f64,
    /// Whether this limit is known to leave no queue.
    pub(super) known: bool,
    /// Throughput and concurrency before, and the median in seconds.
    pub(super) before: (f64, f64),
    pub(super) median: f64,
    pub(super) evidence: LimitEvidence,
}

// What each moves when it is halved and doubled ends its docs: the interval of all scenarios that suffers most, in per cent of
// what it is, and the slowest cold start, of 0.8 s. `.ci/constants` measures it, on two seeds: above 95 % it is mostly chance.

/// So many in flight at a time are no overload that a limit must end: a service that can't do them is one that has
/// hardly any load. Below 10, services of one core were cut by chance; above 30, their queue became the clients' wait.
/// Half, twice: nothing moves.
const FEW: f64 = 20.0;
/// The cap doubles in so many seconds, while it is used: within a second and a half from 256 to whatever there is. A
/// pause of 50 ms let twice as much into a service that collapses, before the signal of its machine was heard; one of 200 ms made
/// a thousand clients that come together wait for more than a second.
/// Half: 98 % (`half_waits`); twice: nothing.
const STEP: f64 = 0.1;
/// Steps after which the count begins anew, so that a surge after an idle hour does not get two at once.
/// Half, twice: nothing.
const LATE: f64 = 2.0;
/// Or when there were so many answers for each place: what is done so soon is no surge. Without it a hundred thousand
/// wait for a service that does a million per second.
/// Half, twice: nothing.
const TURNS: f64 = 8.0;
/// It is used if so much of it is.
/// Half, twice: nothing.
const USED: f64 = 0.5;
/// What a step leaves of a cap that is not, down to this many times what is.
/// Half, twice, of either: nothing.
const SHRINK: (f64, f64) = (0.9, 4.0);
/// Natural logarithms of concurrency that brought nothing: enough to act on. The constant that matters most: below 0.8
/// storms of retries were met too late, as honest load had to be told from them more often by chance.
/// Half: 96 % (`bad_requests`); twice: 95 % (`capacity_halves`), and a cold start of 15.6 s (1 s).
const ENOUGH: f64 = 0.9;
/// Times that on a machine that is heard and not full: what is slow is slow elsewhere, or by chance. At 2 two of 480 honest
/// loads were refused up to a fifth, closed loops of requests of which half take a hundred times as long as the others and
/// all began at once, and a service of which a third is a 504 after a second in one run of 25. Only where there is next to
/// nothing to do, one run of 400 of a service at three fifths of what it can do was limited by chance, for seconds.
/// Half: 98 % (`load_independent`); twice: nothing.
const NOT_FULL: f64 = 3.0;
/// Times that where no machine is heard: at 3 a service of a second at twice what it can do was found out after a minute in
/// two runs of a hundred, at 1 streams beside short requests were limited by chance in one of ten.
/// Half: 2715.8 of a million refused; twice: a cold start that does not end (1 s).
const UNHEARD: f64 = 2.0;
/// Tasks ready for each core from which on the machine is full. At 1 it has just enough, and by chance twice as many
/// for a while.
/// Half: 94 % (`drops`); twice: 97 % (`fifo`).
pub(super) const FULL: f64 = 2.5;
/// How much more, as the logarithm, times how long, in seconds: twenty milliseconds of seven tasks for each core, or a
/// fifth of a second of 2.8. With ten milliseconds of whatever it is, a service at four fifths of what it can do was
/// limited once in some seconds, by chance.
/// Half: 95 % (`pareto`); twice: 92 % (`capacity_halves`).
const MUCH: f64 = 0.02;
/// Places beyond the knee, in square roots of it: without them chance leaves a part of the service idle. At the knee
/// itself a service at four fifths of what it can do, limited by chance, lost a sixth for seconds.
/// Half: 95 % (`black_hole`); twice: 97 % (`slow_dependency`).
const ROOM: f64 = 2.0;
/// How many places are the machine's knee, in terms of what keeps its cores busy.
/// Half: a cold start of 1.7 s (knee); twice: of 11.4 s, and 91 % (`deadline_storm`).
pub(super) const SPARE: f64 = 1.25;
/// But so many at least: of a machine whose CPUs others have for a while ten requests were found to be too many.
/// Twice: a cold start of 2.9 s (knee).
/// Half: nothing; twice: a cold start of 1.8 s (knee).
const LEAST: f64 = 10.0;
/// What is left of the load when the service itself says that it is overloaded. A cut to the knee, as far below as that
/// was measured, cost a third of the throughput where refusing is all that the service does.
/// Half: 98 % (`defers`); twice: 98 % (`defers_at_rate`).
const TOLD: f64 = 0.8;

impl Open {
    pub(super) fn new(initial: u32, min: u32, max: u32) -> Self {
        let least = clamp_limit(f64::from(initial), min, max);
        Self {
            cap: least,
            least,
            min,
            max,
            stepped_at: Duration::ZERO,
            answers: 0,
            curve: Curve::new(),
            target: None,
            median: 0.0,
            queued: None,
            surge: None,
        }
    }

    /// Others limit the same service: each begins with few.
    pub(super) fn share(&mut self) {
        self.least = self.least.min(FEW);
        (self.cap, self.surge) = (self.least, Some(Surge::default()));
    }

    pub(super) fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
    }

    pub(super) fn set_target(&mut self, seconds: Option<f64>) {
        self.target = seconds;
    }

    pub(super) fn cap(&self) -> u32 {
        round(clamp_limit(self.cap, self.min, self.max))
    }

    /// The latest, in seconds.
    pub(super) fn median(&self) -> f64 {
        self.median
    }

    pub(super) fn next_step(&self) -> Duration {
        self.stepped_at + Duration::from_secs_f64(STEP)
    }

    /// After a time with a limit; what was measured before is still worth comparing with.
    pub(super) fn begin(&mut self, limit: u32, now: Duration) {
        self.curve.forget();
        self.queued = None;
        self.surge = self.surge.take().map(|_| Surge::default());
        self.cap = self.least.max(f64::from(limit));
        self.stepped_at = now;
    }

    /// By wall time, whatever is answered meanwhile, or by answers.
    fn step(&mut self, now: Duration, in_flight: f64) {
        let waited = now.saturating_sub(self.stepped_at).as_secs_f64();
        let is_back = now < self.stepped_at;
        if waited < STEP && self.answers as f64 <= TURNS * self.cap && !is_back {
            return;
        }
        (self.stepped_at, self.answers) = (now, 0);
        let cap = if in_flight < USED * self.cap {
            let cap = (SHRINK.0 * self.cap).max(SHRINK.1 * in_flight);
            cap.min(self.cap)
        } else if is_back || waited > LATE * STEP {
            // Nobody has looked for long, and nobody knows for how long it has been used.
            self.cap
        } else if self.surge.as_mut().is_some_and(Surge::holds) {
            self.cap
        } else {
            2.0 * self.cap
        };
        self.cap = cap.max(self.least).min(f64::from(self.max));
    }

    /// Whether a window with answers says that the service is full. `doubt` is how much more evidence it takes than
    /// usual.
    pub(super) fn on_window(
        &mut self,
        window: &Window<'_>,
        overloads: &Overloads,
        doubt: f64,
    ) -> Option<Start> {
        self.median = window.latencies.quantile(0.5);
        let flat = self.curve.add(window);
        self.answers += window.answers;
        self.step(window.end, f64::from(window.max_in_flight));
        let is_used = f64::from(window.max_in_flight) >= USED * self.cap;
        if let Some(surge) = &mut self.surge
            && let Some(evidence) = surge.on_window(window, is_used)
        {
            let (knee, known) = self.curve.knee(window.end);
            return self.full(with_room(knee).min(self.cap), known, evidence);
        }
        let more = match window.tasks_per_core {
            None => UNHEARD,
            Some(tasks) if tasks < FULL => NOT_FULL,
            Some(_) => 1.0,
        };
        let enough = more * doubt * ENOUGH;
        if flat > enough && window.mean_in_flight > FEW {
            let (mut knee, known) = self.curve.knee(window.end);
            if !known {
                // Far too high, since who waited in a queue counts, and what the quickest need is too low for all. Where
                // 400 came at once to eight places, it took eight seconds from 160 down to them.
                knee = (knee * self.curve.knee_of_the_quickest(window.end)).sqrt();
            }
            return self.full(with_room(knee), known, self.curve.evidence(window.end));
        }
        if let Some(evidence) = overloads.evidence() {
            return self.full(TOLD * window.mean_in_flight, true, evidence);
        }
        if let Some(most) = self.target.map(|target| 2.0 * target) {
            let p99 = window.latencies.quantile(0.99);
            if p99 > most {
                let limit = TOLD * window.mean_in_flight;
                return self.full(limit, true, LimitEvidence::Target { p99, most });
            }
        }
        self.on_machine(
            window.end,
            f64::from(window.in_flight),
            window.tasks_per_core,
        )
    }

    pub(super) fn on_tick(&mut self, tick: Tick, overloads: &Overloads) -> Option<Start> {
        self.step(tick.now, f64::from(tick.in_flight));
        if tick.answers == 0
            && let Some(evidence) = overloads.evidence()
            && f64::from(tick.in_flight) > FEW
        {
            return self.full(TOLD * f64::from(tick.in_flight), true, evidence);
        }
        self.on_machine(tick.now, f64::from(tick.in_flight), tick.tasks_per_core)
    }

    fn on_machine(&mut self, now: Duration, in_flight: f64, tasks: Option<f64>) -> Option<Start> {
        let Some(tasks_per_core) = tasks.filter(|tasks| is_full(*tasks)) else {
            self.queued = None;
            return None;
        };
        let (seen, so_far) = self.queued.unwrap_or((now, 0.0));
        let much = so_far + (tasks_per_core / FULL).ln() * now.saturating_sub(seen).as_secs_f64();
        self.queued = Some((now, much));
        if much < MUCH {
            return None;
        }
        // How many can be in flight without a queue depends on how long they wait for something else, which tasks don't
        // tell: what was seen with less in flight does, if there was less.
        let guess = SPARE * in_flight / tasks_per_core;
        let seen = self.curve.lasting_knee(now).filter(|knee| *knee > guess);
        let limit = seen.unwrap_or(guess.max(LEAST));
        let evidence = LimitEvidence::Machine { tasks_per_core };
        self.full(limit, seen.is_some(), evidence)
    }

    fn full(&self, limit: f64, known: bool, evidence: LimitEvidence) -> Option<Start> {
        let shortest = self.surge.as_ref().and_then(Surge::shortest);
        Some(Start {
            limit,
            known,
            before: self.curve.latest().unwrap_or_default(),
            median: shortest.unwrap_or(self.median),
            evidence,
        })
    }
}

/// Whether the machine is full with so many tasks ready for each core.
pub(in crate::limit) fn is_full(tasks_per_core: f64) -> bool {
    tasks_per_core > FULL
}

fn with_room(knee: f64) -> f64 {
    knee + ROOM * knee.sqrt()
}

mod adjust;
mod aligned;
mod aligning;
mod fading;
mod guess;
mod guessing;
mod kinds;
mod probe;
mod probing;
mod told;
mod usual;

use std::time::Duration;

use self::{
    aligned::{Aligned, OPENS},
    fading::{DITHER, Fading, SETTLED},
    guess::{GUESS_SAMPLES, Guess, SURPLUS},
    kinds::Kinds,
    probe::{PROBE_EVERY, PROBE_STEP, Probe},
    usual::Usual,
};
use super::{
    LimitEvidence, Next, Window, WindowSize,
    beat::Beat,
    clamp_limit,
    elasticity::{Elasticity, Measured},
    open::Start,
    round,
};
use crate::clock::Rng;

/// While the service is full: keeps the limit where more would only queue. See [`Adaptive`](super::Adaptive).
#[derive(Debug, Clone)]
pub(super) struct Limiting {
    limit: f64,
    min: u32,
    max: u32,
    /// How much above the baseline the median may be, as a fraction.
    tolerance: f64,
    elasticity: Elasticity,
    /// The median where nothing queues, in seconds.
    baseline: Option<f64>,
    /// No probe has measured it yet.
    assumed: bool,
    /// Up to this limit nothing queued before there was one; 0 if that is not known.
    easy: f64,
    probe: Option<Probe>,
    probe_every: f64,
    next_probe: Duration,
    /// When the latest was over.
    probed: Duration,
    /// In a row.
    cuts: u32,
    usual: Usual,
    /// Windows since the service seemed to be another one.
    age: u32,
    dither_up: bool,
    /// The window before, with the other dither, if the limit held the load back.
    previous: Option<Measured>,
    target: Option<f64>,
    quiet_until: Duration,
    /// Of the latest window.
    median: f64,
    throughput: f64,
    kinds: Kinds,
    /// It has just begun, from a limit that is not tried yet.
    guess: Option<Guess>,
    /// How much more evidence it takes next time, as it was wrong of late.
    doubt: f64,
    /// Since when the limit has held nothing back.
    unbound_since: Option<Duration>,
    /// Windows in a row that had nothing queued.
    roomy: u32,
    /// The part of the places that is held by what is answered then: throughput times latency, by Little's law.
    answered: f64,
    /// The most answers per second of late, where most places are held by others.
    most: f64,
    rng: Rng,
    /// With the other limits before the same service, if it knows of them.
    aligned: Option<Aligned>,
}

// What each moves when it is halved and doubled ends its docs, as in `open.rs`.

/// How many times the error of a median explains one below the baseline.
/// Half: 98 % (`slow_dependency`); twice: 98 % (`black_hole`).
const LUCK: f64 = 3.0;
/// If not so much of the places is held by what is answered, throughput alone decides. Where a service loses requests
/// without a word, latency stays what it is while they fill every limit: it went from 24 to 600, and a quarter of the
/// throughput. Of 0.5 to 0.8 each was as good.
/// Half: 94 % (`black_hole`); twice, which is throughput alone for all: 5 % (`slow_dependency`).
const ANSWERED: f64 = 0.5;
/// An idle limit is not below this, nor above so many times what is in flight.
/// Half, twice, of either: nothing.
const IDLE: (f64, f64) = (20.0, 4.0);
/// Seconds, or medians, that a limit must have held nothing back to be given up. Giving it up at once when there seemed
/// to be room went to and fro between too much and too little: a fifth of the throughput was left.
/// Half or twice, of each: nothing.
const REOPEN: (f64, f64) = (4.0, 10.0);
/// And the machine has no more tasks than this for each core.
/// Half: 97 % (`slow_dependency`), twice: 99 % (`capacity_halves`).
const AT_EASE: f64 = 1.0;
/// Twice in a row that throughput follows the limit so far, with a median below so many baselines: there is room. Without
/// it a service that has become slower by itself took twenty seconds to have the places it needs.
/// The first half: 97 % (`capacity_halves`), twice: 97 % (`slow_dependency`);
/// the second half: 11 % (`black_hole`), twice: 94 % (`black_hole`).
const ROOM: (f64, f64) = (0.88, 2.0);
/// It is waited for what shows the effect of a limit up to so many medians, and seconds at least and at most. With half
/// a second at most, whose answers take a second told of the limit before, and the limit went from 200 to 1000 and
/// to 70.
/// The first half: 98 % (`knee`), twice: 97 % (`knee`); the second half, twice: nothing.
const PATIENCE: (f64, f64, f64) = (0.5, 2.0, 10.0);
/// The same in mean stays, where most places are held by what is not answered; elsewhere the most. With three a service
/// that loses requests kept from 45 % on of what it can do, in three intervals of thirty: it was looked at too seldom.
/// Half: 97 % (`black_hole`), twice: 77 % (`black_hole`).
const STAYS: f64 = 2.0;
/// While the machine has next to nothing to do: whatever their latency is, more can be let in.
/// Half or twice: nothing.
const IDLE_SAMPLES: u64 = 20;
/// Latencies of a window: of fewer the median is off by more than an eighth.
/// Half: 97 % (`bimodal`); twice: 95 % (`capacity_halves`).
const MIN_SAMPLES: u64 = 60;
/// So that a limit that is far too high is not measured for ever.
/// Half: 98 % (`defers_at_rate`); twice: 98 % (`half_waits`).
const MAX_SAMPLES: u64 = 150;
/// At the bottom of a probe of a service that is not what it was, for a baseline that lasts.
/// Half: 95 % (`black_hole`); twice: 96 % (`black_hole`).
const BOTTOM_SAMPLES: u64 = 200;
/// Those of the steps towards it, and of the very first window.
/// Half or twice: nothing.
const QUICK_SAMPLES: u64 = 120;

impl Limiting {
    pub(super) fn new(min: u32, max: u32, seed: u64) -> Self {
        Self {
            limit: clamp_limit(IDLE.0, min, max),
            min,
            max,
            tolerance: 0.25,
            elasticity: Elasticity::new(),
            baseline: None,
            assumed: true,
            easy: 0.0,
            probe: None,
            probe_every: PROBE_EVERY,
            next_probe: Duration::ZERO,
            probed: Duration::ZERO,
            cuts: 0,
            usual: Usual::new(),
            age: 0,
            dither_up: false,
            previous: None,
            target: None,
            quiet_until: Duration::ZERO,
            median: 0.0,
            throughput: 0.0,
            kinds: Kinds::default(),
            guess: None,
            doubt: 1.0,
            unbound_since: None,
            roomy: 0,
            answered: 1.0,
            most: 0.0,
            rng: Rng::new(seed),
            aligned: None,
        }
    }

    /// Others limit the same service, in the same slots.
    pub(super) fn align(&mut self, beat: Beat) {
        self.aligned = Some(Aligned::new(beat));
    }

    pub(super) fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }

    pub(super) fn set_target(&mut self, seconds: Option<f64>) {
        self.target = seconds;
    }

    pub(super) fn doubt(&self) -> f64 {
        self.doubt
    }

    /// What was learnt of the service under a limit before is kept, but for how long it takes.
    pub(super) fn begin(&mut self, start: Start) {
        self.limit = clamp_limit(start.limit, self.min, self.max);
        self.easy = if start.known { self.limit } else { 0.0 };
        self.guess = Some(Guess {
            known: start.known,
            before: start.before,
            shortest: f64::INFINITY,
            tried: None,
        });
        (self.median, self.throughput) = (start.median, start.before.0);
        self.kinds
            .begin(matches!(start.evidence, LimitEvidence::Machine { .. }));
        self.age = 0;
        self.usual.forget();
        self.previous = None;
        self.baseline = None;
        self.probe = None;
        self.unbound_since = None;
        self.roomy = 0;
        self.answered = 1.0;
        if self.aligned.is_some() {
            // What fewer answers mean nobody knows whose others have the places: the next probe tells.
            (self.guess, self.baseline, self.assumed) = (None, Some(start.median), true);
        }
    }

    /// The limit with the dither, or with the steps of the probe.
    pub(super) fn limit(&self) -> u32 {
        if let Some(aligned) = &self.aligned {
            let limit = aligned.swing(self.limit);
            return round(clamp_limit(limit, self.min, self.max));
        }
        let factor = match self.probe {
            Some(probe) => PROBE_STEP.powi(probe.steps),
            None if self.dither_up => 1.0 + self.fading(DITHER),
            None => 1.0 - self.fading(DITHER),
        };
        round(clamp_limit(self.limit * factor, self.min, self.max))
    }

    /// What is large while little is known and becomes smaller as more is.
    fn fading(&self, range: Fading) -> f64 {
        let rest = 1.0 - f64::from(self.age.min(SETTLED)) / f64::from(SETTLED);
        range.settled + (range.new - range.settled) * rest
    }

    pub(super) fn window_size(&self, limit: u32) -> WindowSize {
        if let Some(aligned) = &self.aligned
            && self.baseline.is_some()
        {
            return WindowSize {
                duration: aligned.beat.left(),
                samples: 0,
                patience: Duration::ZERO,
            };
        }
        let samples = (3 * u64::from(limit)).clamp(MIN_SAMPLES, MAX_SAMPLES);
        let samples = match self.probe {
            Some(probe) if probe.at_bottom => BOTTOM_SAMPLES,
            None if self.kinds.are_idle() => IDLE_SAMPLES,
            None if self.guess.is_some() => GUESS_SAMPLES,
            None if self.baseline.is_some() => samples,
            _ => samples.min(QUICK_SAMPLES),
        };
        if self.probe.is_none() {
            let patience = self.guess.map_or(Duration::MAX, |guess| {
                seconds(GUESS_SAMPLES as f64 / guess.before.0)
            });
            return WindowSize {
                duration: Duration::from_millis(200),
                samples,
                patience,
            };
        }
        // If the places left are all held by requests that hang, no sample would ever end the probe.
        let patience = Duration::from_secs_f64((4.0 * self.median).clamp(0.3, 2.0));
        WindowSize {
            duration: Duration::from_millis(100),
            samples,
            patience,
        }
    }

    fn next(&mut self, window: &Window<'_>) -> Next {
        if let Some(next) = self.next_slot() {
            return next;
        }
        let limit = self.limit();
        let Some(probe) = self.probe else {
            // Who was let in before the limit changed tells of the limit before, until it is gone. Those who have waited in a
            // queue that is no more took longer than that takes.
            let mut stay = STAYS * f64::from(limit) / self.throughput;
            if self.is_answered() {
                stay = stay.min(window.latencies.mean());
            }
            return Next {
                limit,
                drain: seconds(self.patience()),
                settle: seconds(stay.min(self.patience())),
            };
        };
        // Throughput is that of the new limit as soon as the surplus is done; requests that began
        // before tell of the old one, but to wait for all of them takes too long where it matters most.
        let settle = if probe.at_bottom {
            1.3 * f64::from(window.in_flight) / self.throughput
        } else {
            self.median.min(0.1)
        };
        Next {
            limit,
            drain: seconds(self.patience()),
            settle: seconds(settle.min(self.patience())),
        }
    }

    /// Else most places are held by what is not answered, or long after its head was: latency tells nothing of what more
    /// places do.
    fn is_answered(&self) -> bool {
        self.answered > ANSWERED
    }

    /// The longest that it is waited for what shows the effect of a limit, in seconds.
    fn patience(&self) -> f64 {
        (PATIENCE.1 * self.median).clamp(PATIENCE.0, PATIENCE.2)
    }

    /// The next limit; none, if there is nothing to limit any more.
    pub(super) fn on_window(&mut self, window: &Window<'_>) -> Option<Next> {
        let median = self.typical(window);
        let throughput = window.throughput();
        if let Some(probe) = self.probe
            && self.is_lost(probe, window)
        {
            self.give_up_probe(probe, window.end);
            return Some(self.next(window));
        }
        if !(median > 0.0 && throughput > 0.0) {
            return Some(self.next_slot().unwrap_or(Next::at_once(window.limit)));
        }
        if self.guess.is_some() && f64::from(window.in_flight) > SURPLUS * f64::from(window.limit) {
            // It tells of another concurrency.
            return Some(self.start(f64::from(window.in_flight)));
        }
        (self.median, self.throughput) = (median, throughput);
        let answered = throughput * window.latencies.mean() / window.mean_in_flight.max(1.0);
        let gain = if self.guess.is_some() { 1.0 } else { 0.3 };
        self.answered += gain * (answered.min(1.0) - self.answered);
        let Some(baseline) = self.baseline else {
            self.on_first_window(window);
            return Some(self.next(window));
        };
        if self.aligned.is_some() {
            return self.on_slot(window, baseline);
        }
        let measured = Measured::new(window.limit, throughput, median);
        if let Some(probe) = self.probe {
            self.step_probe(probe, measured, window);
            return Some(self.next(window));
        }
        let is_easy = self.assumed && f64::from(window.limit) <= self.easy;
        let off = if is_easy || self.kinds.are_at_ease() {
            median - baseline
        } else {
            // By more than luck explains: the luckiest window must not become the measure of all.
            let lucky = 1.0 + LUCK / (window.latencies.len() as f64).sqrt();
            (lucky * median - baseline).min(0.0)
        };
        let baseline = baseline + 0.2 * off;
        self.baseline = Some(baseline);
        let bound = window.is_limit_bound();
        self.learn(measured, bound);
        if self.may_open(window, bound) {
            return None;
        }
        self.dither_up = !self.dither_up;
        if bound {
            self.age = self.age.saturating_add(1);
            self.follow(baseline, window);
        } else {
            let cap = IDLE.0.max(IDLE.1 * f64::from(window.max_in_flight));
            self.limit = clamp_limit(self.limit.min(cap), self.min, self.max);
        }
        Some(self.next(window))
    }

    /// Goes to where the latest windows say.
    fn follow(&mut self, baseline: f64, window: &Window<'_>) {
        if !self.is_answered() {
            return self.adjust_unanswered(baseline);
        }
        let slower = self.median / baseline;
        match self.kinds.step(slower, self.elasticity.value(), ROOM.0) {
            Some(step) => self.limit = clamp_limit(step * self.limit, self.min, self.max),
            None => self.adjust(baseline, window),
        }
    }

    /// The latency that is compared: the median, or the mean of [two kinds](Kinds) of requests.
    fn typical(&mut self, window: &Window<'_>) -> f64 {
        let were_apart = self.kinds.are_apart();
        self.kinds.look(window.latencies, window.tasks_per_core);
        let are_apart = self.kinds.are_apart();
        if are_apart != were_apart {
            // What was measured was another latency.
            (self.baseline, self.previous, self.probe) = (None, None, None);
            self.usual.forget();
        }
        if are_apart {
            window.latencies.mean()
        } else {
            window.latencies.quantile(0.5)
        }
    }

    /// Whether none was needed for a while. Also notes whether more places are all that is missing.
    fn may_open(&mut self, window: &Window<'_>, bound: bool) -> bool {
        let queues = |baseline| self.median > OPENS * baseline;
        let others_queue = self.aligned.is_some() && self.baseline.is_some_and(queues);
        if others_queue || window.tasks_per_core.is_some_and(|tasks| tasks > AT_EASE) {
            self.unbound_since = None;
            self.roomy = 0;
            return false;
        }
        let easy = self
            .baseline
            .is_some_and(|baseline| self.median < ROOM.1 * baseline);
        let room = bound && easy && self.elasticity.value() > ROOM.0;
        self.roomy = if room { self.roomy + 1 } else { 0 };
        if bound {
            self.unbound_since = None;
            return false;
        }
        let since = *self.unbound_since.get_or_insert(window.start);
        let seconds = window.end.saturating_sub(since).as_secs_f64();
        seconds > REOPEN.0.max(REOPEN.1 * self.median)
    }
}

fn seconds(seconds: f64) -> Duration {
    // A maximum of NaN and a number is the number.
    Duration::from_secs_f64(seconds.max(0.0).min(PATIENCE.2))
}

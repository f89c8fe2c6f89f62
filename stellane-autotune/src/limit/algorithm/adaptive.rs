use std::time::Duration;

use super::elasticity::{Elasticity, Measured};
use super::open::Curve;
use super::{Algorithm, Next, Tick, Window, WindowSize, clamp_limit, round};
use crate::clock::{Rng, mix};

/// The default: a gradient on the window median against a baseline that is actively re-probed,
/// with a tolerance learned from how much throughput answers to the limit.
///
/// - It acts only while the limit is what holds the load back; otherwise it holds, and keeps the
///   limit within a few times what is really in flight, so that a spike does not meet a limit
///   that grew while idle.
/// - The limit is dithered on alternate windows, by ±12 % while the service is not known yet and ±5 %
///   later. If throughput follows the dither (elasticity), more concurrency is worth its latency and the
///   tolerance grows; else it shrinks. Elasticity is read from throughput and from latency, and whichever
///   is the quieter counts for more.
/// - Small errors of the median move the limit little, large ones at once: noise does not. What one
///   window decides is much at first and after a change, and little once the service is known. Past the
///   point where more concurrency costs throughput nothing is left to chance: the limit goes down.
/// - The baseline is re-probed after 8 s, doubling to 32 s while nothing changes; sooner when latency or
///   throughput have jumped, when the median is far above the baseline although nothing seems to queue,
///   and after 6 cuts in a row. The limit then steps down by 0.7 per window until throughput goes with it,
///   and what it takes there is the latency without a queue. Probes that find much the same are averaged.
///   The baseline thus follows a service that became slower or faster, without ever pinning the limit to a
///   few requests. A probe that costs most of the throughput in a step is given up; one that goes
///   deep shows that the limit itself was far too high, and it stays lower.
///
/// An answer that says "overloaded" takes a twentieth of the limit, at most once per median.
///
/// Limit a service where it serves rather than where many clients call it: to a client, the others' requests are
/// a queue that it cannot shed, and a limit that it raises takes throughput from them. Two clients that
/// share a service share it fairly and together reach from half to nearly all of what one limit in front of it
/// reaches; with four the limits grow too high, and it may be a third or less.
///
/// ```
/// use stellane_autotune::algorithm::{Adaptive, Algorithm};
///
/// assert_eq!(Adaptive::new(20, 4, 1000, 0).initial(), 20);
/// ```
#[derive(Debug, Clone)]
pub struct Adaptive {
    limit: f64,
    initial: f64,
    min: u32,
    max: u32,
    /// How much above the baseline the median may be, as a fraction.
    tolerance: f64,
    elasticity: Elasticity,
    baseline: Option<f64>,
    probe: Option<Probe>,
    probe_every: f64,
    next_probe: Duration,
    cuts: u32,
    /// The smoothed median and throughput, and how many windows in a row were far off.
    usual: Option<(f64, f64)>,
    jumps: u32,
    /// By how much throughput differs from window to window, as a fraction.
    noise: f64,
    throughput_before: f64,
    /// By how much it has fallen short of the usual of late, in windows.
    missing: f64,
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
    rng: Rng,
    options: Options,
    /// There is no limit: nothing says that the service is full.
    open: bool,
    curve: Curve,
    /// Ticks in a row that the machine's own queue was long.
    queued: u32,
    /// Since when the limit has held nothing back.
    unbound_since: Option<Duration>,
    /// It has just begun to limit; and whether the limit it began with is known to leave no queue.
    closing: bool,
    known: bool,
    /// What was answered before; and how much more evidence it takes, as it was wrong of late.
    before: (f64, f64),
    doubt: f64,
    doubled_at: Duration,
    /// Windows in a row that had nothing queued.
    roomy: u32,
    /// Sums over the slots since the last decision, by the dither: down, up.
    slots: [Slots; 2],
    slot_left: Duration,
    probed_in: f64,
    discard: bool,
    clock_error: f64,
}

/// What is tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// No limit before there is evidence.
    pub open: bool,
    /// The run queue is evidence.
    pub run_queue: bool,
    /// So many may be in flight at once, and twice as many every tenth of a second; without, there is no limit at all.
    pub surge: Option<u32>,
    /// The phase of dithers and probes is that of the wall clock, which is off by up to so many seconds.
    pub aligned: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    count: f64,
    limits: f64,
    answers: f64,
    seconds: f64,
    ln_median: f64,
}

/// A probe under way.
#[derive(Debug, Clone, Copy)]
struct Probe {
    steps: i32,
    /// One step before; none of a service that was met under load, whose first window tells nothing.
    before: Option<Measured>,
    /// The bottom is reached: its latency is measured.
    at_bottom: bool,
    /// The median before the first step.
    median: f64,
    /// Of a service that nothing is known of.
    first: bool,
}

/// A gain that is `new` for a service that is not known yet, and `settled` after [`SETTLED`] windows.
#[derive(Debug, Clone, Copy)]
struct Fading {
    new: f64,
    settled: f64,
}

const SETTLED: u32 = 25;
const DITHER: Fading = Fading {
    new: 0.12,
    settled: 0.05,
};
/// How much one window decides of the elasticity.
const LEARN: Fading = Fading {
    new: 0.3,
    settled: 0.08,
};
/// How much the elasticity decides of the tolerance.
const ADAPT: Fading = Fading {
    new: 0.3,
    settled: 0.15,
};
/// How much of an error of the median one window corrects, times the error.
const GAIN: Fading = Fading {
    new: 2.0,
    settled: 1.0,
};
/// How much one window decides of the usual throughput.
const USUAL: Fading = Fading {
    new: 0.3,
    settled: 0.05,
};
const PROBE_STEP: f64 = 0.7;
/// A step that throughput follows so far left no queue: the bottom.
const BOTTOM: f64 = 0.7;
/// One that it hardly follows still shed a queue, whatever the median of requests that began before it says.
const STEEP: f64 = 0.3;
/// A step that leaves less than this of the throughput is given up: what holds the places now does not queue.
const PROBE_LOSS: f64 = 0.4;
/// How much one probe decides of the baseline: one alone measures little.
const AVERAGE: Fading = Fading {
    new: 0.5,
    settled: 0.2,
};
/// A probe of so many steps did not just shed the queue that the tolerance allows.
const DEEP_PROBE: i32 = 5;
/// It sheds at least such a queue, as a multiple of the latency without one: five steps are four times the places.
/// Else it went so deep by chance.
const LONG_QUEUE: f64 = 3.0;
const PROBE_EVERY: f64 = 8.0;
/// After a deep one: on such a way down one step may be mistaken for the last.
const PROBE_AGAIN: f64 = 1.0;
const PROBE_SELDOM: f64 = 32.0;
/// The part of its pause that a probe keeps at least, unless the service has jumped.
const REST: f64 = 0.375;
/// A probe that finds the baseline within this found the same service.
const UNCHANGED: f64 = 0.35;
/// A median that is so many times the usual, twice in a row, is another service.
const JUMP: f64 = 2.5;
/// What an answer that says "overloaded" leaves of the limit, at most once per median.
const OVERLOADED: f64 = 0.95;
const CUTS_BEFORE_PROBE: u32 = 6;
/// Places beyond the gradient, in square roots of the limit: what keeps a service busy.
const HEADROOM: f64 = 0.75;
/// The elasticity that is worth its latency. Two clients that share a full service see a half.
const WORTH: f64 = 0.6;
/// Throughput that follows the limit so far leaves no queue to explain a latency this much above the baseline,
/// as the gradient sees it.
const NO_QUEUE: (f64, f64) = (0.75, 0.75);
/// How many times the error of a median explains one below the baseline.
const LUCK: f64 = 3.0;
const TOLERANCE: std::ops::RangeInclusive<f64> = 0.03..=0.4;
/// Seconds that a limit must have held nothing back.
const REOPEN: f64 = 4.0;
/// Nothing queues: the median is within this of the baseline.
const EASY: f64 = 2.0;
/// Throughput follows the limit.
const ROOM: f64 = 0.88;
/// Tasks for each that the machine can run, from which on it is full.
const RUN_QUEUE: f64 = 2.5;
/// What a limit that leaves so little of the answers was.
const MISTAKE: f64 = 0.7;
/// The most that it becomes.
const DOUBT: f64 = 3.0;
/// Natural logarithms of concurrency that brought nothing: enough to act on.
const ENOUGH: f64 = 0.9;
/// Seconds.
const DOUBLE_EVERY: f64 = 0.1;
/// Seconds of one dither of those that are aligned, and by how much the limit swings.
const SLOT: f64 = 0.25;
const SWING: f64 = 0.12;
const SLOT_ANSWERS: f64 = 60.0;
/// Seconds from one aligned probe to the next.
const PROBE_SLOT: f64 = 16.0;
const IDLE_CAP: f64 = 4.0;
const MIN_SAMPLES: u64 = 60;
/// So that a limit that is far too high is not measured for ever.
const MAX_SAMPLES: u64 = 150;
/// At the bottom of a probe, for a baseline that lasts.
const BOTTOM_SAMPLES: u64 = 200;
/// Those of the steps towards it, and of the very first window.
const QUICK_SAMPLES: u64 = 120;

impl Adaptive {
    /// Starts at `initial` and stays within `min..=max`. Processes that must not probe together
    /// differ in their `seed`.
    #[must_use]
    pub fn new(initial: u32, min: u32, max: u32, seed: u64) -> Self {
        let limit = clamp_limit(f64::from(initial), min, max);
        Self {
            limit,
            initial: limit,
            min,
            max,
            tolerance: 0.25,
            elasticity: Elasticity::new(),
            baseline: None,
            probe: None,
            probe_every: PROBE_EVERY,
            next_probe: Duration::ZERO,
            cuts: 0,
            usual: None,
            jumps: 0,
            noise: 0.05,
            throughput_before: 0.0,
            missing: 0.0,
            age: 0,
            dither_up: false,
            previous: None,
            target: None,
            quiet_until: Duration::ZERO,
            median: 0.0,
            throughput: 0.0,
            rng: Rng::new(seed),
            options: Options::default(),
            open: false,
            curve: Curve::new(),
            queued: 0,
            unbound_since: None,
            roomy: 0,
            closing: false,
            doubled_at: Duration::ZERO,
            known: false,
            before: (0.0, 0.0),
            doubt: 1.0,
            slots: [Slots::default(); 2],
            slot_left: Duration::ZERO,
            probed_in: 0.0,
            discard: true,
            clock_error: 0.0,
        }
    }

    /// For the prototype.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        if let Some(error) = options.aligned {
            self.clock_error = self.rng.between(-error, error + 1e-12);
        }
        self.open = options.open;
        self
    }

    /// While nothing says that the service is full, the limit is what keeps a surge from being let in at once: twice
    /// as much may come in every tenth of a second.
    fn open_limit(&mut self, now: Duration, in_flight: f64) -> u32 {
        let Some(surge) = self.options.surge else {
            return self.max;
        };
        let least = f64::from(surge);
        if now.saturating_sub(self.doubled_at).as_secs_f64() >= DOUBLE_EVERY {
            self.doubled_at = now;
            self.limit = if 2.0 * in_flight >= self.limit {
                2.0 * self.limit
            } else {
                (0.9 * self.limit).max(4.0 * in_flight)
            };
        }
        self.limit = clamp_limit(self.limit.max(least), self.min, self.max);
        round(self.limit)
    }

    fn open_next(&mut self, window: &Window<'_>) -> Next {
        let in_flight = f64::from(window.max_in_flight).max(window.mean_in_flight);
        Next {
            limit: self.open_limit(window.end, in_flight),
            settle: Duration::ZERO,
        }
    }

    /// A window while there is no limit.
    fn on_open_window(&mut self, window: &Window<'_>, median: f64, throughput: f64) -> Next {
        (self.median, self.throughput) = (median, throughput);
        let quartile = window.latencies.quantile(0.25);
        let evidence = self.curve.add(window, quartile);
        let enough = if self.is_idle(window.run_queue) {
            2.0 * ENOUGH
        } else {
            ENOUGH
        };
        let full = evidence > self.doubt * enough && window.mean_in_flight > self.initial;
        // A twentieth of all answers says so.
        let told = window.overloads > 2 && 20 * window.overloads > window.answers;
        if full || told {
            let (knee, known) = self.curve.knee(window.end);
            let (limit, known) = if told {
                (0.8 * window.mean_in_flight, true)
            } else {
                (knee, known)
            };
            self.begin_to_limit(limit, known);
            return self.next(window);
        }
        self.open_next(window)
    }

    /// Whether the machine is known to have nothing to do: then what is slow is slow elsewhere.
    fn is_idle(&self, run_queue: Option<f64>) -> bool {
        self.options.run_queue && run_queue.is_some_and(|tasks| tasks < 0.5)
    }

    /// From a limit that leaves no queue, if that is known.
    fn begin_to_limit(&mut self, limit: f64, known: bool) {
        self.open = false;
        self.unbound_since = None;
        self.roomy = 0;
        self.queued = 0;
        self.curve.forget();
        self.limit = clamp_limit(limit, self.min, self.max);
        self.age = 0;
        self.usual = None;
        self.previous = None;
        self.baseline = None;
        self.probe = None;
        self.known = known;
        self.closing = true;
        self.before = self.curve.latest_point();
    }

    /// Whether it may do without a limit again: none was needed for a while, or more places are all that is missing.
    fn may_open(&mut self, window: &Window<'_>, bound: bool) -> bool {
        if !self.options.open || self.probe.is_some() {
            return false;
        }
        if window
            .run_queue
            .is_some_and(|tasks| self.options.run_queue && tasks > 1.0)
        {
            self.unbound_since = None;
            self.roomy = 0;
            return false;
        }
        if bound {
            self.unbound_since = None;
        } else {
            self.unbound_since.get_or_insert(window.start);
        }
        let quiet = self.unbound_since.is_some_and(|since| {
            (window.end.saturating_sub(since)).as_secs_f64() > REOPEN.max(10.0 * self.median)
        });
        let easy = self
            .baseline
            .is_some_and(|baseline| self.median < EASY * baseline);
        self.roomy = if bound && easy && self.elasticity.value() > ROOM {
            self.roomy + 1
        } else {
            0
        };
        quiet
    }

    /// Cuts by a fifth whenever the 99th percentile of a window exceeds twice this latency. Zero is
    /// off.
    #[must_use]
    pub fn latency_target(mut self, target: Duration) -> Self {
        self.target = Some(target.as_secs_f64()).filter(|seconds| *seconds > 0.0);
        self
    }

    fn next(&mut self, window: &Window<'_>) -> Next {
        if self.is_aligned() && self.probe.is_none() && self.baseline.is_some() {
            return self.next_slot(window.end);
        }
        let limit = self.limit_now();
        let seconds = match self.probe {
            None => self.median,
            Some(Probe { at_bottom, .. }) => {
                let left = if at_bottom { 0 } else { limit };
                let surplus = f64::from(window.in_flight.saturating_sub(left));
                // Throughput is that of the new limit as soon as the surplus is done; requests that began
                // before tell of the old one, but to wait for all of them takes too long where it matters most.
                let drained = 1.3 * surplus / self.throughput;
                drained.max(self.median.min(0.1))
            }
        };
        // A minimum of NaN and a number is the number.
        Next {
            limit,
            settle: Duration::from_secs_f64(seconds.min(0.5)),
        }
    }

    fn is_aligned(&self) -> bool {
        self.options.aligned.is_some()
    }

    /// As this limiter sees it.
    fn wall(&self, now: Duration) -> f64 {
        now.as_secs_f64() + 1000.0 + self.clock_error
    }

    /// In which slot of the wall clock the next window lies, and with it the dither: all that share a service move
    /// together, so that each sees what all of them do.
    fn next_slot(&mut self, now: Duration) -> Next {
        let slots = self.wall(now) / SLOT;
        let (mut slot, mut part) = (slots.floor(), slots.fract());
        if part > 0.9 {
            (slot, part) = (slot + 1.0, part - 1.0);
        }
        self.discard = part > 0.3;
        // In pairs whose order is by chance, and the same for all, so that no period of the load is mistaken for it.
        let (pair, second) = (slot as u64 / 2, slot as u64 % 2 == 1);
        self.dither_up = second ^ (mix(pair) & 1 == 1);
        let settle = (0.35 - part).max(0.0);
        self.slot_left = Duration::from_secs_f64(SLOT * (0.97 - part - settle).max(0.05));
        Next {
            limit: self.limit_now(),
            settle: Duration::from_secs_f64(SLOT * settle),
        }
    }

    /// Adds a slot; what both dithers measured, once there is enough.
    fn add_slot(&mut self, window: &Window<'_>, median: f64) -> Option<[Measured; 2]> {
        if self.discard {
            return None;
        }
        let sum = &mut self.slots[usize::from(self.dither_up)];
        let answers = window.answers as f64;
        sum.answers += answers;
        sum.seconds += window.end.saturating_sub(window.start).as_secs_f64();
        sum.limits += f64::from(window.limit);
        sum.count += 1.0;
        if median > 0.0 {
            sum.ln_median += answers * median.ln();
        }
        if self.slots.iter().any(|sum| sum.answers < SLOT_ANSWERS) {
            return None;
        }
        let measured = self.slots.map(|sum| {
            let (throughput, median) = (
                sum.answers / sum.seconds,
                (sum.ln_median / sum.answers).exp(),
            );
            Measured::of(sum.limits / sum.count, throughput, median)
        });
        self.slots = [Slots::default(); 2];
        Some(measured)
    }

    /// The limit with the dither, or with the steps of the probe.
    fn limit_now(&self) -> u32 {
        let factor = match self.probe {
            Some(probe) => PROBE_STEP.powi(probe.steps),
            None if self.is_aligned() => {
                // By one place at least, so that small limits have a phase too.
                let by = (SWING * self.limit).max(0.5);
                let limit = self.limit + if self.dither_up { by } else { -by };
                return round(clamp_limit(limit, self.min, self.max));
            }
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

    fn start_probe(&mut self, before: Option<Measured>) {
        self.cuts = 0;
        self.probe = Some(Probe {
            steps: 1,
            before,
            at_bottom: false,
            median: self.median,
            first: self.closing,
        });
        self.closing = false;
    }

    fn step_probe(&mut self, probe: Probe, measured: Measured, window: &Window<'_>) {
        let slopes = probe.before.and_then(|before| measured.slopes(before));
        if probe.at_bottom {
            let shed = slopes.is_some_and(|slopes| slopes[0] < STEEP);
            let odd = self
                .baseline
                .is_some_and(|known| self.median > (1.0 + UNCHANGED) * known);
            // A bottom that chance has made is another service only if throughput says so once more.
            if !(odd && shed) {
                self.finish_probe(probe, self.median);
                return self.end_probe(window.end);
            }
        }
        let queues = slopes.is_none_or(|slopes| {
            // One step alone may end by chance, and that of one client among several tells little.
            let steep = if probe.steps < 2 { 1.0 } else { STEEP };
            slopes[0] < steep || self.elasticity.weigh(slopes) < BOTTOM
        });
        self.probe = Some(if queues && window.limit > self.min.max(4) {
            Probe {
                steps: probe.steps + 1,
                before: Some(measured),
                at_bottom: false,
                ..probe
            }
        } else {
            Probe {
                at_bottom: true,
                ..probe
            }
        });
    }

    /// Whether the step of a probe cost more than a queue explains. After a jump throughput may have fallen by
    /// itself.
    fn is_lost(&self, probe: Probe, window: &Window<'_>) -> bool {
        let before = probe.before.map_or(0.0, Measured::throughput);
        let fell = self.age > 0 && window.throughput() < PROBE_LOSS * before;
        fell || window.latencies.len() < 20
    }

    fn give_up_probe(&mut self, probe: Probe, now: Duration) {
        self.probe_every = PROBE_EVERY;
        if let Some(before) = probe.before
            && probe.steps > DEEP_PROBE
        {
            // Too much has been learnt for that: what the step before measured must do.
            let steps = probe.steps - 1;
            self.finish_probe(Probe { steps, ..probe }, before.median());
        }
        self.end_probe(now);
    }

    fn finish_probe(&mut self, probe: Probe, fresh: f64) {
        let stale = self.baseline.unwrap_or(fresh);
        if (fresh / stale - 1.0).abs() < UNCHANGED {
            self.baseline = Some(stale + self.fading(AVERAGE) * (fresh - stale));
            self.probe_every = (2.0 * self.probe_every).min(PROBE_SELDOM);
        } else {
            self.baseline = Some(fresh);
            self.probe_every = PROBE_EVERY;
            self.age = 0;
        }
        let deep = probe.steps >= DEEP_PROBE && probe.median > LONG_QUEUE * fresh;
        if deep || probe.first && probe.steps > 1 && self.options.open {
            // Every step but the last still shed a queue: the limit itself was far too high.
            let knee = self.limit * PROBE_STEP.powi(probe.steps - 1);
            self.limit = clamp_limit(knee, self.min, self.max);
            self.probe_every = PROBE_AGAIN;
        }
    }

    fn end_probe(&mut self, now: Duration) {
        self.probe = None;
        self.previous = None;
        let seconds = self.probe_every * self.rng.between(0.85, 1.15);
        self.next_probe = now.saturating_add(Duration::from_secs_f64(seconds));
    }

    fn on_slot(&mut self, window: &Window<'_>, median: f64) -> Next {
        let bound = window.is_limit_bound();
        if !bound {
            let cap = self.initial.max(IDLE_CAP * f64::from(window.max_in_flight));
            self.limit = clamp_limit(self.limit.min(cap), self.min, self.max);
            self.slots = [Slots::default(); 2];
            if self.may_open(window, bound) {
                self.open = true;
                self.curve.forget();
                return self.open_next(window);
            }
            return self.next_slot(window.end);
        }
        let pair = self.add_slot(window, median);
        if let Some([down, up]) = pair {
            self.previous = Some(down);
            self.learn(up, true);
        }
        // The elasticity needs both; the median alone says where to go as soon as it is known.
        if self.discard || window.latencies.len() < 20 && pair.is_none() {
            return self.next_slot(window.end);
        }
        let sides = pair.map(|[down, up]| (down.median() * up.median()).sqrt());
        self.median = sides.unwrap_or(median);
        self.throughput = pair.map_or(window.throughput(), |[down, up]| {
            (down.throughput() * up.throughput()).sqrt()
        });
        let baseline = self.baseline.unwrap_or(self.median);
        let lucky = 1.0 + LUCK / (window.latencies.len().max(60) as f64).sqrt();
        let baseline = baseline + 0.2 * (lucky * self.median - baseline).min(0.0);
        self.baseline = Some(baseline);
        if self.may_open(window, bound) {
            self.open = true;
            self.curve.forget();
            return self.open_next(window);
        }
        self.age = self.age.saturating_add(1);
        // All that share a service probe at the same time.
        let period = (self.wall(window.end) / PROBE_SLOT).floor();
        self.next_probe = if self.probed_in < period {
            Duration::ZERO
        } else {
            Duration::MAX
        };
        self.probed_in = period;
        self.adjust(baseline, self.median, window);
        self.next(window)
    }

    fn learn(&mut self, measured: Measured, bound: bool) {
        if let Some(before) = self.previous
            && bound
            && let Some(slopes) = measured.slopes(before)
        {
            self.elasticity.learn(slopes, self.fading(LEARN), WORTH);
            let factor = (self.fading(ADAPT) * (self.elasticity.value() - WORTH)).exp();
            self.tolerance = (self.tolerance * factor).clamp(*TOLERANCE.start(), *TOLERANCE.end());
        }
        self.previous = bound.then_some(measured);
    }

    fn adjust(&mut self, baseline: f64, median: f64, window: &Window<'_>) {
        let elasticity = self.elasticity.value();
        // Where more concurrency costs throughput, room to spare only hurts.
        let room = (1.0 + 2.0 * elasticity).clamp(-0.5, 1.0);
        // The median of few samples is off by about this: a chance is no queue.
        let chance = 0.5 * (1.0 + room) / (window.latencies.len() as f64).sqrt();
        let gradient = (baseline * (1.0 + self.tolerance.max(chance)) / median).clamp(0.7, 1.3);
        // The logarithm, so that a median half as long and one twice as long weigh the same.
        let off = (gradient + HEADROOM * room / self.limit.sqrt()).ln();
        let gain = (self.fading(GAIN) * off.abs()).clamp(0.1, 0.5);
        let mut next = self.limit * (1.0 + gain * off);
        if self
            .target
            .is_some_and(|target| window.latencies.quantile(0.99) > 2.0 * target)
        {
            next = next.min(0.8 * self.limit);
        }
        if self.roomy >= 2 && next > self.limit {
            // Nothing queues, and more places are all that is missing.
            next = 1.5 * self.limit;
        }
        self.cuts = if next < 0.97 * self.limit {
            self.cuts + 1
        } else {
            0
        };
        self.limit = clamp_limit(next, self.min, self.max);

        let due = self.next_probe.as_secs_f64();
        let now = window.end.as_secs_f64();
        let rested = now > due - (1.0 - REST) * self.probe_every;
        let stale = rested && elasticity > NO_QUEUE.0 && gradient < NO_QUEUE.1;
        let jumped = self.has_jumped(median, window);
        if now >= due || stale || jumped || self.cuts >= CUTS_BEFORE_PROBE {
            self.start_probe(self.previous);
        }
    }

    /// Whether two windows in a row were far slower than usual, or answers have become fewer under the limit as
    /// it is, by more than chance makes them: another service than the one that the baseline was measured on.
    fn has_jumped(&mut self, median: f64, window: &Window<'_>) -> bool {
        let (usual_median, usual_throughput) = self.usual.unwrap_or((median, self.throughput));
        // Fewer answers than usual are the doing of the service only as far as others were refused; and one window
        // without answers is a pause of it, not another service.
        let refused = window.refused as f64 / window.answers as f64 * self.throughput;
        let fall = (usual_throughput - self.throughput).min(refused) / usual_throughput;
        let fall = fall.min(0.3);
        let step = (self.throughput - self.throughput_before).abs() / usual_throughput;
        self.noise += 0.1 * (0.7 * step.min(0.5) - self.noise);
        self.throughput_before = self.throughput;
        // The sum of what is missing, less what chance takes: it stays near zero while nothing changes.
        self.missing = (self.missing + fall - (1.1 * self.noise).max(0.05)).max(0.0);
        let odd = median > JUMP * usual_median;
        self.jumps = if odd { self.jumps + 1 } else { 0 };
        if self.jumps >= 2 || self.missing > (5.0 * self.noise).max(0.3) {
            self.jumps = 0;
            self.missing = 0.0;
            self.age = 0;
            self.usual = None;
            return true;
        }
        if !odd {
            let smooth = |usual: f64, latest: f64, gain: f64| usual + gain * (latest - usual);
            let median = smooth(usual_median, median, 0.2);
            let gain = self.fading(USUAL);
            self.usual = Some((median, smooth(usual_throughput, self.throughput, gain)));
        }
        false
    }
}

impl Algorithm for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn initial(&self) -> u32 {
        if self.open {
            return self.options.surge.unwrap_or(self.max);
        }
        round(self.limit)
    }

    fn window(&self, limit: u32) -> WindowSize {
        if self.open {
            return WindowSize {
                duration: Duration::from_millis(5),
                samples: 8,
                patience: Duration::MAX,
            };
        }
        if self.is_aligned() && self.probe.is_none() && self.baseline.is_some() {
            return WindowSize {
                duration: self.slot_left,
                samples: 0,
                patience: Duration::MAX,
            };
        }
        let samples = (3 * u64::from(limit)).clamp(MIN_SAMPLES, MAX_SAMPLES);
        let samples = match self.probe {
            Some(Probe {
                at_bottom: true, ..
            }) => BOTTOM_SAMPLES,
            None if self.baseline.is_some() => samples,
            _ => samples.min(QUICK_SAMPLES),
        };
        if self.probe.is_none() {
            let duration = Duration::from_millis(200);
            return WindowSize {
                duration,
                samples,
                patience: Duration::MAX,
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

    fn on_window(&mut self, window: &Window<'_>) -> Next {
        let median = window.latencies.quantile(0.5);
        let throughput = window.throughput();
        if let Some(probe) = self.probe
            && self.is_lost(probe, window)
        {
            self.give_up_probe(probe, window.end);
            return self.next(window);
        }
        let slotted =
            self.is_aligned() && !self.open && self.probe.is_none() && self.baseline.is_some();
        if !(slotted || median > 0.0 && throughput > 0.0) {
            return Next {
                limit: window.limit,
                settle: Duration::ZERO,
            };
        }
        if self.open {
            return self.on_open_window(window, median, throughput);
        }
        if self.closing && f64::from(window.in_flight) > 1.25 * f64::from(window.limit) {
            // What was let in while there was no limit is not done yet, and tells of another concurrency.
            let seconds = 1.1 * f64::from(window.in_flight - window.limit) / throughput;
            return Next {
                limit: window.limit,
                settle: Duration::from_secs_f64(seconds.min(0.3)),
            };
        }
        if slotted {
            return self.on_slot(window, median);
        }
        (self.median, self.throughput) = (median, throughput);
        let Some(baseline) = self.baseline else {
            if self.closing && window.is_limit_bound() && throughput < MISTAKE * self.before.0 {
                // Less in flight, and that much less answered: the guess was too low, or nothing was full.
                let most = self.before.1.max(self.limit);
                let next = (2.0 * self.limit).min(most);
                if next > 1.1 * self.limit {
                    self.limit = clamp_limit(next, self.min, self.max);
                    return self.next(window);
                }
                self.doubt = (2.0 * self.doubt).min(DOUBT);
                self.known = true;
            } else {
                self.doubt = (0.5 * self.doubt).max(1.0);
            }
            self.baseline = Some(median);
            if self.closing && self.known {
                self.closing = false;
                self.next_probe =
                    window.end + Duration::from_secs_f64(PROBE_AGAIN.max(20.0 * median));
            } else if window.is_limit_bound() {
                // Born under load: this median already contains a queue.
                self.start_probe(None);
            }
            return self.next(window);
        };
        let measured = Measured::new(window.limit, throughput, median);
        if let Some(probe) = self.probe {
            self.step_probe(probe, measured, window);
            return self.next(window);
        }
        // Slowly, and by more than luck explains: the luckiest window must not become the measure of all.
        let lucky = 1.0 + LUCK / (window.latencies.len() as f64).sqrt();
        let baseline = baseline + 0.2 * (lucky * median - baseline).min(0.0);
        self.baseline = Some(baseline);
        let bound = window.is_limit_bound();
        self.learn(measured, bound);
        if self.may_open(window, bound) {
            self.open = true;
            self.curve.forget();
            return self.open_next(window);
        }
        self.dither_up = !self.dither_up;
        if bound {
            self.age = self.age.saturating_add(1);
            self.adjust(baseline, median, window);
        } else {
            let cap = self.initial.max(IDLE_CAP * f64::from(window.max_in_flight));
            self.limit = clamp_limit(self.limit.min(cap), self.min, self.max);
        }
        self.next(window)
    }

    fn on_tick(&mut self, tick: Tick) -> Option<u32> {
        if !self.open {
            return None;
        }
        // Many come and hardly anything is answered any more, of a service that answered before.
        if let Some(usual) = self.curve.latest() {
            let grew = tick.in_flight.saturating_sub(tick.began_with);
            let stalled = 4.0 * (tick.answers as f64) < f64::from(grew)
                && tick.passed.as_secs_f64() > 8.0 * self.median
                && f64::from(tick.in_flight) > 2.0 * usual.max(self.initial);
            if stalled && !self.is_idle(tick.run_queue) {
                self.begin_to_limit(usual, false);
                return Some(self.limit_now());
            }
        }
        let before = self.limit;
        if self.options.surge.is_some() {
            let next = self.open_limit(tick.now, f64::from(tick.in_flight));
            if self.limit > before {
                return Some(next);
            }
        }
        let Tick {
            in_flight,
            run_queue,
            ..
        } = tick;
        if !self.options.run_queue {
            return None;
        }
        let long = run_queue.is_some_and(|tasks| tasks > RUN_QUEUE);
        self.queued = if long { self.queued + 1 } else { 0 };
        // As many as the machine can run.
        let limit = f64::from(in_flight) / run_queue?.max(1.0);
        (self.queued >= 5).then(|| {
            self.begin_to_limit(1.25 * limit, false);
            self.limit_now()
        })
    }

    fn on_overload(&mut self, now: Duration, in_flight: u32) -> Option<u32> {
        if self.open {
            // One answer alone says little: the window tells.
            let _ = in_flight;
            return None;
        }
        // A pause that a clock which went back cannot prolong.
        let pause = Duration::from_secs_f64(self.median.clamp(0.001, 1.0));
        if now < self.quiet_until && self.quiet_until - now <= pause {
            return None;
        }
        self.quiet_until = now.saturating_add(pause);
        self.limit = clamp_limit(self.limit * OVERLOADED, self.min, self.max);
        Some(self.limit_now())
    }

    fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }
}

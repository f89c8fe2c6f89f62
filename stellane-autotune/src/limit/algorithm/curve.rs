use std::time::Duration;

use super::{LimitEvidence, Window, elasticity::Measured};

/// What a service did at which concurrency while nobody was refused, and whether that says that it is full.
///
/// A service that is not full answers more when more is in flight, and no later. One that is full answers no more, and
/// all the later. Both are compared with what was measured at half the concurrency or less, so that latencies that are
/// long, or differ from request to request, say nothing by themselves.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    points: [Option<Point>; BINS],
    sum: Sum,
    evidence: f64,
    /// When a point last added to it.
    told: Duration,
    flow: Flow,
    answers: f64,
    latest: Option<Point>,
    /// Smoothed, as that of one point is off by a fifth.
    throughput: f64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    in_flight: f64,
    throughput: f64,
    latency: f64,
    at: Duration,
    /// Since the beginning.
    answers: f64,
    /// How many points it is the mean of.
    seen: f64,
    /// Fewer were answered than are in flight, and those became more meanwhile: the quick ones, and as many as chance
    /// made of a few.
    ramp: bool,
}

/// What came and what was answered of late, over about [`STAYS`].
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    /// How many more are in flight.
    grown: f64,
    answered: f64,
}

impl Flow {
    fn add(&mut self, before: &Point, now: &Point) {
        let seconds = now.at.saturating_sub(before.at).as_secs_f64();
        let stay = now.in_flight / now.throughput;
        let kept = (-seconds / (STAYS * stay)).exp();
        self.grown = kept * self.grown + now.in_flight - before.in_flight;
        self.answered = kept * self.answered + now.answers - before.answers;
    }

    /// Whether more come than are answered, and not by chance.
    fn grows(&self) -> bool {
        self.grown > CHANCES * self.answered.sqrt()
    }
}

/// Windows that are too short to tell.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    answers: f64,
    seconds: f64,
    in_flight: f64,
    ln_latency: f64,
    first: f64,
}

/// Each [`RATIO`] times as wide as the one before: to 1.5^32 = 430 000 in flight.
const BINS: usize = 32;
/// Half: 96 % (`black_hole`), a cold start that does not end; twice: 96 % (`bimodal`).
const RATIO: f64 = 1.5;
/// A point is of so many answers at least, so that its quartile is off by two fifths at most,
/// Half: 96 % (`capacity_halves`); twice: 96 % (`black_hole`).
const ANSWERS: f64 = 24.0;
/// or of so many if the concurrency has doubled meanwhile: a cold start must be seen before it is over.
/// Half or twice: nothing.
const FEW: f64 = 8.0;
/// What is compared differs in concurrency by this at least. Less, and chance decides of the slope between them.
/// Half: 95 % (`capacity_halves`), a cold start that does not end; twice: 95 % (`capacity_halves`).
const APART: f64 = 1.9;
/// Half way between a service that is not full and one that is.
/// Half: 95 % (`capacity_halves`); twice: 96 % (`bad_requests`), 1566.4 of a million refused.
const HALF: f64 = 0.5;
/// In flight more than so many times what was answered since: then what is answered is but the luckiest, and says nothing
/// of latency. It is what tells of a collapse.
/// Half or twice: nothing.
const BURIED: f64 = 2.0;
/// But only if the machine has more tasks than this for each core: a hundred that have just come and take a minute,
/// beside some that are quick, look the same.
/// Half or twice: nothing.
const BUSY: f64 = 1.0;
/// By so much a quartile is off: later is what exceeds the slowest that was seen at lower concurrency by this. Compared
/// with the nearest alone, twenty streams beside short requests had up to 96 % of those refused.
/// Half: nothing; twice: 95 % (`capacity_halves`).
const CHANCE: f64 = 1.5;
/// And by this more, divided by how many points were seen, where the machine is not seen to be busy: of the first two or three
/// one is as often too low as the next is too high.
/// Half or twice: nothing.
const SEEN: f64 = 2.0;
/// The part of all answers since that must be in flight more: else latency has changed by itself.
/// Half or twice: nothing.
const PILE: f64 = 0.01;
/// Where the machine is not seen to be busy, a service that is full is one to which more come than it answers: for so many
/// stays of a request what is in flight is watched for that. If an upstream became slow, or requests of another kind came,
/// as many were in flight a while later as there always would be: that was taken for a queue, and refused by the dozen.
/// Half or twice: nothing.
const STAYS: f64 = 2.0;
/// And it grows by so many times the square root of what was answered meanwhile: less is chance.
/// Half or twice: nothing.
const CHANCES: f64 = 2.0;
/// In flight more than at the point before by so much of what that one and this tell of: it grows just now, and what is answered
/// is not what began together with the point before.
/// Half: 231.5 of a million refused; twice: nothing.
const GROWS: f64 = 0.5;
/// What such a point counts for, compared with another of the same growth, where the machine is not heard: clients that each wait
/// for their answer fill a service within a few of them, and then no more come. At 1 ten times the load was never noticed.
/// Half: a cold start of 15.6 s (1 s); twice: nothing.
const STEEP: f64 = 3.0;
/// A service that answers less than this part of what it did is asked something else.
/// Half or twice: nothing.
const ALIKE: f64 = 0.25;
/// One point alone is not to decide, of the 0.9 that it takes.
/// Half: 95 % (`capacity_halves`), a cold start of 16.4 s; twice: 96 % (`bad_requests`).
const MOST: f64 = 0.5;
/// Slopes below are noise.
/// Half or twice: nothing.
const WORST: f64 = -0.3;
/// What was answered so far was begun when less was in flight: its latency says less than it will.
/// Half or twice: nothing.
const LATER: f64 = 0.8;
/// In flight more at the end of a point than at its beginning, or than at the point before, by this: it is of a ramp. Less is
/// chance.
/// Half: nothing; twice: a cold start of 15.6 s (1 s).
const RISES: f64 = 1.2;
/// A point is forgotten after so many seconds, or so many latencies: the service may be another one by then.
/// Half or twice, of each: nothing.
const FRESH: (f64, f64) = (60.0, 40.0);
/// Less than this part of the knee has been seen with nothing queued.
/// Half: nothing, a cold start of 8.5 s; twice: 95 % (`bad_requests`).
const CLEAR: f64 = 0.75;
/// What one point leaves of the evidence before, so that chance does not add up for ever.
/// Half: 95 % (`capacity_halves`), a cold start that does not end; twice: 89 % (`deadline_storm`), 2320.6 of a
/// million refused.
const KEPT: f64 = 0.9;

impl Curve {
    pub(super) fn new() -> Self {
        Self {
            points: [None; BINS],
            sum: Sum::default(),
            evidence: 0.0,
            told: Duration::ZERO,
            flow: Flow::default(),
            answers: 0.0,
            latest: None,
            throughput: 0.0,
        }
    }

    pub(super) fn forget(&mut self) {
        self.evidence = 0.0;
        self.sum = Sum::default();
    }

    /// Throughput of late, and the concurrency of the latest point.
    pub(super) fn latest(&self) -> Option<(f64, f64)> {
        self.latest.map(|point| (self.throughput, point.in_flight))
    }

    /// Adds a window; how much says that the service is full, in natural logarithms of concurrency that brought nothing.
    pub(super) fn add(&mut self, window: &Window<'_>) -> f64 {
        // Of a mixture of two kinds of requests the median is now one's, now the other's.
        let latency = window.latencies.quantile(0.25);
        self.answers += window.answers as f64;
        let sum = &mut self.sum;
        if sum.answers == 0.0 {
            sum.first = window.mean_in_flight;
        }
        let answers = window.answers as f64;
        let seconds = window.end.saturating_sub(window.start).as_secs_f64();
        sum.answers += answers;
        sum.seconds += seconds;
        sum.in_flight += seconds * window.mean_in_flight;
        sum.ln_latency += answers * latency.ln();
        let grew = window.mean_in_flight > 2.0 * sum.first;
        // A point may be of one window.
        let before = self.latest.map_or(0.0, |latest| latest.in_flight);
        let rises = window.mean_in_flight > RISES * sum.first.min(before);
        if sum.answers < if grew { FEW } else { ANSWERS } {
            return 0.0;
        }
        let sum = std::mem::take(sum);
        self.compare(
            window.tasks_per_core,
            window.is_limit_bound(),
            Point {
                in_flight: (sum.in_flight / sum.seconds).max(0.1),
                throughput: sum.answers / sum.seconds,
                latency: (sum.ln_latency / sum.answers).exp(),
                at: window.end,
                answers: self.answers,
                seen: 1.0,
                ramp: rises && sum.answers < sum.in_flight / sum.seconds,
            },
        )
    }

    /// `is_bound`: more would be in flight, but for what may begin at once.
    fn compare(&mut self, tasks_per_core: Option<f64>, is_bound: bool, point: Point) -> f64 {
        let bin = bin_of(point.in_flight);
        let is_busy = tasks_per_core.is_some_and(|tasks| tasks > BUSY);
        let grows_now = self.latest.is_some_and(|latest| {
            self.flow.add(&latest, &point);
            point.in_flight - latest.in_flight > GROWS * (point.answers - latest.answers)
        });
        let unheard_growth = tasks_per_core.is_none() && (grows_now || is_bound);
        let below = || {
            let apart = |old: &&Point| {
                point.in_flight > APART * old.in_flight
                    && old.is_fresh(point.at, point.latency)
                    && !old.is_over(&point)
            };
            self.points[..=bin].iter().rev().flatten().filter(apart)
        };
        let reference = below().next();
        // A quartile of few answers is often off: the slowest that was seen with less in flight is what counts.
        let usual = below().map(|old| old.latency).fold(0.0, f64::max);
        let seen: f64 = below().map(|old| old.seen).sum();
        let evidence = reference.map_or(0.0, |old| {
            let [throughput, latency] = point.slopes(*old);
            // What is there more by now must be a part of what came since: else latency has changed by itself.
            let more = point.in_flight - old.in_flight;
            let piles_up = more > PILE * (point.answers - old.answers);
            // Compared with another of the same growth.
            let is_steep = unheard_growth && old.ramp;
            let few = if is_busy || is_steep {
                0.0
            } else {
                SEEN / seen
            };
            let slower = point.latency > (CHANCE + few) * usual;
            let more_come = self.flow.grows() && point.throughput > ALIKE * old.throughput;
            // Or so much more that what is answered is but the luckiest.
            let buried = is_busy && more > BURIED * (point.answers - old.answers);
            let full = latency < LATER && slower && piles_up && (is_busy || more_come) || buried;
            let elasticity = if full { throughput.max(WORST) } else { 1.0 };
            let weight = if is_steep { STEEP } else { 1.0 };
            weight
                * ((point.in_flight / old.in_flight).ln().min(2.0) * (HALF - elasticity)).min(MOST)
        });
        // What took long and began together ends together: points within one latency tell of the same requests. On a
        // machine that has time to spare they count once, and on one that is not heard, unless more come just now. Else four
        // hundred clients that came at once, of whose requests half take a hundred times as long as the others, were refused
        // in one run of thousands.
        let since = point.at.saturating_sub(self.told).as_secs_f64();
        let again = !is_busy && !unheard_growth && since < point.latency;
        let evidence = if again { evidence.min(0.0) } else { evidence };
        if evidence > 0.0 {
            self.told = point.at;
        }
        self.evidence = (KEPT * self.evidence + evidence).max(0.0);
        let old = self.points[bin].filter(|old| old.is_fresh(point.at, point.latency));
        self.points[bin] = Some(old.map_or(point, |old| old.between(point)));
        let gain = if self.latest.is_none() { 1.0 } else { 0.2 };
        self.throughput += gain * (point.throughput - self.throughput);
        self.latest = Some(point);
        self.evidence
    }

    /// The concurrency that does the most without a queue, by Little's law: the highest throughput times the shortest
    /// stay. And whether less has been seen, so that this is no guess.
    pub(super) fn knee(&self, now: Duration) -> (f64, bool) {
        let Some(latest) = self.latest else {
            return (0.0, false);
        };
        let stays = self.fresh(now).map(|p| p.in_flight / p.throughput);
        let knee = (self.most(now) * stays.fold(f64::INFINITY, f64::min)).min(latest.in_flight);
        (knee, self.has_less(knee, now, |_| true))
    }

    /// The same, if less has been seen of a load that lasted. Little's law needs one: while it climbs, what is in flight has
    /// mostly just come. A cold start into ten times the load took the first of that for what the service does without a queue.
    pub(super) fn lasting_knee(&self, now: Duration) -> Option<f64> {
        let (knee, _) = self.knee(now);
        self.has_less(knee, now, |point| !point.ramp)
            .then_some(knee)
    }

    /// If all were as quick as the quickest that were seen.
    pub(super) fn knee_of_the_quickest(&self, now: Duration) -> f64 {
        self.most(now) * self.shortest(now)
    }

    fn has_less(&self, knee: f64, now: Duration, counts: impl Fn(&Point) -> bool) -> bool {
        let mut points = self.fresh(now);
        points.any(|point| counts(point) && point.in_flight < CLEAR * knee)
    }

    pub(super) fn evidence(&self, now: Duration) -> LimitEvidence {
        let shortest = self.shortest(now);
        LimitEvidence::Flat {
            throughput: self.most(now),
            from: self.knee(now).0,
            latency: self.latest.map_or(1.0, |latest| latest.latency / shortest),
        }
    }

    fn shortest(&self, now: Duration) -> f64 {
        let latencies = self.fresh(now).map(|point| point.latency);
        latencies.fold(f64::INFINITY, f64::min)
    }

    fn most(&self, now: Duration) -> f64 {
        self.fresh(now).map(|p| p.throughput).fold(0.0, f64::max)
    }

    fn fresh(&self, now: Duration) -> impl Iterator<Item = &Point> {
        let latency = self.latest.map_or(0.0, |latest| latest.latency);
        let points = self.points.iter().flatten().chain(&self.latest);
        points.filter(move |point| point.is_fresh(now, latency))
    }
}

impl Point {
    fn is_fresh(&self, now: Duration, latency: f64) -> bool {
        let age = now.saturating_sub(self.at).as_secs_f64();
        age < FRESH.0.max(FRESH.1 * latency)
    }

    /// Whether it was of a ramp, and that is over: as long ago as a request stays. By its chance the same honest load,
    /// compared with it again and again, was found to be too much: four of 1200.
    fn is_over(&self, now: &Self) -> bool {
        let age = now.at.saturating_sub(self.at).as_secs_f64();
        self.ramp && age > now.in_flight / now.throughput
    }

    fn slopes(&self, old: Self) -> [f64; 2] {
        let measured = |p: &Self| Measured::of(p.in_flight, p.throughput, p.latency);
        measured(self).slopes(measured(&old)).unwrap_or([1.0; 2])
    }

    fn between(self, new: Self) -> Self {
        let half = |old: f64, new: f64| (old * new).sqrt();
        Self {
            in_flight: half(self.in_flight, new.in_flight),
            throughput: half(self.throughput, new.throughput),
            latency: half(self.latency, new.latency),
            at: new.at,
            answers: new.answers,
            seen: self.seen + 1.0,
            ramp: self.ramp && new.ramp,
        }
    }
}

fn bin_of(in_flight: f64) -> usize {
    // A cast saturates.
    ((in_flight.max(1.0).ln() / RATIO.ln()) as usize).min(BINS - 1)
}

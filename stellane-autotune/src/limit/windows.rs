//! The windows: what is done a few times a second, by whoever comes first.

use std::{
    sync::{
        MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Algorithm, LimitEvidence, LimitState, Window,
    algorithm::{Next, Tick},
    histogram::BUCKETS,
    recorder::Recorder,
    shared::Shared,
    window_control::{Phase, WindowControl},
};
use crate::clock::saturating_nanos;

/// From so many timed answers in a window on, fewer are timed.
const ENOUGH: u64 = 1000;
const MOST_UNTIMED: u32 = 64;
/// So many answers of one thread in a window are many, and so many places are enough for it.
const MANY: u64 = 4 * ENOUGH;
const MOST_KEPT: u32 = 16;
/// In nanoseconds, how often it is looked at least whether what should leave has left.
const DRAIN_LOOK: u64 = 5_000_000;

/// Numbers that need the control lock.
pub(super) struct Totals {
    pub(super) algorithm: &'static str,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) successes: u64,
    pub(super) overloads: u64,
    pub(super) ignored: u64,
    pub(super) cancelled: u64,
    pub(super) windows: u64,
    pub(super) aside: u32,
    pub(super) state: LimitState,
    pub(super) evidence: Option<LimitEvidence>,
    pub(super) changes: u64,
    pub(super) changed_at: u64,
}

impl Shared {
    #[cold]
    pub(super) fn on_overload(&self, now: u64) {
        let quiet = self.overload_quiet.load(Ordering::Relaxed);
        if now < quiet && quiet - now < 1_000_000_000 {
            return;
        }
        let Some(mut control) = self.try_control() else {
            return;
        };
        self.overload_quiet
            .store(now.saturating_add(1_000_000), Ordering::Relaxed);
        let aside = control.aside.count(&self.recorders);
        let in_flight = self.load().0;
        let next = control
            .algorithm
            .on_overload(Duration::from_nanos(now), in_flight.saturating_sub(aside));
        self.change_at_once(&mut control, next, now);
    }

    /// Requests have waited for long before anybody read them.
    #[cold]
    pub(super) fn on_late(&self, now: u64) {
        let mut control = self.control();
        let next = control.algorithm.on_late();
        self.change_at_once(&mut control, next, now);
    }

    fn change_at_once(&self, control: &mut WindowControl, next: Option<u32>, now: u64) {
        if let Some(next) = next.filter(|next| *next != self.load().1) {
            self.set_limit(control, next, now);
            self.start_window(control, now);
        }
    }

    /// Looks whether the settling or the measuring is over. Whoever comes second passes by.
    #[cold]
    pub(super) fn look(&self, now: u64) {
        let Some(mut control) = self.try_control() else {
            return;
        };
        self.fairness.look(now);
        self.age_handed(now);
        match control.phase {
            Phase::Measuring { start } if now >= start => self.measure(&mut control, start, now),
            Phase::Draining { until, .. } if now < until && self.is_overfull(&control) => {
                let then = now.saturating_add(DRAIN_LOOK).min(until);
                self.due.store(then, Ordering::Relaxed);
            }
            Phase::Draining { settle, .. } if settle > 0 => {
                control.phase = Phase::Settling;
                self.due
                    .store(now.saturating_add(settle), Ordering::Relaxed);
            }
            _ => self.start_window(&mut control, now),
        }
        drop(control);
        if self.gate.has_waiters() {
            self.grant_waiters();
        }
    }

    fn is_overfull(&self, control: &WindowControl) -> bool {
        let (in_flight, limit) = self.load();
        in_flight.saturating_sub(control.aside.count(&self.recorders)) > limit
    }

    fn measure(&self, control: &mut WindowControl, start: u64, now: u64) {
        let (in_flight, limit) = self.load();
        let size = control.algorithm.window(limit);
        self.read_recorders(control);
        let samples = control
            .window
            .set_difference(&control.latest, &control.at_start);
        let elapsed = now - start;
        let duration = saturating_nanos(size.duration);
        let complete = samples >= size.samples || elapsed >= saturating_nanos(size.patience);
        let complete = complete && elapsed >= duration;
        if !complete && elapsed >= duration {
            // The load fell: every latency counts again.
            self.timed_one_of.store(1, Ordering::Relaxed);
        }
        let answers = samples + self.untimed() - control.untimed_at_start;
        let overloads = self.overloads() - control.overloads_at_start;
        let so_far = (control.timed + self.untimed(), self.overloads());
        let refused = self.refused() - control.refused_at_start;
        let aside = control.aside.count(&self.recorders);
        let stalled = self.lending.stalled();
        let in_flight = in_flight.saturating_sub(aside);
        // Whatever streams end together, or are set aside, while it lasts: less is no evidence, more might be.
        let uncounted = self.uncounted(aside).max(control.uncounted_at_start);
        let tasks_per_core = if self.open.load(Ordering::Relaxed) {
            self.local_signal.tasks_per_core()
        } else {
            self.local_signal.tasks_per_core_now()
        };
        self.look_at_work(control.algorithm.evidence(), tasks_per_core);
        if complete || refused > 0 {
            let median = self.median.load(Ordering::Relaxed);
            control.aside.age(
                (&self.recorders, &self.generation),
                (so_far.0, median),
                (in_flight, limit),
                now,
            );
        }
        if !complete {
            let next = control.algorithm.on_tick(Tick {
                now: Duration::from_nanos(now),
                answers,
                so_far,
                in_flight,
                tasks_per_core,
            });
            let next = next.unwrap_or(Next::at_once(limit));
            self.set_limit(control, next.limit, now);
            // A limit that only rises changes nothing of what is measured.
            if next.limit < limit {
                return self.await_effect(control, next, now);
            }
            let pause = (duration / 10).max(1_000_000);
            return self.due.store(now.saturating_add(pause), Ordering::Relaxed);
        }
        let peak = self.gate.peak();
        let next = control.algorithm.on_window(&Window {
            start: Duration::from_nanos(start),
            end: Duration::from_nanos(now),
            limit,
            max_in_flight: peak.saturating_sub(aside.saturating_add(stalled)),
            in_flight,
            // Whoever is answered saw itself.
            mean_in_flight: (self.mean_in_flight(control) - f64::from(uncounted)).max(1.0),
            tasks_per_core,
            refused,
            overloads,
            answers,
            so_far,
            latencies: &control.window,
        });
        self.choose_timed(samples);
        control.windows += 1;
        let median = Duration::from_secs_f64(control.window.quantile(0.5));
        self.median
            .store(saturating_nanos(median), Ordering::Relaxed);
        self.set_limit(control, next.limit, now);
        self.await_effect(control, next, now);
    }

    fn await_effect(&self, control: &mut WindowControl, next: Next, now: u64) {
        let (drain, settle) = (saturating_nanos(next.drain), saturating_nanos(next.settle));
        if drain > 0 {
            let until = now.saturating_add(drain);
            control.phase = Phase::Draining { until, settle };
            self.due.store(now, Ordering::Relaxed);
        } else if settle > 0 {
            control.phase = Phase::Settling;
            self.due
                .store(now.saturating_add(settle), Ordering::Relaxed);
        } else {
            self.start_window(control, now);
        }
    }

    /// Puts a limit in force, and tells of what else may have changed.
    fn set_limit(&self, control: &mut WindowControl, limit: u32, now: u64) {
        let aside = control.aside.count(&self.recorders);
        self.aside.store(aside, Ordering::Relaxed);
        let limit = limit.clamp(control.min, control.max);
        self.limit.store(limit, Ordering::Relaxed);
        self.set_gate();
        let state = control.algorithm.state();
        let step = saturating_nanos(control.algorithm.next_step());
        self.next_step.store(step, Ordering::Relaxed);
        if state != std::mem::replace(&mut control.state, state) {
            control.changes += 1;
            control.changed_at = now;
            self.set_open(state == LimitState::Open, now);
        }
    }

    /// Who is in flight and says nothing of how long an answer takes: whoever has been set aside, or is answered.
    fn uncounted(&self, aside: u32) -> u32 {
        aside.saturating_add(self.lending.stalled().max(self.streaming()))
    }

    /// As those saw it who were answered.
    fn mean_in_flight(&self, control: &WindowControl) -> f64 {
        let (count, sum) = self.departures();
        let (count_then, sum_then) = control.departures_at_start;
        let count = count.wrapping_sub(count_then).max(1);
        sum.wrapping_sub(sum_then) as f64 / count as f64
    }

    fn start_window(&self, control: &mut WindowControl, now: u64) {
        self.read_recorders(control);
        control.at_start.copy_from_slice(&*control.latest);
        control.refused_at_start = self.refused();
        control.untimed_at_start = self.untimed();
        control.overloads_at_start = self.overloads();
        control.uncounted_at_start = self.uncounted(control.aside.count(&self.recorders));
        control.departures_at_start = self.departures();
        control.phase = Phase::Measuring { start: now };
        let limit = self.load().1;
        self.let_threads_keep(limit);
        self.gate.start_peak();
        let duration = saturating_nanos(control.algorithm.window(limit).duration);
        self.due
            .store(now.saturating_add(duration), Ordering::Relaxed);
    }

    /// Several threads with so many requests that the count of them costs more than all else keep places: so few that a
    /// quarter of all is the most that they keep together.
    fn let_threads_keep(&self, limit: u32) {
        let answered = |recorder: &Recorder| {
            let untimed = recorder.untimed.load(Ordering::Relaxed);
            let then = recorder.untimed_then.swap(untimed, Ordering::Relaxed);
            untimed.wrapping_sub(then)
        };
        let count = self.recorders.iter().map(answered);
        let busy = count.filter(|count| *count >= MANY).count() as u32;
        let most = if busy > 1 { limit / 4 / busy } else { 0 };
        self.gate.let_keep(most.min(MOST_KEPT));
    }

    /// Times as many requests as give a window from [`ENOUGH`] latencies to twice that, if there are so many.
    fn choose_timed(&self, samples: u64) {
        let one_of = self.timed_one_of.load(Ordering::Relaxed);
        let next = if samples >= 2 * ENOUGH {
            (2 * one_of).min(MOST_UNTIMED)
        } else if samples < ENOUGH {
            (one_of / 2).max(1)
        } else {
            one_of
        };
        self.timed_one_of.store(next, Ordering::Relaxed);
    }

    fn read_recorders(&self, control: &mut WindowControl) {
        let mut sums = [0; BUCKETS];
        for recorder in &self.recorders {
            recorder.latencies.add_to(&mut sums);
        }
        for (sum, latest) in sums.iter().zip(control.latest.iter_mut()) {
            control.timed += u64::from(sum.wrapping_sub(*latest));
            *latest = *sum;
        }
    }

    /// All latencies so far.
    pub(super) fn readings(&self) -> Box<[u32; BUCKETS]> {
        let mut control = self.control();
        self.read_recorders(&mut control);
        control.latest.clone()
    }

    pub(super) fn totals(&self) -> Totals {
        let mut control = self.control();
        self.read_recorders(&mut control);
        let sum = |of: fn(&Recorder) -> &AtomicU64| {
            self.recorders
                .iter()
                .map(|r| of(r).load(Ordering::Relaxed))
                .sum()
        };
        Totals {
            algorithm: control.algorithm.name(),
            min: control.min,
            max: control.max,
            successes: control.timed + self.untimed(),
            overloads: self.overloads(),
            ignored: sum(|r| &r.ignored),
            cancelled: sum(|r| &r.cancelled),
            windows: control.windows,
            aside: control.aside.count(&self.recorders),
            state: control.state,
            evidence: control.algorithm.evidence(),
            changes: control.changes,
            changed_at: control.changed_at,
        }
    }

    pub(super) fn set_range(&self, change: impl FnOnce(u32, u32) -> (u32, u32)) {
        let mut control = self.control();
        let (min, max) = change(control.min, control.max);
        (control.min, control.max) = (min.max(1), max.max(min).max(1));
        let (min, max) = (control.min, control.max);
        control.algorithm.set_range(min, max);
        self.max.store(max, Ordering::Relaxed);
        let limit = self.load().1;
        self.set_limit(&mut control, limit, self.clock.nanos());
        drop(control);
        self.grant_waiters();
    }

    pub(super) fn set_algorithm(&self, mut algorithm: Box<dyn Algorithm>) {
        let now = self.clock.nanos();
        let mut control = self.control();
        algorithm.set_range(control.min, control.max);
        let initial = algorithm.initial();
        control.algorithm = algorithm;
        self.set_limit(&mut control, initial, now);
        self.start_window(&mut control, now);
        drop(control);
        self.grant_waiters();
    }

    fn control(&self) -> MutexGuard<'_, WindowControl> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_control(&self) -> Option<MutexGuard<'_, WindowControl>> {
        match self.control.try_lock() {
            Ok(control) => Some(control),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crate::{AdaptiveLimit, AlgorithmKind, LimitConfig, ManualClock, Outcome, Permit};

    use super::*;

    /// Two threads with many requests at once keep places; whoever then needs them all finds each.
    #[test]
    fn places_that_busy_threads_keep_are_there_for_others_to_the_last_one() {
        let clock = ManualClock::default();
        let config = LimitConfig {
            algorithm: AlgorithmKind::Fixed,
            initial: 100,
            min: 100,
            max: 100,
            ..LimitConfig::default()
        };
        let limit = AdaptiveLimit::builder().config(config).clock(clock.clock());
        let limit = limit.build().expect("valid");
        let keeps = || limit.shared.gate.keeps();
        let mut rounds = 0;
        while !keeps() {
            rounds += 1;
            assert!(rounds < 1000, "they never keep any");
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..10_000 {
                            let permit = limit.try_acquire().expect("of a hundred");
                            permit.finish(Outcome::Success);
                        }
                    });
                }
            });
            clock.advance(Duration::from_secs(1));
        }
        let count = 10_000 * 2 * rounds;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        drop(limit.try_acquire().expect("of a hundred"));
                    }
                });
            }
        });
        let stats = limit.stats();
        assert_eq!((stats.in_flight, stats.admitted), (0, count + 2000));
        assert!(keeps());
        let all: Vec<Permit> = (0..100)
            .map(|_| limit.try_acquire().expect("of a hundred"))
            .collect();
        assert!(limit.try_acquire().is_err() && !keeps());
        assert_eq!(limit.stats().in_flight, 100);
        drop(all);
        assert_eq!(limit.stats().in_flight, 0);
    }
}

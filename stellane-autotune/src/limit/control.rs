//! The windows: what is done a few times a second, by whoever comes first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::algorithm::Tick;
use super::histogram::BUCKETS;
use super::shared::{Recorder, Shared};
use super::{Algorithm, Latencies, Window};
use crate::clock::saturating_nanos;

/// From so many timed answers in a window on, fewer are timed.
const ENOUGH: u64 = 1000;
const MOST_UNTIMED: u32 = 64;

/// What only the thread that closes a window touches.
#[derive(Debug)]
pub(super) struct Control {
    algorithm: Box<dyn Algorithm>,
    min: u32,
    max: u32,
    phase: Phase,
    at_start: Box<[u32; BUCKETS]>,
    latest: Box<[u32; BUCKETS]>,
    /// Answers that were timed.
    timed: u64,
    untimed_at_start: u64,
    refused_at_start: u64,
    overloads_at_start: u64,
    window: Latencies,
    windows: u64,
    /// See [`Shared::left`], when the window began; and how many were in flight.
    left: (u64, u64),
    began_with: u32,
}

#[derive(Debug)]
enum Phase {
    Settling,
    Measuring { start: u64 },
}

impl Control {
    pub(super) fn new(algorithm: Box<dyn Algorithm>, (min, max): (u32, u32)) -> Self {
        Self {
            algorithm,
            min,
            max,
            phase: Phase::Settling,
            at_start: Box::new([0; BUCKETS]),
            latest: Box::new([0; BUCKETS]),
            timed: 0,
            untimed_at_start: 0,
            refused_at_start: 0,
            overloads_at_start: 0,
            window: Latencies::default(),
            windows: 0,
            left: (0, 0),
            began_with: 0,
        }
    }
}

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
        let (in_flight, limit) = self.held();
        let next = control
            .algorithm
            .on_overload(Duration::from_nanos(now), in_flight);
        if let Some(next) = next.filter(|next| *next != limit) {
            self.set_limit(next.clamp(control.min, control.max));
            self.start_window(&mut control, now);
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
            _ => self.start_window(&mut control, now),
        }
        drop(control);
        if self.gate.has_waiters() {
            self.grant_waiters();
        }
    }

    fn measure(&self, control: &mut Control, start: u64, now: u64) {
        let (in_flight, limit) = self.held();
        let outside = self.outside();
        let size = control.algorithm.window(limit);
        self.read_recorders(control);
        let samples = control
            .window
            .set_difference(&control.latest, &control.at_start);
        let elapsed = now - start;
        let complete = samples >= size.samples || elapsed >= saturating_nanos(size.patience);
        if !complete || elapsed < saturating_nanos(size.duration) {
            if elapsed >= saturating_nanos(size.duration) {
                // The load fell: every latency counts again.
                self.timed_one_of.store(1, Ordering::Relaxed);
            }
            let refused = self.refused() - control.refused_at_start;
            if refused > 0 {
                self.age_places(control.timed + self.untimed(), limit, now);
                self.set_aside_changed();
            }
            let run_queue = self.run_queue();
            let tick = control.algorithm.on_tick(Tick {
                now: Duration::from_nanos(now),
                passed: Duration::from_nanos(elapsed),
                answers: samples + self.untimed() - control.untimed_at_start,
                in_flight,
                began_with: control.began_with,
                run_queue,
            });
            if let Some(next) = tick {
                let next = next.clamp(control.min, control.max);
                let lowered = next < limit;
                self.set_limit(next);
                // A limit that only rises changes nothing of what is measured.
                if lowered {
                    return self.start_window(control, now);
                }
            }
            let pause = saturating_nanos(size.duration) / 10;
            return self.due.store(now.saturating_add(pause), Ordering::Relaxed);
        }
        let next = control.algorithm.on_window(&Window {
            start: Duration::from_nanos(start),
            end: Duration::from_nanos(now),
            limit,
            max_in_flight: self
                .gate
                .peak
                .load(Ordering::Relaxed)
                .saturating_sub(outside),
            in_flight,
            mean_in_flight: self.mean_in_flight(control) - f64::from(outside),
            parked: outside,
            run_queue: self.run_queue(),
            refused: self.refused() - control.refused_at_start,
            overloads: self.overloads() - control.overloads_at_start,
            answers: samples + self.untimed() - control.untimed_at_start,
            latencies: &control.window,
        });
        self.choose_timed(samples);
        control.windows += 1;
        let median = Duration::from_secs_f64(control.window.quantile(0.5));
        self.median
            .store(saturating_nanos(median), Ordering::Relaxed);
        self.age_places(control.timed + self.untimed(), limit, now);
        self.set_limit(next.limit.clamp(control.min, control.max));
        if next.settle.is_zero() {
            self.start_window(control, now);
        } else {
            control.phase = Phase::Settling;
            let until = now.saturating_add(saturating_nanos(next.settle));
            self.due.store(until, Ordering::Relaxed);
        }
    }

    fn left(&self) -> (u64, u64) {
        (
            self.left.0.load(Ordering::Relaxed),
            self.left.1.load(Ordering::Relaxed),
        )
    }

    /// As those saw it who left.
    fn mean_in_flight(&self, control: &Control) -> f64 {
        let (count, sum) = self.left();
        let count = count.wrapping_sub(control.left.0).max(1);
        sum.wrapping_sub(control.left.1) as f64 / count as f64
    }

    fn start_window(&self, control: &mut Control, now: u64) {
        self.read_recorders(control);
        control.at_start.copy_from_slice(&*control.latest);
        control.refused_at_start = self.refused();
        control.untimed_at_start = self.untimed();
        control.overloads_at_start = self.overloads();
        control.phase = Phase::Measuring { start: now };
        let (in_flight, limit) = self.held();
        self.gate.peak.store(self.gate.load().0, Ordering::Relaxed);
        control.left = self.left();
        control.began_with = in_flight;
        let duration = saturating_nanos(control.algorithm.window(limit).duration);
        self.due
            .store(now.saturating_add(duration), Ordering::Relaxed);
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

    fn read_recorders(&self, control: &mut Control) {
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
        }
    }

    pub(super) fn set_range(&self, change: impl FnOnce(u32, u32) -> (u32, u32)) {
        let mut control = self.control();
        let (min, max) = change(control.min, control.max);
        (control.min, control.max) = (min.max(1), max.max(min).max(1));
        let (min, max) = (control.min, control.max);
        control.algorithm.set_range(min, max);
        self.max_lent.store(max, Ordering::Relaxed);
        self.set_limit(self.held().1.clamp(min, max));
        drop(control);
        self.grant_waiters();
    }

    pub(super) fn set_algorithm(&self, mut algorithm: Box<dyn Algorithm>) {
        let mut control = self.control();
        algorithm.set_range(control.min, control.max);
        self.set_limit(algorithm.initial().clamp(control.min, control.max));
        control.algorithm = algorithm;
        self.start_window(&mut control, self.clock.nanos());
        drop(control);
        self.grant_waiters();
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_control(&self) -> Option<MutexGuard<'_, Control>> {
        match self.control.try_lock() {
            Ok(control) => Some(control),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

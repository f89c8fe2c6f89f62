use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::gate::Gate;
use super::histogram::{BUCKETS, Shard};
use super::wait::Waiter;
use super::{Algorithm, Class, Latencies, LimitMode, Outcome, Shed, Window};
use crate::clock::{Clock, mix, saturating_nanos};

/// All state of one limit.
///
/// The hot path touches `gate` twice and one shard of its own; the mutexes are for closing a
/// window (one thread, ten times a second, the others pass by) and for those who wait.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    /// When somebody should look whether the window is complete, in nanoseconds.
    due: AtomicU64,
    /// Until when further overloads change nothing.
    overload_quiet: AtomicU64,
    /// The median of the latest window, in nanoseconds.
    median: AtomicU64,
    mode: AtomicU8,
    /// One of so many requests is timed: a power of two. The clock is most of what admission costs, and
    /// a busy service has more latencies than a median needs.
    timed_one_of: AtomicU32,
    recorders: Box<[Recorder]>,
    pub(super) classes: Box<[ClassState]>,
    pub(super) waiting: AtomicU32,
    pub(super) waiters: Mutex<VecDeque<Arc<Waiter>>>,
    control: Mutex<Control>,
    pub(super) clock: Clock,
}

#[derive(Debug)]
struct Recorder {
    latencies: Shard,
    /// Answers that count but were not timed.
    untimed: AtomicU64,
    /// Counts admissions, to choose which are timed; it may lose some, so it needs no lock.
    turn: AtomicU32,
    overloads: AtomicU64,
    ignored: AtomicU64,
    cancelled: AtomicU64,
}

#[derive(Debug)]
pub(super) struct ClassState {
    pub(super) name: Box<str>,
    /// The guaranteed share, in parts of 2^32.
    pub(super) share: AtomicU64,
    pub(super) in_flight: AtomicU32,
    /// By [`Shed`].
    pub(super) shed: [AtomicU64; Shed::COUNT],
    pub(super) would_shed: AtomicU64,
}

impl ClassState {
    pub(super) fn new(name: &str, share: f64) -> Self {
        Self {
            name: name.into(),
            share: AtomicU64::new(scale_share(share)),
            in_flight: AtomicU32::new(0),
            shed: [const { AtomicU64::new(0) }; Shed::COUNT],
            would_shed: AtomicU64::new(0),
        }
    }

    /// The places this class may take when the limit is reached, rounded up.
    fn guaranteed(&self, limit: u32) -> u32 {
        let share = self.share.load(Ordering::Relaxed);
        (u64::from(limit) * share).div_ceil(1 << 32) as u32
    }
}

pub(super) fn scale_share(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * (1_u64 << 32) as f64) as u64
}

/// The start of a request that is not timed.
pub(super) const UNTIMED: u64 = u64::MAX;
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
}

#[derive(Debug)]
enum Phase {
    Settling,
    Measuring { start: u64 },
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
    pub(super) fn new(
        mut algorithm: Box<dyn Algorithm>,
        (min, max): (u32, u32),
        mode: LimitMode,
        classes: Box<[ClassState]>,
        clock: Clock,
    ) -> Self {
        algorithm.set_range(min, max);
        let shards = std::thread::available_parallelism().map_or(1, usize::from);
        let recorder = || Recorder {
            latencies: Shard::new(),
            untimed: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            overloads: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        };
        Self {
            gate: Gate::new(algorithm.initial()),
            due: AtomicU64::new(0),
            overload_quiet: AtomicU64::new(0),
            median: AtomicU64::new(0),
            mode: AtomicU8::new(mode as u8),
            timed_one_of: AtomicU32::new(1),
            recorders: (0..shards.next_power_of_two().min(16))
                .map(|_| recorder())
                .collect(),
            classes,
            waiting: AtomicU32::new(0),
            waiters: Mutex::default(),
            control: Mutex::new(Control {
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
            }),
            clock,
        }
    }

    pub(super) fn median(&self) -> Duration {
        Duration::from_nanos(self.median.load(Ordering::Relaxed))
    }

    pub(super) fn mode(&self) -> LimitMode {
        if self.mode.load(Ordering::Relaxed) == LimitMode::Shadow as u8 {
            LimitMode::Shadow
        } else {
            LimitMode::Enforce
        }
    }

    pub(super) fn set_mode(&self, mode: LimitMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
        self.grant_waiters();
    }

    /// Takes a place if there is one. With `queued`, those who already wait are not in the way.
    #[inline]
    pub(super) fn try_enter(&self, class: Class, queued: bool) -> bool {
        let must_queue = !queued && self.waiting.load(Ordering::Relaxed) > 0;
        if !must_queue && self.gate.try_enter() {
            if self.has_classes() {
                self.class(class).in_flight.fetch_add(1, Ordering::Relaxed);
            }
            return true;
        }
        self.enter_full(class)
    }

    /// Whether a class may be admitted although those before it in the queue may not.
    pub(super) fn has_classes(&self) -> bool {
        self.classes.len() > 1
    }

    /// The limit is reached: a guaranteed share or shadow mode may still let the request in.
    #[cold]
    fn enter_full(&self, class: Class) -> bool {
        let state = self.class(class);
        let guaranteed = state.guaranteed(self.gate.load().1);
        let take = |taken| (taken < guaranteed).then_some(taken + 1);
        if state
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
        {
            self.gate.enter_beyond_limit();
            return true;
        }
        if self.mode() == LimitMode::Shadow {
            state.would_shed.fetch_add(1, Ordering::Relaxed);
            if self.has_classes() {
                state.in_flight.fetch_add(1, Ordering::Relaxed);
            }
            self.gate.enter_beyond_limit();
            return true;
        }
        false
    }

    #[inline]
    pub(super) fn class(&self, class: Class) -> &ClassState {
        // Classes of another limit fall back to the default class.
        self.classes
            .get(usize::from(class.0))
            .unwrap_or(&self.classes[0])
    }

    pub(super) fn shed(&self, class: Class, reason: Shed) {
        let before = self.class(class).shed[reason as usize].fetch_add(1, Ordering::Relaxed);
        // When nothing is answered any more, only refusals are left to notice that time passes.
        if before.is_multiple_of(64) {
            let now = self.clock.nanos();
            if now >= self.due.load(Ordering::Relaxed) {
                self.look(now);
            }
        }
    }

    /// Gives a place back. A waiter that registered before the count fell is seen here; one that
    /// registers after it sees the free place: both sides are sequentially consistent.
    #[inline]
    pub(super) fn release(&self, class: Class) {
        self.leave(class);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant_waiters();
        }
    }

    /// Gives a place back without looking for who waits for it.
    #[inline]
    pub(super) fn leave(&self, class: Class) {
        if self.has_classes() {
            self.class(class).in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        self.gate.leave();
    }

    /// The time, if this request is one that is timed; else [`UNTIMED`].
    #[inline]
    pub(super) fn start(&self) -> u64 {
        let one_of = self.timed_one_of.load(Ordering::Relaxed);
        if one_of > 1 {
            let turn = &self.recorder().turn;
            let next = turn.load(Ordering::Relaxed).wrapping_add(1);
            turn.store(next, Ordering::Relaxed);
            if next & (one_of - 1) != 0 {
                return UNTIMED;
            }
        }
        self.clock.nanos()
    }

    #[inline]
    pub(super) fn record(&self, start: u64, outcome: Outcome) {
        let recorder = self.recorder();
        if start == UNTIMED && outcome == Outcome::Success {
            recorder.untimed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let now = self.clock.nanos();
        match outcome {
            Outcome::Success => recorder.latencies.record(now.saturating_sub(start)),
            Outcome::Overload => {
                recorder.overloads.fetch_add(1, Ordering::Relaxed);
                self.on_overload(now);
            }
            Outcome::Ignore => {
                recorder.ignored.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A start in the future means that the clock went back: the window must begin anew.
        if now >= self.due.load(Ordering::Relaxed) || now < start && start != UNTIMED {
            self.look(now);
        }
    }

    pub(super) fn record_cancelled(&self) {
        self.recorder().cancelled.fetch_add(1, Ordering::Relaxed);
    }

    /// Threads spread over the recorders by the address of a thread-local.
    #[inline]
    fn recorder(&self) -> &Recorder {
        thread_local!(static MARK: u8 = const { 0 });
        let address = MARK.with(|mark| std::ptr::from_ref(mark) as u64);
        &self.recorders[mix(address) as usize & (self.recorders.len() - 1)]
    }

    #[cold]
    fn on_overload(&self, now: u64) {
        let quiet = self.overload_quiet.load(Ordering::Relaxed);
        if now < quiet && quiet - now < 1_000_000_000 {
            return;
        }
        let Some(mut control) = self.try_control() else {
            return;
        };
        self.overload_quiet
            .store(now.saturating_add(1_000_000), Ordering::Relaxed);
        let (in_flight, limit) = self.gate.load();
        let next = control
            .algorithm
            .on_overload(Duration::from_nanos(now), in_flight);
        if let Some(next) = next.filter(|next| *next != limit) {
            self.gate.set_limit(next.clamp(control.min, control.max));
            self.start_window(&mut control, now);
        }
    }

    /// Looks whether the settling or the measuring is over. Whoever comes second passes by.
    #[cold]
    fn look(&self, now: u64) {
        let Some(mut control) = self.try_control() else {
            return;
        };
        match control.phase {
            Phase::Measuring { start } if now >= start => self.measure(&mut control, start, now),
            _ => self.start_window(&mut control, now),
        }
        drop(control);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant_waiters();
        }
    }

    fn measure(&self, control: &mut Control, start: u64, now: u64) {
        let (in_flight, limit) = self.gate.load();
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
            let pause = saturating_nanos(size.duration) / 10;
            return self.due.store(now.saturating_add(pause), Ordering::Relaxed);
        }
        let next = control.algorithm.on_window(&Window {
            start: Duration::from_nanos(start),
            end: Duration::from_nanos(now),
            limit,
            max_in_flight: self.gate.peak.load(Ordering::Relaxed),
            in_flight,
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
        self.gate
            .set_limit(next.limit.clamp(control.min, control.max));
        if next.settle.is_zero() {
            self.start_window(control, now);
        } else {
            control.phase = Phase::Settling;
            let until = now.saturating_add(saturating_nanos(next.settle));
            self.due.store(until, Ordering::Relaxed);
        }
    }

    fn start_window(&self, control: &mut Control, now: u64) {
        self.read_recorders(control);
        control.at_start.copy_from_slice(&*control.latest);
        control.refused_at_start = self.refused();
        control.untimed_at_start = self.untimed();
        control.overloads_at_start = self.overloads();
        control.phase = Phase::Measuring { start: now };
        let (in_flight, limit) = self.gate.load();
        self.gate.peak.store(in_flight, Ordering::Relaxed);
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

    fn untimed(&self) -> u64 {
        self.recorders
            .iter()
            .map(|r| r.untimed.load(Ordering::Relaxed))
            .sum()
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

    pub(super) fn refused(&self) -> u64 {
        let all = self.classes.iter().flat_map(|class| &class.shed);
        let would = self.classes.iter().map(|class| &class.would_shed);
        all.chain(would)
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    fn overloads(&self) -> u64 {
        self.recorders
            .iter()
            .map(|r| r.overloads.load(Ordering::Relaxed))
            .sum()
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
        self.gate.set_limit(self.gate.load().1.clamp(min, max));
        drop(control);
        self.grant_waiters();
    }

    pub(super) fn set_algorithm(&self, mut algorithm: Box<dyn Algorithm>) {
        let mut control = self.control();
        algorithm.set_range(control.min, control.max);
        self.gate
            .set_limit(algorithm.initial().clamp(control.min, control.max));
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

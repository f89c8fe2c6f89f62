use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::control::Control;
use super::fairness::Fairness;
use super::gate::Gate;
use super::histogram::Shard;
use super::keys::{HELD, KeyCounts, Keys};
use super::lending::Lending;
use super::wait::Waiters;
use super::{Algorithm, Class, Hold, LimitMode, Outcome, Shed, slot};
use crate::clock::Clock;

/// All state of one limit.
///
/// The hot path touches `gate` twice and one shard of its own; the mutexes are for closing a
/// window (one thread, ten times a second, the others pass by) and for those who wait.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    /// When somebody should look whether the window is complete, in nanoseconds.
    pub(super) due: AtomicU64,
    /// Until when further overloads change nothing.
    pub(super) overload_quiet: AtomicU64,
    /// The median of the latest window, in nanoseconds.
    pub(super) median: AtomicU64,
    mode: AtomicU8,
    /// One of so many requests is timed: a power of two. The clock is most of what admission costs, and
    /// a busy service has more latencies than a median needs.
    pub(super) timed_one_of: AtomicU32,
    /// One for each of the first threads, then one that the others share.
    pub(super) recorders: Box<[Recorder]>,
    pub(super) classes: Box<[ClassState]>,
    pub(super) waiters: Mutex<Waiters>,
    pub(super) control: Mutex<Control>,
    pub(super) clock: Clock,
    pub(super) max_wait: Duration,
    /// Requests in flight by the generation they were let in with, oldest gone: see [`Shared::age_places`].
    generations: [AtomicU32; GENERATIONS],
    generation: AtomicU32,
    generation_ends: AtomicU64,
    /// In flight, and older than all generations.
    pub(super) parked: AtomicU32,
    /// The limit for those who hold a place; that of the gate is higher by those inside who hold none.
    limit: AtomicU32,
    pub(super) keys: KeyCounts,
    pub(super) lending: Lending,
    pub(super) fairness: Fairness,
    pub(super) max_lent: AtomicU32,
    pub(crate) local_signal: super::LocalSignal,
    answered: AtomicU64,
    silent_since: AtomicU64,
    silences: AtomicU32,
    /// How many left, and the sum of those in flight when they did.
    pub(super) left: (AtomicU64, AtomicU64),
}

/// A request that is still there when so many generations have come and gone is parked.
const GENERATIONS: usize = 4;
/// A generation lasts for so many answers, in limits.
const OVERTAKEN: u64 = 8;

#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) latencies: Shard,
    /// Answers that count but were not timed.
    pub(super) untimed: AtomicU64,
    /// Counts admissions, to choose which are timed; it may lose some, so it needs no lock.
    turn: AtomicU32,
    pub(super) overloads: AtomicU64,
    pub(super) ignored: AtomicU64,
    pub(super) cancelled: AtomicU64,
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
    /// How long its requests keep their seats, or else their places.
    pub(super) hold: Hold,
    /// The limit of its own.
    pub(super) seats: Option<Arc<Shared>>,
}

impl ClassState {
    pub(super) fn new(name: &str, share: f64, hold: Hold, seats: Option<Arc<Shared>>) -> Self {
        Self {
            name: name.into(),
            hold,
            seats,
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

impl Shared {
    pub(super) fn new(
        mut algorithm: Box<dyn Algorithm>,
        (min, max): (u32, u32),
        mode: LimitMode,
        classes: Box<[ClassState]>,
        max_wait: Duration,
        clock: Clock,
        local_signal: super::LocalSignal,
    ) -> Self {
        algorithm.set_range(min, max);
        let algorithm_limit = algorithm.initial();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let recorder = || Recorder {
            latencies: Shard::new(),
            untimed: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            overloads: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        };
        Self {
            gate: Gate::new(algorithm_limit),
            due: AtomicU64::new(0),
            overload_quiet: AtomicU64::new(0),
            median: AtomicU64::new(0),
            mode: AtomicU8::new(mode as u8),
            timed_one_of: AtomicU32::new(1),
            recorders: (0..=(2 * threads).min(slot::NUMBERS))
                .map(|_| recorder())
                .collect(),
            classes,
            waiters: Mutex::new(Waiters::new(max_wait)),
            control: Mutex::new(Control::new(algorithm, (min, max))),
            clock,
            max_wait,
            generations: [const { AtomicU32::new(0) }; GENERATIONS],
            generation: AtomicU32::new(0),
            generation_ends: AtomicU64::new(0),
            parked: AtomicU32::new(0),
            limit: AtomicU32::new(algorithm_limit),
            keys: KeyCounts::new(RandomState::new().hash_one(0)),
            lending: Lending::new(),
            fairness: Fairness::default(),
            max_lent: AtomicU32::new(max),
            local_signal,
            answered: AtomicU64::new(0),
            silent_since: AtomicU64::new(0),
            silences: AtomicU32::new(0),
            left: (AtomicU64::new(0), AtomicU64::new(0)),
        }
    }

    pub(super) fn run_queue(&self) -> Option<f64> {
        self.local_signal.tasks_per_core()
    }

    /// Counts a request in; the generation it belongs to.
    pub(super) fn be_born(&self) -> u32 {
        let generation = self.generation.load(Ordering::Relaxed);
        self.generations[generation as usize % GENERATIONS].fetch_add(1, Ordering::Relaxed);
        generation
    }

    pub(super) fn pass_away(&self, generation: u32) {
        let age = self
            .generation
            .load(Ordering::Relaxed)
            .wrapping_sub(generation);
        let of = if (age as usize) < GENERATIONS {
            &self.generations[generation as usize % GENERATIONS]
        } else {
            &self.parked
        };
        of.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whoever has been overtaken by many times as many answers as there are places waits for something else than
    /// the others do, be it a client, an event or a slow upstream: it no longer counts. Nobody is overtaken in a
    /// service that answers nothing.
    pub(super) fn age_places(&self, answers: u64, limit: u32, now: u64) {
        let before = self.answered.swap(answers, Ordering::Relaxed);
        if answers != before {
            self.silent_since.store(now, Ordering::Relaxed);
            self.silences.store(0, Ordering::Relaxed);
        }
        // Or nothing at all is answered while others are refused: a few more are let in, ever more seldom.
        let silence = now.saturating_sub(self.silent_since.load(Ordering::Relaxed));
        let silences = self.silences.load(Ordering::Relaxed);
        let patience =
            (16 * self.median.load(Ordering::Relaxed)).max(250_000_000) << silences.min(8);
        let silent = silence > patience;
        if silent {
            self.silences.store(silences + 1, Ordering::Relaxed);
            self.silent_since.store(now, Ordering::Relaxed);
        }
        let (in_flight, _) = self.gate.load();
        let active = in_flight.saturating_sub(self.parked.load(Ordering::Relaxed));
        if !silent && answers < self.generation_ends.load(Ordering::Relaxed) {
            return;
        }
        let size = OVERTAKEN * u64::from(limit.min(active)).max(8);
        self.generation_ends
            .store(answers + size, Ordering::Relaxed);
        let next = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        let left = self.generations[next as usize % GENERATIONS].swap(0, Ordering::Relaxed);
        self.parked.fetch_add(left, Ordering::Relaxed);
        self.generation.store(next, Ordering::Relaxed);
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

    /// Those who hold a place, and the limit for them.
    pub(super) fn held(&self) -> (u32, u32) {
        let (inside, _) = self.gate.load();
        (
            inside.saturating_sub(self.outside()),
            self.limit.load(Ordering::Relaxed),
        )
    }

    /// Those inside who hold no place.
    pub(super) fn outside(&self) -> u32 {
        self.parked
            .load(Ordering::Relaxed)
            .saturating_add(self.lending.stalled())
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
        self.set_aside_changed();
    }

    /// There are more or fewer inside who hold no place.
    pub(super) fn set_aside_changed(&self) {
        let limit = self.limit.load(Ordering::Relaxed);
        self.gate.set_limit(limit.saturating_add(self.outside()));
    }

    pub(super) fn quarter(&self) -> u32 {
        self.limit.load(Ordering::Relaxed) / 4
    }

    pub(super) fn max_lent(&self) -> u32 {
        self.max_lent.load(Ordering::Relaxed)
    }

    /// Whether more are inside than may be.
    pub(super) fn is_over(&self) -> bool {
        let (inside, limit) = self.gate.load();
        inside > limit
    }

    /// Gives a place back that is going to be taken again.
    pub(super) fn lend(&self) {
        if self.gate.leave().0 {
            self.grant_waiters();
        }
    }

    /// Takes a place again; whether that is one too many.
    pub(super) fn retake(&self) -> bool {
        self.gate.enter_beyond_limit();
        self.is_over()
    }

    /// Takes a place if there is one. With `queued`, those who already wait are not in the way.
    #[inline]
    pub(super) fn try_enter(&self, class: Class, keys: Keys, queued: bool) -> bool {
        let entered = if self.keys.is_used() || !keys.is_none() {
            self.try_enter_fairly(keys, queued)
        } else {
            self.gate.try_enter(queued, |limit| limit)
        };
        if entered {
            if self.has_classes() {
                self.class(class).in_flight.fetch_add(1, Ordering::Relaxed);
            }
            self.keys.add(keys, HELD);
            return true;
        }
        self.enter_full(class, keys, queued)
    }

    /// Whether a class may be admitted although those before it in the queue may not.
    pub(super) fn has_classes(&self) -> bool {
        self.classes.len() > 1
    }

    /// The limit is reached: places may have been lent meanwhile, and a guaranteed share or shadow mode may still let
    /// the request in.
    #[cold]
    fn enter_full(&self, class: Class, keys: Keys, queued: bool) -> bool {
        let state = self.class(class);
        if self.lending.may_age() && self.age_handed(self.clock.nanos())
            || self.fairness.may_go_beyond(self.lending.debt())
        {
            if self.try_enter_fairly(keys, queued) {
                if self.has_classes() {
                    state.in_flight.fetch_add(1, Ordering::Relaxed);
                }
                self.keys.add(keys, HELD);
                return true;
            }
        }
        let guaranteed = state.guaranteed(self.limit.load(Ordering::Relaxed));
        let take = |taken| (taken < guaranteed).then_some(taken + 1);
        let is_guaranteed = state
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok();
        if !is_guaranteed {
            if self.mode() != LimitMode::Shadow {
                return false;
            }
            state.would_shed.fetch_add(1, Ordering::Relaxed);
            if self.has_classes() {
                state.in_flight.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.gate.enter_beyond_limit();
        self.keys.add(keys, HELD);
        true
    }

    #[inline]
    pub(super) fn class(&self, class: Class) -> &ClassState {
        // Classes of another limit fall back to the default class.
        self.classes
            .get(usize::from(class.0))
            .unwrap_or(&self.classes[0])
    }

    /// The limit of the class's own, if it has one.
    #[inline]
    pub(super) fn seats(&self, class: Class) -> Option<&Arc<Self>> {
        self.class(class).seats.as_ref()
    }

    /// How long a request of the class holds its place.
    #[inline]
    pub(super) fn hold_of(&self, class: Class) -> Hold {
        let state = self.class(class);
        match state.seats {
            Some(_) => self.classes[0].hold,
            None => state.hold,
        }
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

    /// Gives a place back, to one who waits if there is one.
    #[inline]
    pub(super) fn release(&self, class: Class, keys: Keys) {
        if self.leave(class, keys) {
            self.grant_waiters();
        }
    }

    /// Forgets a request that holds no place.
    pub(super) fn forget(&self, class: Class, keys: Keys) {
        if self.has_classes() {
            self.class(class).in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        self.keys.sub(keys, HELD);
    }

    /// Gives a place back; whether somebody waits for it.
    #[inline]
    pub(super) fn leave(&self, class: Class, keys: Keys) -> bool {
        self.forget(class, keys);
        let (waiters, in_flight) = self.gate.leave();
        // Of the prototype: one of each thread in the end.
        self.left.0.fetch_add(1, Ordering::Relaxed);
        self.left
            .1
            .fetch_add(u64::from(in_flight), Ordering::Relaxed);
        waiters
    }

    /// The time, if this request is one that is timed; else [`UNTIMED`].
    #[inline]
    pub(super) fn start(&self) -> u64 {
        let one_of = self.timed_one_of.load(Ordering::Relaxed);
        if one_of > 1 {
            let turn = &self.recorder().0.turn;
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
        let (recorder, exclusive) = self.recorder();
        if start == UNTIMED && outcome == Outcome::Success {
            return slot::add(&recorder.untimed, exclusive);
        }
        let now = self.clock.nanos();
        match outcome {
            Outcome::Success => {
                let latency = now.saturating_sub(start);
                recorder.latencies.record(latency, exclusive);
            }
            Outcome::Overload => {
                slot::add(&recorder.overloads, exclusive);
                self.on_overload(now);
            }
            Outcome::Ignore => slot::add(&recorder.ignored, exclusive),
        }
        // A start in the future means that the clock went back: the window must begin anew.
        if now >= self.due.load(Ordering::Relaxed) || now < start && start != UNTIMED {
            self.look(now);
        }
    }

    pub(super) fn record_cancelled(&self) {
        let (recorder, exclusive) = self.recorder();
        slot::add(&recorder.cancelled, exclusive);
    }

    /// The recorder of this thread, and whether no other thread writes to it.
    #[inline]
    fn recorder(&self) -> (&Recorder, bool) {
        let (thread, shared) = (slot::current(), self.recorders.len() - 1);
        (&self.recorders[thread.min(shared)], thread < shared)
    }

    pub(super) fn untimed(&self) -> u64 {
        self.recorders
            .iter()
            .map(|r| r.untimed.load(Ordering::Relaxed))
            .sum()
    }

    pub(super) fn refused(&self) -> u64 {
        let all = self.classes.iter().flat_map(|class| &class.shed);
        let would = self.classes.iter().map(|class| &class.would_shed);
        all.chain(would)
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    pub(super) fn overloads(&self) -> u64 {
        self.recorders
            .iter()
            .map(|r| r.overloads.load(Ordering::Relaxed))
            .sum()
    }
}

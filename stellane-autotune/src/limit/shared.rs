use std::{
    hash::{BuildHasher, RandomState},
    ops::Deref,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Algorithm, Class, Hold, LimitMode, LimitState, LocalSignal, Outcome, Refusals, Shed,
    fairness::Fairness,
    gate::Gate,
    keys::{Count, KeyCounts, Keys},
    lending::Lending,
    recorder::{GENERATIONS, Recorder},
    thread_number,
    waiters::Waiters,
    window_control::WindowControl,
};
use crate::clock::Clock;

/// All state of one limit.
///
/// The hot path touches `gate` twice, or what its thread keeps of it, and one shard of its own; the mutexes are for closing a
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
    pub(super) control: Mutex<WindowControl>,
    pub(super) clock: Clock,
    /// That of those who come now: see [`Aside`](super::aside::Aside).
    pub(super) generation: AtomicU32,
    /// The limit for those who hold a place; that of the gate is higher by those inside who hold none.
    pub(super) limit: AtomicU32,
    /// Those who are set aside.
    pub(super) aside: AtomicU32,
    pub(super) keys: KeyCounts,
    pub(super) lending: Lending,
    pub(super) fairness: Fairness,
    /// The highest that the limit may be, and the most that may be lent.
    pub(super) max: AtomicU32,
    /// Whether the limit is not one yet: see [`LimitState::Open`](super::LimitState::Open).
    pub(super) open: AtomicBool,
    /// When it may rise by nothing but the time, in nanoseconds.
    pub(super) next_step: AtomicU64,
    /// Whether whoever has [waited](super::Waited) elsewhere for too long is refused, if there is a limit.
    pub(super) at_work: AtomicBool,
    /// Until when those are that have for less, in nanoseconds.
    pub(super) drains_until: AtomicU64,
    /// The threads, by number, that have somebody who looks after those who wait.
    #[cfg(feature = "tokio")]
    pub(super) keepers: AtomicU64,
    pub(super) settings: Arc<Settings>,
    pub(crate) local_signal: LocalSignal,
}

/// What does not change after the build. The limits of classes have those of their limit.
#[derive(Debug)]
pub(super) struct Settings {
    /// How long a request may wait while there is a limit, and whether it may while there is none.
    pub(super) max_wait: Duration,
    pub(super) can_wait: bool,
    pub(super) max_waiters: u32,
    pub(super) refusals: Refusals,
}

/// A limit, for what outlives the call that made it. Who counts the references to this is one thread, as a rule: a count that
/// all cores write costs an admission more than anything else here.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Own(Arc<Shared>);

impl Own {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(shared)))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Deref for Own {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
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
    pub(super) seats: Option<Arc<Own>>,
}

impl ClassState {
    pub(super) fn new(name: &str, share: f64, hold: Hold, seats: Option<Arc<Own>>) -> Self {
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

/// Of so many places that a thread kept when they came back one is taken for all.
const KEPT: u64 = 64;

/// The start of a request that is not timed.
pub(super) const UNTIMED: u64 = u64::MAX;

impl Shared {
    pub(super) fn new(
        mut algorithm: Box<dyn Algorithm>,
        (min, max): (u32, u32),
        mode: LimitMode,
        classes: Box<[ClassState]>,
        settings: Arc<Settings>,
        clock: Clock,
    ) -> Self {
        algorithm.set_range(min, max);
        let initial = algorithm.initial();
        let is_open = algorithm.state() == LimitState::Open;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (2 * threads).min(thread_number::NUMBERS);
        Self {
            gate: Gate::new(initial, threads),
            due: AtomicU64::new(0),
            overload_quiet: AtomicU64::new(0),
            median: AtomicU64::new(0),
            mode: AtomicU8::new(mode as u8),
            timed_one_of: AtomicU32::new(1),
            recorders: (0..=threads).map(|_| Recorder::new()).collect(),
            classes,
            waiters: Mutex::new(Waiters::new(settings.max_wait)),
            control: Mutex::new(WindowControl::new(algorithm, (min, max))),
            clock,
            generation: AtomicU32::new(0),
            limit: AtomicU32::new(initial),
            aside: AtomicU32::new(0),
            keys: KeyCounts::new(RandomState::new().hash_one(0)),
            lending: Lending::new(),
            fairness: Fairness::default(),
            max: AtomicU32::new(max),
            open: AtomicBool::new(is_open),
            next_step: AtomicU64::new(if is_open { 0 } else { u64::MAX }),
            at_work: AtomicBool::new(false),
            drains_until: AtomicU64::new(0),
            #[cfg(feature = "tokio")]
            keepers: AtomicU64::new(0),
            settings,
            local_signal: LocalSignal::new(),
        }
    }

    /// Those who are inside and no client keeps waiting, and the limit for those who hold a place.
    pub(crate) fn load(&self) -> (u32, u32) {
        let in_flight = self.gate.in_flight();
        let in_flight = in_flight.saturating_sub(self.lending.stalled());
        (in_flight, self.limit.load(Ordering::Relaxed))
    }

    /// The limit has changed, or those inside who hold no place.
    pub(super) fn set_gate(&self) {
        let aside = self.aside.load(Ordering::Relaxed);
        let beside = aside.saturating_add(self.lending.stalled());
        let limit = self.limit.load(Ordering::Relaxed);
        self.gate.set_limit(limit.saturating_add(beside));
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

    pub(super) fn quarter(&self) -> u32 {
        self.limit.load(Ordering::Relaxed) / 4
    }

    pub(super) fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Whether more are inside than may be.
    pub(super) fn is_over(&self) -> bool {
        let (inside, limit) = self.gate.load();
        inside > limit
    }

    /// Whether nobody gets in who has no class, whatever keys they have: to ask each of those who wait costs more than all
    /// else that waiting does.
    pub(super) fn is_surely_full(&self, now: u64) -> bool {
        if self.lending.handed() > 0 {
            self.age_handed(now);
        }
        let (in_flight, limit) = self.gate.load();
        let beyond = self.fairness.beyond(&self.lending, self.quarter());
        in_flight >= limit.saturating_add(beyond) && self.mode() == LimitMode::Enforce
    }

    /// Takes a place if there is one. With `queued`, those who already wait are not in the way.
    #[inline]
    pub(super) fn try_enter(&self, class: Class, keys: Keys, queued: bool) -> bool {
        let entered = if self.gate.try_enter_kept(thread_number::current()) {
            true
        } else if self.keys.is_used() || !keys.is_none() {
            self.try_enter_fairly(keys, queued)
        } else {
            self.gate.try_enter(queued, |limit| limit)
        };
        if entered || self.may_enter_now(keys, queued) {
            if self.has_classes() {
                self.class(class).in_flight.fetch_add(1, Ordering::Relaxed);
            }
            self.keys.add(keys, Count::Held);
            return true;
        }
        self.enter_beyond(class, keys)
    }

    /// Takes a place as far as its keys may.
    fn try_enter_fairly(&self, keys: Keys, queued: bool) -> bool {
        let of = (&self.gate, &self.keys, &self.lending);
        self.fairness.try_enter(of, self.quarter(), keys, queued)
    }

    /// Frames that were handed out long enough ago no longer hold their places. Whether that may have made room.
    pub(super) fn age_handed(&self, now: u64) -> bool {
        let aged = self.lending.age(now);
        if aged {
            self.set_gate();
        }
        aged
    }

    /// Whether a class may be admitted although those before it in the queue may not.
    pub(super) fn has_classes(&self) -> bool {
        self.classes.len() > 1
    }

    /// Places may have been lent meanwhile, or be left to those who have little.
    #[cold]
    fn may_enter_now(&self, keys: Keys, queued: bool) -> bool {
        let has_aged = self.lending.handed() > 0 && self.age_handed(self.clock.nanos());
        let may_go_beyond = self.fairness.may_go_beyond(self.lending.debt());
        (has_aged || may_go_beyond) && self.try_enter_fairly(keys, queued)
    }

    /// The limit is reached: a guaranteed share or shadow mode may still let the request in.
    #[cold]
    fn enter_beyond(&self, class: Class, keys: Keys) -> bool {
        let state = self.class(class);
        let guaranteed = state.guaranteed(self.limit.load(Ordering::Relaxed));
        let take = |taken| (taken < guaranteed).then_some(taken + 1);
        let is_guaranteed = guaranteed > 0
            && state
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
        self.keys.add(keys, Count::Held);
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
    pub(super) fn seats(&self, class: Class) -> Option<&Arc<Own>> {
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
        if self.is_handed_on() {
            self.note_departures(1, self.gate.load().0);
        } else if self.leave(class, keys) {
            self.grant_waiters();
        }
    }

    /// Whether somebody waited and has the place that is given back. Without classes and keys there is nothing else to forget.
    #[inline]
    fn is_handed_on(&self) -> bool {
        self.gate.has_waiters() && self.is_plain() && self.hand_on()
    }

    /// Forgets a request, but for its place.
    pub(super) fn forget(&self, class: Class, keys: Keys) {
        if self.has_classes() {
            self.class(class).in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        self.keys.sub(keys, Count::Held);
    }

    /// Gives a place back; whether somebody waits for it.
    #[inline]
    pub(super) fn leave(&self, class: Class, keys: Keys) -> bool {
        self.forget(class, keys);
        if self.gate.keep(thread_number::current()) {
            self.note_kept(1);
            return false;
        }
        let (is_awaited, in_flight) = self.gate.leave();
        self.note_departures(1, in_flight);
        is_awaited
    }

    /// The same of a request that was answered before, and noted then what was in flight.
    #[inline]
    pub(super) fn release_answered(&self, class: Class, keys: Keys) {
        if self.is_handed_on() {
            return;
        }
        self.forget(class, keys);
        if !self.gate.keep(thread_number::current()) && self.gate.leave().0 {
            self.grant_waiters();
        }
    }

    /// How many are in flight is known by looking at all threads while these keep places: one speaks for so many then.
    /// `leaves` is who is in flight no longer.
    fn note_kept(&self, leaves: u32) {
        let (recorder, exclusive) = self.recorder();
        thread_number::add(&recorder.kept, exclusive);
        if recorder.kept.load(Ordering::Relaxed).is_multiple_of(KEPT) {
            self.note_departures(KEPT, self.gate.in_flight() + leaves);
        }
    }

    fn note_departures(&self, count: u64, in_flight: u32) {
        let (recorder, exclusive) = self.recorder();
        thread_number::change(&recorder.answered, count, exclusive);
        let sum = count * u64::from(in_flight);
        thread_number::change(&recorder.in_flight_then, sum, exclusive);
    }

    /// Counts a request in; the generation that it belongs to.
    #[inline]
    pub(super) fn be_born(&self) -> u32 {
        let generation = self.generation.load(Ordering::Relaxed);
        self.change_age(generation as usize % GENERATIONS, 1);
        generation
    }

    /// Counts it out.
    ///
    /// If the generations change at this very moment, it may be counted out where it is no longer counted. The sum at that
    /// index is off by one then, and that of those set aside the other way, until the index is used again.
    #[inline]
    pub(super) fn pass_away(&self, generation: u32) {
        let age = self.generation.load(Ordering::Relaxed);
        let is_young = (age.wrapping_sub(generation) as usize) < GENERATIONS;
        let index = if is_young {
            generation as usize % GENERATIONS
        } else {
            GENERATIONS
        };
        self.change_age(index, u64::MAX);
    }

    #[inline]
    fn change_age(&self, index: usize, by: u64) {
        let (recorder, exclusive) = self.recorder();
        thread_number::change(&recorder.ages[index], by, exclusive);
    }

    /// The body of an answer begins.
    #[inline]
    pub(super) fn begin_stream(&self) {
        self.change_streaming(1);
        if self.gate.keeps() {
            self.note_kept(0);
        } else {
            self.note_departures(1, self.gate.load().0);
        }
    }

    #[inline]
    pub(super) fn end_stream(&self) {
        self.change_streaming(u64::MAX);
    }

    #[inline]
    fn change_streaming(&self, by: u64) {
        let (recorder, exclusive) = self.recorder();
        thread_number::change(&recorder.streaming, by, exclusive);
    }

    /// Requests that are answered and whose bodies are under way.
    pub(super) fn streaming(&self) -> u32 {
        let counts = self
            .recorders
            .iter()
            .map(|r| r.streaming.load(Ordering::Relaxed));
        (counts.fold(0, u64::wrapping_add) as i64).clamp(0, i64::from(u32::MAX)) as u32
    }

    /// How many were answered so far or gave their places back without that, and the sum of those in flight when they did.
    pub(super) fn departures(&self) -> (u64, u64) {
        let sum = |of: fn(&Recorder) -> &AtomicU64| {
            let counts = self.recorders.iter().map(|r| of(r).load(Ordering::Relaxed));
            counts.fold(0, u64::wrapping_add)
        };
        (sum(|r| &r.answered), sum(|r| &r.in_flight_then))
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
            return thread_number::add(&recorder.untimed, exclusive);
        }
        let now = self.clock.nanos();
        match outcome {
            Outcome::Success => {
                let latency = now.saturating_sub(start);
                recorder.latencies.record(latency, exclusive);
            }
            Outcome::Overload => {
                thread_number::add(&recorder.overloads, exclusive);
                self.on_overload(now);
            }
            Outcome::Ignore => thread_number::add(&recorder.ignored, exclusive),
        }
        // A start in the future means that the clock went back: the window must begin anew.
        if now >= self.due.load(Ordering::Relaxed) || now < start && start != UNTIMED {
            self.look(now);
        }
    }

    pub(super) fn record_cancelled(&self) {
        let (recorder, exclusive) = self.recorder();
        thread_number::add(&recorder.cancelled, exclusive);
    }

    /// The recorder of this thread, and whether no other thread writes to it.
    #[inline]
    pub(super) fn recorder(&self) -> (&Recorder, bool) {
        let (thread, shared) = (thread_number::current(), self.recorders.len() - 1);
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

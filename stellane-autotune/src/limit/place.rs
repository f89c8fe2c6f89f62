//! The places of requests, while they are lent.

use std::{
    cell::Cell,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use super::{
    Class,
    aging::Epoch,
    keys::{Count, Keys},
    loan::{self, Begun},
    shared::Shared,
};

/// What one key may lend at least, whatever the limit is: as many streams as most connections have. While all together lend
/// no more, it is not counted who does.
const LENT_BY_ONE: u32 = 100;

/// Whether one that is lent counts for its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts(bool);

impl Shared {
    /// Requests that hold no place at the moment because their client is waited for, or their thread is held.
    pub(super) fn lent(&self) -> u32 {
        self.gate.lent().saturating_add(self.lending.stalled())
    }

    /// Whether one more may be lent.
    pub(super) fn may_lend(&self, keys: Keys) -> Option<Counts> {
        let may_lend = self.all_lent() < self.max();
        may_lend.then(|| self.may_key_lend(keys)).flatten()
    }

    fn may_key_lend(&self, keys: Keys) -> Option<Counts> {
        let counts = !keys.is_none() && self.all_lent() >= LENT_BY_ONE;
        let is_lent_out =
            counts && self.keys.get(keys, Count::Lent) >= self.quarter().max(LENT_BY_ONE);
        (!is_lent_out).then_some(Counts(counts))
    }

    /// All that is lent, and what may turn out to be.
    fn all_lent(&self) -> u32 {
        self.gate.lent().saturating_add(self.lending.handed())
    }

    /// Gives a place back that may be lent and is going to be taken again.
    pub(super) fn lend(&self, keys: Keys, counts: Counts) {
        if counts.0 {
            self.keys.add(keys, Count::Lent);
        }
        if self.gate.lend() {
            self.grant_waiters();
        }
    }

    /// Takes it again; whether that is one too many.
    pub(super) fn retake(&self, keys: Keys, counts: Counts) -> bool {
        self.forget_lent(keys, counts);
        self.gate.retake()
    }

    fn forget_lent(&self, keys: Keys, counts: Counts) {
        if counts.0 {
            self.keys.sub(keys, Count::Lent);
        }
    }

    /// A request leaves whose place is lent.
    pub(super) fn release_lent(&self, class: Class, keys: Keys, counts: Counts) {
        self.forget_lent(keys, counts);
        self.forget(class, keys);
        if self.gate.leave_lent() {
            self.grant_waiters();
        }
    }

    pub(super) fn owe(&self, keys: Keys) {
        let again = self.keys.add(keys, Count::Debt);
        self.lending.change_debt(false, again);
        if again && self.keys.get(keys, Count::Held) >= self.quarter() {
            self.fairness.note_heavy();
        }
    }

    pub(super) fn pay(&self, keys: Keys) {
        let again = self.keys.sub(keys, Count::Debt);
        self.lending.change_debt(true, again);
    }

    /// A frame of a response was handed out: it waits for its client from now on, or for the next time that it is
    /// asked. None if that is not to count, since its key has lent too much.
    #[inline]
    pub(super) fn hand_over(&self, keys: Keys) -> Option<Handed> {
        let counts = self.may_key_lend(keys)?;
        if counts.0 {
            self.keys.add(keys, Count::Lent);
        }
        let epoch = self.lending.hand_over();
        Some(Handed { epoch, counts })
    }

    /// It leaves; whether it held no place.
    pub(super) fn forget_handed(&self, keys: Keys, Handed { epoch, counts }: Handed) -> bool {
        self.forget_lent(keys, counts);
        let held_none = self.lending.take_back(epoch);
        if held_none {
            self.set_gate();
        }
        held_none
    }

    /// It was asked for its next frame; whether it now has a debt.
    #[inline]
    pub(super) fn take_back(&self, keys: Keys, handed: Handed) -> bool {
        let owes = self.forget_handed(keys, handed) && self.is_over();
        if owes {
            self.owe(keys);
        }
        owes
    }
}

/// When a frame was handed out whose request may wait for its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handed {
    epoch: Epoch,
    counts: Counts,
}

/// The place of a request that has a body: its handler and its body both know when the client is waited for.
///
/// That is so while the handler has nothing else to do, since its latest poll was pending, and the body has nothing for
/// it, since its latest poll was.
///
/// To lend it and to take it again is one write each that all cores share, that to the gate; and one each to its own state,
/// which a handler makes whatever it waits for.
#[derive(Debug)]
pub(super) struct Loan {
    shared: Arc<Shared>,
    keys: Keys,
    state: loan::State,
    /// See [`Shared::be_born`].
    generation: AtomicU32,
    // Who lends writes these two, and who takes it again reads them: the state orders both.
    /// Since when it is lent, in nanoseconds.
    since: AtomicU64,
    counts: AtomicBool,
    /// For how long it was lent before, in nanoseconds.
    lent_for: AtomicU64,
}

thread_local! {
    /// The loan whose handler this thread polls, to be compared only.
    static POLLED: Cell<*const Loan> = const { Cell::new(ptr::null()) };
}

impl Loan {
    pub(super) fn new(shared: &Arc<Shared>, keys: Keys, generation: u32) -> Self {
        Self {
            generation: AtomicU32::new(generation),
            shared: Arc::clone(shared),
            keys,
            state: loan::State::new(),
            since: AtomicU64::new(0),
            counts: AtomicBool::new(false),
            lent_for: AtomicU64::new(0),
        }
    }

    /// As a new one, of the same limit, if nobody else has it any more.
    pub(super) fn renew(mut loan: Arc<Self>, keys: Keys, generation: u32) -> Option<Arc<Self>> {
        let unique = Arc::get_mut(&mut loan)?;
        unique.generation = AtomicU32::new(generation);
        unique.keys = keys;
        unique.state = loan::State::new();
        unique.lent_for = AtomicU64::new(0);
        Some(loan)
    }

    /// The handler goes on.
    #[inline]
    pub(super) fn resume(&self) {
        POLLED.set(self);
        if self.state.resume() {
            let generation = self.shared.be_born();
            self.generation.store(generation, Ordering::Relaxed);
            self.take_again();
        }
    }

    /// The poll of the handler has ended.
    #[inline]
    pub(super) fn end_poll(&self) {
        if self.is_polled() {
            POLLED.set(ptr::null());
        }
    }

    /// Whether this thread polls its handler: what polls the body now is called by that.
    fn is_polled(&self) -> bool {
        ptr::eq(POLLED.get(), self)
    }

    /// The handler waits.
    #[inline]
    pub(super) fn pause(&self) {
        let mut counts = Counts(false);
        let begun = self.state.pause(|| self.may_lend(&mut counts));
        self.lend_if(begun, counts);
    }

    /// The body has nothing.
    #[inline]
    pub(super) fn starve(&self) {
        let mut counts = Counts(false);
        let may_lend = || self.may_lend(&mut counts);
        let begun = self.state.starve(self.is_polled(), may_lend);
        self.lend_if(begun, counts);
    }

    /// The body has something, or nobody reads it any more.
    #[inline]
    pub(super) fn feed(&self) {
        if self.state.feed(self.is_polled()) {
            self.age();
            self.take_again();
        }
    }

    /// How long it was lent, in nanoseconds.
    pub(super) fn lent_for(&self) -> u64 {
        self.lent_for.load(Ordering::Relaxed)
    }

    /// The request leaves; whether its place is lent, or else to be given back.
    pub(super) fn end(&self) -> Option<Counts> {
        let before = self.state.end();
        if before.owes {
            self.shared.pay(self.keys);
        }
        if before.ages {
            self.shared.pass_away(self.generation());
        }
        before.lent.then(|| self.counts())
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// What is waited for by its client does not age.
    pub(super) fn stop_ageing(&self) {
        if self.state.stop_ageing() {
            self.shared.pass_away(self.generation());
        }
    }

    pub(super) fn age(&self) {
        let generation = self.shared.be_born();
        self.generation.store(generation, Ordering::Relaxed);
        if !self.state.age() {
            self.shared.pass_away(generation);
        }
    }

    /// It has an age, which was ended while its thread was held.
    pub(super) fn age_anew(&self) {
        self.generation
            .store(self.shared.be_born(), Ordering::Relaxed);
    }

    fn counts(&self) -> Counts {
        Counts(self.counts.load(Ordering::Relaxed))
    }

    /// Notes besides what who takes it again must know.
    fn may_lend(&self, noted: &mut Counts) -> bool {
        let Some(counts) = self.shared.may_lend(self.keys) else {
            return false;
        };
        *noted = counts;
        self.counts.store(counts.0, Ordering::Relaxed);
        self.since
            .store(self.shared.clock.nanos(), Ordering::Relaxed);
        true
    }

    fn lend_if(&self, begun: Begun, counts: Counts) {
        let Begun::Lent { owed, aged } = begun else {
            return;
        };
        if aged {
            self.shared.pass_away(self.generation());
        }
        if owed {
            self.shared.pay(self.keys);
        }
        self.shared.lend(self.keys, counts);
    }

    fn take_again(&self) {
        let now = self.shared.clock.nanos();
        let lent_for = now.saturating_sub(self.since.load(Ordering::Relaxed));
        // Nobody else does until it is lent anew.
        self.lent_for
            .store(self.lent_for() + lent_for, Ordering::Relaxed);
        if self.shared.retake(self.keys, self.counts()) {
            self.shared.owe(self.keys);
            if !self.state.owe() {
                self.shared.pay(self.keys);
            }
        }
    }
}

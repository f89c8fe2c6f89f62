//! The places of requests, while they are lent.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::{
    aging::Epoch,
    keys::{Count, Keys},
    loan::{self, Begun},
    shared::Shared,
};

/// What one key may lend at least, whatever the limit is: as many streams as most connections have.
const LENT_BY_ONE: u32 = 100;

impl Shared {
    /// Whether one more may be lent; then it is counted.
    pub(super) fn reserve_loan(&self, keys: Keys) -> bool {
        if self.lending.all() >= self.max() || self.is_lent_out(keys) {
            return false;
        }
        self.lending.change_given_back(false);
        self.keys.add(keys, Count::Lent);
        true
    }

    fn is_lent_out(&self, keys: Keys) -> bool {
        // All that is lent is seldom as much as one key may lend.
        !keys.is_none()
            && self.lending.all() >= LENT_BY_ONE
            && self.keys.get(keys, Count::Lent) >= self.quarter().max(LENT_BY_ONE)
    }

    pub(super) fn end_loan(&self, keys: Keys) {
        self.lending.change_given_back(true);
        self.keys.sub(keys, Count::Lent);
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
    pub(super) fn hand_over(&self, keys: Keys) -> Option<Epoch> {
        if !keys.is_none() {
            if self.is_lent_out(keys) {
                return None;
            }
            self.keys.add(keys, Count::Lent);
        }
        Some(self.lending.hand_over())
    }

    /// It leaves; whether it held no place.
    pub(super) fn forget_handed(&self, keys: Keys, epoch: Epoch) -> bool {
        if !keys.is_none() {
            self.keys.sub(keys, Count::Lent);
        }
        let held_none = self.lending.take_back(epoch);
        if held_none {
            self.set_gate();
        }
        held_none
    }

    /// It was asked for its next frame; whether it now has a debt.
    #[inline]
    pub(super) fn take_back(&self, keys: Keys, epoch: Epoch) -> bool {
        let owes = self.forget_handed(keys, epoch) && self.is_over();
        if owes {
            self.owe(keys);
        }
        owes
    }
}

/// The place of a request that has a body: its handler and its body both know when the client is waited for.
///
/// That is so while the handler has nothing else to do, since its latest poll was pending, and the body has nothing for
/// it, since its latest poll was.
#[derive(Debug)]
pub(super) struct Loan {
    shared: Arc<Shared>,
    keys: Keys,
    state: loan::State,
    /// See [`Shared::be_born`].
    generation: AtomicU32,
    /// Since when it is lent, and for how long it was before, in nanoseconds.
    since: AtomicU64,
    lent_for: AtomicU64,
}

impl Loan {
    pub(super) fn new(shared: &Arc<Shared>, keys: Keys, generation: u32) -> Self {
        Self {
            generation: AtomicU32::new(generation),
            shared: Arc::clone(shared),
            keys,
            state: loan::State::new(),
            since: AtomicU64::new(0),
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

    /// The handler waits.
    #[inline]
    pub(super) fn pause(&self) {
        self.begin(loan::PAUSED);
    }

    /// The handler goes on.
    #[inline]
    pub(super) fn resume(&self) {
        self.end_reason(loan::PAUSED);
    }

    /// The body has nothing.
    #[inline]
    pub(super) fn starve(&self) {
        self.begin(loan::STARVED);
    }

    /// The body has something, or nobody reads it any more.
    #[inline]
    pub(super) fn feed(&self) {
        self.end_reason(loan::STARVED);
    }

    /// How long it was lent, in nanoseconds.
    pub(super) fn lent_for(&self) -> u64 {
        self.lent_for.load(Ordering::Relaxed)
    }

    /// The request leaves; whether it holds a place, which is to be given back.
    pub(super) fn end(&self) -> bool {
        let before = self.state.end();
        if before.owes {
            self.shared.pay(self.keys);
        }
        if before.ages {
            self.shared.pass_away(self.generation());
        }
        if before.lent {
            self.shared.end_loan(self.keys);
        }
        !before.lent
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

    fn begin(&self, reason: u8) {
        let mut reserved = false;
        let begun = self.state.begin(reason, || {
            reserved = reserved || self.shared.reserve_loan(self.keys);
            self.since
                .store(self.shared.clock.nanos(), Ordering::Relaxed);
            reserved
        });
        match begun {
            Begun::Lent { owed, aged } => {
                if aged {
                    self.shared.pass_away(self.generation());
                }
                if owed {
                    self.shared.pay(self.keys);
                }
                self.shared.lend();
            }
            Begun::Kept if reserved => self.shared.end_loan(self.keys),
            Begun::Kept => {}
        }
    }

    fn end_reason(&self, reason: u8) {
        if !self.state.end_reason(reason) {
            return;
        }
        let now = self.shared.clock.nanos();
        let lent_for = now.saturating_sub(self.since.load(Ordering::Relaxed));
        self.lent_for.fetch_add(lent_for, Ordering::Relaxed);
        self.shared.end_loan(self.keys);
        self.age();
        if self.shared.retake() {
            self.shared.owe(self.keys);
            if !self.state.owe() {
                self.shared.pay(self.keys);
            }
        }
    }
}

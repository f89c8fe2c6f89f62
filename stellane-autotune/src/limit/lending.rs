//! Places that are given back while the client is waited for, and taken again by force.
//!
//! A request whose handler waits for bytes of its body gives its place back at once: see [`Loan`]. A response that
//! waits for its client says nothing when it begins to wait; one that has not been asked for its next frame for
//! [`PATIENCE`] is taken to wait: see [`Shared::hand_over`]. Either way the place is taken again by force, so that
//! what was let in is never delayed. Who does that while the limit is reached has a debt: until that request has left,
//! its key gets no place that others could have, and others may go beyond the limit: see [`Lending::beyond`].

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::{
    aging::{Aging, Epoch},
    keys::{DEBT, Keys, LENT},
    loan::{self, Begun},
    shared::Shared,
};

/// In nanoseconds. Longer than what a connection that is not stalled needs from one frame to the next, and so short
/// that a request that waits for a place hardly notices.
const PATIENCE: u64 = 20_000_000;
/// What one key may lend at least, whatever the limit is: as many streams as most connections have.
const LENT_BY_ONE: u32 = 100;

/// What is lent in all.
#[derive(Debug)]
pub(super) struct Lending {
    given_back: AtomicU32,
    /// Frames that were handed out, by when.
    handed: Aging<2>,
    /// When the next epoch of those begins, in nanoseconds.
    next_epoch: AtomicU64,
    /// Requests that took a place back which was no longer free. A difference, as those of keys.
    debt: AtomicU32,
    /// Those of a key that had done so before: what one client owes beyond what any might.
    excess: AtomicU32,
}

impl Lending {
    pub(super) fn new() -> Self {
        Self {
            given_back: AtomicU32::new(0),
            handed: Aging::new(),
            next_epoch: AtomicU64::new(0),
            debt: AtomicU32::new(0),
            excess: AtomicU32::new(0),
        }
    }

    /// Requests that hold no place at the moment because their client is waited for.
    pub(super) fn lent(&self) -> u32 {
        self.given_back().saturating_add(self.handed.old())
    }

    /// Requests in the gate that are waited for by nobody but their client.
    pub(super) fn stalled(&self) -> u32 {
        self.handed.old()
    }

    /// Whether somebody might be found to wait for its client.
    pub(super) fn may_age(&self) -> bool {
        self.handed.count() > 0
    }

    pub(super) fn given_back(&self) -> u32 {
        difference(&self.given_back)
    }

    #[inline]
    pub(super) fn debt(&self) -> u32 {
        difference(&self.debt)
    }

    /// How far beyond the limit others may go; `is_taken` is whether those who hold a quarter have what is kept.
    ///
    /// What a few owe is not theirs to pay; what many owe by one request each is load like any other, of which a quarter
    /// is left to others.
    pub(super) fn beyond(&self, quarter: u32, is_taken: bool) -> u32 {
        let kept = if is_taken { quarter } else { 0 };
        let by_few = difference(&self.excess).saturating_add(kept);
        by_few.max(self.debt().min(quarter))
    }
}

/// One that is subtracted before it is added, by another thread, is less than nothing.
fn difference(count: &AtomicU32) -> u32 {
    i32::max(count.load(Ordering::Relaxed) as i32, 0) as u32
}

impl Shared {
    /// Whether one more may be lent; then it is counted.
    pub(super) fn reserve_loan(&self, keys: Keys) -> bool {
        let lending = &self.lending;
        let all = lending.given_back().saturating_add(lending.handed.count());
        if all >= self.max() || self.is_lent_out(keys) {
            return false;
        }
        lending.given_back.fetch_add(1, Ordering::Relaxed);
        self.keys.add(keys, LENT);
        true
    }

    fn is_lent_out(&self, keys: Keys) -> bool {
        !keys.is_none() && self.keys.get(keys, LENT) >= self.quarter().max(LENT_BY_ONE)
    }

    pub(super) fn end_loan(&self, keys: Keys) {
        self.lending.given_back.fetch_sub(1, Ordering::Relaxed);
        self.keys.sub(keys, LENT);
    }

    pub(super) fn owe(&self, keys: Keys) {
        self.lending.debt.fetch_add(1, Ordering::Relaxed);
        if self.keys.add(keys, DEBT) {
            self.lending.excess.fetch_add(1, Ordering::Relaxed);
            self.note_heavy(keys);
        }
    }

    pub(super) fn pay(&self, keys: Keys) {
        self.lending.debt.fetch_sub(1, Ordering::Relaxed);
        if self.keys.sub(keys, DEBT) {
            self.lending.excess.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A frame of a response was handed out: it waits for its client from now on, or for the next time that it is
    /// asked. None if that is not to count, since its key has lent too much.
    #[inline]
    pub(super) fn hand_over(&self, keys: Keys) -> Option<Epoch> {
        if !keys.is_none() {
            if self.is_lent_out(keys) {
                return None;
            }
            self.keys.add(keys, LENT);
        }
        Some(self.lending.handed.come())
    }

    /// It leaves; whether it held no place.
    pub(super) fn forget_handed(&self, keys: Keys, epoch: Epoch) -> bool {
        if !keys.is_none() {
            self.keys.sub(keys, LENT);
        }
        let held_none = self.lending.handed.go(epoch);
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

    /// Frames that were handed out long enough ago no longer hold their places. Whether that may have made room.
    pub(super) fn age_handed(&self, now: u64) -> bool {
        let lending = &self.lending;
        let due = lending.next_epoch.load(Ordering::Relaxed);
        if now < due && due - now <= PATIENCE {
            return false;
        }
        let next = now.saturating_add(PATIENCE);
        let won = lending
            .next_epoch
            .compare_exchange(due, next, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if won {
            lending.handed.next_epoch();
            self.set_gate();
        }
        won
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

    fn generation(&self) -> u32 {
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

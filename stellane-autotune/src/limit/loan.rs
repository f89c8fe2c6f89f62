#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};

/// Whether a place is lent, in one byte that the handler of a request and its body change, on any threads: it is as
/// long as there are both reasons, unless that was not allowed when the second came.
#[derive(Debug)]
pub(crate) struct State(AtomicU8);

/// The handler waits.
pub(crate) const PAUSED: u8 = 1;
/// The body has nothing.
pub(crate) const STARVED: u8 = 2;
const BOTH: u8 = PAUSED | STARVED;
const LENT: u8 = 4;
const OWES: u8 = 8;
const ENDED: u8 = 16;
/// It has an age, by which it may be set aside: it has none while it is lent.
const AGES: u8 = 32;

/// What a reason has done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// The place is to be given back; whether it had a debt, which is paid by that, and an age.
    Lent { owed: bool, aged: bool },
    /// Nothing.
    Kept,
}

/// What a request had when it left.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) lent: bool,
    pub(crate) owes: bool,
    pub(crate) ages: bool,
}

impl State {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(AGES))
    }

    /// A reason begins. `may_lend` is asked when it makes both, perhaps more than once.
    pub(crate) fn begin(&self, reason: u8, mut may_lend: impl FnMut() -> bool) -> Begun {
        let mut state = self.0.load(Ordering::Relaxed);
        loop {
            let mut next = state | reason;
            if next & BOTH == BOTH && state & (LENT | ENDED) == 0 && may_lend() {
                next = (next | LENT) & !(OWES | AGES);
            }
            if next == state || state & ENDED != 0 {
                return Begun::Kept;
            }
            match self.exchange(state, next) {
                Err(current) => state = current,
                Ok(_) if next & LENT & !state == 0 => return Begun::Kept,
                Ok(_) => {
                    let [owed, aged] = [OWES, AGES].map(|bit| state & bit != 0);
                    return Begun::Lent { owed, aged };
                }
            }
        }
    }

    /// A reason ends; whether the place is to be taken again.
    pub(crate) fn end_reason(&self, reason: u8) -> bool {
        let mut state = self.0.load(Ordering::Relaxed);
        loop {
            if state & ENDED != 0 || state & reason == 0 {
                return false;
            }
            match self.exchange(state, state & !(reason | LENT)) {
                Err(current) => state = current,
                Ok(_) => return state & LENT != 0,
            }
        }
    }

    /// What was taken again was no longer free. Whether that is to be paid when it leaves.
    pub(crate) fn owe(&self) -> bool {
        let before = self.0.fetch_or(OWES, Ordering::AcqRel);
        before & (OWES | ENDED) == 0
    }

    /// Its age begins anew. False if the request has left meanwhile.
    pub(crate) fn age(&self) -> bool {
        self.0.fetch_or(AGES, Ordering::AcqRel) & ENDED == 0
    }

    /// It has no age for a while; whether it had one.
    pub(crate) fn stop_ageing(&self) -> bool {
        self.0.fetch_and(!AGES, Ordering::AcqRel) & AGES != 0
    }

    /// The request leaves. Only once.
    pub(crate) fn end(&self) -> Before {
        let before = self.0.swap(ENDED, Ordering::AcqRel);
        Before {
            lent: before & LENT != 0,
            owes: before & OWES != 0,
            ages: before & AGES != 0,
        }
    }

    fn exchange(&self, state: u8, next: u8) -> Result<u8, u8> {
        self.0
            .compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed)
    }
}

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};

/// Whether a place is lent, in one byte that the handler of a request and its body change, on any threads: it is as
/// long as there are both reasons, unless that was not allowed when the second came.
///
/// Most bodies are polled by their handler, while that is polled itself. What such a body finds is noted beside the byte
/// without an atomic step, and [`pause`](Self::pause) takes it along: the same thread comes there next.
#[derive(Debug)]
pub(crate) struct State {
    word: AtomicU8,
    /// What the body has found since its handler is polled: written by the thread that polls both, and read by it.
    within: AtomicU8,
}

/// The handler waits.
const PAUSED: u8 = 1;
/// The body has nothing.
const STARVED: u8 = 2;
const BOTH: u8 = PAUSED | STARVED;
const LENT: u8 = 4;
const OWES: u8 = 8;
const ENDED: u8 = 16;
/// It has an age, by which it may be set aside: it has none while it is lent.
const AGES: u8 = 32;
/// The body was polled elsewhere than by its handler: what was noted beside the byte no longer counts.
const ELSEWHERE: u8 = 64;

/// Noted beside the byte, as [`STARVED`] is.
const FED: u8 = 1;
const NOTHING_NEW: u8 = 0;

/// What a reason has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        Self {
            word: AtomicU8::new(AGES),
            within: AtomicU8::new(NOTHING_NEW),
        }
    }

    /// The handler waits, and maybe for its body. `may_lend` is asked if so, perhaps more than once.
    pub(crate) fn pause(&self, may_lend: impl FnMut() -> bool) -> Begun {
        let found = self.within.load(Ordering::Relaxed);
        let with_found = |state: u8| match found {
            _ if state & ELSEWHERE != 0 => state,
            STARVED => state | STARVED,
            FED => state & !STARVED,
            _ => state,
        };
        let begun = self.begin(|state| with_found(state) | PAUSED, may_lend);
        if found != NOTHING_NEW {
            // After the step above, for who feeds elsewhere.
            self.within.store(NOTHING_NEW, Ordering::Release);
        }
        begun
    }

    /// The handler goes on. Whether the place is to be taken again; it has an age then.
    pub(crate) fn resume(&self) -> bool {
        let aged = |state: u8| if state & LENT != 0 { AGES } else { 0 };
        self.end_reason(|state| state & !(PAUSED | LENT) | aged(state))
    }

    /// The body has nothing; `inside` is whether this thread polls its handler just now.
    pub(crate) fn starve(&self, inside: bool, may_lend: impl FnMut() -> bool) -> Begun {
        if inside && self.note(STARVED) {
            return Begun::Kept;
        }
        self.begin(|state| state | STARVED | ELSEWHERE, may_lend)
    }

    /// The body has something, or nobody reads it any more. Whether the place is to be taken again.
    pub(crate) fn feed(&self, inside: bool) -> bool {
        if inside && self.note(FED) {
            return false;
        }
        let noted = self.within.load(Ordering::Acquire);
        if noted != STARVED && self.word.load(Ordering::Relaxed) & STARVED == 0 {
            return false;
        }
        self.end_reason(|state| state & !(STARVED | LENT) | ELSEWHERE)
    }

    /// Notes what the body has found, unless it was polled elsewhere before.
    fn note(&self, found: u8) -> bool {
        let counts = self.word.load(Ordering::Relaxed) & ELSEWHERE == 0;
        if counts {
            self.within.store(found, Ordering::Relaxed);
        }
        counts
    }

    fn begin(&self, with: impl Fn(u8) -> u8, mut may_lend: impl FnMut() -> bool) -> Begun {
        let mut state = self.word.load(Ordering::Relaxed);
        loop {
            let mut next = with(state);
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

    fn end_reason(&self, without: impl Fn(u8) -> u8) -> bool {
        let mut state = self.word.load(Ordering::Relaxed);
        loop {
            let next = without(state);
            if next == state || state & ENDED != 0 {
                return false;
            }
            match self.exchange(state, next) {
                Err(current) => state = current,
                Ok(_) => return state & LENT != 0,
            }
        }
    }

    /// What was taken again was no longer free. Whether that is to be paid when it leaves.
    pub(crate) fn owe(&self) -> bool {
        let before = self.word.fetch_or(OWES, Ordering::AcqRel);
        before & (OWES | ENDED) == 0
    }

    /// Its age begins anew. False if the request has left meanwhile.
    pub(crate) fn age(&self) -> bool {
        self.word.fetch_or(AGES, Ordering::AcqRel) & ENDED == 0
    }

    /// It has no age for a while; whether it had one.
    pub(crate) fn stop_ageing(&self) -> bool {
        self.word.fetch_and(!AGES, Ordering::AcqRel) & AGES != 0
    }

    /// The request leaves. Only once.
    pub(crate) fn end(&self) -> Before {
        let before = self.word.swap(ENDED, Ordering::AcqRel);
        Before {
            lent: before & LENT != 0,
            owes: before & OWES != 0,
            ages: before & AGES != 0,
        }
    }

    fn exchange(&self, state: u8, next: u8) -> Result<u8, u8> {
        self.word
            .compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed)
    }
}

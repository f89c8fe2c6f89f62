//! The two protocols between threads that poll, and the one that watches them. Checked by loom in
//! `stellane-pool/tests/engine_loom.rs`, which includes this file: a crate on tokio is not built for loom.

use super::sync::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, Release, SeqCst},
};

const NONE: u64 = 0;
const LOST: u64 = u64::MAX;

/// Which poll a thread is in. It has a core for as long as nobody [takes](Self::take_core) that in the middle of a poll.
#[derive(Debug)]
pub(super) struct PollMark(AtomicU64);

impl PollMark {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(NONE))
    }

    /// The thread begins a poll; no two of a thread have the same number, and none is 0.
    #[inline]
    pub(super) fn begin(&self, number: u64) {
        // Who takes the core sees all that was done with it before.
        self.0.store(number, Release);
    }

    /// The thread has ended a poll; whether the core is still its own.
    #[inline]
    #[must_use]
    pub(super) fn end(&self) -> bool {
        self.0.swap(NONE, SeqCst) != LOST
    }

    /// The poll that runs, if the thread has its core.
    pub(super) fn running(&self) -> Option<u64> {
        let number = self.0.load(SeqCst);
        (number != NONE && number != LOST).then_some(number)
    }

    /// Whether the thread is in a poll whose core was taken.
    pub(super) fn is_lost(&self) -> bool {
        self.0.load(SeqCst) == LOST
    }

    /// Takes the core of a thread that is still in this poll. Who gets `true` has the core, and nobody else.
    #[must_use]
    pub(super) fn take_core(&self, number: u64) -> bool {
        let taken = self.0.compare_exchange(number, LOST, SeqCst, SeqCst);
        taken.is_ok()
    }
}

/// How many cores have nothing to do, and whether who watches them sleeps too.
#[derive(Debug)]
pub(super) struct Rest {
    idle: AtomicUsize,
    watch_sleeps: AtomicBool,
}

impl Rest {
    pub(super) fn new() -> Self {
        Self {
            idle: AtomicUsize::new(0),
            watch_sleeps: AtomicBool::new(false),
        }
    }

    /// How many cores have nothing to do, about.
    #[inline]
    pub(super) fn idle(&self) -> usize {
        self.idle.load(Relaxed)
    }

    /// A core has nothing to do.
    #[inline]
    pub(super) fn core_rests(&self) {
        self.idle.fetch_add(1, SeqCst);
    }

    /// A core has work; whether who watches is to be woken by the caller.
    #[inline]
    #[must_use]
    pub(super) fn core_works(&self) -> bool {
        self.idle.fetch_sub(1, SeqCst);
        self.watch_sleeps.load(SeqCst) && self.watch_sleeps.swap(false, SeqCst)
    }

    /// Whether who watches so many cores may sleep until it is woken.
    #[must_use]
    pub(super) fn watch_may_sleep(&self, cores: usize) -> bool {
        self.watch_sleeps.store(true, SeqCst);
        // Of this change, which changes nothing, and that of a core one is the first, and the other sees what was before it.
        self.idle.fetch_add(0, SeqCst) == cores || !self.watch_sleeps.swap(false, SeqCst)
    }
}

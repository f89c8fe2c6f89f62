#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Requests in flight, the limit, and whether somebody waits, in one word: admission is one
/// compare-and-swap and never exceeds the limit by a race, and a release can't miss who waits.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Gate {
    word: AtomicU64,
    /// The most in flight since a window began.
    pub(super) peak: AtomicU32,
}

const ONE: u64 = 1 << 32;
const WAITERS: u64 = 1 << 31;
/// The highest limit there is.
const LIMIT: u64 = WAITERS - 1;
/// From here on a number in flight is one below zero: a place was given back before it was taken again, by two threads.
const NEGATIVE: u32 = 1 << 31;

impl Gate {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            word: AtomicU64::new(u64::from(limit).min(LIMIT)),
            peak: AtomicU32::new(0),
        }
    }

    /// In flight, limit.
    #[inline]
    pub(crate) fn load(&self) -> (u32, u32) {
        split(self.word.load(Ordering::Acquire))
    }

    /// Takes a place if there is one and nobody waits for it; with `queued`, it is for one who waits. `allowed` says
    /// how many places there are for this one under that limit.
    #[inline]
    pub(super) fn try_enter(&self, queued: bool, allowed: impl Fn(u32) -> u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (in_flight, limit) = split(word);
            if in_flight >= allowed(limit) || !queued && word & WAITERS != 0 {
                return false;
            }
            match self.word.compare_exchange_weak(
                word,
                word + ONE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => break self.note_peak(in_flight + 1),
                Err(current) => word = current,
            }
        }
        true
    }

    /// Whether whoever comes now has to wait, unless something speaks for them.
    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        let (in_flight, limit) = split(word);
        in_flight >= limit || word & WAITERS != 0
    }

    pub(super) fn enter_beyond_limit(&self) {
        let (in_flight, _) = split(self.word.fetch_add(ONE, Ordering::Acquire));
        self.note_peak(in_flight + 1);
    }

    /// Gives a place back; whether somebody waits for it, and how many were in flight with it. Who begins to wait later
    /// finds it free.
    #[inline]
    pub(super) fn leave(&self) -> (bool, u32) {
        let word = self.word.fetch_sub(ONE, Ordering::Release);
        (word & WAITERS != 0, split(word).0)
    }

    pub(crate) fn has_waiters(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WAITERS != 0
    }

    /// Called with the lock of the queue, when it is no longer empty or has become so.
    pub(super) fn set_waiters(&self, waiters: bool) {
        if waiters {
            self.word.fetch_or(WAITERS, Ordering::AcqRel);
        } else {
            self.word.fetch_and(!WAITERS, Ordering::AcqRel);
        }
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let limit = u64::from(limit).min(LIMIT);
        let change = |word| Some(word & !LIMIT | limit);
        // The closure never refuses, so neither does this.
        let _ = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
    }

    #[inline]
    fn note_peak(&self, in_flight: u32) {
        if in_flight > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(in_flight, Ordering::Relaxed);
        }
    }
}

fn split(word: u64) -> (u32, u32) {
    let in_flight = (word >> 32) as u32;
    let in_flight = if in_flight < NEGATIVE { in_flight } else { 0 };
    (in_flight, (word & LIMIT) as u32)
}

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Requests in flight, the limit, and whether somebody waits, in one word: admission is one
/// compare-and-swap and never exceeds the limit by a race, and a release can't miss who waits. Beside it, on the same
/// line, how many of them have lent their places: to lend one or to take it again is one addition.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Gate {
    word: AtomicU64,
    /// A difference: a place may be taken again before it is lent, by two threads.
    lent: AtomicU32,
    /// The most in flight since a window began.
    pub(super) peak: AtomicU32,
}

const ONE: u64 = 1 << 32;
const WAITERS: u64 = 1 << 31;
/// The highest limit there is.
const LIMIT: u64 = WAITERS - 1;

impl Gate {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            word: AtomicU64::new(u64::from(limit).min(LIMIT)),
            lent: AtomicU32::new(0),
            peak: AtomicU32::new(0),
        }
    }

    /// In flight without those whose places are lent, limit.
    #[inline]
    pub(crate) fn load(&self) -> (u32, u32) {
        let (inside, limit) = split(self.word.load(Ordering::Acquire));
        (inside.saturating_sub(self.lent()), limit)
    }

    /// In flight, those whose places are lent among them.
    pub(crate) fn inside(&self) -> u32 {
        split(self.word.load(Ordering::Acquire)).0
    }

    /// Places that are lent.
    #[inline]
    pub(crate) fn lent(&self) -> u32 {
        i32::max(self.lent.load(Ordering::Relaxed) as i32, 0) as u32
    }

    /// Takes a place if there is one and nobody waits for it; with `queued`, it is for one who waits. `allowed` says
    /// how many places there are for this one under that limit.
    #[inline]
    pub(super) fn try_enter(&self, queued: bool, allowed: impl Fn(u32) -> u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (inside, limit) = split(word);
            // Those who take their places again meanwhile do it by force, as if they came after this one.
            let in_flight = inside.saturating_sub(self.lent());
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
        let (in_flight, limit) = self.load();
        in_flight >= limit || self.has_waiters()
    }

    pub(super) fn enter_beyond_limit(&self) {
        self.word.fetch_add(ONE, Ordering::Acquire);
        self.note_peak(self.load().0);
    }

    /// Gives a place back that is going to be taken again; whether somebody waits for it.
    pub(super) fn lend(&self) -> bool {
        // After who has begun to wait in the order of these additions, and then it is seen; or before, and then they see it.
        self.lent.fetch_add(1, Ordering::AcqRel);
        self.has_waiters()
    }

    /// Takes a place again, also when it is no longer free; whether it was not.
    pub(super) fn retake(&self) -> bool {
        self.lent.fetch_sub(1, Ordering::AcqRel);
        let (in_flight, limit) = self.load();
        self.note_peak(in_flight);
        in_flight > limit
    }

    /// Gives a place back; whether somebody waits for it, and how many were in flight with it. Who begins to wait later
    /// finds it free.
    #[inline]
    pub(super) fn leave(&self) -> (bool, u32) {
        let word = self.word.fetch_sub(ONE, Ordering::Release);
        let in_flight = split(word).0.saturating_sub(self.lent());
        (word & WAITERS != 0, in_flight)
    }

    /// A request leaves whose place is lent; whether somebody waits who might have found none meanwhile.
    pub(super) fn leave_lent(&self) -> bool {
        self.lent.fetch_sub(1, Ordering::AcqRel);
        self.leave().0
    }

    pub(crate) fn has_waiters(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WAITERS != 0
    }

    /// Called with the lock of the queue, when it is no longer empty or has become so.
    pub(super) fn set_waiters(&self, waiters: bool) {
        if waiters {
            self.word.fetch_or(WAITERS, Ordering::AcqRel);
            // See `lend`.
            self.lent.fetch_add(0, Ordering::AcqRel);
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
    ((word >> 32) as u32, (word & LIMIT) as u32)
}

#[cfg(not(loom))]
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(loom)]
use loom::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
#[cfg(loom)]
use std::sync::PoisonError;

/// Requests in flight, the limit, and whether somebody waits, in one word: admission is one
/// compare-and-swap and never exceeds the limit by a race, and a release can't miss who waits. Beside it, on the same
/// line, how many of them have lent their places: to lend one or to take it again is one addition.
///
/// While many requests come to several threads and less than half of the places is taken, a thread keeps a few places that
/// came back for its next requests, and writes nothing that others read. The word counts them as taken. Whoever finds the
/// gate half full, or would have to refuse or to wait, first has all threads give back what they keep: from then on every
/// place is in the word, so that nobody is refused while one is free.
#[derive(Debug)]
pub(crate) struct Gate {
    line: Line,
    threads: Box<[Kept]>,
    /// Held by who lets threads keep places, or has them give these back.
    keeping: Mutex<()>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Line {
    word: AtomicU64,
    /// A difference: a place may be taken again before it is lent, by two threads.
    lent: AtomicU32,
    /// The most in flight since a window began, those among them that threads keep.
    peak: AtomicU32,
}

/// Places that a thread keeps, and above [`NOW`] how many it may: nothing while it may keep none.
#[derive(Debug)]
#[repr(align(128))]
struct Kept(AtomicU32);

const ONE: u64 = 1 << 32;
const WAITERS: u64 = 1 << 31;
/// Threads may keep places.
const KEEP: u64 = 1 << 30;
/// The highest limit there is.
const LIMIT: u64 = KEEP - 1;
/// The bits that count what a thread keeps.
const NOW: u32 = 0xffff;

impl Gate {
    /// So many threads may keep places, those with the first numbers.
    pub(super) fn new(limit: u32, threads: usize) -> Self {
        Self {
            line: Line {
                word: AtomicU64::new(u64::from(limit).min(LIMIT)),
                lent: AtomicU32::new(0),
                peak: AtomicU32::new(0),
            },
            threads: (0..threads).map(|_| Kept(AtomicU32::new(0))).collect(),
            keeping: Mutex::new(()),
        }
    }

    /// In flight without those whose places are lent, limit. Places that threads keep are in flight here, but there are
    /// none as soon as half of the limit is reached.
    #[inline]
    pub(crate) fn load(&self) -> (u32, u32) {
        let (inside, limit) = split(self.line.word.load(Ordering::Acquire));
        (inside.saturating_sub(self.lent()), limit)
    }

    /// In flight, those whose places are lent among them, without what threads keep.
    pub(crate) fn inside(&self) -> u32 {
        let word = self.line.word.load(Ordering::Acquire);
        let inside = split(word).0;
        if word & KEEP == 0 {
            return inside;
        }
        let kept = |kept: &Kept| kept.0.load(Ordering::Relaxed) & NOW;
        inside.saturating_sub(self.threads.iter().map(kept).sum())
    }

    /// In flight without those whose places are lent, and without what threads keep.
    pub(crate) fn in_flight(&self) -> u32 {
        self.inside().saturating_sub(self.lent())
    }

    /// Places that are lent.
    #[inline]
    pub(crate) fn lent(&self) -> u32 {
        i32::max(self.line.lent.load(Ordering::Relaxed) as i32, 0) as u32
    }

    /// Takes a place if there is one and nobody waits for it; with `queued`, it is for one who waits. `allowed` says
    /// how many places there are for this one under that limit.
    #[inline]
    pub(super) fn try_enter(&self, queued: bool, allowed: impl Fn(u32) -> u32) -> bool {
        let mut word = self.line.word.load(Ordering::Relaxed);
        loop {
            let (inside, limit) = split(word);
            // Those who take their places again meanwhile do it by force, as if they came after this one.
            let in_flight = inside.saturating_sub(self.lent());
            if in_flight >= allowed(limit) || !queued && word & WAITERS != 0 {
                if word & KEEP == 0 {
                    return false;
                }
                word = self.gather();
                continue;
            }
            match self.line.word.compare_exchange_weak(
                word,
                word + ONE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.note_in_flight(word, in_flight + 1);
                    return true;
                }
                Err(current) => word = current,
            }
        }
    }

    /// Takes a place that this thread keeps.
    #[inline]
    pub(super) fn try_enter_kept(&self, thread: usize) -> bool {
        self.threads.get(thread).is_some_and(Kept::take)
    }

    /// Whether whoever comes now has to wait, unless something speaks for them.
    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        self.is_full() || self.has_waiters()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        let (in_flight, limit) = self.load();
        in_flight >= limit
    }

    pub(super) fn enter_beyond_limit(&self) {
        let word = self.line.word.fetch_add(ONE, Ordering::Acquire);
        self.note_in_flight(word, self.load().0);
    }

    /// Gives a place back that is going to be taken again; whether somebody waits for it.
    pub(super) fn lend(&self) -> bool {
        // After who has begun to wait in the order of these additions, and then it is seen; or before, and then they see it.
        self.line.lent.fetch_add(1, Ordering::AcqRel);
        self.has_waiters()
    }

    /// Takes a place again, also when it is no longer free; whether it was not.
    pub(super) fn retake(&self) -> bool {
        self.line.lent.fetch_sub(1, Ordering::AcqRel);
        let word = self.line.word.load(Ordering::Acquire);
        let (inside, limit) = split(word);
        let in_flight = inside.saturating_sub(self.lent());
        self.note_in_flight(word, in_flight);
        in_flight > limit
    }

    /// Keeps a place for the next request of this thread, if that may be.
    #[inline]
    pub(super) fn keep(&self, thread: usize) -> bool {
        self.threads.get(thread).is_some_and(Kept::put)
    }

    /// Gives a place back; whether somebody waits for it, and how many were in flight with it. Who begins to wait later
    /// finds it free.
    #[inline]
    pub(super) fn leave(&self) -> (bool, u32) {
        let word = self.line.word.fetch_sub(ONE, Ordering::Release);
        let in_flight = split(word).0.saturating_sub(self.lent());
        (word & WAITERS != 0, in_flight)
    }

    /// A request leaves whose place is lent; whether somebody waits who might have found none meanwhile.
    pub(super) fn leave_lent(&self) -> bool {
        self.line.lent.fetch_sub(1, Ordering::AcqRel);
        self.leave().0
    }

    pub(crate) fn has_waiters(&self) -> bool {
        self.line.word.load(Ordering::Relaxed) & WAITERS != 0
    }

    /// Called with the lock of the queue, when it is no longer empty or has become so.
    pub(super) fn set_waiters(&self, waiters: bool) {
        if waiters {
            let word = self.line.word.fetch_or(WAITERS, Ordering::AcqRel);
            // See `lend`.
            self.line.lent.fetch_add(0, Ordering::AcqRel);
            if word & KEEP != 0 {
                self.gather();
            }
        } else {
            self.line.word.fetch_and(!WAITERS, Ordering::AcqRel);
        }
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let limit = u64::from(limit).min(LIMIT);
        let change = |word| word & !LIMIT | limit;
        let word = self.change_word(change);
        self.gather_if_near(change(word), self.load().0);
    }

    /// The most in flight since [`start_peak`](Self::start_peak).
    pub(super) fn peak(&self) -> u32 {
        self.line.peak.load(Ordering::Relaxed)
    }

    pub(super) fn start_peak(&self) {
        self.line.peak.store(self.load().0, Ordering::Relaxed);
    }

    /// Each thread may keep so many places from now on, until half of all are taken or somebody waits.
    pub(super) fn let_keep(&self, most: u32) {
        if most == 0 {
            if self.keeps() {
                self.gather();
            }
            return;
        }
        let turn = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        // Before any thread keeps one: who finds this unset takes the word for all there is.
        let open = |word| {
            let in_flight = split(word).0.saturating_sub(self.lent());
            (word & WAITERS == 0 && !is_near(word, in_flight)).then_some(word | KEEP)
        };
        let opened = self
            .line
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, open);
        let Ok(word) = opened else {
            return;
        };
        for kept in &self.threads {
            kept.allow(most.min(NOW));
        }
        drop(turn);
        // Who takes a lent place again sees it from here on, or did so before, and then that is seen.
        self.line.lent.fetch_add(0, Ordering::AcqRel);
        self.gather_if_near(word | KEEP, self.load().0);
    }

    /// Whether threads may keep places.
    #[inline]
    pub(super) fn keeps(&self) -> bool {
        self.line.word.load(Ordering::Relaxed) & KEEP != 0
    }

    /// Has all threads give back what they keep, and keep nothing from now on; what the word is then.
    #[cold]
    fn gather(&self) -> u64 {
        let _turn = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let word = self.line.word.load(Ordering::Acquire);
        if word & KEEP == 0 {
            return word;
        }
        let take = |kept: &Kept| u64::from(kept.0.swap(0, Ordering::AcqRel) & NOW);
        let places: u64 = self.threads.iter().map(take).sum();
        let change = |word| (word - places * ONE) & !KEEP;
        change(self.change_word(change))
    }

    #[inline]
    fn gather_if_near(&self, word: u64, in_flight: u32) {
        if word & KEEP != 0 && is_near(word, in_flight) {
            self.gather();
        }
    }

    /// Changes the word; what it was.
    fn change_word(&self, change: impl Fn(u64) -> u64) -> u64 {
        let change = |word| Some(change(word));
        // The closure never refuses, so neither does this.
        let (Ok(word) | Err(word)) =
            self.line
                .word
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
        word
    }

    /// So many are in flight since that was the word.
    #[inline]
    fn note_in_flight(&self, word: u64, in_flight: u32) {
        if in_flight > self.line.peak.load(Ordering::Relaxed) {
            self.line.peak.fetch_max(in_flight, Ordering::Relaxed);
        }
        self.gather_if_near(word, in_flight);
    }
}

impl Kept {
    #[inline]
    fn take(&self) -> bool {
        self.step(|kept| kept & NOW != 0, |kept| kept - 1)
    }

    #[inline]
    fn put(&self) -> bool {
        self.step(|kept| kept & NOW < kept >> 16, |kept| kept + 1)
    }

    /// Takes a step while it may; whether it was taken.
    #[inline]
    fn step(&self, may: impl Fn(u32) -> bool, next: impl Fn(u32) -> u32) -> bool {
        let mut kept = self.0.load(Ordering::Relaxed);
        while may(kept) {
            // Only who gathers writes here too.
            let next = next(kept);
            match self
                .0
                .compare_exchange_weak(kept, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(current) => kept = current,
            }
        }
        false
    }

    fn allow(&self, most: u32) {
        let allow = |kept| Some(kept & NOW | most << 16);
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, allow);
    }
}

/// Whether half of the places are taken.
fn is_near(word: u64, in_flight: u32) -> bool {
    in_flight > split(word).1 / 2
}

fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, (word & LIMIT) as u32)
}

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Places taken, the limit, and whether somebody waits, in one word: admission is one
/// compare-and-swap and never exceeds the limit by a race, and a release can't miss who waits.
///
/// As long as at most half of the places are taken, a thread keeps the place of a request that has left for its
/// next one: then it only reads the word, which all cores would else write for each request. A place that is kept
/// is taken, but nobody is in it; whoever finds no other takes it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Gate {
    word: AtomicU64,
    /// The most in flight since a window began; a place that another thread kept may count.
    pub(super) peak: AtomicU32,
    /// By thread.
    kept: Box<[Kept]>,
}

/// Whether a thread keeps a place.
#[derive(Debug)]
#[repr(align(128))]
struct Kept(AtomicBool);

impl Kept {
    /// Takes the place that is kept here, if one is.
    #[inline]
    fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel)
    }
}

const ONE: u64 = 1 << 32;
const WAITERS: u64 = 1 << 31;
/// The highest limit there is.
const LIMIT: u64 = WAITERS - 1;

impl Gate {
    /// So many threads, each with a number of its own below that, may keep a place.
    pub(super) fn new(limit: u32, threads: usize) -> Self {
        Self {
            word: AtomicU64::new(u64::from(limit).min(LIMIT)),
            peak: AtomicU32::new(0),
            kept: (0..threads).map(|_| Kept(AtomicBool::new(false))).collect(),
        }
    }

    /// In flight, limit.
    pub(crate) fn load(&self) -> (u32, u32) {
        let kept = |kept: &&Kept| kept.0.load(Ordering::Acquire);
        let kept = self.kept.iter().filter(kept).count() as u32;
        let (taken, limit) = split(self.word.load(Ordering::Acquire));
        (taken.saturating_sub(kept), limit)
    }

    /// Takes a place if there is one and nobody waits for it; with `queued`, it is for one who waits.
    #[inline]
    pub(super) fn try_enter(&self, thread: usize, queued: bool) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        let (taken, limit) = split(word);
        let usual = !queued && taken <= limit && word & WAITERS == 0;
        if usual && self.kept.get(thread).is_some_and(Kept::take) {
            self.note_peak(taken);
            return true;
        }
        self.take(word, queued) || self.take_kept(queued)
    }

    #[inline]
    fn take(&self, mut word: u64, queued: bool) -> bool {
        loop {
            let (taken, limit) = split(word);
            if taken >= limit || !queued && word & WAITERS != 0 {
                return false;
            }
            match self.word.compare_exchange_weak(
                word,
                word + ONE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => break self.note_peak(taken + 1),
                Err(current) => word = current,
            }
        }
        true
    }

    /// All are taken: takes one that any thread keeps.
    #[cold]
    fn take_kept(&self, queued: bool) -> bool {
        if !queued && self.has_waiters() {
            return false;
        }
        // With the fence of `keep`: either this finds the place, or who keeps it finds that somebody waits.
        fence(Ordering::SeqCst);
        self.kept
            .iter()
            .any(|kept| kept.take() && !self.give_up_beyond_limit())
    }

    /// The limit may have fallen below what is taken: then one who has taken a place has none.
    fn give_up_beyond_limit(&self) -> bool {
        let change = |word| {
            let (taken, limit) = split(word);
            (taken > limit).then(|| word - ONE)
        };
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, change)
            .is_ok()
    }

    pub(super) fn enter_beyond_limit(&self) {
        let (taken, _) = split(self.word.fetch_add(ONE, Ordering::Acquire));
        self.note_peak(taken + 1);
    }

    /// Gives a place back; whether somebody waits for it. Who begins to wait later finds it free.
    #[inline]
    pub(super) fn leave(&self, thread: usize) -> bool {
        !self.keep(thread) && self.word.fetch_sub(ONE, Ordering::Release) & WAITERS != 0
    }

    /// Keeps a place for the next request of this thread, unless there is one already.
    #[inline]
    fn keep(&self, thread: usize) -> bool {
        let Some(kept) = self.kept.get(thread) else {
            return false;
        };
        let word = self.word.load(Ordering::Relaxed);
        let (taken, limit) = split(word);
        if taken > limit / 2 || word & WAITERS != 0 || kept.0.load(Ordering::Relaxed) {
            return false;
        }
        // Only this thread writes `true`.
        kept.0.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        // Whoever began to wait meanwhile may not have found it.
        !self.has_waiters() || !kept.take()
    }

    pub(super) fn has_waiters(&self) -> bool {
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
    ((word >> 32) as u32, (word & LIMIT) as u32)
}

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Requests in flight and the limit in one word, so that admission is one compare-and-swap and
/// never exceeds the limit by a race.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Gate {
    word: AtomicU64,
    /// The most in flight since a window began.
    pub(super) peak: AtomicU32,
}

const ONE: u64 = 1 << 32;

impl Gate {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            word: AtomicU64::new(u64::from(limit)),
            peak: AtomicU32::new(0),
        }
    }

    /// In flight, limit.
    #[inline]
    pub(crate) fn load(&self) -> (u32, u32) {
        split(self.word.load(Ordering::SeqCst))
    }

    #[inline]
    pub(super) fn try_enter(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (in_flight, limit) = split(word);
            if in_flight >= limit {
                return false;
            }
            // The order matters to those who wait: see `Shared::release`.
            match self.word.compare_exchange_weak(
                word,
                word + ONE,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break self.note_peak(in_flight + 1),
                Err(current) => word = current,
            }
        }
        true
    }

    pub(super) fn enter_beyond_limit(&self) {
        let (in_flight, _) = split(self.word.fetch_add(ONE, Ordering::SeqCst));
        self.note_peak(in_flight + 1);
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.word.fetch_sub(ONE, Ordering::SeqCst);
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let change = |word| Some(word & !u64::from(u32::MAX) | u64::from(limit));
        // The closure never refuses, so neither does this.
        let _ = self
            .word
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
    }

    #[inline]
    fn note_peak(&self, in_flight: u32) {
        if in_flight > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(in_flight, Ordering::Relaxed);
        }
    }
}

fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

//! The bytes that are held, and how many there are.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::policy;

#[derive(Debug)]
pub(super) struct Counts {
    /// 0 is off.
    bytes: AtomicU64,
    held: AtomicU64,
    /// Set aside for requests of which nothing else is known.
    aside: AtomicU64,
    /// Kept for uploads that read on.
    kept: AtomicU64,
    /// Of those held, what clients have not read.
    answers: AtomicU64,
    /// Of those held, what users say that they hold.
    own: AtomicU64,
    /// The process has little memory left, whatever is counted here.
    squeezed: AtomicBool,
    /// What the system holds for sockets, which is not in `held`.
    sockets: AtomicU64,
    /// Uploads that wait.
    waiting: AtomicUsize,
    waits: AtomicU64,
    ended: AtomicU64,
}

/// What a [`MemoryBudget`](super::MemoryBudget) counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// How many bytes there are for bodies; 0 is off.
    pub budget_bytes: u64,
    /// How many are held: by requests, by answers, and by [`MemoryBudget::hold`](super::MemoryBudget::hold).
    pub held_bytes: u64,
    /// Those of answers that their clients have not read.
    pub answers_bytes: u64,
    /// What the system holds for the sockets of the process, beside these; 0 where it does not tell.
    pub sockets_bytes: u64,
    /// Uploads that wait until others have given bytes back.
    pub waiting: u64,
    /// How often one began to wait.
    pub waits_total: u64,
    /// Requests that were ended, since nobody could go on otherwise.
    pub ended_total: u64,
}

impl Counts {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes: AtomicU64::new(bytes),
            held: AtomicU64::new(0),
            aside: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            own: AtomicU64::new(0),
            squeezed: AtomicBool::new(false),
            sockets: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            waits: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    pub(super) fn stats(&self) -> MemoryStats {
        MemoryStats {
            budget_bytes: self.bytes(),
            held_bytes: self.held(),
            answers_bytes: self.answers.load(Relaxed),
            sockets_bytes: self.sockets.load(Relaxed),
            waiting: self.waiting() as u64,
            waits_total: self.waits.load(Relaxed),
            ended_total: self.ended.load(Relaxed),
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    #[inline]
    pub(super) fn held(&self) -> u64 {
        self.held.load(Relaxed) + self.aside()
    }

    fn aside(&self) -> u64 {
        self.aside.load(Relaxed)
    }

    /// What is held, and not by uploads of which it is known how much they hold.
    pub(super) fn others(&self) -> u64 {
        self.aside() + self.answers.load(Relaxed) + self.own.load(Relaxed)
    }

    /// Sets so much aside for the whole of a body, if that is little and there is plenty: then nothing else need be known of
    /// it. Of a large part of all there is it must be, since some of it is not there and never will be.
    #[inline]
    pub(super) fn set_aside(&self, whole: u64) -> bool {
        let bytes = self.bytes();
        let is_little = whole <= bytes / 64 && self.aside() + whole <= bytes / 8;
        if !is_little || !self.is_at_ease() || self.is_scarce() {
            return false;
        }
        self.aside.fetch_add(whole, Relaxed);
        true
    }

    pub(super) fn give_up(&self, whole: u64) {
        self.aside.fetch_sub(whole, Relaxed);
    }

    /// What is left, and kept for nobody.
    pub(super) fn room(&self) -> u64 {
        let taken = self.held() + self.kept.load(Relaxed);
        self.bytes().saturating_sub(taken)
    }

    /// So many bytes were kept for somebody, and now so many are.
    pub(super) fn keep(&self, before: u64, after: u64) {
        if before != after {
            self.kept.fetch_add(after, Relaxed);
            self.kept.fetch_sub(before, Relaxed);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(super) fn is_squeezed(&self) -> bool {
        self.squeezed.load(Relaxed)
    }

    pub(super) fn set_squeezed(&self, squeezed: bool) {
        self.squeezed.store(squeezed, Relaxed);
    }

    /// Whether there is so much left that it need not be known what of a body is still held.
    #[inline]
    pub(super) fn is_at_ease(&self) -> bool {
        self.held() < self.bytes() / 4
    }

    /// Whether uploads wait for each other: those that do go on one after the other until there is plenty again. All at
    /// once, and soon there would be no room for any.
    #[inline]
    pub(super) fn is_scarce(&self) -> bool {
        let is_near = self.is_squeezed() || self.held() >= policy::near(self.bytes());
        is_near || (self.waiting() > 0 && !self.is_at_ease())
    }

    pub(super) fn set_sockets(&self, bytes: u64) {
        self.sockets.store(bytes, Relaxed);
    }

    pub(super) fn is_near(&self) -> bool {
        let bytes = self.bytes();
        let all = self.held() + self.sockets.load(Relaxed);
        bytes > 0 && (self.is_scarce() || all >= policy::near(bytes))
    }

    /// Whether answers have to wait until their clients have read what they have. Uploads have half of the budget.
    pub(super) fn answers_wait(&self) -> bool {
        self.is_scarce() || self.answers.load(Relaxed) >= self.bytes() / 2
    }

    /// Somebody held so many bytes, and now holds so many.
    pub(super) fn count(&self, before: u64, after: u64) {
        if after >= before {
            self.held.fetch_add(after - before, Relaxed);
        } else {
            self.held.fetch_sub(before - after, Relaxed);
        }
    }

    pub(super) fn count_own(&self, before: u64, after: u64) {
        self.count(before, after);
        // It wraps, as an addition does.
        self.own.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    pub(super) fn count_answer(&self, bytes: u64) {
        self.held.fetch_add(bytes, Relaxed);
        self.answers.fetch_add(bytes, Relaxed);
    }

    pub(super) fn answer_was_read(&self, bytes: u64) {
        self.answers.fetch_sub(bytes, Relaxed);
        self.held.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn count_wait(&self) {
        self.waiting.fetch_add(1, Relaxed);
        self.waits.fetch_add(1, Relaxed);
    }

    pub(super) fn waits_no_more(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    pub(super) fn count_end(&self) {
        self.ended.fetch_add(1, Relaxed);
    }
}

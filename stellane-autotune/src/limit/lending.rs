//! Places that are given back while the client is waited for, and taken again by force.
//!
//! A request whose handler waits for bytes of its body gives its place back at once: see [`Loan`](super::place::Loan). A response that
//! waits for its client says nothing when it begins to wait; one that has not been asked for its next frame for
//! [`PATIENCE`] is taken to wait: see [`Lending::hand_over`]. Either way the place is taken again by force, so that
//! what was let in is never delayed. Who does that while the limit is reached has a debt: until that request has left,
//! its key gets no place that others could have, and others may go beyond the limit: see [`Lending::beyond`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::aging::{Aging, Epoch};

/// In nanoseconds. Longer than what a connection that is not stalled needs from one frame to the next, and so short
/// that a request that waits for a place hardly notices.
const PATIENCE: u64 = 20_000_000;

/// What is lent while an answer waits for its client, and what is owed.
#[derive(Debug)]
pub(super) struct Lending {
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
            handed: Aging::new(),
            next_epoch: AtomicU64::new(0),
            debt: AtomicU32::new(0),
            excess: AtomicU32::new(0),
        }
    }

    /// Who was handed a frame and has not asked for the next one.
    pub(super) fn handed(&self) -> u32 {
        self.handed.count()
    }

    /// One more has a debt, or has paid it; `again` is whether its key has others.
    pub(super) fn change_debt(&self, paid: bool, again: bool) {
        change(&self.debt, paid);
        if again {
            change(&self.excess, paid);
        }
    }

    /// A frame of a response is handed out.
    #[inline]
    pub(super) fn hand_over(&self) -> Epoch {
        self.handed.come()
    }

    /// It is asked for the next one; whether it was so late that it held no place.
    #[inline]
    pub(super) fn take_back(&self, epoch: Epoch) -> bool {
        self.handed.go(epoch)
    }

    /// Frames that were handed out long enough ago no longer hold their places; whether that is of now.
    pub(super) fn age(&self, now: u64) -> bool {
        let due = self.next_epoch.load(Ordering::Relaxed);
        if now < due && due - now <= PATIENCE {
            return false;
        }
        let next = now.saturating_add(PATIENCE);
        let won = self
            .next_epoch
            .compare_exchange(due, next, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if won {
            self.handed.next_epoch();
        }
        won
    }

    /// Requests in the gate that are waited for by nobody but their client.
    pub(super) fn stalled(&self) -> u32 {
        self.handed.old()
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

fn change(count: &AtomicU32, down: bool) {
    match down {
        true => count.fetch_sub(1, Ordering::Relaxed),
        false => count.fetch_add(1, Ordering::Relaxed),
    };
}

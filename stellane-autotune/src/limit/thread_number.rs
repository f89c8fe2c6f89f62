//! Which recorder the current thread may write to without a locked instruction.

use std::{
    cell::Cell,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

/// How many threads have a number at the same time.
pub(crate) const NUMBERS: usize = u32::BITS as usize;

/// The number of the current thread: below [`NUMBERS`], and no other living thread has it. Or [`NUMBERS`] itself, when
/// there was none left.
#[inline]
pub(crate) fn current() -> usize {
    match NUMBER.get() {
        UNCLAIMED => claim(),
        number => number,
    }
}

#[cold]
fn claim() -> usize {
    // While thread-locals are torn down the number may be another thread's already.
    let number = CLAIM.try_with(|claim| claim.0).unwrap_or(NUMBERS);
    NUMBER.set(number);
    number
}

/// A counter that is cheap for the one thread that owns it.
#[inline]
pub(crate) fn add(cell: &AtomicU64, exclusive: bool) {
    change(cell, 1, exclusive);
}

/// As [`add`], by any number; it wraps, so that one can be taken off too.
#[inline]
pub(crate) fn change(cell: &AtomicU64, by: u64, exclusive: bool) {
    if exclusive {
        // Nobody else writes between the load and the store. Passing on the number orders the last owner's writes
        // before this one's reads.
        cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
    } else {
        cell.fetch_add(by, Relaxed);
    }
}

/// As [`add`].
#[inline]
pub(crate) fn add_short(cell: &AtomicU32, exclusive: bool) {
    if exclusive {
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    } else {
        cell.fetch_add(1, Relaxed);
    }
}

struct Claim(usize);

impl Claim {
    fn new() -> Self {
        let mut number = NUMBERS;
        let take = |taken: u32| {
            number = taken.trailing_ones() as usize;
            Some(taken | taken.wrapping_add(1))
        };
        // The closure never refuses, so neither does this.
        let _ = TAKEN.fetch_update(AcqRel, Acquire, take);
        Self(number)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        NUMBER.set(NUMBERS);
        if self.0 < NUMBERS {
            TAKEN.fetch_and(!(1 << self.0), Release);
        }
    }
}

/// The numbers that threads have, as bits.
static TAKEN: AtomicU32 = AtomicU32::new(0);

const UNCLAIMED: usize = NUMBERS + 1;

thread_local! {
    static CLAIM: Claim = Claim::new();
    /// What [`current`] answers. Apart, since what has to be dropped costs a look at every access.
    static NUMBER: Cell<usize> = const { Cell::new(UNCLAIMED) };
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_two_living_threads_have_the_same_number_and_that_of_an_ended_one_is_used_again() {
        let mine = current();
        assert_eq!(current(), mine);
        let ask = || thread::spawn(current).join().expect("does not panic");
        for _ in 0..10 * NUMBERS {
            let theirs = ask();
            // Other tests run at the same time, but not so many.
            assert!(theirs != mine && theirs < NUMBERS, "{theirs}");
        }
    }
}

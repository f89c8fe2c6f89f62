//! Which recorder the current thread may write to without a locked instruction.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The number of the current thread: the smallest that no other living thread has which asked.
#[inline]
pub(super) fn current() -> usize {
    match NUMBER.get() {
        UNCLAIMED => claim(),
        number => number,
    }
}

#[cold]
fn claim() -> usize {
    // While thread-locals are torn down the number may be another thread's already.
    let number = SLOT.try_with(|slot| slot.0).unwrap_or(NONE);
    NUMBER.set(number);
    number
}

/// A counter that is cheap for the one thread that owns it.
#[inline]
pub(super) fn add(cell: &AtomicU64, exclusive: bool) {
    if exclusive {
        // Nobody else writes between the load and the store. The mutex of the numbers orders the last owner's
        // writes before this one's reads.
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    } else {
        cell.fetch_add(1, Relaxed);
    }
}

/// As [`add`].
#[inline]
pub(super) fn add_short(cell: &AtomicU32, exclusive: bool) {
    if exclusive {
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    } else {
        cell.fetch_add(1, Relaxed);
    }
}

struct Slot(usize);

impl Slot {
    fn claim() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.iter().position(|taken| !taken);
        let number = free.unwrap_or_else(|| {
            taken.push(false);
            taken.len() - 1
        });
        taken[number] = true;
        Self(number)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        NUMBER.set(NONE);
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[self.0] = false;
    }
}

static TAKEN: Mutex<Vec<bool>> = Mutex::new(Vec::new());

const UNCLAIMED: usize = usize::MAX;
/// Larger than the number of any thread.
const NONE: usize = usize::MAX - 1;

thread_local! {
    static SLOT: Slot = Slot::claim();
    /// What [`current`] answers. Apart, since what has to be dropped costs a look at every access.
    static NUMBER: Cell<usize> = const { Cell::new(UNCLAIMED) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn no_two_living_threads_have_the_same_number_and_that_of_an_ended_one_is_used_again() {
        let mine = current();
        assert_eq!(current(), mine);
        let ask = || thread::spawn(current).join().expect("does not panic");
        let theirs: Vec<usize> = (0..100).map(|_| ask()).collect();
        assert!(theirs.iter().all(|number| *number != mine));
        // Other tests run at the same time, but not a hundred.
        assert!(theirs.iter().all(|number| *number < 100), "{theirs:?}");
    }
}

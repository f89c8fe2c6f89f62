//! Which shard the current thread may write to without atomic read-modify-write.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// How many threads get a shard of their own at the same time; the others share one.
pub(crate) const EXCLUSIVE: usize = 128;

/// The slot of the current thread: an index below 128 that no other living thread has, or 128, which the others share.
#[inline]
pub fn current() -> usize {
    match NUMBER.get() {
        UNCLAIMED => claim(),
        number => number,
    }
}

#[cold]
fn claim() -> usize {
    // While thread-locals are torn down the slot may be another thread's already: use the shared one.
    let number = SLOT.try_with(|slot| slot.0).unwrap_or(EXCLUSIVE);
    NUMBER.set(number);
    number
}

/// A counter that is cheap for the one thread that owns it.
#[inline]
pub(crate) fn add(cell: &AtomicU64, n: u64, exclusive: bool) {
    if exclusive {
        // Only this thread writes the cell, so nothing is lost between the load and the store. The mutex in `claim`
        // orders the last owner's writes before this one's reads.
        cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
    } else {
        cell.fetch_add(n, Relaxed);
    }
}

struct Slot(usize);

impl Slot {
    fn claim() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.returned.pop().unwrap_or_else(|| {
            let next = free.next.min(EXCLUSIVE);
            free.next = next + 1;
            next
        });
        Self(index)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        NUMBER.set(EXCLUSIVE);
        if self.0 < EXCLUSIVE {
            FREE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .returned
                .push(self.0);
        }
    }
}

struct Free {
    next: usize,
    returned: Vec<usize>,
}

static FREE: Mutex<Free> = Mutex::new(Free {
    next: 0,
    returned: Vec::new(),
});

const UNCLAIMED: usize = EXCLUSIVE + 1;

thread_local! {
    static SLOT: Slot = Slot::claim();
    /// What [`current`] answers. Apart, since what has to be dropped costs a look at every access.
    static NUMBER: Cell<usize> = const { Cell::new(UNCLAIMED) };
}

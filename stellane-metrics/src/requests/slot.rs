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
pub(crate) fn current() -> usize {
    match NUMBER.get() {
        UNCLAIMED => claim(),
        number => number,
    }
}

#[cold]
fn claim() -> usize {
    // While thread-locals are torn down the slot may be another thread's already: use the shared one.
    let own = SLOT.try_with(|slot| slot.0).unwrap_or(NOBODY);
    let number = own.min(EXCLUSIVE);
    OWN.set(own);
    NUMBER.set(number);
    number
}

/// A number that no other living thread has, those that share a slot included.
pub fn own() -> usize {
    current();
    OWN.get()
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
        // One of those that are not shared, if there is one.
        let returned = free.exclusive.pop();
        let returned = returned.or_else(|| (free.next >= EXCLUSIVE).then(|| free.beyond.pop())?);
        Self(returned.unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        NUMBER.set(EXCLUSIVE);
        OWN.set(NOBODY);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        match self.0 < EXCLUSIVE {
            true => free.exclusive.push(self.0),
            false => free.beyond.push(self.0),
        }
    }
}

/// What threads that have ended had, and what nobody has had.
struct Free {
    next: usize,
    exclusive: Vec<usize>,
    beyond: Vec<usize>,
}

static FREE: Mutex<Free> = Mutex::new(Free {
    next: 0,
    exclusive: Vec::new(),
    beyond: Vec::new(),
});

const UNCLAIMED: usize = EXCLUSIVE + 1;
/// The number of a thread that is about to end.
const NOBODY: usize = usize::MAX;

thread_local! {
    static SLOT: Slot = Slot::claim();
    /// What [`current`] answers. Apart, since what has to be dropped costs a look at every access.
    static NUMBER: Cell<usize> = const { Cell::new(UNCLAIMED) };
    /// What [`own`] answers.
    static OWN: Cell<usize> = const { Cell::new(NOBODY) };
}

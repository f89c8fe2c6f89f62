//! What each thread has for itself, on no cache line that others write.

use std::{
    cell::Cell,
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

const THREADS: usize = 32;

/// One for each of the first threads; later ones share them.
pub(crate) struct OfThreads<T>([OnceLock<Box<T>>; THREADS]);

impl<T> OfThreads<T> {
    /// That of this thread.
    #[inline]
    pub(crate) fn here(&self, make: impl FnOnce() -> T) -> &T {
        self.0[thread_number() % THREADS].get_or_init(|| Box::new(make()))
    }

    /// The sum of what all threads have counted.
    pub(crate) fn sum(&self, of: impl Fn(&T) -> u64) -> u64 {
        let made = self.0.iter().filter_map(OnceLock::get);
        made.map(|one| of(one)).sum()
    }
}

impl<T> Default for OfThreads<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; THREADS])
    }
}

impl<T> fmt::Debug for OfThreads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfThreads").finish_non_exhaustive()
    }
}

/// A number that no other thread of the process has had.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

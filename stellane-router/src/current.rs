//! The table that requests are matched against now.

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::types::Compiled;

/// How many threads have counts of their own.
pub(crate) const THREADS: usize = 32;

/// A table that can be replaced while requests are matched against it. What all requests read is on no cache line that
/// others write.
#[repr(align(128))]
pub(crate) struct Current {
    copies: ArcSwap<Copies>,
    /// Counts the tables before this one.
    version: AtomicU64,
}

/// A table, with a count of its references for each of the first threads; later ones share them.
struct Copies {
    first: Arc<Compiled>,
    of_threads: [OnceLock<Arc<Compiled>>; THREADS],
}

impl Copies {
    fn of(first: Arc<Compiled>) -> Arc<Self> {
        let of_threads = [const { OnceLock::new() }; THREADS];
        Arc::new(Self { first, of_threads })
    }
}

impl Current {
    pub(crate) fn new(table: Arc<Compiled>) -> Self {
        Self {
            copies: ArcSwap::new(Copies::of(table)),
            version: AtomicU64::new(0),
        }
    }

    pub(crate) fn table(&self) -> Arc<Compiled> {
        Arc::clone(&self.copies.load().first)
    }

    #[cold]
    fn of_this_thread(&self) -> Arc<Compiled> {
        let copies = self.copies.load();
        let copy = &copies.of_threads[thread_number() % THREADS];
        Arc::clone(copy.get_or_init(|| copies.first.apart()))
    }

    pub(crate) fn replace(&self, table: Arc<Compiled>) {
        self.copies.store(Copies::of(table));
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// The table that a clone used last, and its version: asking for that is cheaper than for the table, and a clone that is
/// never called keeps no table from being dropped.
#[derive(Default)]
pub(crate) struct Seen(Option<(u64, Arc<Compiled>)>);

impl Seen {
    #[inline]
    pub(crate) fn look(&mut self, current: &Current) -> &Arc<Compiled> {
        // Before the table: that of a later version is only asked for once more.
        let version = current.version.load(Ordering::Acquire);
        if !matches!(self.0, Some((seen, _)) if seen == version) {
            self.0 = None;
        }
        let (_, table) = self
            .0
            .get_or_insert_with(|| (version, current.of_this_thread()));
        table
    }
}

/// A number that no other thread of the process has had.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::types::RouteTable;

    #[test]
    fn each_thread_counts_its_references_apart_and_all_see_the_table_that_replaces_another() {
        let table = || RouteTable::new(["/"]).expect("valid").0;
        let current = Current::new(table());
        let look = || Arc::clone(Seen::default().look(&current));
        let ours = look();
        let theirs = thread::scope(|scope| scope.spawn(look).join().expect("no panic"));
        assert!(Arc::ptr_eq(&ours, &look()), "one count for one thread");
        assert!(!Arc::ptr_eq(&ours, &theirs) && Arc::ptr_eq(&ours.tables, &theirs.tables));
        let mut seen = Seen::default();
        assert!(Arc::ptr_eq(&ours, seen.look(&current)));
        let old = Arc::downgrade(&ours.tables);
        drop((ours, theirs));
        current.replace(table());
        assert!(
            old.upgrade().is_some(),
            "a clone has it that was not called since"
        );
        let new = Arc::clone(seen.look(&current));
        assert!(old.upgrade().is_none() && Arc::ptr_eq(&new, &look()));
    }
}

use std::{
    ops::Deref,
    ptr,
    sync::{Arc, OnceLock},
};

use super::{
    registry::Table,
    slot::{self, EXCLUSIVE},
};

/// A table with a handle of it for each thread that has a slot of its own, and one for the others: each record has a
/// reference, and a count that all cores write costs it more than anything else here.
pub(crate) struct Handles {
    table: Arc<Table>,
    of_threads: [OnceLock<Arc<Handle>>; EXCLUSIVE + 1],
}

#[repr(align(128))]
pub(crate) struct Handle(Arc<Table>);

impl Handles {
    pub(super) fn to(table: Table) -> Arc<Self> {
        Arc::new(Self {
            table: Arc::new(table),
            of_threads: [const { OnceLock::new() }; EXCLUSIVE + 1],
        })
    }

    /// That of this thread.
    #[inline]
    pub(super) fn here(&self) -> &Arc<Handle> {
        let make = || Arc::new(Handle(Arc::clone(&self.table)));
        self.of_threads[slot::current()].get_or_init(make)
    }
}

impl Deref for Handles {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

impl Handle {
    /// Whether both are of the same table.
    #[inline]
    pub(crate) fn is_of(&self, table: &Table) -> bool {
        ptr::eq(&*self.0, table)
    }
}

impl Deref for Handle {
    type Target = Table;

    #[inline]
    fn deref(&self) -> &Table {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::HttpMetrics;

    #[test]
    fn each_thread_counts_its_references_apart_and_the_table_goes_with_the_last() {
        let http = HttpMetrics::builder().build().expect("valid");
        let here = || Arc::clone(http.table.here());
        let (ours, again) = (here(), here());
        let theirs = thread::scope(|scope| scope.spawn(here).join().expect("no panic"));
        assert!(Arc::ptr_eq(&ours, &again), "one count for one thread");
        assert!(!Arc::ptr_eq(&ours, &theirs) && ours.is_of(&theirs) && ours.is_of(&http.table));
        let table = Arc::downgrade(&ours.0);
        drop((http, ours, again));
        assert!(table.upgrade().is_some(), "a record has it");
        drop(theirs);
        assert!(table.upgrade().is_none());
    }
}

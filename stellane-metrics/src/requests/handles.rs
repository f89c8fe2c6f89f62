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

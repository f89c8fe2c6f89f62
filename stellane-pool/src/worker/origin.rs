//! Where jobs come from.

use std::{
    cell::RefCell,
    sync::{Arc, Weak},
};

use tokio::runtime::{self, Handle};

use super::shared::Shared;

/// The pool of a job, and the runtime of who submitted it.
///
/// The jobs that a thread submits share one: threads that submit at the same time do not count their references in one
/// place.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) shared: Arc<Shared>,
    /// Whose timers and sockets the jobs have; entered by the worker, for as many in a row as have the same.
    pub(super) runtime: Option<Handle>,
}

thread_local! {
    /// Of the job that the thread submitted last, as long as one of its jobs is there.
    static LAST: RefCell<Weak<Origin>> = const { RefCell::new(Weak::new()) };
}

impl Origin {
    /// That of a job which the calling thread submits now.
    pub(super) fn here(shared: &Arc<Shared>) -> Arc<Self> {
        // Given back at once: all threads of a runtime count its handles in one place.
        let current = Handle::try_current().map(|runtime| runtime.id()).ok();
        let last = LAST.try_with(|last| last.borrow().upgrade()).ok().flatten();
        if let Some(last) = last
            && Arc::ptr_eq(&last.shared, shared)
            && last.runtime_id() == current
        {
            return last;
        }
        let here = Arc::new(Self {
            shared: Arc::clone(shared),
            runtime: Handle::try_current().ok(),
        });
        let _ = LAST.try_with(|last| last.replace(Arc::downgrade(&here)));
        here
    }

    pub(super) fn runtime_id(&self) -> Option<runtime::Id> {
        self.runtime.as_ref().map(Handle::id)
    }
}

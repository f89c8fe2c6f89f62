//! What a layer further in knows of the request that this thread polls.

use std::{cell::Cell, sync::Arc};

/// How many accounts of time a line has room for.
const ACCOUNTS: usize = 12;

/// What is known of a request in the preset, when it has ended there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    pub(crate) route: Option<Arc<str>>,
    pub(crate) grpc: Option<&'static str>,
    pub(crate) trace_id: Option<u128>,
    /// In nanoseconds.
    timing: [(&'static str, u64); ACCOUNTS],
}

impl Notes {
    pub(crate) fn new(route: Option<Arc<str>>, grpc: Option<&'static str>) -> Self {
        Self {
            route,
            grpc,
            ..Self::default()
        }
    }

    /// Where its time went; an account of nothing is left out.
    #[cfg(feature = "preset")]
    pub(crate) fn timing(mut self, accounts: impl Iterator<Item = (&'static str, u64)>) -> Self {
        let some = accounts.filter(|(_, took)| *took > 0);
        for (at, account) in self.timing.iter_mut().zip(some) {
            *at = account;
        }
        self
    }

    /// The trace that it is of, if that is known.
    #[cfg(feature = "preset")]
    pub(crate) fn of_trace(mut self, id: Option<u128>) -> Self {
        self.trace_id = id;
        self
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let accounts = self.timing.into_iter();
        accounts.take_while(|(name, _)| !name.is_empty())
    }
}

thread_local! {
    static NOTING: Cell<bool> = const { Cell::new(false) };
    static NOTES: Cell<Option<Notes>> = const { Cell::new(None) };
}

/// Whether somebody further out wants notes.
#[cfg(feature = "preset")]
#[inline]
pub(crate) fn is_noting() -> bool {
    NOTING.get()
}

#[cfg(feature = "preset")]
pub(crate) fn note(notes: Notes) {
    // A thread that is ending has nobody who reads them.
    let _ = NOTES.try_with(|cell| cell.set(Some(notes)));
}

/// Runs what may take notes; what it has noted stays in `notes`.
pub(super) fn noting<T>(notes: &mut Option<Notes>, run: impl FnOnce() -> T) -> T {
    /// Also after a panic.
    struct Within(bool);
    impl Drop for Within {
        fn drop(&mut self) {
            NOTING.set(self.0);
        }
    }
    let within = Within(NOTING.replace(true));
    let result = run();
    drop(within);
    if let Ok(Some(noted)) = NOTES.try_with(Cell::take) {
        *notes = Some(noted);
    }
    result
}

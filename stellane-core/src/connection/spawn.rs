//! Where the tasks of connections run: on the tokio runtime of the caller, or with an engine that has an executor.

#[cfg(feature = "engine")]
use std::{cell::RefCell, pin::Pin, sync::Arc};

use tokio::runtime::Handle;

/// An executor that is not tokio's.
#[cfg(feature = "engine")]
pub(crate) trait Spawner: Send + Sync {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// Whether handlers have held their threads lately: what is in one task with others would hold them up.
    #[cfg(feature = "http2")]
    fn are_held(&self) -> bool;
}

#[cfg(feature = "engine")]
thread_local! {
    static HERE: RefCell<Option<Arc<dyn Spawner>>> = const { RefCell::new(None) };
}

/// From now on the tasks of connections that begin on this thread go there; or to tokio again.
#[cfg(feature = "engine")]
pub(crate) fn set_here(spawner: Option<Arc<dyn Spawner>>) {
    // Dropped outside of the borrow.
    drop(HERE.replace(spawner));
}

#[cfg(feature = "engine")]
fn here() -> Option<Arc<dyn Spawner>> {
    HERE.with_borrow(Clone::clone)
}

/// Runs a task of a connection.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(feature = "engine")]
    if let Some(here) = here() {
        return here.spawn(Box::pin(task));
    }
    drop(tokio::spawn(task));
}

/// See [`Spawner::are_held`].
#[cfg(feature = "http2")]
pub(crate) fn are_held() -> bool {
    #[cfg(feature = "engine")]
    return HERE.with_borrow(|here| here.as_ref().is_some_and(|here| here.are_held()));
    #[cfg(not(feature = "engine"))]
    false
}

/// Beyond so many, threads are left to take work over from each other, which what is done in one turn is not open to.
const FEW: usize = 2;

/// Whether few threads take over from each other what is spawned here.
pub(crate) fn are_few_threads() -> bool {
    threads().is_some_and(|threads| threads <= FEW)
}

/// How many threads take over from each other what is spawned here.
pub(crate) fn threads() -> Option<usize> {
    #[cfg(feature = "engine")]
    if HERE.with_borrow(Option::is_some) {
        // Others help out, but only where a thread is behind.
        return Some(1);
    }
    let runtime = Handle::try_current().ok()?;
    Some(runtime.metrics().num_workers())
}

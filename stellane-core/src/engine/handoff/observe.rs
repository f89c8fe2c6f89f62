//! Who wants to know of threads that are held.

use std::{fmt::Debug, time::Duration};

pub(crate) trait Observe: Debug + Send + Sync {
    /// A thread of the engine begins; asked on that thread.
    fn thread(&self) -> Box<dyn ObserveThread>;

    /// So many threads for each core have lost theirs and compute, and have for a while.
    fn compute(&self, per_core: f64);
}

/// One thread. Nothing here may wait for what a handler may hold, but in [`goes_on`](Self::goes_on).
pub(crate) trait ObserveThread: Debug + Send + Sync {
    /// It has no core, or its core went to another thread, since a poll has lasted for about so long.
    fn is_held(&self, lasted: Duration);

    /// It waits, and does not compute. Told once, while it is held.
    fn waits(&self);

    /// The poll was over before all of that was told.
    fn has_gone_on(&self);

    /// The poll is over, also of one that has not lasted; told by the thread itself.
    fn goes_on(&self);
}

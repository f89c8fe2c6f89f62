use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use crate::{Pools, sync::thread_number};

/// How many threads have a handle of their own; later ones share them.
const THREADS: usize = 32;

/// Handles to the same pools, one for each thread: each request has a reference, and a count that all cores write costs
/// it more than anything else here.
#[derive(Clone)]
pub(super) struct Handles(Arc<Shared>);

struct Shared {
    pools: Pools,
    of_threads: [OnceLock<Pools>; THREADS],
}

impl Handles {
    pub(super) fn to(pools: &Pools) -> Self {
        Self(Arc::new(Shared {
            pools: pools.clone(),
            of_threads: [const { OnceLock::new() }; THREADS],
        }))
    }

    #[inline]
    pub(super) fn of_this_thread(&self) -> &Pools {
        let Shared { pools, of_threads } = &*self.0;
        of_threads[thread_number() % THREADS].get_or_init(|| pools.apart())
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.pools.fmt(f)
    }
}

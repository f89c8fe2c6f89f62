use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use crate::{
    Key,
    rate_limit::{
        RateLeft, RateLimit, RateLimited,
        table::{Debt, Pace, Told},
    },
};

/// A rate, as the store knows it.
#[derive(Debug)]
pub(super) struct Rate {
    /// What this replica knows, and keeps to while the store is away.
    pub(super) local: RateLimit,
    /// What the names of its keys begin with.
    pub(super) name: String,
}

impl Rate {
    /// The key's name in the store.
    pub(super) fn name_of(&self, key: Key) -> String {
        format!("{}:{:016x}", self.name, key.number())
    }

    pub(super) fn paces(&self) -> impl Iterator<Item = Pace> {
        self.local.paces()
    }

    /// What may be let in before the store is asked again: what the fastest rule frees in 25 ms, no more than a burst, and no more
    /// than what any other frees meanwhile or a thousandth of its burst.
    pub(super) fn lease(&self) -> u32 {
        const OF: u64 = 25_000_000;
        let (mut fastest, mut least) = (0, u64::MAX);
        for pace in self.paces() {
            let (frees, burst) = (OF / pace.interval, pace.tolerance / pace.interval);
            fastest = frees.max(fastest);
            least = frees.max(burst / 1000).min(burst).min(least);
        }
        u32::try_from(least.min(fastest)).unwrap_or(u32::MAX)
    }

    pub(super) fn told(&self, key: Key, told: Told<'_>) -> (RateLeft, RateLimited) {
        self.local.told(key, told)
    }
}

/// A request that needs an answer.
pub(super) struct Ask {
    pub(super) rate: Arc<Rate>,
    pub(super) key: Key,
    pub(super) cost: u32,
    pub(super) debt: Debt,
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Result<RateLeft, RateLimited>>,
}

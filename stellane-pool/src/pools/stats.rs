use std::time::Duration;

use crate::Drops;

/// The numbers of all pools of a [`Pools`](super::Pools) together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolsStats {
    /// Takes served by an idle value.
    pub hits: u64,
    /// Takes that had to make a value.
    pub misses: u64,
    /// Hits that had to fetch from the exchange or from another thread's magazine.
    pub steals: u64,
    /// Values dropped, by reason.
    pub drops: Drops,
    /// Values taken and not yet returned.
    pub outstanding: usize,
    /// Values kept.
    pub idle: usize,
    /// What the kept values hold, in bytes; never more than `budget_bytes`.
    pub retained_bytes: usize,
    /// The limit on `retained_bytes`.
    pub budget_bytes: usize,
    /// Ticks and trims so far.
    pub trims: u64,
    /// How long the last tick or trim took: Go would call it a GC pause, but nothing waits for it.
    pub last_trim: Duration,
    /// Request bodies collected into pooled memory.
    pub bodies: u64,
    /// Request bodies refused because they were larger than the limit.
    pub bodies_too_large: u64,
}

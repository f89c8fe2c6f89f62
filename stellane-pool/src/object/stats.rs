use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

use crate::{
    DropReason,
    sync::{AtomicU64, Ordering},
};

/// The numbers of one pool, from [`Pool::stats`](super::Pool::stats).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Takes served by an idle value.
    pub hits: u64,
    /// Takes that had to make a value.
    pub misses: u64,
    /// Hits that had to fetch from the exchange or from another thread's magazine; each moves several
    /// values at once.
    pub steals: u64,
    /// Values dropped, by reason.
    pub drops: Drops,
    /// Values taken and neither returned nor detached.
    pub outstanding: usize,
    /// Values kept, including those whose frozen `Bytes` are still alive.
    pub idle: usize,
    /// What the kept values hold, in bytes; never more than the budget.
    pub retained_bytes: usize,
    /// Ticks and trims.
    pub trims: u64,
    /// How long the last tick or trim took.
    pub last_trim: Duration,
}

impl PoolStats {
    /// Hits per take, 0 to 1; 0 before the first take.
    pub fn hit_ratio(&self) -> f64 {
        match self.hits + self.misses {
            0 => 0.0,
            takes => self.hits as f64 / takes as f64,
        }
    }
}

impl AddAssign for PoolStats {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.steals += other.steals;
        self.drops += other.drops;
        self.outstanding += other.outstanding;
        self.idle += other.idle;
        self.retained_bytes += other.retained_bytes;
        self.trims += other.trims;
        self.last_trim = self.last_trim.max(other.last_trim);
    }
}

/// How many values were dropped, by [`DropReason`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Those dropped for `reason`.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its count, for an exporter.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.count(reason)))
    }

    pub(super) fn set(&mut self, reason: DropReason, count: u64) {
        self.0[reason as usize] = count;
    }
}

impl AddAssign for Drops {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// What a tick or trim freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// How many values.
    pub objects: usize,
    /// What they held, in bytes.
    pub bytes: usize,
}

/// Counts and times ticks and trims.
#[derive(Debug, Default)]
pub(crate) struct Trims {
    count: AtomicU64,
    last_ns: AtomicU64,
}

impl Trims {
    pub(crate) fn time(&self, trim: impl FnOnce() -> Trimmed) -> Trimmed {
        let start = Instant::now();
        let trimmed = trim();
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last_ns.store(took, Ordering::Relaxed);
        trimmed
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn last(&self) -> Duration {
        Duration::from_nanos(self.last_ns.load(Ordering::Relaxed))
    }
}

impl AddAssign for Trimmed {
    fn add_assign(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

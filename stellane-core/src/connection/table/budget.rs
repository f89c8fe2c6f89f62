//! How long requests may take in a drain.

use std::{
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

/// How long a request may take in a drain: a time of its own, or as long as the drain; of several requests both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget(u16);

/// Whether the drain's own deadline counts; the rest are seconds, nine hours at most: that is what a record has room
/// for.
const DRAINS: u16 = 1 << 15;

impl Budget {
    /// That of a request that has none of its own.
    pub(crate) const DRAINS: Self = Self(DRAINS);

    pub(crate) fn own(budget: Duration) -> Self {
        let seconds = budget
            .as_secs()
            .saturating_add(u64::from(budget.subsec_nanos() > 0));
        Self(u16::try_from(seconds).unwrap_or(u16::MAX).min(DRAINS - 1))
    }

    /// In milliseconds, in a drain with this deadline.
    pub(crate) fn longest(self, deadline: u64) -> u64 {
        let own = u64::from(self.0 & !DRAINS) * 1000;
        if self.0 & DRAINS == 0 {
            own
        } else {
            own.max(deadline)
        }
    }

    fn and(self, other: Self) -> Self {
        let own = (self.0 & !DRAINS).max(other.0 & !DRAINS);
        Self(own | (self.0 | other.0) & DRAINS)
    }
}

/// The budget of the requests of a connection that are under way.
#[derive(Debug)]
pub(crate) struct OpenBudget(AtomicU16);

impl OpenBudget {
    pub(crate) fn new() -> Self {
        Self(AtomicU16::new(DRAINS))
    }

    pub(crate) fn get(&self) -> Budget {
        Budget(self.0.load(Relaxed))
    }

    /// A request begins, beside others or `alone`. Only the connection's task calls it.
    pub(crate) fn begin(&self, budget: Budget, alone: bool) {
        let budget = match alone {
            true => budget,
            false => self.get().and(budget),
        };
        self.0.store(budget.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_requests_have_the_longest_of_their_budgets() {
        let own = |seconds| Budget::own(Duration::from_secs(seconds));
        for (budgets, longest) in [
            (vec![Budget::DRAINS], 20_000),
            (vec![own(1)], 1000),
            (vec![own(60)], 60_000),
            (vec![own(1), Budget::DRAINS], 20_000),
            (vec![Budget::DRAINS, own(1)], 20_000),
            (vec![own(60), own(1)], 60_000),
            (vec![own(60), Budget::DRAINS], 60_000),
            (vec![own(0)], 0),
            (vec![Budget::own(Duration::from_millis(1))], 1000),
            (vec![Budget::own(Duration::MAX)], 32_767_000),
        ] {
            let open = OpenBudget::new();
            for (n, budget) in budgets.iter().enumerate() {
                open.begin(*budget, n == 0);
            }
            assert_eq!(open.get().longest(20_000), longest, "{budgets:?}");
        }
    }
}

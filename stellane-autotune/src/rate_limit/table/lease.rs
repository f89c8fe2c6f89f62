//! What a replica may let in of a key before it asks the store again.
//!
//! The table of a shared rate holds what the store told of a key and what was let in since, so that it refuses what the store would
//! refuse. What was let in is owed to the store, and paid with the next question.

use super::{ALLOWED, Pace, Standing, Table, WAYS, lock, standing};
use crate::Key;

/// What one key may still take without a question, and what it owes to the store.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lease {
    /// When the store was asked.
    since: u64,
    left: u32,
    debt: u32,
}

/// So long a lease lasts that nobody uses up. What is owed is as much as the lease at most, however long it lasts: this bounds
/// how old the knowledge is by which a key is let in.
const LASTS: u64 = 1_000_000_000;

/// What is paid with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rate_limit) struct Debt {
    pub(in crate::rate_limit) requests: u32,
    /// Since when it may have been made, in nanoseconds.
    pub(in crate::rate_limit) age: u64,
}

/// What the store says of a number of requests, all of one cost.
#[derive(Debug, Clone, Copy)]
pub(in crate::rate_limit) struct Told<'a> {
    pub(in crate::rate_limit) cost: u64,
    pub(in crate::rate_limit) asked: u64,
    pub(in crate::rate_limit) allowed: u64,
    /// How far ahead of each rule the key is now, in nanoseconds.
    pub(in crate::rate_limit) ahead: &'a [u64],
    /// What may come before the next question.
    pub(in crate::rate_limit) lease: u32,
}

impl Table {
    /// As [`take`](Self::take), where the key has a lease, or is known to be over its rate. If it has none, what it owes: the store
    /// is to be asked.
    pub(in crate::rate_limit) fn take_leased(
        &self,
        key: Key,
        cost: u64,
        now: u64,
        pace: impl Fn(usize) -> Pace,
    ) -> Result<Standing, Debt> {
        let mut set = lock(self.set(key));
        let mut entry = self.entry(&mut set, key, now);
        let standing = entry.standing(cost, now, &pace);
        if standing.wait > 0 {
            entry.refuse(standing.rule, 1);
            return Ok(standing);
        }
        let Some(lease) = entry.leases.get_mut(entry.place) else {
            return Err(Debt::default());
        };
        let age = now.saturating_sub(lease.since);
        match u32::try_from(cost) {
            Ok(cost) if cost <= lease.left && age < LASTS => {
                lease.left -= cost;
                lease.debt += cost;
            }
            _ => {
                let requests = lease.debt;
                *lease = Lease::default();
                return Err(Debt { requests, age });
            }
        }
        entry.pay(cost, now, &pace);
        Ok(standing)
    }

    /// Takes over what the store says, and counts it: how those stand that it let in, and those that it refused.
    pub(in crate::rate_limit) fn told(
        &self,
        key: Key,
        told: Told<'_>,
        now: u64,
        pace: impl Fn(usize) -> Pace,
    ) -> (Standing, Standing) {
        let mut set = lock(self.set(key));
        let entry = &mut self.entry(&mut set, key, now);
        if entry.leases.is_empty() && told.lease > 0 {
            *entry.leases = vec![Lease::default(); WAYS].into();
        }
        let mut debt = 0;
        if let Some(lease) = entry.leases.get_mut(entry.place) {
            // Two questions may have been on their way: what was let in by the first answer is owed still.
            debt = lease.debt;
            // Also for who is refused: when the time is over that the store said, he need not ask at once.
            *lease = Lease {
                since: now,
                left: told.lease,
                debt,
            };
        }
        for (rule, (full_at, ahead)) in entry.full_at.iter_mut().zip(told.ahead).enumerate() {
            let owed = pace(rule).interval.saturating_mul(debt.into());
            *full_at = now.saturating_add(*ahead).saturating_add(owed);
        }
        entry.counts[ALLOWED] += told.allowed;
        let ahead = || told.ahead.iter().copied();
        let mut refused = standing(ahead(), told.cost, &pace);
        // The store counts in other units: what it refused waits, if only for a moment.
        refused.wait = refused.wait.max(1);
        entry.refuse(refused.rule, told.asked - told.allowed);
        // They have paid already.
        let allowed = standing(ahead(), 0, &pace);
        (Standing { wait: 0, ..allowed }, refused)
    }
}

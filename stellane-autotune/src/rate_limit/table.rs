use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "redis")]
use lease::Lease;
#[cfg(feature = "redis")]
pub(super) use lease::{Debt, Told};

use crate::{Key, clock::mix};

#[cfg(feature = "redis")]
mod lease;

/// What each key owes to each rule, in bounded memory: when its bucket will be full again.
///
/// Sets of sixteen keys; which set a key is of nobody can foresee. In a set that is full the key is forgotten whose bucket is
/// full first.
#[derive(Debug)]
pub(super) struct Table {
    sets: Box<[Mutex<Set>]>,
    rules: usize,
    secret: u64,
}

/// Made with the first key of the set.
#[derive(Debug, Default)]
struct Set {
    counts: Box<[u64]>,
    slots: Box<[u64]>,
    /// Of a rate that is shared, made with its first lease.
    #[cfg(feature = "redis")]
    leases: Box<[Lease]>,
}

const WAYS: usize = 16;

/// What a set counts, before how often each rule refused.
const ALLOWED: usize = 0;
const FORGOTTEN: usize = 1;
const REFUSED: usize = 2;

/// A rule in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Until one request is free again.
    pub(super) interval: u64,
    /// How far ahead a key may be.
    pub(super) tolerance: u64,
}

/// How a request stands with one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) rule: usize,
    /// How many more requests may come at once.
    pub(super) left: u64,
    /// Until the bucket is full.
    pub(super) full_in: u64,
    /// Until this request would be let in; zero if it is.
    pub(super) wait: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) allowed: u64,
    pub(super) forgotten: u64,
    pub(super) refused: Vec<u64>,
    pub(super) keys: u64,
}

impl Table {
    pub(super) fn new(max_keys: usize, rules: usize, secret: u64) -> Self {
        let sets = max_keys.div_ceil(WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            rules,
            secret,
        }
    }

    /// Takes `cost` from all rules, or from none: how the request stands with the rule that holds it back most.
    pub(super) fn take(
        &self,
        key: Key,
        cost: u64,
        now: u64,
        pace: impl Fn(usize) -> Pace,
    ) -> Standing {
        let mut set = lock(self.set(key));
        let mut entry = self.entry(&mut set, key, now);
        let standing = entry.standing(cost, now, &pace);
        match standing.wait {
            0 => entry.pay(cost, now, &pace),
            _ => entry.refuse(standing.rule, 1),
        }
        standing
    }

    fn set(&self, key: Key) -> &Mutex<Set> {
        &self.sets[mix(key.number() ^ self.secret) as usize & (self.sets.len() - 1)]
    }

    /// The place of the key in its set, given to it if it has none.
    fn entry<'a>(&self, set: &'a mut Set, key: Key, now: u64) -> Entry<'a> {
        let key = key.number();
        let width = 1 + self.rules;
        if set.slots.is_empty() {
            set.slots = vec![0; WAYS * width].into();
            set.counts = vec![0; REFUSED + self.rules].into();
        }
        let full_at = |slot: &[u64]| slot[1..].iter().copied().max().unwrap_or(0);
        let known = set
            .slots
            .chunks_exact(width)
            .position(|slot| slot[0] == key);
        let place = known.unwrap_or_else(|| {
            let mut places = set.slots.chunks_exact(width).enumerate();
            let least = places.by_ref().min_by_key(|(_, slot)| full_at(slot));
            least.map_or(0, |(place, _)| place)
        });
        let slot = &mut set.slots[place * width..][..width];
        if known.is_none() {
            set.counts[FORGOTTEN] += u64::from(full_at(slot) > now);
            slot.fill(0);
            slot[0] = key;
            #[cfg(feature = "redis")]
            if let Some(lease) = set.leases.get_mut(place) {
                *lease = Lease::default();
            }
        }
        Entry {
            full_at: &mut slot[1..],
            counts: &mut set.counts,
            #[cfg(feature = "redis")]
            place,
            #[cfg(feature = "redis")]
            leases: &mut set.leases,
        }
    }

    pub(super) fn totals(&self, now: u64) -> Totals {
        let mut totals = Totals {
            refused: vec![0; self.rules],
            ..Totals::default()
        };
        for set in &self.sets {
            let Set { counts, slots, .. } = &*lock(set);
            let Some((&[allowed, forgotten], refused)) = counts.split_first_chunk() else {
                continue;
            };
            totals.allowed += allowed;
            totals.forgotten += forgotten;
            for (total, refused) in totals.refused.iter_mut().zip(refused) {
                *total += refused;
            }
            let owes = |slot: &&[u64]| slot[1..].iter().any(|full_at| *full_at > now);
            totals.keys += slots.chunks_exact(1 + self.rules).filter(owes).count() as u64;
        }
        totals
    }
}

/// One key's place in its set.
struct Entry<'a> {
    full_at: &'a mut [u64],
    counts: &'a mut [u64],
    #[cfg(feature = "redis")]
    place: usize,
    #[cfg(feature = "redis")]
    leases: &'a mut Box<[Lease]>,
}

impl Entry<'_> {
    fn standing(&self, cost: u64, now: u64, pace: impl Fn(usize) -> Pace) -> Standing {
        let ahead = self
            .full_at
            .iter()
            .map(|full_at| full_at.saturating_sub(now));
        standing(ahead, cost, pace)
    }

    fn pay(&mut self, cost: u64, now: u64, pace: impl Fn(usize) -> Pace) {
        self.counts[ALLOWED] += 1;
        for (rule, full_at) in self.full_at.iter_mut().enumerate() {
            let price = pace(rule).interval.saturating_mul(cost);
            *full_at = (*full_at).max(now).saturating_add(price);
        }
    }

    fn refuse(&mut self, rule: usize, requests: u64) {
        self.counts[REFUSED + rule] += requests;
    }
}

/// How a request stands whose key is so far ahead of each rule: of those that refuse the one that does for longest, else the one
/// that leaves least.
fn standing(ahead: impl Iterator<Item = u64>, cost: u64, pace: impl Fn(usize) -> Pace) -> Standing {
    let stands = |(rule, ahead): (usize, u64)| {
        let Pace {
            interval,
            tolerance,
        } = pace(rule);
        let price = interval.saturating_mul(cost);
        // What costs more than a full bucket waits for a full one: else it would never be let in.
        let room = tolerance - price.min(tolerance);
        let wait = ahead.saturating_sub(room);
        let ahead = if wait == 0 {
            ahead.saturating_add(price)
        } else {
            ahead
        };
        Standing {
            rule,
            left: tolerance.saturating_sub(ahead) / interval,
            full_in: ahead,
            wait,
        }
    };
    let worst = ahead.enumerate().map(stands);
    let worst = worst.min_by_key(|stands| (u64::MAX - stands.wait, stands.left));
    worst.unwrap_or(Standing {
        rule: 0,
        left: 0,
        full_in: 0,
        wait: 0,
    })
}

/// Nothing panics while a set is held, and half a change of one would do no harm.
fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Key, clock::mix};

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
        let key = key.number();
        let at = mix(key ^ self.secret) as usize & (self.sets.len() - 1);
        let mut set = lock(&self.sets[at]);
        let Set { counts, slots } = &mut *set;
        let width = 1 + self.rules;
        if slots.is_empty() {
            *slots = vec![0; WAYS * width].into();
            *counts = vec![0; REFUSED + self.rules].into();
        }
        let full_at = |slot: &[u64]| slot[1..].iter().copied().max().unwrap_or(0);
        let known = slots.chunks_exact(width).position(|slot| slot[0] == key);
        let place = known.unwrap_or_else(|| {
            let mut places = slots.chunks_exact(width).enumerate();
            let least = places.by_ref().min_by_key(|(_, slot)| full_at(slot));
            least.map_or(0, |(place, _)| place)
        });
        let slot = &mut slots[place * width..][..width];
        if known.is_none() {
            counts[FORGOTTEN] += u64::from(full_at(slot) > now);
            slot.fill(0);
            slot[0] = key;
        }
        let stands = |(rule, full_at): (usize, &u64)| {
            let Pace {
                interval,
                tolerance,
            } = pace(rule);
            let ahead = full_at.saturating_sub(now);
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
        // Of those that refuse the one that does for longest, else the one that leaves least.
        let worst = slot[1..].iter().enumerate().map(stands);
        let Some(worst) = worst.min_by_key(|stands| (u64::MAX - stands.wait, stands.left)) else {
            return Standing {
                rule: 0,
                left: 0,
                full_in: 0,
                wait: 0,
            };
        };
        if worst.wait > 0 {
            counts[REFUSED + worst.rule] += 1;
            return worst;
        }
        counts[ALLOWED] += 1;
        for (rule, full_at) in slot[1..].iter_mut().enumerate() {
            let price = pace(rule).interval.saturating_mul(cost);
            *full_at = (*full_at).max(now).saturating_add(price);
        }
        worst
    }

    pub(super) fn totals(&self, now: u64) -> Totals {
        let mut totals = Totals {
            refused: vec![0; self.rules],
            ..Totals::default()
        };
        for set in &self.sets {
            let Set { counts, slots } = &*lock(set);
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

/// Nothing panics while a set is held, and half a change of one would do no harm.
fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Nobody takes all: under pressure the last quarter of the places is for keys that hold less than a quarter.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::{
    gate::Gate,
    keys::{Count, KeyCounts, Keys},
    lending::Lending,
};

/// Whether the last quarter is kept, which only makes sense while somebody else may ask for it.
///
/// Both flags are of this second and, by [`Fairness::look`], of the one before.
#[derive(Debug, Default)]
pub(super) struct Fairness {
    /// Keys that hold next to nothing have asked while less than the last quarter was free.
    light_asked: [AtomicBool; 2],
    /// Keys that hold a quarter have taken of the last one, since nobody else asked.
    heavy_took: [AtomicBool; 2],
    second_ends: AtomicU64,
}

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// A key that holds no more than this part of the limit is certainly another than those that press. Two clients that
/// share all places must not take each other for one, or they would have but three quarters.
const NEXT_TO_NOTHING: u32 = 16;

impl Fairness {
    /// Takes a place of the gate as far as its keys may; `quarter` is that of the limit.
    pub(super) fn try_enter(
        &self,
        (gate, counts, lending): (&Gate, &KeyCounts, &Lending),
        quarter: u32,
        keys: Keys,
        queued: bool,
    ) -> bool {
        let (inside, limit) = gate.load();
        if quarter == 0 || inside < limit.saturating_sub(quarter) {
            return gate.try_enter(queued, |limit| limit);
        }
        let (held, debt) = if keys.is_none() {
            (0, 0)
        } else {
            (counts.get(keys, Count::Held), counts.get(keys, Count::Debt))
        };
        if held < quarter && debt == 0 {
            if held <= quarter / (NEXT_TO_NOTHING / 4) {
                set(&self.light_asked);
            }
            let beyond = self.beyond(lending, quarter);
            // Those who wait while a quarter is kept are those that it is not kept for.
            let passes = queued || self.is_kept();
            return gate.try_enter(passes, |limit| limit.saturating_add(beyond));
        }
        if self.is_kept() {
            return gate.try_enter(queued, |limit| {
                limit.saturating_sub(quarter.saturating_add(debt))
            });
        }
        let entered = gate.try_enter(queued, |limit| limit.saturating_sub(debt));
        if entered {
            set(&self.heavy_took);
        }
        entered
    }

    /// A key that holds a quarter has taken places back that were no longer free.
    pub(super) fn note_heavy(&self) {
        set(&self.heavy_took);
    }

    fn is_kept(&self) -> bool {
        is_set(&self.light_asked)
    }

    /// How far beyond the limit anybody may go at most.
    pub(super) fn beyond(&self, lending: &Lending, quarter: u32) -> u32 {
        lending.beyond(quarter, is_set(&self.heavy_took))
    }

    /// Whether some may go beyond the limit, since others have what was kept for them.
    pub(super) fn may_go_beyond(&self, debt: u32) -> bool {
        debt > 0 || is_set(&self.heavy_took)
    }

    /// Called a few times a second.
    pub(super) fn look(&self, now: u64) {
        let ends = self.second_ends.load(Relaxed);
        if now < ends && ends - now <= SECOND {
            return;
        }
        self.second_ends.store(now.saturating_add(SECOND), Relaxed);
        for [this, before] in [&self.light_asked, &self.heavy_took] {
            before.store(this.swap(false, Relaxed), Relaxed);
        }
    }
}

fn is_set([this, before]: &[AtomicBool; 2]) -> bool {
    this.load(Relaxed) || before.load(Relaxed)
}

/// Without a write that all cores share where nothing changes.
fn set([this, _]: &[AtomicBool; 2]) {
    if !this.load(Relaxed) {
        this.store(true, Relaxed);
    }
}

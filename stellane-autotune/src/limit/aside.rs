//! Requests that outlive the others by far.

use std::sync::atomic::{AtomicU32, Ordering};

use super::recorder::{GENERATIONS, Recorder};

/// A generation lasts for so many answers, for each place. With four of them a request has been overtaken 24 to 32 times
/// by then, which of requests that differ by chance only one in 10^10 is.
const OVERTAKEN: u64 = 8;
/// As if there were so many places at least.
const FEW: u64 = 8;
/// No more are set aside: each of them is memory and work that is not done.
const MOST: u64 = 4096;
/// How long nothing is answered, in medians and in nanoseconds at least, until some are set aside all the same.
const SILENCE: (u64, u64) = (16, 250_000_000);

/// Whoever has been overtaken by many times as many answers as there are places waits for something else than
/// the others do, be it a client, an event or a slow upstream: it no longer counts, and the limit is for the others.
/// Without it a hundred streams that never end leave nothing of a limit of a hundred. Nobody is
/// overtaken in a service that answers nothing.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// The sums when a generation began that is counted at the same index.
    began: [u64; GENERATIONS],
    /// Those who were set aside, whether or not they are still there.
    moved: u64,
    answers: u64,
    generation_ends: u64,
    silent_since: u64,
    silences: u32,
}

impl Aside {
    /// How many are in flight that have been set aside.
    pub(super) fn count(&self, recorders: &[Recorder]) -> u32 {
        let count = self.moved.wrapping_add(sum(recorders, GENERATIONS));
        // Off by one in either direction at times: a negative number is none.
        let count = if count > u64::MAX / 2 { 0 } else { count };
        count.min(MOST) as u32
    }

    /// Begins the next `generation` if it is time. `limit` is that without those who are set aside, and `active` who is in
    /// flight without them.
    pub(super) fn age(
        &mut self,
        (recorders, generation): (&[Recorder], &AtomicU32),
        (answers, median): (u64, u64),
        (active, limit): (u32, u32),
        now: u64,
    ) {
        if answers != std::mem::replace(&mut self.answers, answers) {
            (self.silent_since, self.silences) = (now, 0);
        }
        // Or nothing at all is answered while others are refused: a few more are let in, ever more seldom.
        let patience = (SILENCE.0.saturating_mul(median)).max(SILENCE.1) << self.silences.min(8);
        let is_silent = now.saturating_sub(self.silent_since) > patience;
        if is_silent {
            (self.silent_since, self.silences) = (now, self.silences + 1);
        } else if answers < self.generation_ends {
            return;
        }
        self.generation_ends = answers + OVERTAKEN * u64::from(limit.min(active)).max(FEW);
        let next = generation.load(Ordering::Relaxed).wrapping_add(1);
        let index = next as usize % GENERATIONS;
        let sum = sum(recorders, index);
        let left = sum.wrapping_sub(std::mem::replace(&mut self.began[index], sum));
        self.moved = self.moved.wrapping_add(left);
        generation.store(next, Ordering::Relaxed);
    }
}

fn sum(recorders: &[Recorder], index: usize) -> u64 {
    let ages = recorders
        .iter()
        .map(|r| r.ages[index].load(Ordering::Relaxed));
    ages.fold(0, u64::wrapping_add)
}

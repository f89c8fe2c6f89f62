//! Requests that outlive the others by far.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{shared::Shared, thread_number};

/// Requests in flight by the generation that they came with: of each thread those it let in, less those it let out,
/// so that only the sums of all threads mean something. The last are those that have been set aside.
pub(super) type Ages = [AtomicU64; GENERATIONS + 1];

/// Who is still there when so many generations have come and gone is set aside.
pub(super) const GENERATIONS: usize = 4;
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

impl Shared {
    /// Counts a request in; the generation that it belongs to.
    #[inline]
    pub(super) fn be_born(&self) -> u32 {
        let generation = self.generation.load(Ordering::Relaxed);
        self.change_age(generation as usize % GENERATIONS, 1);
        generation
    }

    /// Counts it out.
    ///
    /// If the generations change at this very moment, it may be counted out where it is no longer counted. The sum at that
    /// index is off by one then, and that of those set aside the other way, until the index is used again.
    #[inline]
    pub(super) fn pass_away(&self, generation: u32) {
        let age = self.generation.load(Ordering::Relaxed);
        let is_young = (age.wrapping_sub(generation) as usize) < GENERATIONS;
        let index = if is_young {
            generation as usize % GENERATIONS
        } else {
            GENERATIONS
        };
        self.change_age(index, u64::MAX);
    }

    #[inline]
    fn change_age(&self, index: usize, by: u64) {
        let (recorder, exclusive) = self.recorder();
        thread_number::change(&recorder.ages[index], by, exclusive);
    }

    fn age_sum(&self, index: usize) -> u64 {
        let ages = self
            .recorders
            .iter()
            .map(|r| r.ages[index].load(Ordering::Relaxed));
        ages.fold(0, u64::wrapping_add)
    }

    /// How many are in flight that have been set aside.
    pub(super) fn count_aside(&self, aside: &Aside) -> u32 {
        let count = aside.moved.wrapping_add(self.age_sum(GENERATIONS));
        // Off by one in either direction at times: a negative number is none.
        let count = if count > u64::MAX / 2 { 0 } else { count };
        count.min(MOST) as u32
    }

    /// Begins the next generation if it is time. `limit` is that without those who are set aside, and `active` who is in
    /// flight without them.
    pub(super) fn age_places(
        &self,
        aside: &mut Aside,
        answers: u64,
        (active, limit): (u32, u32),
        now: u64,
    ) {
        if answers != std::mem::replace(&mut aside.answers, answers) {
            (aside.silent_since, aside.silences) = (now, 0);
        }
        // Or nothing at all is answered while others are refused: a few more are let in, ever more seldom.
        let median = self.median.load(Ordering::Relaxed);
        let patience = (SILENCE.0.saturating_mul(median)).max(SILENCE.1) << aside.silences.min(8);
        let is_silent = now.saturating_sub(aside.silent_since) > patience;
        if is_silent {
            (aside.silent_since, aside.silences) = (now, aside.silences + 1);
        } else if answers < aside.generation_ends {
            return;
        }
        aside.generation_ends = answers + OVERTAKEN * u64::from(limit.min(active)).max(FEW);
        let next = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        let index = next as usize % GENERATIONS;
        let sum = self.age_sum(index);
        let left = sum.wrapping_sub(std::mem::replace(&mut aside.began[index], sum));
        aside.moved = aside.moved.wrapping_add(left);
        self.generation.store(next, Ordering::Relaxed);
    }
}

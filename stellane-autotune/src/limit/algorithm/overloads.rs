use std::time::Duration;

use super::LimitEvidence;

/// Whether answers that say "overloaded" are about the load.
///
/// Some are not: a route whose database is gone says so however few ask. Then the other answers become more where more
/// is asked, and fewer where less is. Of a service that is full, or has a quota, they do not.
#[derive(Debug, Clone, Default)]
pub(super) struct Overloads {
    /// Answers that count, and others, up to the latest point.
    latest: (u64, u64),
    latest_at: Duration,
    /// The rates of the point before it, of all answers and of those that say nothing of an overload, in logarithms.
    rates: Option<[f64; 2]>,
    /// Sums of products of their changes from point to point.
    asked_asked: f64,
    asked_served: f64,
    /// The part of late.
    share: f64,
}

/// Answers of one point: by chance they come in a fifth more or less time, and that is what is looked at.
const ANSWERS: u64 = 24;
/// How much a point counts after another one: a hundred of them are remembered, so that a route that fails a third of all
/// is ten times as far from being mistaken as chance goes.
const KEPT: f64 = 0.99;
/// The sum of squared changes from which on they tell: two dozen points that differ by chance only.
const TELLS: f64 = 2.0;
/// Half way between answers that follow what is asked and answers that do not.
const FOLLOWS: f64 = 0.5;
/// Fewer are no overload.
const PART: f64 = 0.05;

impl Overloads {
    /// `so_far` is how many answers counted and how many said "overloaded", since the beginning.
    ///
    /// A point ends after so many answers of any kind. A window ends after so many that were served: all windows
    /// would have served alike.
    pub(super) fn add(&mut self, now: Duration, so_far: (u64, u64)) {
        let served = so_far.0.wrapping_sub(self.latest.0);
        let overloads = so_far.1.wrapping_sub(self.latest.1);
        let asked = served.saturating_add(overloads);
        let is_back = now < self.latest_at;
        if asked < ANSWERS && !is_back || now == self.latest_at {
            return;
        }
        self.latest = so_far;
        let since = std::mem::replace(&mut self.latest_at, now);
        if is_back {
            return;
        }
        let seconds = now.saturating_sub(since).as_secs_f64();
        let part = overloads as f64 / asked as f64;
        self.share += 0.2 * (part - self.share);
        if part < PART {
            // Where there are none everything follows, which says nothing of where there are.
            self.rates = None;
            return;
        }
        let rates = [asked, served].map(|count| (count as f64 / seconds).ln());
        if let Some(before) = self.rates.replace(rates) {
            let asked = rates[0] - before[0];
            // Of none to none there is no change, and none that can be told from none to some.
            let served = Some(rates[1] - before[1]).filter(|change| change.is_finite());
            let served = served.unwrap_or(0.0);
            self.asked_asked = KEPT * self.asked_asked + asked * asked;
            self.asked_served = KEPT * self.asked_served + asked * served;
        }
    }

    /// What they say, if it is about the load.
    pub(super) fn evidence(&self) -> Option<LimitEvidence> {
        let told = self.share > PART && self.asked_asked > TELLS && !self.follows();
        told.then_some(LimitEvidence::Overloads { share: self.share })
    }

    /// Whether the other answers follow what is asked.
    pub(super) fn follows(&self) -> bool {
        self.asked_asked > TELLS && self.asked_served > FOLLOWS * self.asked_asked
    }
}

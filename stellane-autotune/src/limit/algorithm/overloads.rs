use std::time::Duration;

use super::LimitEvidence;

/// Whether answers that say "overloaded" are about the load.
///
/// Some are not: a route whose database is gone says so however few ask. Then the others are answered more often where
/// more is asked. Those of a service that is full, or has a quota, are not. While the load is what it is, only its
/// variation by chance tells the two apart, and the chance of the answers must be ruled out: some seconds. Where each
/// client asks again as soon as it has an answer nothing varies, and nothing is told. That is looked at only while nobody is
/// refused: what a limit lets through is the limit's doing, and looks like a quota.
///
/// Two lengths of points are looked at. Where latencies differ, chance decides when an answer is there, and only long ones
/// tell; where they do not short ones do, in a quarter of the time.
#[derive(Debug, Clone)]
pub(super) struct Overloads([Look; 2]);

/// With points of one length.
#[derive(Debug, Clone, Default)]
struct Look {
    /// In medians, at least.
    stays: f64,
    point: Point,
    /// How long a point is, in seconds: known before it begins. One that ended with an answer would be the shorter the more
    /// of them are overloads, which come sooner.
    span: f64,
    /// The median of late, in seconds.
    median: f64,
    before: Option<Rates>,
    sums: Sums,
    /// The part that is overloads, of late.
    share: f64,
}

/// Since when, and from how many answers that count and how many others on.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    at: Duration,
    so_far: (u64, u64),
}

/// The logarithms of those of a point, and what was in flight at its end.
#[derive(Debug, Clone, Copy)]
struct Rates {
    asked: f64,
    served: f64,
    in_flight: f64,
}

/// Sums of products of the changes from point to point.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    points: f64,
    asked_asked: f64,
    asked_served: f64,
    served_served: f64,
    /// Of what is in flight, squared, in terms of it.
    in_flight: f64,
}

/// Answers of one point, more or less,
const ANSWERS: f64 = 24.0;
/// of which so many are served, or nothing can be told of these,
const SERVED: f64 = 8.0;
/// if it does not take more than so many answers.
const MOST: f64 = 240.0;
/// Medians that a point takes at least.
const STAYS: [f64; 2] = [4.0, 16.0];
/// How much one look decides of the median.
const SMOOTH: f64 = 0.05;
/// How much a point counts after another one: fifty of them are remembered.
const KEPT: f64 = 0.98;
/// So many points tell something.
const TELL: f64 = 10.0;
/// One per cent more that is asked is so many per cent more that is served, at least, of what follows. It is one where what
/// fails does not depend on the load, and none where the service is full.
const FOLLOWS: f64 = 0.5;
/// Errors of the estimate that chance makes. With none a route that fails for a third of all was taken for an overload
/// in one run of a hundred; with more than this a quota is noticed too late.
const CHANCE: f64 = 3.5;
/// The error of an estimate from changes, each of which shares a point with the next, in terms of that of independent ones,
/// squared.
const SHARED: f64 = 1.5;
/// The square of the changes of what is in flight from point to point, in terms of it: twice as much as it where requests
/// come when they like, none where each client waits for its answer before it asks again.
const VARIES: f64 = 1.4;
/// Fewer are no overload.
const PART: f64 = 0.05;
/// If it is all but this, there are no others that could follow.
const OTHERS: f64 = 0.01;

impl Default for Overloads {
    fn default() -> Self {
        let look = |stays| Look {
            stays,
            ..Look::default()
        };
        Self(STAYS.map(look))
    }
}

impl Overloads {
    /// `so_far` is how many answers counted and how many said "overloaded", since the beginning; `median` in seconds.
    pub(super) fn add(&mut self, now: Duration, so_far: (u64, u64), in_flight: u32, median: f64) {
        for look in &mut self.0 {
            look.add(now, so_far, in_flight, median);
        }
    }

    /// What they say, if it is about the load.
    pub(super) fn evidence(&self) -> Option<LimitEvidence> {
        self.0.iter().find_map(Look::evidence)
    }
}

impl Look {
    fn add(&mut self, now: Duration, so_far: (u64, u64), in_flight: u32, median: f64) {
        self.median += SMOOTH * (median - self.median);
        let is_back = now < self.point.at;
        let seconds = now.saturating_sub(self.point.at).as_secs_f64();
        if seconds <= self.span && !is_back {
            return;
        }
        let served = so_far.0.wrapping_sub(self.point.so_far.0) as f64;
        let overloads = so_far.1.wrapping_sub(self.point.so_far.1) as f64;
        let asked = served + overloads;
        if asked < 1.0 && !is_back {
            return;
        }
        self.point = Point { at: now, so_far };
        if is_back {
            (self.span, self.before) = (0.0, None);
            return;
        }
        let part = overloads / asked;
        self.share += 0.2 * (part - self.share);
        let answers = (SERVED / (1.0 - self.share)).clamp(ANSWERS, MOST);
        self.span = (seconds * answers / asked).max(self.stays * self.median);
        if self.share < 0.5 * PART {
            // Next time it may be for another reason.
            self.sums = Sums::default();
        }
        if part < PART || asked < 0.25 * ANSWERS || seconds < 0.5 * self.span {
            // Where there are none everything follows, which says nothing of where there are. Nor does the beginning.
            self.before = None;
            return;
        }
        let rates = Rates {
            asked: (asked / seconds).ln(),
            // Of none there is no logarithm.
            served: ((served + 0.5) / seconds).ln(),
            in_flight: f64::from(in_flight),
        };
        if let Some(before) = self.before.replace(rates) {
            self.sums.add(before, rates);
        }
    }

    fn evidence(&self) -> Option<LimitEvidence> {
        let told = self.share > 1.0 - OTHERS || self.share > PART && self.sums.do_not_follow();
        told.then_some(LimitEvidence::Overloads { share: self.share })
    }
}

impl Sums {
    fn add(&mut self, before: Rates, now: Rates) {
        let (asked, served) = (now.asked - before.asked, now.served - before.served);
        let in_flight = now.in_flight - before.in_flight;
        let add = |sum: &mut f64, value: f64| *sum = KEPT * *sum + value;
        add(&mut self.points, 1.0);
        add(&mut self.asked_asked, asked * asked);
        add(&mut self.asked_served, asked * served);
        add(&mut self.served_served, served * served);
        add(
            &mut self.in_flight,
            in_flight * in_flight / now.in_flight.max(1.0),
        );
    }

    /// Whether what is served does not follow what is asked, for all that chance does.
    fn do_not_follow(&self) -> bool {
        let slope = self.asked_served / self.asked_asked;
        let rest = (self.served_served - slope * self.asked_served).max(0.0) / self.points;
        let error = (SHARED * rest / self.asked_asked).sqrt();
        self.points >= TELL
            && self.in_flight > VARIES * self.points
            && slope + CHANCE * error < FOLLOWS
    }
}

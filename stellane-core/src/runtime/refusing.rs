//! What the log says while requests are refused: a line now and then, not one for each.

use std::{fmt::Write, time::Duration};

use stellane_autotune::{AdaptiveLimit, LimitStats};
use stellane_metrics::{Machine, RuntimeMetrics};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// How long a line of the log holds; without a refusal for as long they have ended.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// For ever.
pub(super) async fn tell(limit: AdaptiveLimit, metrics: RuntimeMetrics) {
    let cpus = Machine::read().cpus;
    let begun = Instant::now();
    let mut told = Told::new(counts(&limit.stats()));
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let stats = limit.stats();
        match told.at(begun.elapsed(), counts(&stats)) {
            Some(Line::Refusing(refused)) => {
                let cpu = metrics.snapshot().cpu_usage / cpus * 100.0;
                let limit = stats.limit;
                tracing::warn!("{refused}: limit {limit}, CPU {cpu:.0} %");
            }
            Some(Line::Over(line)) => tracing::info!("{line}"),
            None => {}
        }
    }
}

/// How many were refused, by [`REASONS`].
type Counts = [u64; REASONS.len()];

const REASONS: [&str; 5] = [
    "the limit is reached",
    "the queue is full",
    "no place in time",
    "past their deadline",
    "the places of their class are taken",
];

fn counts(stats: &LimitStats) -> Counts {
    [
        stats.shed_limit,
        stats.shed_queue_full,
        stats.shed_wait_timeout,
        stats.shed_deadline,
        stats.shed_class_full,
    ]
}

#[derive(Debug)]
struct Told {
    seen: Counts,
    /// When the latest refusal was seen.
    latest: Duration,
    spell: Option<Spell>,
}

/// A time in which requests are refused.
#[derive(Debug)]
struct Spell {
    begun: Duration,
    /// So many had been refused before.
    before: u64,
    /// The latest line, and what it counted.
    line_at: Duration,
    line: Counts,
}

#[derive(Debug, PartialEq)]
enum Line {
    Refusing(String),
    Over(String),
}

impl Told {
    fn new(seen: Counts) -> Self {
        Self {
            seen,
            latest: Duration::ZERO,
            spell: None,
        }
    }

    /// The line that is due.
    fn at(&mut self, now: Duration, counts: Counts) -> Option<Line> {
        let seen = std::mem::replace(&mut self.seen, counts);
        if counts != seen {
            self.latest = now;
        }
        let Some(spell) = &mut self.spell else {
            if counts == seen {
                return None;
            }
            self.spell = Some(Spell {
                begun: now,
                before: seen.iter().sum(),
                line_at: now,
                line: counts,
            });
            return Some(Line::Refusing(refusing(seen, counts, LOOK)));
        };
        if now - self.latest >= PERIOD {
            let refused = counts.iter().sum::<u64>() - spell.before;
            let lasted = (self.latest - spell.begun + LOOK).as_secs();
            self.spell = None;
            let line = format!("no request is refused any more: {refused} were, in {lasted} s");
            return Some(Line::Over(line));
        }
        let since = now - spell.line_at;
        if since < PERIOD || counts == spell.line {
            return None;
        }
        let line = refusing(spell.line, counts, since);
        (spell.line_at, spell.line) = (now, counts);
        Some(Line::Refusing(line))
    }
}

/// What was refused between these counts.
fn refusing(before: Counts, now: Counts, time: Duration) -> String {
    let new = now.iter().zip(before).map(|(now, before)| now - before);
    let refused: u64 = new.clone().sum();
    let rate = refused as f64 / time.as_secs_f64();
    let mut line = match rate < 1.0 {
        true => format!("refused {refused} of all requests in {} s", time.as_secs()),
        false => format!("refusing {rate:.0} requests/s"),
    };
    let named = new.zip(REASONS).filter(|(new, _)| *new > 0);
    for (n, (new, reason)) in named.enumerate() {
        let before = if n == 0 { " (" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(line, "{before}{reason}: {new}");
    }
    line + ")"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_at_once_then_now_and_then_and_when_they_have_ended() {
        let mut told = Told::new([5, 0, 0, 0, 0]);
        let mut at = |second, counts| match told.at(Duration::from_secs(second), counts) {
            Some(Line::Refusing(line) | Line::Over(line)) => line,
            None => String::new(),
        };
        for (second, counts, expected) in [
            (1, [5, 0, 0, 0, 0], ""),
            (
                2,
                [5, 0, 577, 0, 0],
                "refusing 577 requests/s (no place in time: 577)",
            ),
            (3, [5, 0, 900, 0, 0], ""),
            (11, [5, 0, 900, 0, 0], ""),
            (
                12,
                [6, 0, 1076, 0, 0],
                "refusing 50 requests/s (the limit is reached: 1, no place in time: 499)",
            ),
            (13, [6, 1, 1076, 0, 0], ""),
            // Nothing new when a line would be due, but not for long enough.
            (
                22,
                [6, 1, 1076, 0, 0],
                "refused 1 of all requests in 10 s (the queue is full: 1)",
            ),
            (
                23,
                [6, 1, 1076, 0, 0],
                "no request is refused any more: 1078 were, in 12 s",
            ),
            (99, [6, 1, 1076, 0, 0], ""),
            (
                100,
                [6, 1, 1076, 2, 1],
                "refusing 3 requests/s (past their deadline: 2, the places of their class are taken: 1)",
            ),
            (
                110,
                [6, 1, 1076, 2, 1],
                "no request is refused any more: 3 were, in 1 s",
            ),
        ] {
            assert_eq!(at(second, counts), expected, "{second}");
        }
    }
}

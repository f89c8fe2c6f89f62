//! When there is evidence, for one of several limits that share a service.

use std::time::Duration;

use super::{LimitEvidence, Window};

/// Looks for what more concurrency of its own does not show, as it is the others' that fills the service: answers become slower
/// while more would be let in. Then what may begin at once stays what it is, and if that lasts the service is full.
#[derive(Debug, Clone, Default)]
pub(super) struct Surge {
    /// Answers, up to [`ANSWERS`].
    answers: f64,
    /// The logarithm of the median of late, in seconds.
    ln_median: f64,
    median: Least,
    /// How many times the least the stay is, by Little's law.
    stay: Least,
    buried: f64,
    sum: Sum,
    throughput: f64,
    slower_since: Option<Duration>,
    /// The cap has become twice itself since then.
    is_lifted: bool,
}

/// The least of this minute and of the one before; 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct Least {
    now: f64,
    before: f64,
    since: Duration,
}

/// Windows that are too short to tell of throughput: what began together ends together.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    answers: f64,
    seconds: f64,
    /// Times seconds.
    in_flight: f64,
}

/// A median of late is that of so many answers, more or less.
const ANSWERS: f64 = 30.0;
/// Medians that are so many times the shortest are slower: those who are answered first are the quick ones, and twenty of them
/// seem three times as quick as they are,
const SLOWER: f64 = 4.0;
/// or stays by Little's law, where hardly anything is answered.
const BURIED: f64 = 12.0;
/// It must last for so many seconds, or medians.
const LASTS: (f64, f64) = (0.3, 3.0);
/// Seconds after which the shortest is looked for anew.
const MINUTE: f64 = 60.0;

impl Surge {
    /// Whether what may begin at once does not become more.
    pub(super) fn holds(&mut self) -> bool {
        self.slower_since.is_some() && std::mem::replace(&mut self.is_lifted, true)
    }

    /// The shortest median of late, in seconds.
    pub(super) fn shortest(&self) -> Option<f64> {
        self.median.get()
    }

    /// What it says. `is_used`: more would be let in.
    pub(super) fn on_window(
        &mut self,
        window: &Window<'_>,
        is_used: bool,
    ) -> Option<LimitEvidence> {
        let now = window.end;
        let answers = window.answers as f64;
        self.answers = (self.answers + answers).min(ANSWERS);
        let gain = (answers / self.answers).min(1.0);
        let latest = window.latencies.quantile(0.5).ln();
        self.ln_median += gain * (latest - self.ln_median);
        self.throughput += gain * (window.throughput() - self.throughput);
        let median = self.ln_median.exp();
        let slower = median / self.median.add(median, now);
        self.add_stay(window, median);
        if !is_used || slower < SLOWER && self.buried < BURIED {
            (self.slower_since, self.is_lifted) = (None, false);
            return None;
        }
        let since = *self.slower_since.get_or_insert(now);
        let lasts = now.saturating_sub(since).as_secs_f64();
        if lasts < LASTS.0.max(LASTS.1 * median) {
            return None;
        }
        let latency = slower.max(self.buried);
        Some(LimitEvidence::Flat {
            throughput: self.throughput,
            from: window.mean_in_flight / latency,
            latency,
        })
    }

    fn add_stay(&mut self, window: &Window<'_>, median: f64) {
        let seconds = window.end.saturating_sub(window.start).as_secs_f64();
        let sum = &mut self.sum;
        sum.answers += window.answers as f64;
        sum.seconds += seconds;
        sum.in_flight += seconds * window.mean_in_flight;
        if sum.seconds > median {
            let stay = sum.in_flight / sum.answers;
            self.buried = stay / self.stay.add(stay, window.end);
            *sum = Sum::default();
        }
    }
}

impl Least {
    /// Adds a value above 0; the least.
    fn add(&mut self, value: f64, now: Duration) -> f64 {
        let age = now.saturating_sub(self.since).as_secs_f64();
        if self.now == 0.0 || age > MINUTE || now < self.since {
            (self.before, self.now, self.since) = (self.now, value, now);
        }
        self.now = self.now.min(value);
        self.get().unwrap_or(value)
    }

    fn get(&self) -> Option<f64> {
        let both = [self.now, self.before].into_iter();
        both.filter(|value| *value > 0.0).reduce(f64::min)
    }
}

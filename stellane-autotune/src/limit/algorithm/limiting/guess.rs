//! What is known of a first guess.

use super::super::elasticity::Measured;

/// See [`Start`](super::super::open::Start).
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    pub(super) known: bool,
    pub(super) before: (f64, f64),
    /// The shortest median of those tried before, in seconds.
    pub(super) shortest: f64,
    /// The latest of them.
    pub(super) tried: Option<Measured>,
}

/// In flight still, in terms of the limit: what was let in while there was none is not done yet.
/// Half: 14 % (`half_waits`); twice: nothing.
pub(super) const SURPLUS: f64 = 1.25;
/// After how many mean stays there is nobody left, nearly, who came before.
/// Half: 97 % (`black_hole`); twice: 97 % (`capacity_halves`).
pub(super) const GONE: f64 = 3.0;
/// The longest that a first guess is tried: in which so many were answered before. If far fewer are now, that is all
/// there is to know. And so many answers are waited for: they make the baseline.
/// Half: 98 % (`defers_at_rate`); twice: 96 % (`capacity_halves`).
pub(super) const GUESS_SAMPLES: u64 = 200;
/// A guess to which throughput and latency both follow so far from the one before shows that there was no queue. A probe from
/// there finds none either: it took a service of a second ten seconds, at a third of its throughput.
/// Half: nothing; twice: 98 % (`half_waits`).
const FOLLOWS: f64 = 0.5;

impl Guess {
    /// The median of the one before, in seconds, if what this one did shows that it left no queue.
    pub(super) fn easy(&self, now: Measured) -> Option<f64> {
        let before = self.tried?;
        let [throughput, latency] = now.slopes(before)?;
        (throughput.min(latency) > FOLLOWS).then(|| before.median())
    }
}

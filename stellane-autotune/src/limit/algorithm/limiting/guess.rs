//! What is known of a first guess.

/// See [`Start`](super::super::open::Start).
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    pub(super) known: bool,
    pub(super) before: (f64, f64),
    /// The shortest median of those tried before, in seconds.
    pub(super) shortest: f64,
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

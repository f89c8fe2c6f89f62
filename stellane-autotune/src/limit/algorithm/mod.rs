//! Algorithms that set a concurrency limit, all behind one trait.
//!
//! An algorithm is a pure function: its next limit depends on its own state and on the [`Window`]
//! it is shown, never on a clock or a global. The same windows give the same limits.

mod adaptive;
mod aimd;
mod beat;
mod curve;
mod elasticity;
mod evidence;
mod fixed;
mod gradient2;
mod limiting;
mod open;
mod overloads;
mod surge;
mod vegas;

use std::{fmt, time::Duration};

pub use adaptive::Adaptive;
pub use aimd::Aimd;
pub use evidence::{LimitEvidence, LimitState};
pub use fixed::Fixed;
pub use gradient2::Gradient2;
pub(super) use open::is_full;
pub use vegas::Vegas;

use super::Latencies;

/// Sets a concurrency limit from what it sees of the traffic.
pub trait Algorithm: fmt::Debug + Send {
    /// A short name for reports.
    fn name(&self) -> &'static str;

    /// The limit to start with.
    fn initial(&self) -> u32;

    /// How long a window must be, at least, and how many latencies it must hold before
    /// [`on_window`](Self::on_window) is called. `limit` is the limit in force.
    fn window(&self, limit: u32) -> WindowSize;

    /// Reads one window and gives the next limit.
    fn on_window(&mut self, window: &Window<'_>) -> Next;

    /// An answer said "overloaded" (see [`Outcome`](crate::Outcome)). Returns the new limit if
    /// it should change at once.
    fn on_overload(&mut self, _now: Duration, _in_flight: u32) -> Option<u32> {
        None
    }

    /// Requests have [waited](crate::Waited) for long before they came, since nobody had time to read them. Returns the new
    /// limit if it should change at once.
    fn on_late(&mut self) -> Option<u32> {
        None
    }

    /// A window is not complete yet. Returns the new limit if it should change at once; a lower one ends the window.
    fn on_tick(&mut self, _tick: Tick) -> Option<Next> {
        None
    }

    /// The range the limit must stay in has changed.
    fn set_range(&mut self, min: u32, max: u32);

    /// Whether the limit is one: while it is [`LimitState::Open`], what exceeds it waits for its next step instead of
    /// being refused.
    fn state(&self) -> LimitState {
        LimitState::Limiting
    }

    /// Why it limits.
    fn evidence(&self) -> Option<LimitEvidence> {
        None
    }

    /// When the limit may rise by nothing but the time, while it is [`LimitState::Open`]: whoever waits then has
    /// [`on_tick`](Self::on_tick) called.
    fn next_step(&self) -> Duration {
        Duration::MAX
    }
}

/// The smallest window an [`Algorithm`] can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// The shortest time.
    pub duration: Duration,
    /// The fewest latencies.
    pub samples: u64,
    /// After so long the window ends with fewer.
    pub patience: Duration,
}

/// A window that is not complete.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// The time.
    pub now: Duration,
    /// Answers that count, so far.
    pub answers: u64,
    /// See [`Window::so_far`].
    pub so_far: (u64, u64),
    /// Requests in flight.
    pub in_flight: u32,
    /// See [`Window::tasks_per_core`].
    pub tasks_per_core: Option<f64>,
}

/// What happened between two moments under one limit.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// When it began.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// The limit in force throughout.
    pub limit: u32,
    /// The most requests that were in flight at a time.
    pub max_in_flight: u32,
    /// Requests in flight when it ended.
    pub in_flight: u32,
    /// Requests in flight on average, as those saw it who were answered, without those whose bodies are
    /// under way: however many streams there are, they say nothing of how long an answer takes. Whoever has been set
    /// aside does not count, here and above.
    pub mean_in_flight: f64,
    /// See [`LocalSignal`](crate::LocalSignal).
    pub tasks_per_core: Option<f64>,
    /// Requests that found the limit reached.
    pub refused: u64,
    /// Answers that said "overloaded".
    pub overloads: u64,
    /// Answers that count.
    pub answers: u64,
    /// Answers that count, and answers that said "overloaded", since the beginning.
    pub so_far: (u64, u64),
    /// Their latencies, or those of a sample of them.
    pub latencies: &'a Latencies,
}

impl Window<'_> {
    /// Whether the limit, and not the load, decided how much was in flight.
    #[must_use]
    pub fn is_limit_bound(&self) -> bool {
        self.refused > 0 || self.max_in_flight.saturating_add(1) >= self.limit
    }

    /// Answers that count, per second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        let seconds = self.end.saturating_sub(self.start).as_secs_f64();
        if seconds > 0.0 {
            self.answers as f64 / seconds
        } else {
            0.0
        }
    }
}

/// The answer of an [`Algorithm`] to one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Next {
    /// The limit from now on.
    pub limit: u32,
    /// How long to look away, at most, while more are in flight than this limit allows.
    pub drain: Duration,
    /// How long to look away then, so that the next window shows the effect of this limit.
    pub settle: Duration,
}

impl Next {
    /// A limit whose effect shows at once.
    #[must_use]
    pub fn at_once(limit: u32) -> Self {
        Self {
            limit,
            settle: Duration::ZERO,
            drain: Duration::ZERO,
        }
    }
}

/// Which [`Algorithm`] sets the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum AlgorithmKind {
    /// [`Adaptive`]: no limit until there is evidence, then one that finds its own value. The default.
    #[default]
    Adaptive,
    /// [`Fixed`]: the initial limit, for ever.
    Fixed,
    /// [`Aimd`]: one up, a tenth down.
    Aimd,
    /// [`Vegas`]: the estimated queue, on window means.
    Vegas,
    /// [`Gradient2`]: short mean against long mean.
    Gradient2,
}

pub(crate) fn clamp_limit(limit: f64, min: u32, max: u32) -> f64 {
    // `max` after `min`, so that a NaN becomes `min` and a reversed range is harmless.
    limit
        .max(f64::from(min.max(1)))
        .min(f64::from(max.max(min).max(1)))
}

pub(crate) fn round(limit: f64) -> u32 {
    // A float-to-integer cast saturates and maps NaN to 0.
    (limit.round() as u32).max(1)
}

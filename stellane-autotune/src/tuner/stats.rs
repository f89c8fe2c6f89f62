use std::time::Duration;

use super::{SignalHealth, TunerMode};

/// What an [`AutoTuner`](super::AutoTuner) sees and did.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TunerStats {
    /// What it does with a decision.
    pub mode: TunerMode,
    /// Whether it is frozen by hand.
    pub frozen: bool,
    /// Ticks so far.
    pub ticks: u64,
    /// Ticks whose time was not believable: nothing was decided for a while after each.
    pub clock_jumps: u64,
    /// The signals.
    pub signals: Vec<SignalStats>,
    /// The knobs.
    pub knobs: Vec<KnobStats>,
    /// How many actions there were, by parameter and by their first outcome.
    pub actions: Vec<(String, &'static str, u64)>,
}

/// One signal of an [`AutoTuner`](super::AutoTuner).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SignalStats {
    /// Its name.
    pub name: String,
    /// The value that rules see; `None` unless it can be believed.
    pub value: Option<f64>,
    /// Whether it can be believed.
    pub health: SignalHealth,
}

/// One knob of an [`AutoTuner`](super::AutoTuner).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KnobStats {
    /// Its name.
    pub name: String,
    /// Its value at the latest tick.
    pub value: Option<f64>,
    /// Its value at the first tick.
    pub initial: Option<f64>,
    /// The lowest it may become.
    pub min: f64,
    /// The highest it may become.
    pub max: f64,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Until when it is left alone, on the clock of the tuner.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub frozen_until: Duration,
    /// Why it could not be set the last time; empty if it could.
    pub last_error: String,
}

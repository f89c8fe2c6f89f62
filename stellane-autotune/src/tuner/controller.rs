use std::{fmt, time::Duration};

use super::{
    Objective,
    knob::KnobSpec,
    signal::SignalSpec,
    state::{Memory, State},
};

/// Decides one knob by more than thresholds. Pure: what it wishes depends only on the [`View`] and
/// on its [`Memory`], so that a recorded run can be replayed.
///
/// The guard rails hold for a controller as for a rule.
pub trait Controller: fmt::Debug + Send + Sync {
    /// A short name for reports.
    fn name(&self) -> &str;

    /// The knob it turns.
    fn knob(&self) -> &str;

    /// What it wishes now, if anything.
    fn propose(&self, view: &View<'_>, memory: &mut Memory) -> Option<Wish>;

    /// Of several wishes the one with the highest priority comes first. Default: 0.
    fn priority(&self) -> i32 {
        0
    }

    /// What its changes must not make worse. Default: the objective of the tuner.
    fn objective(&self) -> Option<Objective> {
        None
    }
}

/// The value a [`Controller`] wishes its knob to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The value; the guard rails may allow less.
    pub to: f64,
    /// Why, with the numbers: the first half of the sentence.
    pub because: String,
    /// The names of the signals it rests on.
    pub evidence: Vec<&'static str>,
}

/// What a [`Controller`] sees at one tick.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) signals: &'a [SignalSpec],
    pub(super) knobs: &'a [KnobSpec],
    pub(super) state: &'a State,
    pub(super) now: Duration,
}

impl View<'_> {
    /// The time on the clock of the tuner.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// A signal that can be believed, or a knob, by name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.state.value(name, self.signals, self.knobs)
    }

    /// The lowest and the highest value of a knob.
    #[must_use]
    pub fn range(&self, knob: &str) -> Option<(f64, f64)> {
        let spec = self.knobs.iter().find(|spec| spec.name == knob)?;
        Some((spec.min, spec.max))
    }
}

use std::{fmt, time::Duration};

use super::TunerMode;

/// One decision of an [`AutoTuner`](super::AutoTuner), with everything that led to it.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TuningAction {
    /// Counts the decisions of this tuner, from 1.
    pub seq: u64,
    /// The knob.
    pub parameter: String,
    /// Its value before.
    pub old_value: f64,
    /// Its value after; what it would be, if the outcome is not a change.
    pub new_value: f64,
    /// A sentence with the numbers.
    pub reason: String,
    /// The rule or controller that decided.
    pub rule: String,
    /// The readings the decision rests on.
    pub evidence: Vec<Evidence>,
    /// When, on the clock of the tuner.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub at: Duration,
    /// The mode in which it was decided.
    pub mode: TunerMode,
    /// What became of it. The history holds the latest; a subscriber gets the first.
    pub outcome: ActionOutcome,
}

/// One reading.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Evidence {
    /// The signal.
    pub signal: String,
    /// Its value.
    pub value: f64,
}

/// What became of a [`TuningAction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ActionOutcome {
    /// Said, not done.
    Recommended,
    /// Done; its effect is being measured.
    Pending,
    /// Done and kept: the objective did not become worse, or there is none.
    Kept,
    /// Done and undone: the objective became worse. The undoing is an action of its own.
    RolledBack,
    /// This action is the undoing of another.
    RollBack,
    /// The setter failed; the knob is left alone for a while.
    Failed,
    /// The knob turned back too often and is frozen; nothing was changed.
    Frozen,
    /// The value from before the tuner, put back by hand.
    Restored,
}

impl ActionOutcome {
    /// As a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recommended => "recommended",
            Self::Pending => "pending",
            Self::Kept => "kept",
            Self::RolledBack => "rolled_back",
            Self::RollBack => "roll_back",
            Self::Failed => "failed",
            Self::Frozen => "frozen",
            Self::Restored => "restored",
        }
    }

    /// Whether an action with this outcome asks for its knob to be set.
    pub(super) fn sets_knob(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::Kept | Self::RollBack | Self::Restored
        )
    }
}

impl fmt::Display for ActionOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TuningAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} -> {} ({}): {}",
            self.parameter,
            Short(self.old_value),
            Short(self.new_value),
            self.outcome,
            self.reason
        )
    }
}

/// A number with as many digits as a sentence can bear.
pub(super) struct Short(pub(super) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        let text = if magnitude >= 100.0 || magnitude == 0.0 {
            format!("{:.0}", self.0)
        } else if magnitude >= 1.0 {
            format!("{:.2}", self.0)
        } else {
            format!("{:.4}", self.0)
        };
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        f.write_str(text)
    }
}

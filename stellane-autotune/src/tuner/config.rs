use std::time::Duration;

use crate::ConfigError;

/// Settings of an [`AutoTuner`](super::AutoTuner).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct TunerConfig {
    /// What to do with a decision. Default: `recommend`.
    pub mode: TunerMode,
    /// Time between two ticks. Default: `"1s"`; a run is jittered by ±10 % so that processes do not
    /// tick together. Too short and a change is judged before it shows; too long and it comes late.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub interval: Duration,
    /// Ticks before the first decision. Default: 3.
    pub warm_up: u32,
    /// The shortest time between two changes of one knob. Default: `"3s"`. A change back down waits
    /// four times as long: growing is cheap to undo, shrinking too early is not.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub cooldown: Duration,
    /// The largest change of a knob at once: up to `1 + max_change` times its value, or down to its
    /// value divided by that (or one step of the knob, if that is more). Default: 3, so at most four
    /// times or a quarter. Too large and a wrong decision hurts before it is undone; too small and a value that
    /// is far off takes minutes.
    pub max_change: f64,
    /// Ticks over which the objective is averaged before and after a change. Default: 3. Too few and
    /// noise decides; a bad change lives for this long.
    pub evaluate: u32,
    /// How much worse, as a fraction, the objective may be after a change, beyond its own noise,
    /// before the change is rolled back. Default: 0.05.
    pub tolerance: f64,
    /// How often a knob may turn back within its last eight changes before it is frozen. Default: 4.
    pub max_reversals: u32,
    /// How long an oscillating knob, or one whose setter failed, is left alone. Default: `"1m"`,
    /// doubled each time it happens again.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub freeze: Duration,
    /// How many actions [`AutoTuner::history`](super::AutoTuner::history) keeps. Default: 1024.
    pub history: usize,
}

impl Default for TunerConfig {
    fn default() -> Self {
        Self {
            mode: TunerMode::default(),
            interval: Duration::from_secs(1),
            warm_up: 3,
            cooldown: Duration::from_secs(3),
            max_change: 3.0,
            evaluate: 3,
            tolerance: 0.05,
            max_reversals: 4,
            freeze: Duration::from_secs(60),
            history: 1024,
        }
    }
}

impl TunerConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Lists all values that are out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut check = |ok: bool, key, value: &dyn std::fmt::Display, expected: &str| {
            if !ok {
                errors.push(ConfigError::new(key, value, expected));
            }
        };
        let day = Duration::from_secs(86_400);
        for (key, value, low) in [
            ("interval", self.interval, Duration::from_millis(10)),
            ("cooldown", self.cooldown, Duration::ZERO),
            ("freeze", self.freeze, Duration::ZERO),
        ] {
            let expected = format!("{low:?} to 1 day");
            check(
                (low..=day).contains(&value),
                key,
                &format_args!("{value:?}"),
                &expected,
            );
        }
        for (key, value, high) in [
            ("max_change", self.max_change, 10.0),
            ("tolerance", self.tolerance, 1.0),
        ] {
            check(
                value > 0.0 && value <= high,
                key,
                &value,
                &format!("above 0, at most {high}"),
            );
        }
        check(
            (1..=1000).contains(&self.evaluate),
            "evaluate",
            &self.evaluate,
            "1 to 1000",
        );
        check(
            (1..=7).contains(&self.max_reversals),
            "max_reversals",
            &self.max_reversals,
            "1 to 7",
        );
        check(
            (1..=1_000_000).contains(&self.history),
            "history",
            &self.history,
            "1 to 1000000",
        );
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// What an [`AutoTuner`](super::AutoTuner) does with a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TunerMode {
    /// Only read the signals and keep their health.
    Observe,
    /// Say what would be changed and why.
    #[default]
    Recommend,
    /// Change it.
    Apply,
}

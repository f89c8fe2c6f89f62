use std::borrow::Cow;

/// When to move which knobs: declarative, so that it can be shown and replayed.
///
/// ```
/// use stellane_autotune::{Condition, Objective, Rule};
///
/// let rule = Rule::new("deep_queue")
///     .when(Condition::above("latency_p99", 0.005))
///     .when(Condition::above_times("queue_depth", 2.0, "workers.max"))
///     .step("workers.max", 1.0)
///     .objective(Objective::minimize("latency_p99"));
/// assert_eq!(rule.name(), "deep_queue");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub(super) name: Cow<'static, str>,
    pub(super) because: Cow<'static, str>,
    pub(super) when: Vec<Condition>,
    pub(super) moves: Vec<Move>,
    pub(super) hold: u32,
    pub(super) priority: i32,
    pub(super) urgent: bool,
    pub(super) objective: Option<Objective>,
}

impl Rule {
    /// A rule without conditions, which never fires, and without moves.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            because: Cow::Borrowed(""),
            when: Vec::new(),
            moves: Vec::new(),
            hold: 2,
            priority: 0,
            urgent: false,
            objective: None,
        }
    }

    /// What the rule makes of its conditions, for the sentence: `"the queue is deep"`.
    #[must_use]
    pub fn because(mut self, because: impl Into<Cow<'static, str>>) -> Self {
        self.because = because.into();
        self
    }

    /// Fires only while this holds too.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.when.push(condition);
        self
    }

    /// Moves `knob` by so many of its steps; negative is down.
    #[must_use]
    pub fn step(self, knob: impl Into<Cow<'static, str>>, steps: f64) -> Self {
        self.moves(knob, Change::Steps(steps))
    }

    /// Multiplies `knob`, by one step at least and by `max_change` at most.
    #[must_use]
    pub fn scale(self, knob: impl Into<Cow<'static, str>>, factor: f64) -> Self {
        self.moves(knob, Change::Scale(factor))
    }

    /// Moves `knob` towards `value`, by `max_change` at most.
    #[must_use]
    pub fn towards(self, knob: impl Into<Cow<'static, str>>, value: f64) -> Self {
        self.moves(knob, Change::Towards(value))
    }

    /// Multiplies `knob` by how much more is asked for than answered, `1 + refused / answered`, by
    /// `max_change` at most. Both are signals.
    #[must_use]
    pub fn meet(
        self,
        knob: impl Into<Cow<'static, str>>,
        refused: impl Into<Cow<'static, str>>,
        answered: impl Into<Cow<'static, str>>,
    ) -> Self {
        let change = Change::Meet {
            refused: refused.into(),
            answered: answered.into(),
        };
        self.moves(knob, change)
    }

    /// For how many ticks in a row the conditions must hold. Default: 2. 1 answers to noise.
    #[must_use]
    pub fn hold(mut self, ticks: u32) -> Self {
        self.hold = ticks.max(1);
        self
    }

    /// Of several rules the one with the highest priority acts. Default: 0.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Acts even while another change is being measured, on all its knobs at once, and is not
    /// rolled back: for memory that runs out.
    #[must_use]
    pub fn urgent(mut self) -> Self {
        self.urgent = true;
        self
    }

    /// What must not become worse. Default: the objective of the tuner.
    #[must_use]
    pub fn objective(mut self, objective: Objective) -> Self {
        self.objective = Some(objective);
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The knobs that it moves.
    pub fn knobs(&self) -> impl Iterator<Item = &str> {
        self.moves.iter().map(|target| &*target.knob)
    }

    fn moves(mut self, knob: impl Into<Cow<'static, str>>, change: Change) -> Self {
        self.moves.push(Move {
            knob: knob.into(),
            change,
        });
        self
    }
}

/// A comparison of a signal with a number, or with a multiple of another signal or knob.
///
/// Once it holds, it holds until the signal comes back by a tenth: the dead band that keeps a rule
/// from flapping; see [`Condition::clear_at`].
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub(super) signal: Cow<'static, str>,
    pub(super) above: bool,
    pub(super) factor: f64,
    pub(super) of: Option<Cow<'static, str>>,
    pub(super) clear: f64,
}

impl Condition {
    /// `signal > threshold`.
    pub fn above(signal: impl Into<Cow<'static, str>>, threshold: f64) -> Self {
        let clear = threshold - 0.1 * threshold.abs();
        Self {
            signal: signal.into(),
            above: true,
            factor: threshold,
            of: None,
            clear,
        }
    }

    /// `signal < threshold`.
    pub fn below(signal: impl Into<Cow<'static, str>>, threshold: f64) -> Self {
        let clear = threshold + 0.1 * threshold.abs();
        Self {
            signal: signal.into(),
            above: false,
            factor: threshold,
            of: None,
            clear,
        }
    }

    /// `signal > factor × other`, where `other` is a signal or a knob.
    pub fn above_times(
        signal: impl Into<Cow<'static, str>>,
        factor: f64,
        other: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            of: Some(other.into()),
            ..Self::above(signal, factor)
        }
    }

    /// `signal < factor × other`, where `other` is a signal or a knob.
    pub fn below_times(
        signal: impl Into<Cow<'static, str>>,
        factor: f64,
        other: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            of: Some(other.into()),
            ..Self::below(signal, factor)
        }
    }

    /// The threshold (or factor) at which it ceases to hold. Default: a tenth back.
    #[must_use]
    pub fn clear_at(mut self, threshold: f64) -> Self {
        self.clear = threshold;
        self
    }
}

/// What a change must not make worse.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    pub(super) signal: Cow<'static, str>,
    pub(super) maximize: bool,
}

impl Objective {
    /// More is better: throughput, goodput.
    pub fn maximize(signal: impl Into<Cow<'static, str>>) -> Self {
        Self {
            signal: signal.into(),
            maximize: true,
        }
    }

    /// Less is better: latency, memory.
    pub fn minimize(signal: impl Into<Cow<'static, str>>) -> Self {
        Self {
            signal: signal.into(),
            maximize: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Move {
    pub(super) knob: Cow<'static, str>,
    pub(super) change: Change,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Steps(f64),
    Scale(f64),
    Towards(f64),
    Meet {
        refused: Cow<'static, str>,
        answered: Cow<'static, str>,
    },
}

impl Change {
    /// The signals that it reads.
    pub(super) fn signals(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::Meet { refused, answered } => [Some(&**refused), Some(&**answered)],
            _ => [None, None],
        };
        names.into_iter().flatten()
    }
}

//! The tuner without a clock, a thread or a side effect: `(state, snapshot) -> (state, decisions)`.

use std::{sync::Arc, time::Duration};

use super::{
    ActionOutcome, TunerConfig, TunerMode, TuningAction,
    controller::Controller,
    knob::KnobSpec,
    rule::{Objective, Rule},
    signal::SignalSpec,
    state::{KnobState, Memory, RuleState, SignalState, State},
};

/// Everything the core is told at one tick. A list of these replays a run.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// When.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub at: Duration,
    /// The mode in force.
    pub mode: TunerMode,
    /// Whether the tuner is frozen by hand.
    pub frozen: bool,
    /// The raw readings, in the order of the signals.
    pub signals: Vec<Option<f64>>,
    /// The values of the knobs, in their order.
    pub knobs: Vec<Option<f64>>,
    /// Which knobs are pinned.
    pub pinned: Vec<bool>,
    /// Knobs whose setter failed since the snapshot before.
    pub failed: Vec<usize>,
}

/// What does not change while a tuner runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: TunerConfig,
    pub(super) signals: Vec<SignalSpec>,
    pub(super) knobs: Vec<KnobSpec>,
    pub(super) rules: Vec<Rule>,
    pub(super) controllers: Vec<Arc<dyn Controller>>,
    pub(super) objective: Option<Objective>,
}

/// What one tick decided.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    pub(super) actions: Vec<TuningAction>,
    /// Earlier actions whose outcome is now known.
    pub(super) resolved: Vec<(u64, ActionOutcome)>,
}

impl Plan {
    pub(super) fn start(&self) -> State {
        let rule = |rule: &Rule| RuleState {
            active: vec![false; rule.when.len()],
            held: 0,
        };
        State {
            ticks: 0,
            steady: 0,
            last_at: None,
            seq: 0,
            clock_jumps: 0,
            signals: vec![SignalState::default(); self.signals.len()],
            knobs: vec![KnobState::default(); self.knobs.len()],
            rules: self.rules.iter().map(rule).collect(),
            memories: vec![Memory::default(); self.controllers.len()],
            trial: None,
        }
    }

    /// One tick.
    pub(super) fn step(&self, mut state: State, snapshot: &Snapshot) -> (State, Decisions) {
        let mut decisions = Decisions::default();
        state.ticks += 1;
        let elapsed = state.last_at.map(|last| snapshot.at.checked_sub(last));
        state.last_at = Some(snapshot.at);
        let expected = self.config.interval.saturating_mul(5);
        let elapsed = match elapsed {
            Some(Some(elapsed)) if !elapsed.is_zero() && elapsed <= expected => Some(elapsed),
            Some(_) => {
                // The clock jumped or ticks were missed: what was measured over it means nothing.
                state.clock_jumps += 1;
                state.steady = 0;
                None
            }
            None => None,
        };
        self.read_signals(&mut state, snapshot, elapsed);
        self.read_knobs(&mut state, snapshot, &mut decisions);
        state.steady = state.steady.saturating_add(1);
        let proposals = self.propose(&mut state, snapshot);
        let quiet = snapshot.frozen || state.steady <= self.config.warm_up;
        if quiet {
            self.forget_trial(&mut state, &mut decisions);
        } else {
            self.judge(&mut state, snapshot, &mut decisions);
            self.act(&mut state, snapshot, proposals, &mut decisions);
        }
        (state, decisions)
    }

    fn read_signals(&self, state: &mut State, snapshot: &Snapshot, elapsed: Option<Duration>) {
        for (index, spec) in self.signals.iter().enumerate() {
            let raw = snapshot.signals.get(index).copied().flatten();
            let signal = &mut state.signals[index];
            signal.read(spec, raw, elapsed);
            let seconds = elapsed.filter(|_| spec.is_counter);
            let events = |value| seconds.map(|elapsed| value * elapsed.as_secs_f64());
            match signal.value {
                // What a trial does to a signal is not its noise.
                Some(value) => signal.remember(value, events(value), state.trial.is_none()),
                None => signal.recent.clear(),
            }
        }
    }

    fn read_knobs(&self, state: &mut State, snapshot: &Snapshot, decisions: &mut Decisions) {
        for (index, spec) in self.knobs.iter().enumerate() {
            let value = snapshot
                .knobs
                .get(index)
                .copied()
                .flatten()
                .filter(|v| v.is_finite());
            let knob = &mut state.knobs[index];
            knob.value = value;
            knob.initial = knob.initial.or(value);
            let failed = snapshot.failed.contains(&index);
            let turned_by_hand = match (knob.last_set, value) {
                (Some(set), Some(value)) => (set - value).abs() > spec.step / 2.0,
                _ => false,
            };
            if failed || turned_by_hand {
                knob.last_set = None;
                knob.freeze(snapshot.at, self.config.freeze);
                if let Some(trial) = state.trial.take_if(|trial| trial.knob == index) {
                    let outcome = if failed {
                        ActionOutcome::Failed
                    } else {
                        ActionOutcome::Kept
                    };
                    decisions.resolved.push((trial.seq, outcome));
                }
            }
        }
    }

    /// A healthy signal, or a knob, by name.
    pub(super) fn value(&self, name: &str, state: &State) -> Option<f64> {
        state.value(name, &self.signals, &self.knobs)
    }

    pub(super) fn knob(&self, name: &str) -> Option<usize> {
        self.knobs.iter().position(|spec| spec.name == name)
    }

    pub(super) fn unit(&self, name: &str) -> &'static str {
        let signal = self
            .signals
            .iter()
            .find(|spec| spec.name == name)
            .map(|spec| spec.unit);
        let knob = || {
            self.knobs
                .iter()
                .find(|spec| spec.name == name)
                .map(|spec| spec.unit)
        };
        signal.or_else(knob).unwrap_or_default()
    }

    pub(super) fn objective(&self, objective: Option<&Objective>) -> Option<(usize, bool)> {
        let objective = objective.or(self.objective.as_ref())?;
        let index = self
            .signals
            .iter()
            .position(|spec| spec.name == objective.signal)?;
        Some((index, objective.maximize))
    }
}

//! The tuner without a clock, a thread or a side effect: `(state, snapshot) -> (state, decisions)`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::action::Short;
use super::controller::{Controller, Memory, View};
use super::knob::KnobSpec;
use super::rule::{Change, Condition, Objective, Rule};
use super::signal::SignalSpec;
use super::{ActionOutcome, Evidence, SignalHealth, TunerConfig, TunerMode, TuningAction};

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

/// What a tuner remembers from one tick to the next.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) ticks: u64,
    /// Ticks in a row with a believable clock; decisions need `warm_up` of them.
    steady: u32,
    last_at: Option<Duration>,
    seq: u64,
    pub(super) clock_jumps: u64,
    pub(super) signals: Vec<SignalState>,
    pub(super) knobs: Vec<KnobState>,
    rules: Vec<RuleState>,
    memories: Vec<Memory>,
    trial: Option<Trial>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct SignalState {
    pub(super) health: SignalHealth,
    /// The value that rules see: only while healthy.
    pub(super) value: Option<f64>,
    raw: Option<f64>,
    equal: u32,
    recent: VecDeque<f64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct KnobState {
    pub(super) value: Option<f64>,
    pub(super) initial: Option<f64>,
    last_set: Option<f64>,
    changed: Option<(Duration, bool)>,
    /// The directions of the latest changes, the newest in the lowest bit.
    directions: u8,
    direction_count: u32,
    pub(super) frozen_until: Duration,
    freezes: u32,
    /// Until when this direction (down, up) is not tried again, after a roll-back.
    blocked_until: [Duration; 2],
    rollbacks: [u32; 2],
    recommended: Option<f64>,
}

#[derive(Debug, Clone, Default)]
struct RuleState {
    active: Vec<bool>,
    held: u32,
}

/// A change whose effect is being measured.
#[derive(Debug, Clone)]
struct Trial {
    seq: u64,
    knob: usize,
    old: f64,
    new: f64,
    rule: String,
    signal: usize,
    maximize: bool,
    before: f64,
    noise: f64,
    after: Vec<f64>,
    ticks: u32,
}

#[derive(Debug)]
struct Proposal {
    knob: usize,
    to: f64,
    rule: String,
    because: String,
    evidence: Vec<Evidence>,
    priority: i32,
    urgent: bool,
    objective: Option<(usize, bool)>,
}

/// What one tick decided.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    pub(super) actions: Vec<TuningAction>,
    /// Earlier actions whose outcome is now known.
    pub(super) resolved: Vec<(u64, ActionOutcome)>,
}

const RECENT: usize = 16;
const LONGEST_BACKOFF: u32 = 6;

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
            match signal.value {
                Some(value) => {
                    if signal.recent.len() == RECENT {
                        signal.recent.pop_front();
                    }
                    signal.recent.push_back(value);
                }
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

    fn propose(&self, state: &mut State, snapshot: &Snapshot) -> Vec<Proposal> {
        let mut proposals = Vec::new();
        let mut rules = std::mem::take(&mut state.rules);
        for (rule, memory) in self.rules.iter().zip(&mut rules) {
            if self.fires(rule, memory, state) {
                self.propose_rule(rule, state, &mut proposals);
            }
        }
        state.rules = rules;
        let mut memories = std::mem::take(&mut state.memories);
        for (controller, memory) in self.controllers.iter().zip(&mut memories) {
            self.propose_controller(&**controller, memory, state, snapshot, &mut proposals);
        }
        state.memories = memories;
        proposals.sort_by_key(|proposal| std::cmp::Reverse(proposal.priority));
        proposals
    }

    fn fires(&self, rule: &Rule, memory: &mut RuleState, state: &State) -> bool {
        let mut all = !rule.when.is_empty();
        for (condition, active) in rule.when.iter().zip(&mut memory.active) {
            let Some((left, right, clear)) = self.sides(condition, state) else {
                // Never on a missing signal; the dead band begins anew.
                *active = false;
                all = false;
                continue;
            };
            let threshold = if *active { clear } else { right };
            *active = if condition.above {
                left > threshold
            } else {
                left < threshold
            };
            all &= *active;
        }
        memory.held = if all {
            memory.held.saturating_add(1)
        } else {
            0
        };
        memory.held >= rule.hold
    }

    /// The value, the threshold, and the threshold at which the condition ceases to hold.
    fn sides(&self, condition: &Condition, state: &State) -> Option<(f64, f64, f64)> {
        let left = self.value(&condition.signal, state)?;
        let of = match &condition.of {
            Some(of) => self.value(of, state)?,
            None => 1.0,
        };
        Some((left, condition.factor * of, condition.clear * of))
    }

    /// A healthy signal, or a knob, by name.
    pub(super) fn value(&self, name: &str, state: &State) -> Option<f64> {
        if let Some(index) = self.signals.iter().position(|spec| spec.name == name) {
            return state.signals[index].value;
        }
        self.knob(name).and_then(|index| state.knobs[index].value)
    }

    fn knob(&self, name: &str) -> Option<usize> {
        self.knobs.iter().position(|spec| spec.name == name)
    }

    fn unit(&self, name: &str) -> &'static str {
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

    fn objective(&self, objective: Option<&Objective>) -> Option<(usize, bool)> {
        let objective = objective.or(self.objective.as_ref())?;
        let index = self
            .signals
            .iter()
            .position(|spec| spec.name == objective.signal)?;
        Some((index, objective.maximize))
    }

    fn propose_rule(&self, rule: &Rule, state: &State, proposals: &mut Vec<Proposal>) {
        let mut because = String::new();
        let mut evidence = Vec::new();
        for condition in &rule.when {
            let Some((left, right, _)) = self.sides(condition, state) else {
                return;
            };
            if !because.is_empty() {
                because.push_str(" and ");
            }
            let unit = self.unit(&condition.signal);
            let side = if condition.above { "above" } else { "below" };
            let (name, left_text, right_text) = (&condition.signal, Short(left), Short(right));
            because += &format!("{name} is {left_text}{unit} ({side} {right_text}{unit}");
            if let Some(of) = &condition.of {
                because += &format!(", {} x {of}", Short(condition.factor));
            }
            because.push(')');
            evidence.push(Evidence {
                signal: condition.signal.to_string(),
                value: left,
            });
        }
        if !rule.because.is_empty() {
            because = format!("{}: {because}", rule.because);
        }
        for target in &rule.moves {
            let Some(knob) = self.knob(&target.knob) else {
                continue;
            };
            let Some(value) = state.knobs[knob].value else {
                continue;
            };
            let to = match target.change {
                Change::Steps(steps) => value + steps * self.knobs[knob].step,
                Change::Scale(factor) => value * factor,
                Change::Towards(to) => to,
            };
            proposals.push(Proposal {
                knob,
                to,
                rule: rule.name.to_string(),
                because: because.clone(),
                evidence: evidence.clone(),
                priority: rule.priority,
                urgent: rule.urgent,
                objective: self.objective(rule.objective.as_ref()),
            });
        }
    }

    fn propose_controller(
        &self,
        controller: &dyn Controller,
        memory: &mut Memory,
        state: &State,
        snapshot: &Snapshot,
        proposals: &mut Vec<Proposal>,
    ) {
        let view = View {
            plan: self,
            state,
            now: snapshot.at,
        };
        let Some(wish) = controller.propose(&view, memory) else {
            return;
        };
        let Some(knob) = self.knob(controller.knob()) else {
            return;
        };
        let evidence = wish.evidence.into_iter().filter_map(|name| {
            let value = self.value(name, state)?;
            Some(Evidence {
                signal: name.to_owned(),
                value,
            })
        });
        proposals.push(Proposal {
            knob,
            to: wish.to,
            rule: controller.name().to_owned(),
            because: wish.because,
            evidence: evidence.collect(),
            priority: controller.priority(),
            urgent: false,
            objective: self.objective(controller.objective().as_ref()),
        });
    }

    /// A trial whose measuring was disturbed proves nothing: the change stays.
    fn forget_trial(&self, state: &mut State, decisions: &mut Decisions) {
        if let Some(trial) = state.trial.take() {
            decisions.resolved.push((trial.seq, ActionOutcome::Kept));
        }
    }

    /// Confirms the change under trial, or rolls it back.
    fn judge(&self, state: &mut State, snapshot: &Snapshot, decisions: &mut Decisions) {
        let is_pinned = |knob: usize| snapshot.pinned.get(knob).copied().unwrap_or(false);
        let by_hand = state
            .trial
            .as_ref()
            .is_some_and(|trial| is_pinned(trial.knob));
        if by_hand || snapshot.mode != TunerMode::Apply {
            return self.forget_trial(state, decisions);
        }
        let Some(mut trial) = state.trial.take() else {
            return;
        };
        trial.ticks += 1;
        trial.after.extend(state.signals[trial.signal].value);
        let evaluate = self.config.evaluate;
        let missing = trial.ticks >= 2 * evaluate;
        if trial.after.len() < evaluate as usize && !missing {
            state.trial = Some(trial);
            return;
        }
        let name = &self.signals[trial.signal].name;
        let unit = self.signals[trial.signal].unit;
        let verdict = if trial.after.is_empty() {
            Some(format!("{name} could not be read after the change"))
        } else {
            let (after, _) = mean_and_noise(trial.after.iter().copied());
            let change = (after - trial.before) / trial.before.abs().max(1e-9);
            let harm = if trial.maximize { -change } else { change };
            let allowed = self.config.tolerance + 2.0 * trial.noise;
            (harm > allowed).then(|| {
                format!(
                    "{name} went from {}{unit} to {}{unit} ({:+.0} %, allowed {:.0} %)",
                    Short(trial.before),
                    Short(after),
                    100.0 * change,
                    100.0 * allowed
                )
            })
        };
        let direction = usize::from(trial.new > trial.old);
        let knob = &mut state.knobs[trial.knob];
        let Some(why) = verdict else {
            knob.rollbacks[direction] = 0;
            decisions.resolved.push((trial.seq, ActionOutcome::Kept));
            return;
        };
        let doubled = knob.rollbacks[direction].min(LONGEST_BACKOFF);
        let pause = self.config.freeze.saturating_mul(1 << doubled);
        knob.rollbacks[direction] += 1;
        knob.blocked_until[direction] = snapshot.at.saturating_add(pause);
        knob.changed = Some((snapshot.at, direction == 0));
        knob.last_set = Some(trial.old);
        state.seq += 1;
        decisions
            .resolved
            .push((trial.seq, ActionOutcome::RolledBack));
        decisions.actions.push(TuningAction {
            seq: state.seq,
            parameter: self.knobs[trial.knob].name.clone(),
            old_value: trial.new,
            new_value: trial.old,
            reason: format!("undoes action {} because {why}", trial.seq),
            rule: trial.rule,
            evidence: trial
                .after
                .last()
                .map(|value| Evidence {
                    signal: name.clone(),
                    value: *value,
                })
                .into_iter()
                .collect(),
            at: snapshot.at,
            mode: snapshot.mode,
            outcome: ActionOutcome::RollBack,
        });
    }

    fn act(
        &self,
        state: &mut State,
        snapshot: &Snapshot,
        proposals: Vec<Proposal>,
        decisions: &mut Decisions,
    ) {
        if snapshot.mode == TunerMode::Observe || !decisions.actions.is_empty() {
            return;
        }
        let mut moved = vec![false; self.knobs.len()];
        for proposal in proposals {
            // One change at a time, so that its effect can be told; an urgent one does not wait.
            let busy = state.trial.is_some() || !decisions.actions.is_empty();
            if moved[proposal.knob] || busy && !proposal.urgent {
                continue;
            }
            let Some(new) = self.allow(state, snapshot, &proposal) else {
                continue;
            };
            if proposal.urgent {
                // Its effect covers that of the change under trial.
                self.forget_trial(state, decisions);
            }
            moved[proposal.knob] = true;
            let action = self.take(state, snapshot, proposal, new);
            decisions.actions.push(action);
        }
    }

    /// The bounded new value, if the guard rails let this knob move now.
    fn allow(&self, state: &State, snapshot: &Snapshot, proposal: &Proposal) -> Option<f64> {
        let spec = &self.knobs[proposal.knob];
        let knob = &state.knobs[proposal.knob];
        let old = knob.value?;
        if snapshot.pinned.get(proposal.knob).copied().unwrap_or(false) {
            return None;
        }
        let new = bounded(spec, old, proposal.to, self.config.max_change)?;
        let up = new > old;
        let at = snapshot.at;
        if at < knob.frozen_until || at < knob.blocked_until[usize::from(up)] {
            return None;
        }
        if let Some((changed, was_up)) = knob.changed {
            let cooldown = spec.cooldown.unwrap_or(self.config.cooldown);
            // Going down after having gone up waits longer, unless it cannot wait.
            let factor = if was_up && !up && !proposal.urgent {
                4
            } else {
                1
            };
            if at < changed.saturating_add(cooldown.saturating_mul(factor)) {
                return None;
            }
        }
        if snapshot.mode == TunerMode::Recommend && knob.recommended == Some(new) {
            return None;
        }
        Some(new)
    }

    fn take(
        &self,
        state: &mut State,
        snapshot: &Snapshot,
        proposal: Proposal,
        new: f64,
    ) -> TuningAction {
        let spec = &self.knobs[proposal.knob];
        state.seq += 1;
        let seq = state.seq;
        let knob = &mut state.knobs[proposal.knob];
        let old = knob.value.unwrap_or(new);
        let verb = if new > old { "raise" } else { "lower" };
        let (name, unit) = (&spec.name, spec.unit);
        let mut reason = format!(
            "{}: {verb} {name} from {}{unit} to {}{unit}",
            proposal.because,
            Short(old),
            Short(new)
        );
        let outcome = if snapshot.mode == TunerMode::Recommend {
            knob.recommended = Some(new);
            knob.changed = Some((snapshot.at, new > old));
            ActionOutcome::Recommended
        } else if knob.turns_back(new > old, self.config.max_reversals) {
            knob.freeze(snapshot.at, self.config.freeze);
            reason += &format!(
                ", but it has turned back too often and is frozen until {:?}",
                knob.frozen_until
            );
            ActionOutcome::Frozen
        } else {
            knob.changed = Some((snapshot.at, new > old));
            knob.last_set = Some(new);
            match proposal.objective.filter(|_| !proposal.urgent) {
                None => ActionOutcome::Kept,
                Some((signal, maximize)) => {
                    let recent = &state.signals[signal].recent;
                    let window = self.config.evaluate as usize;
                    let (before, _) = mean_and_noise(recent.iter().rev().take(window).copied());
                    let (_, noise) = mean_and_noise(recent.iter().copied());
                    if recent.is_empty() {
                        // Nothing to compare with: the rule saw signals that it could believe.
                        ActionOutcome::Kept
                    } else {
                        state.trial = Some(Trial {
                            seq,
                            knob: proposal.knob,
                            old,
                            new,
                            rule: proposal.rule.clone(),
                            signal,
                            maximize,
                            before,
                            noise: noise / (window as f64).sqrt(),
                            after: Vec::new(),
                            ticks: 0,
                        });
                        ActionOutcome::Pending
                    }
                }
            }
        };
        TuningAction {
            seq,
            parameter: spec.name.clone(),
            old_value: old,
            new_value: new,
            reason,
            rule: proposal.rule,
            evidence: proposal.evidence,
            at: snapshot.at,
            mode: snapshot.mode,
            outcome,
        }
    }
}

impl State {
    /// Actions that put back the first value of every knob.
    pub(super) fn restore(&mut self, plan: &Plan, now: Duration) -> Vec<TuningAction> {
        let mut actions = Vec::new();
        for (spec, knob) in plan.knobs.iter().zip(&mut self.knobs) {
            let (Some(initial), Some(value)) = (knob.initial, knob.value) else {
                continue;
            };
            if initial == value {
                continue;
            }
            self.seq += 1;
            knob.last_set = Some(initial);
            actions.push(TuningAction {
                seq: self.seq,
                parameter: spec.name.clone(),
                old_value: value,
                new_value: initial,
                reason: format!("put back to {} as it was before tuning", Short(initial)),
                rule: "restore".to_owned(),
                evidence: Vec::new(),
                at: now,
                mode: TunerMode::Observe,
                outcome: ActionOutcome::Restored,
            });
        }
        self.trial = None;
        actions
    }
}

impl SignalState {
    fn read(&mut self, spec: &SignalSpec, raw: Option<f64>, elapsed: Option<Duration>) {
        let before = self.raw;
        self.raw = raw.filter(|value| value.is_finite());
        self.value = None;
        let Some(value) = raw else {
            self.health = SignalHealth::Missing;
            return;
        };
        if !value.is_finite() {
            self.health = SignalHealth::NotFinite;
            return;
        }
        if !spec.range.contains(&value) {
            self.health = SignalHealth::OutOfRange;
            return;
        }
        self.equal = if before == Some(value) {
            self.equal.saturating_add(1)
        } else {
            0
        };
        if spec.stuck_after > 0 && self.equal >= spec.stuck_after {
            self.health = SignalHealth::Stuck;
            return;
        }
        if !spec.is_counter {
            self.value = Some(value);
            self.health = SignalHealth::Good;
            return;
        }
        self.health = match (before, elapsed) {
            (Some(before), _) if value < before => SignalHealth::Reset,
            (Some(before), Some(elapsed)) => {
                self.value = Some((value - before) / elapsed.as_secs_f64());
                SignalHealth::Good
            }
            _ => SignalHealth::Missing,
        };
    }
}

impl KnobState {
    fn freeze(&mut self, now: Duration, freeze: Duration) {
        let pause = freeze.saturating_mul(1 << self.freezes.min(LONGEST_BACKOFF));
        self.freezes += 1;
        self.frozen_until = now.saturating_add(pause);
        self.directions = 0;
        self.direction_count = 0;
    }

    /// Notes a direction and says whether there were too many turns among the latest eight.
    fn turns_back(&mut self, up: bool, max_reversals: u32) -> bool {
        self.directions = self.directions << 1 | u8::from(up);
        self.direction_count = (self.direction_count + 1).min(8);
        let turns = self.directions ^ (self.directions >> 1);
        let known = (1_u16 << (self.direction_count - 1)) - 1;
        (u16::from(turns) & known).count_ones() >= max_reversals
    }
}

/// The value nearest to `to` that range, step and step bound allow; `None` if that is no change.
fn bounded(spec: &KnobSpec, old: f64, to: f64, max_change: f64) -> Option<f64> {
    if !to.is_finite() || to == old {
        return None;
    }
    let up = (old.abs() * max_change).max(spec.step);
    let down = (old.abs() * max_change / (1.0 + max_change)).max(spec.step);
    let to = to.clamp(old - down, old + up);
    let steps = ((to - old) / spec.step).round();
    // Less than half a step is still the wish to move.
    let steps = if steps == 0.0 {
        (to - old).signum()
    } else {
        steps
    };
    // A value from outside the range may come in at once.
    let new = (old + steps * spec.step).clamp(spec.min, spec.max);
    ((new - old).abs() > spec.step * 1e-6).then_some(new)
}

/// The mean, and the standard deviation as a fraction of it.
fn mean_and_noise(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt() / mean.abs().max(1e-9))
}

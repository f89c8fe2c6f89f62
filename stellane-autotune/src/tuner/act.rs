//! What the guard rails let happen.

use super::{
    ActionOutcome, Snapshot, TunerMode, TuningAction,
    action::Short,
    core::{Decisions, Plan},
    knob::KnobSpec,
    propose::Proposal,
    state::{State, Trial},
};

impl Plan {
    pub(super) fn act(
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
            if action.outcome.sets_knob() {
                state.forget_recent();
            }
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
        let range = self.range(spec, state);
        let new = bounded(spec, range, old, proposal.to, self.config.max_change)?;
        let up = new > old;
        let at = snapshot.at;
        if at < knob.frozen_until || at < knob.blocked_until[usize::from(up)] {
            return None;
        }
        // A change that has just proved right may be followed by the next at once.
        if let Some((changed, was_up)) = knob.changed.filter(|_| knob.proved != Some(up)) {
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
        let is_said =
            |said: f64| (said > old) == up && (said - new).abs() <= SAME * (said - old).abs();
        if snapshot.mode == TunerMode::Recommend && knob.recommended.is_some_and(is_said) {
            return None;
        }
        Some(new)
    }

    /// Where a knob may be now.
    fn range(&self, spec: &KnobSpec, state: &State) -> (f64, f64) {
        let value = |knob: &Option<String>| state.knobs[self.knob(knob.as_deref()?)?].value;
        let (low, high) = (value(&spec.at_least), value(&spec.at_most));
        (
            low.map_or(spec.min, |low| low.max(spec.min)),
            high.map_or(spec.max, |high| high.min(spec.max)),
        )
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
            knob.proved = None;
            knob.last_set = Some(new);
            match proposal.objective.filter(|_| !proposal.urgent) {
                None => ActionOutcome::Kept,
                Some((signal, maximize)) => {
                    let measured = &state.signals[signal];
                    // What was measured since the change before; that change is no part of this one.
                    let before = measured
                        .recent
                        .iter()
                        .rev()
                        .take(self.config.evaluate as usize);
                    let before_count = before.len() as f64;
                    if before_count == 0.0 {
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
                            before: before.sum::<f64>() / before_count,
                            before_count,
                            variance: measured.variance,
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

/// How much of an advice may differ from the one before without being another.
const SAME: f64 = 0.2;

/// The value nearest to `to` that range, step and step bound allow; `None` if that is no change in this direction: a value
/// from outside the range does not come in against the wish.
fn bounded(
    spec: &KnobSpec,
    (low, high): (f64, f64),
    old: f64,
    to: f64,
    max_change: f64,
) -> Option<f64> {
    if !to.is_finite() || to == old || low > high {
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
    let new = (old + steps * spec.step).clamp(low, high);
    let is_wanted = (new > old) == (to > old);
    (is_wanted && (new - old).abs() > spec.step * 1e-6).then_some(new)
}

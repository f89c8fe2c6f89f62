//! Whether a change did good.

use super::{
    ActionOutcome, Evidence, Snapshot, TunerMode, TuningAction,
    action::Short,
    core::{Decisions, Plan},
    state::{LONGEST_BACKOFF, State, Trial},
};

enum Verdict {
    /// Clearly better.
    Gain,
    /// Not clearly worse.
    Harmless,
    /// Worse, and by how much.
    Harm(String),
}

/// How many standard errors the objective must be better before a change is confirmed early.
const CLEARLY: f64 = 3.0;

/// For how many cooldowns a direction that did harm is not tried again; doubled each time.
const PATIENCE: u32 = 5;

impl Plan {
    /// A trial whose measuring was disturbed proves nothing: the change stays.
    pub(super) fn forget_trial(&self, state: &mut State, decisions: &mut Decisions) {
        if let Some(trial) = state.trial.take() {
            decisions.resolved.push((trial.seq, ActionOutcome::Kept));
        }
    }

    /// Confirms the change under trial, or rolls it back.
    pub(super) fn judge(&self, state: &mut State, snapshot: &Snapshot, decisions: &mut Decisions) {
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
        let is_complete = trial.after.len() >= evaluate as usize || trial.ticks >= 2 * evaluate;
        let verdict = self.verdict(&trial);
        match verdict {
            // What helped at once need not be watched any longer.
            Verdict::Gain => {}
            _ if !is_complete => {
                state.trial = Some(trial);
                return;
            }
            Verdict::Harmless => {}
            Verdict::Harm(why) => return self.roll_back(state, snapshot, trial, &why, decisions),
        }
        let up = trial.new > trial.old;
        let knob = &mut state.knobs[trial.knob];
        knob.rollbacks[usize::from(up)] = 0;
        knob.proved = matches!(verdict, Verdict::Gain).then_some(up);
        decisions.resolved.push((trial.seq, ActionOutcome::Kept));
    }

    fn verdict(&self, trial: &Trial) -> Verdict {
        let spec = &self.signals[trial.signal];
        let (name, unit) = (&spec.name, spec.unit);
        if trial.after.is_empty() {
            return Verdict::Harm(format!("{name} could not be read after the change"));
        }
        let count = trial.after.len() as f64;
        let after = trial.after.iter().sum::<f64>() / count;
        let change = (after - trial.before) / trial.before.abs().max(1e-9);
        let harm = if trial.maximize { -change } else { change };
        let variance = trial.variance.unwrap_or(0.0);
        let error = (variance * (1.0 / trial.before_count + 1.0 / count)).sqrt();
        let is_early = trial.after.len() < self.config.evaluate as usize;
        if -harm > self.config.tolerance + CLEARLY * error
            && (trial.variance.is_some() || !is_early)
        {
            return Verdict::Gain;
        }
        let allowed = self.config.tolerance + 2.0 * error;
        if harm <= allowed {
            return Verdict::Harmless;
        }
        Verdict::Harm(format!(
            "{name} went from {}{unit} to {}{unit} ({:+.0} %, allowed {:.0} %)",
            Short(trial.before),
            Short(after),
            100.0 * change,
            100.0 * allowed
        ))
    }

    fn roll_back(
        &self,
        state: &mut State,
        snapshot: &Snapshot,
        trial: Trial,
        why: &str,
        decisions: &mut Decisions,
    ) {
        let direction = usize::from(trial.new > trial.old);
        let knob = &mut state.knobs[trial.knob];
        let doubled = knob.rollbacks[direction].min(LONGEST_BACKOFF);
        let pause = self.config.cooldown.saturating_mul(PATIENCE << doubled);
        knob.rollbacks[direction] += 1;
        knob.blocked_until[direction] = snapshot.at.saturating_add(pause);
        knob.changed = Some((snapshot.at, direction == 0));
        knob.proved = None;
        knob.last_set = Some(trial.old);
        state.forget_recent();
        state.seq += 1;
        decisions
            .resolved
            .push((trial.seq, ActionOutcome::RolledBack));
        let measured = trial.after.last().map(|value| Evidence {
            signal: self.signals[trial.signal].name.clone(),
            value: *value,
        });
        decisions.actions.push(TuningAction {
            seq: state.seq,
            parameter: self.knobs[trial.knob].name.clone(),
            old_value: trial.new,
            new_value: trial.old,
            reason: format!("undoes action {} because {why}", trial.seq),
            rule: trial.rule,
            evidence: measured.into_iter().collect(),
            at: snapshot.at,
            mode: snapshot.mode,
            outcome: ActionOutcome::RollBack,
        });
    }
}

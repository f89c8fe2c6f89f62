//! What rules and controllers wish.

use super::{
    Evidence, Snapshot,
    action::Short,
    controller::{Controller, View},
    core::Plan,
    rule::{Change, Condition, Rule},
    state::{Memory, RuleState, State},
};

#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) knob: usize,
    pub(super) to: f64,
    pub(super) rule: String,
    pub(super) because: String,
    pub(super) evidence: Vec<Evidence>,
    pub(super) priority: i32,
    pub(super) urgent: bool,
    pub(super) objective: Option<(usize, bool)>,
}

impl Plan {
    pub(super) fn propose(&self, state: &mut State, snapshot: &Snapshot) -> Vec<Proposal> {
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
            let to = match &target.change {
                Change::Steps(steps) => value + steps * self.knobs[knob].step,
                Change::Scale(factor) => value * factor,
                Change::Towards(to) => *to,
                Change::Meet { refused, answered } => {
                    let (Some(refused), Some(answered)) =
                        (self.value(refused, state), self.value(answered, state))
                    else {
                        continue;
                    };
                    value * (1.0 + refused / answered.max(1e-9))
                }
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
            signals: &self.signals,
            knobs: &self.knobs,
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
}

//! What the core remembers.

use std::{collections::VecDeque, time::Duration};

use super::{
    ActionOutcome, SignalHealth, TunerMode, TuningAction, action::Short, knob::KnobSpec,
    signal::SignalSpec,
};

/// After so many repetitions a pause is not doubled any more.
pub(super) const LONGEST_BACKOFF: u32 = 6;

/// What a [`Controller`](super::Controller) may remember from one tick to the next; zeros at first.
pub type Memory = [f64; 8];

/// What a tuner remembers from one tick to the next.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) ticks: u64,
    /// Ticks in a row with a believable clock; decisions need `warm_up` of them.
    pub(super) steady: u32,
    pub(super) last_at: Option<Duration>,
    pub(super) seq: u64,
    pub(super) clock_jumps: u64,
    pub(super) signals: Vec<SignalState>,
    pub(super) knobs: Vec<KnobState>,
    pub(super) rules: Vec<RuleState>,
    pub(super) memories: Vec<Memory>,
    pub(super) trial: Option<Trial>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct SignalState {
    pub(super) health: SignalHealth,
    /// The value that rules see: only while healthy.
    pub(super) value: Option<f64>,
    pub(super) raw: Option<f64>,
    pub(super) equal: u32,
    /// The latest values since the last change of a knob.
    pub(super) recent: VecDeque<f64>,
    /// Of its noise, as a fraction of the value.
    pub(super) variance: Option<f64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct KnobState {
    pub(super) value: Option<f64>,
    pub(super) initial: Option<f64>,
    pub(super) last_set: Option<f64>,
    pub(super) changed: Option<(Duration, bool)>,
    /// The direction of the latest change, if that was clearly for the better.
    pub(super) proved: Option<bool>,
    /// The directions of the latest changes, the newest in the lowest bit.
    pub(super) directions: u8,
    pub(super) direction_count: u32,
    pub(super) frozen_until: Duration,
    pub(super) freezes: u32,
    /// Until when this direction (down, up) is not tried again, after a roll-back.
    pub(super) blocked_until: [Duration; 2],
    pub(super) rollbacks: [u32; 2],
    pub(super) recommended: Option<f64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct RuleState {
    pub(super) active: Vec<bool>,
    pub(super) held: u32,
}

/// A change whose effect is being measured.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) seq: u64,
    pub(super) knob: usize,
    pub(super) old: f64,
    pub(super) new: f64,
    pub(super) rule: String,
    pub(super) signal: usize,
    pub(super) maximize: bool,
    pub(super) before: f64,
    /// Of how many values that is the mean.
    pub(super) before_count: f64,
    /// Of one value, as a fraction; `None` while its noise is not known.
    pub(super) variance: Option<f64>,
    pub(super) after: Vec<f64>,
    pub(super) ticks: u32,
}

/// Of how many values a signal keeps.
const RECENT: usize = 16;
/// How much of the noise a new value decides.
const NOISE_GAIN: f64 = 0.1;

impl State {
    /// A healthy signal, or a knob, by name.
    pub(super) fn value(
        &self,
        name: &str,
        signals: &[SignalSpec],
        knobs: &[KnobSpec],
    ) -> Option<f64> {
        if let Some(index) = signals.iter().position(|spec| spec.name == name) {
            return self.signals[index].value;
        }
        let index = knobs.iter().position(|spec| spec.name == name)?;
        self.knobs[index].value
    }

    /// A knob was turned: what was measured before belongs to another service.
    pub(super) fn forget_recent(&mut self) {
        for signal in &mut self.signals {
            signal.recent.clear();
        }
    }

    /// Actions that put back the first value of every knob.
    pub(super) fn restore(&mut self, knobs: &[KnobSpec], now: Duration) -> Vec<TuningAction> {
        let mut actions = Vec::new();
        for (spec, knob) in knobs.iter().zip(&mut self.knobs) {
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
    pub(super) fn read(&mut self, spec: &SignalSpec, raw: Option<f64>, elapsed: Option<Duration>) {
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

    /// Keeps a value, and learns from how it differs from the one before how noisy the signal is;
    /// a count of `events` is at least as noisy as chance makes it.
    pub(super) fn remember(&mut self, value: f64, events: Option<f64>, is_steady: bool) {
        if let Some(before) = self.recent.back().filter(|_| is_steady) {
            let middle = (0.5 * (value + before)).abs().max(1e-9);
            let square = 0.5 * ((value - before) / middle).powi(2);
            let square = square.max(events.map_or(0.0, |events| 1.0 / events.max(1.0)));
            let known = self.variance.unwrap_or(square);
            self.variance = Some(known + NOISE_GAIN * (square - known));
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(value);
    }
}

impl KnobState {
    pub(super) fn freeze(&mut self, now: Duration, freeze: Duration) {
        let pause = freeze.saturating_mul(1 << self.freezes.min(LONGEST_BACKOFF));
        self.freezes += 1;
        self.frozen_until = now.saturating_add(pause);
        self.directions = 0;
        self.direction_count = 0;
    }

    /// Notes a direction and says whether there were too many turns among the latest eight.
    pub(super) fn turns_back(&mut self, up: bool, max_reversals: u32) -> bool {
        self.directions = self.directions << 1 | u8::from(up);
        self.direction_count = (self.direction_count + 1).min(8);
        let turns = self.directions ^ (self.directions >> 1);
        let known = (1_u16 << (self.direction_count - 1)) - 1;
        (u16::from(turns) & known).count_ones() >= max_reversals
    }
}

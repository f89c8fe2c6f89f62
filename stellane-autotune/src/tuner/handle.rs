use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    ActionOutcome, AutoTunerBuilder, Knob, KnobStats, Rule, Signal, SignalStats, Snapshot,
    Subscription, TunerMode, TunerStats, TuningAction,
    core::{Decisions, Plan},
    defaults,
    state::State,
    subscription::Log,
};
use crate::clock::Clock;

/// Reads signals, decides by rules and controllers, turns knobs, and says why.
/// A cheap clone; all clones are the same tuner.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
/// use stellane_autotune::{AutoTuner, Condition, Knob, Rule, Signal, TunerConfig, TunerMode};
///
/// let workers = Arc::new(AtomicU64::new(2));
/// let (get, set) = (workers.clone(), workers.clone());
/// let mut config = TunerConfig::default();
/// config.mode = TunerMode::Apply;
/// let tuner = AutoTuner::builder()
///     .config(config)
///     .signal(Signal::new("queue_depth", || Some(500.0)))
///     .knob(Knob::new("workers.max", 1.0..=16.0, 1.0,
///         move || get.load(Ordering::Relaxed) as f64,
///         move |value| set.store(value as u64, Ordering::Relaxed)))
///     .rule(Rule::new("deep_queue")
///         .when(Condition::above_times("queue_depth", 2.0, "workers.max"))
///         .step("workers.max", 1.0))
///     .build()?;
/// for second in 0..10 {
///     tuner.tick(Duration::from_secs(second));
/// }
/// assert!(workers.load(Ordering::Relaxed) > 2);
/// println!("{}", tuner.history()[0]);
/// # Ok::<_, stellane_autotune::BuildError>(())
/// ```
#[derive(Clone)]
pub struct AutoTuner {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) plan: Plan,
    pub(super) signals: Vec<Signal>,
    pub(super) knobs: Vec<Knob>,
    pub(super) clock: Clock,
    #[cfg(feature = "tokio")]
    pub(super) seed: u64,
    pub(super) log: Log,
    pub(super) state: Mutex<Driver>,
}

/// What a tick changes.
pub(super) struct Driver {
    /// `None` only while a step owns it.
    pub(super) state: Option<State>,
    pub(super) mode: TunerMode,
    pub(super) frozen: bool,
    pub(super) pinned: Vec<bool>,
    pub(super) failed: Vec<usize>,
    pub(super) errors: Vec<Option<String>>,
    pub(super) ticks: u64,
    pub(super) actions: BTreeMap<(String, &'static str), u64>,
    pub(super) recording: Option<Vec<Snapshot>>,
}

impl AutoTuner {
    /// A builder with the default configuration and the default rules.
    #[must_use]
    pub fn builder() -> AutoTunerBuilder {
        AutoTunerBuilder::default()
    }

    /// The rules that a tuner has unless it is [built](AutoTunerBuilder::default_rules) without them; each only where its
    /// signals are, and at least one of its knobs.
    #[must_use]
    pub fn default_rules() -> Vec<Rule> {
        defaults::rules()
    }

    /// Reads all signals, decides, and in [`TunerMode::Apply`] turns the knobs. `now` is the time on
    /// the clock of the caller; it must grow from tick to tick, or the tick decides nothing.
    /// Returns what was decided.
    pub fn tick(&self, now: Duration) -> Vec<TuningAction> {
        let inner = &*self.inner;
        // Getters and setters are code of others: call them without the lock.
        let signals = inner.signals.iter().map(|signal| (signal.read)()).collect();
        let knobs = inner.knobs.iter().map(|knob| Some((knob.get)())).collect();
        let mut driver = inner.lock();
        let snapshot = Snapshot {
            at: now,
            mode: driver.mode,
            frozen: driver.frozen,
            signals,
            knobs,
            pinned: driver.pinned.clone(),
            failed: std::mem::take(&mut driver.failed),
        };
        if let Some(recording) = &mut driver.recording {
            recording.push(snapshot.clone());
        }
        let state = driver.state.take().unwrap_or_else(|| inner.plan.start());
        let (
            state,
            Decisions {
                mut actions,
                resolved,
            },
        ) = inner.plan.step(state, &snapshot);
        driver.state = Some(state);
        driver.ticks += 1;
        drop(driver);

        for action in &mut actions {
            inner.carry_out(action);
        }
        for (seq, outcome) in resolved {
            inner.log.resolve(seq, outcome);
        }
        actions
    }

    /// Ticks at the configured interval for as long as it is polled.
    #[cfg(feature = "tokio")]
    pub async fn run(&self) {
        let mut rng = crate::clock::Rng::new(self.inner.seed);
        loop {
            let interval = self
                .inner
                .plan
                .config
                .interval
                .mul_f64(rng.between(0.9, 1.1));
            tokio::time::sleep(interval).await;
            self.tick(self.inner.clock.now());
        }
    }

    /// Every action from now on, and again each whose outcome was pending, once that is known.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.inner.log.subscribe()
    }

    /// The latest actions, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<TuningAction> {
        self.inner.log.history()
    }

    /// What it does with a decision.
    #[must_use]
    pub fn mode(&self) -> TunerMode {
        self.inner.lock().mode
    }

    /// Observe, recommend or apply from now on.
    pub fn set_mode(&self, mode: TunerMode) {
        self.inner.lock().mode = mode;
    }

    /// Decides nothing while frozen: during a drain, or an incident.
    pub fn set_frozen(&self, frozen: bool) {
        self.inner.lock().frozen = frozen;
    }

    /// Pins a knob, or lets it go. False if there is no such knob.
    pub fn set_pinned(&self, knob: &str, pinned: bool) -> bool {
        let Some(index) = self.inner.knobs.iter().position(|k| k.name() == knob) else {
            return false;
        };
        self.inner.lock().pinned[index] = pinned;
        true
    }

    /// Puts back the values that the knobs had at the first tick, and stops deciding: the mode is
    /// [`TunerMode::Observe`] afterwards.
    pub fn restore(&self) -> Vec<TuningAction> {
        let inner = &*self.inner;
        let mut driver = inner.lock();
        driver.mode = TunerMode::Observe;
        let now = inner.clock.now();
        let Some(state) = &mut driver.state else {
            return Vec::new();
        };
        let mut actions = state.restore(&inner.plan.knobs, now);
        drop(driver);
        for action in &mut actions {
            inner.carry_out(action);
        }
        actions
    }

    /// How the signals and knobs are, and what was done so far.
    #[must_use]
    pub fn stats(&self) -> TunerStats {
        let inner = &*self.inner;
        let driver = inner.lock();
        let start;
        let state = match &driver.state {
            Some(state) => state,
            None => {
                start = inner.plan.start();
                &start
            }
        };
        let signals = inner.plan.signals.iter().zip(&state.signals);
        let knobs = inner.plan.knobs.iter().zip(&state.knobs).enumerate();
        TunerStats {
            mode: driver.mode,
            frozen: driver.frozen,
            ticks: driver.ticks,
            clock_jumps: state.clock_jumps,
            signals: signals
                .map(|(spec, signal)| SignalStats {
                    name: spec.name.clone(),
                    value: signal.value,
                    health: signal.health,
                })
                .collect(),
            knobs: knobs
                .map(|(index, (spec, knob))| KnobStats {
                    name: spec.name.clone(),
                    value: knob.value,
                    initial: knob.initial,
                    min: spec.min,
                    max: spec.max,
                    pinned: driver.pinned[index],
                    frozen_until: knob.frozen_until,
                    last_error: driver.errors[index].clone().unwrap_or_default(),
                })
                .collect(),
            actions: driver
                .actions
                .iter()
                .map(|((parameter, outcome), count)| (parameter.clone(), *outcome, *count))
                .collect(),
        }
    }

    /// Keeps every [`Snapshot`] from now on, or stops: for [`AutoTuner::replay`].
    pub fn set_recording(&self, on: bool) {
        self.inner.lock().recording = on.then(Vec::new);
    }

    /// The snapshots kept since the recording began.
    #[must_use]
    pub fn recording(&self) -> Vec<Snapshot> {
        self.inner.lock().recording.clone().unwrap_or_default()
    }

    /// What this tuner would have decided in a recorded run, from the start. Reads no signal, turns
    /// no knob, and changes nothing in this tuner.
    #[must_use]
    pub fn replay(&self, recording: &[Snapshot]) -> Vec<TuningAction> {
        let plan = &self.inner.plan;
        let mut state = plan.start();
        let mut actions = Vec::new();
        for snapshot in recording {
            let (next, decisions) = plan.step(state, snapshot);
            state = next;
            actions.extend(decisions.actions);
        }
        actions
    }
}

impl fmt::Debug for AutoTuner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoTuner")
            .field("plan", &self.inner.plan)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Turns the knob of an action, if it asks for that, and tells everybody.
    fn carry_out(&self, action: &mut TuningAction) {
        let index = self
            .knobs
            .iter()
            .position(|knob| knob.name() == action.parameter);
        if let Some(index) = index.filter(|_| action.outcome.sets_knob()) {
            let result = (self.knobs[index].set)(action.new_value);
            let mut driver = self.lock();
            if let Err(error) = &result {
                action.outcome = ActionOutcome::Failed;
                action.reason += &format!(", but it could not be set: {error}");
                driver.failed.push(index);
            }
            driver.errors[index] = result.err();
        }
        self.announce(action);
        self.log.push(action.clone());
    }

    fn announce(&self, action: &TuningAction) {
        let key = (action.parameter.clone(), action.outcome.as_str());
        *self.lock().actions.entry(key).or_default() += 1;
        #[cfg(feature = "metrics")]
        metrics::counter!(
            "stellane_tuning_actions_total",
            "parameter" => action.parameter.clone(),
            "outcome" => action.outcome.as_str()
        )
        .increment(1);
        #[cfg(feature = "tracing")]
        tracing::info!(
            target: "stellane::tuning",
            parameter = %action.parameter,
            old = action.old_value,
            new = action.new_value,
            rule = %action.rule,
            outcome = %action.outcome,
            "{}",
            action.reason
        );
    }

    fn lock(&self) -> MutexGuard<'_, Driver> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.log.close();
    }
}

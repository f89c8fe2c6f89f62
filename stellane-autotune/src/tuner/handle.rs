use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::core::{Decisions, Plan, State};
use super::defaults;
use super::knob::KnobSpec;
use super::rule::{Objective, Rule};
use super::subscription::Log;
use super::{
    ActionOutcome, Controller, Knob, Signal, SignalHealth, Snapshot, Subscription, TunerConfig,
    TunerMode, TuningAction,
};
use crate::BuildError;
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
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    signals: Vec<Signal>,
    knobs: Vec<Knob>,
    clock: Clock,
    #[cfg(feature = "tokio")]
    seed: u64,
    log: Log,
    state: Mutex<Driver>,
}

/// What a tick changes.
struct Driver {
    /// `None` only while a step owns it.
    state: Option<State>,
    mode: TunerMode,
    frozen: bool,
    pinned: Vec<bool>,
    failed: Vec<usize>,
    errors: Vec<Option<String>>,
    ticks: u64,
    actions: BTreeMap<(String, &'static str), u64>,
    recording: Option<Vec<Snapshot>>,
}

impl AutoTuner {
    /// A builder with the default configuration and the default rules.
    #[must_use]
    pub fn builder() -> AutoTunerBuilder {
        AutoTunerBuilder::default()
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

    /// Every action from now on.
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
        let mut actions = state.restore(&inner.plan, now);
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

/// Builds an [`AutoTuner`].
#[derive(Debug)]
pub struct AutoTunerBuilder {
    config: TunerConfig,
    signals: Vec<Signal>,
    knobs: Vec<Knob>,
    rules: Vec<Rule>,
    default_rules: bool,
    controllers: Vec<Arc<dyn Controller>>,
    objective: Option<Objective>,
    clock: Clock,
    #[cfg(feature = "tokio")]
    seed: u64,
}

impl Default for AutoTunerBuilder {
    fn default() -> Self {
        Self {
            config: TunerConfig::default(),
            signals: Vec::new(),
            knobs: Vec::new(),
            rules: Vec::new(),
            default_rules: true,
            controllers: Vec::new(),
            objective: None,
            clock: Clock::default(),
            #[cfg(feature = "tokio")]
            seed: 0,
        }
    }
}

impl AutoTunerBuilder {
    /// The settings.
    #[must_use]
    pub fn config(mut self, config: TunerConfig) -> Self {
        self.config = config;
        self
    }

    /// A signal to read at every tick.
    #[must_use]
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signals.push(signal);
        self
    }

    /// A knob that may be turned.
    #[must_use]
    pub fn knob(mut self, knob: Knob) -> Self {
        self.knobs.push(knob);
        self
    }

    /// A rule of your own. It takes the place of a default rule of the same name.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Whether the default rules apply to signals and knobs with the [`names`](super::names) they
    /// know. Default: true.
    #[must_use]
    pub fn default_rules(mut self, on: bool) -> Self {
        self.default_rules = on;
        self
    }

    /// A controller.
    #[must_use]
    pub fn controller(mut self, controller: impl Controller + 'static) -> Self {
        self.controllers.push(Arc::new(controller));
        self
    }

    /// What no change may make worse, unless the rule has an objective of its own. Without one
    /// every change is kept.
    #[must_use]
    pub fn objective(mut self, objective: Objective) -> Self {
        self.objective = Some(objective);
        self
    }

    /// Where [`AutoTuner::run`] takes the time from. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The seed of the jitter of [`AutoTuner::run`]. Default: 0.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds the tuner.
    ///
    /// # Errors
    ///
    /// If a value of the configuration is out of range, two signals, knobs or rules share a name, a
    /// knob has an empty range or a step that is not positive, or a rule names what is not there.
    pub fn build(mut self) -> Result<AutoTuner, BuildError> {
        self.config.validate()?;
        let names = self.signals.iter().map(Signal::name);
        unique("signal", names.clone())?;
        // Conditions may name knobs too, so a signal may not hide one.
        unique("knob", names.chain(self.knobs.iter().map(Knob::name)))?;
        unique("rule", self.rules.iter().map(Rule::name))?;
        self.knobs
            .iter()
            .try_for_each(|knob| check_knob(&knob.spec))?;
        for rule in &self.rules {
            self.check_rule(rule)?;
        }
        for controller in &self.controllers {
            self.check_name("knob", controller.knob(), controller.name())?;
        }
        if let Some(objective) = &self.objective {
            self.check_name("signal", &objective.signal, "objective")?;
        }
        if self.default_rules {
            for mut rule in defaults::rules() {
                let known = self.rules.iter().any(|own| own.name() == rule.name());
                rule.moves.retain(|target| self.has_knob(&target.knob));
                if !known && !rule.moves.is_empty() && self.check_rule(&rule).is_ok() {
                    self.rules.push(rule);
                }
            }
        }
        let pinned = self.knobs.iter().map(|knob| knob.spec.pinned).collect();
        let driver = Driver {
            state: None,
            mode: self.config.mode,
            frozen: false,
            pinned,
            failed: Vec::new(),
            errors: vec![None; self.knobs.len()],
            ticks: 0,
            actions: BTreeMap::new(),
            recording: None,
        };
        let inner = Inner {
            log: Log::new(self.config.history),
            plan: Plan {
                config: self.config,
                signals: self
                    .signals
                    .iter()
                    .map(|signal| signal.spec.clone())
                    .collect(),
                knobs: self.knobs.iter().map(|knob| knob.spec.clone()).collect(),
                rules: self.rules,
                controllers: self.controllers,
                objective: self.objective,
            },
            signals: self.signals,
            knobs: self.knobs,
            clock: self.clock,
            #[cfg(feature = "tokio")]
            seed: self.seed,
            state: Mutex::new(driver),
        };
        Ok(AutoTuner {
            inner: Arc::new(inner),
        })
    }

    fn check_rule(&self, rule: &Rule) -> Result<(), BuildError> {
        for condition in &rule.when {
            for name in [Some(&condition.signal), condition.of.as_ref()]
                .into_iter()
                .flatten()
            {
                if !self.has_knob(name) {
                    self.check_name("signal", name, rule.name())?;
                }
            }
        }
        for target in &rule.moves {
            self.check_name("knob", &target.knob, rule.name())?;
        }
        match &rule.objective {
            Some(objective) => self.check_name("signal", &objective.signal, rule.name()),
            None => Ok(()),
        }
    }

    fn check_name(&self, what: &'static str, name: &str, rule: &str) -> Result<(), BuildError> {
        let found = match what {
            "knob" => self.has_knob(name),
            _ => self.signals.iter().any(|signal| signal.name() == name),
        };
        if found {
            return Ok(());
        }
        Err(BuildError::Unknown {
            what,
            name: name.to_owned(),
            rule: rule.to_owned(),
        })
    }

    fn has_knob(&self, name: &str) -> bool {
        self.knobs.iter().any(|knob| knob.name() == name)
    }
}

fn unique<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), BuildError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(BuildError::Duplicate {
                what,
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

fn check_knob(spec: &KnobSpec) -> Result<(), BuildError> {
    let problem = if !(spec.min.is_finite() && spec.max.is_finite() && spec.min <= spec.max) {
        format!(
            "its range is {} to {}: expected finite numbers, low to high",
            spec.min, spec.max
        )
    } else if !(spec.step.is_finite() && spec.step > 0.0) {
        format!(
            "its step is {}: expected a finite number above 0",
            spec.step
        )
    } else {
        return Ok(());
    };
    Err(BuildError::Knob {
        name: spec.name.clone(),
        problem,
    })
}

/// What an [`AutoTuner`] sees and did.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TunerStats {
    /// What it does with a decision.
    pub mode: TunerMode,
    /// Whether it is frozen by hand.
    pub frozen: bool,
    /// Ticks so far.
    pub ticks: u64,
    /// Ticks whose time was not believable: nothing was decided for a while after each.
    pub clock_jumps: u64,
    /// The signals.
    pub signals: Vec<SignalStats>,
    /// The knobs.
    pub knobs: Vec<KnobStats>,
    /// How many actions there were, by parameter and by their first outcome.
    pub actions: Vec<(String, &'static str, u64)>,
}

/// One signal of an [`AutoTuner`].
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SignalStats {
    /// Its name.
    pub name: String,
    /// The value that rules see; `None` unless it can be believed.
    pub value: Option<f64>,
    /// Whether it can be believed.
    pub health: SignalHealth,
}

/// One knob of an [`AutoTuner`].
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KnobStats {
    /// Its name.
    pub name: String,
    /// Its value at the latest tick.
    pub value: Option<f64>,
    /// Its value at the first tick.
    pub initial: Option<f64>,
    /// The lowest it may become.
    pub min: f64,
    /// The highest it may become.
    pub max: f64,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Until when it is left alone, on the clock of the tuner.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub frozen_until: Duration,
    /// Why it could not be set the last time; empty if it could.
    pub last_error: String,
}

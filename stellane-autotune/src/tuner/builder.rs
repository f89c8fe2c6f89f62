use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use super::{
    Controller, Knob, Signal, TunerConfig,
    core::Plan,
    defaults,
    handle::{AutoTuner, Driver, Inner},
    knob::KnobSpec,
    rule::{Objective, Rule},
    subscription::Log,
};
use crate::{BuildError, Clock};

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
    pub(crate) clock: Clock,
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

    /// Where the tuner itself takes the time from. Default: [`Clock::system`].
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
        for knob in &self.knobs {
            let KnobSpec {
                name,
                at_least,
                at_most,
                ..
            } = &knob.spec;
            for other in [at_least, at_most].into_iter().flatten() {
                self.check_name("knob", other, name)?;
            }
        }
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
            for signal in target.change.signals() {
                self.check_name("signal", signal, rule.name())?;
            }
        }
        match &rule.objective {
            Some(objective) => self.check_name("signal", &objective.signal, rule.name()),
            None => Ok(()),
        }
    }

    fn check_name(&self, what: &'static str, name: &str, rule: &str) -> Result<(), BuildError> {
        let known: Vec<_> = match what {
            "knob" => self.knobs.iter().map(Knob::name).collect(),
            _ => self.signals.iter().map(Signal::name).collect(),
        };
        if known.contains(&name) {
            return Ok(());
        }
        Err(BuildError::Unknown {
            what,
            name: name.to_owned(),
            rule: rule.to_owned(),
            known: known.into_iter().map(str::to_owned).collect(),
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

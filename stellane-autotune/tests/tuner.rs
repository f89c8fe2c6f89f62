//! The tuner's guard rails, through its public API and on injected time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stellane_autotune::{
    ActionOutcome, AutoTuner, AutoTunerBuilder, Condition, Knob, Objective, Rule, Signal,
    TunerConfig, TunerMode,
};

#[derive(Clone, Default)]
struct Cell(Arc<Mutex<f64>>);

impl Cell {
    fn new(value: f64) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }
    fn get(&self) -> f64 {
        *self.0.lock().unwrap()
    }
    fn set(&self, value: f64) {
        *self.0.lock().unwrap() = value;
    }
    fn signal(&self, name: &'static str) -> Signal {
        let cell = self.clone();
        Signal::new(name, move || Some(cell.get()))
    }
    fn knob(&self, name: &'static str) -> Knob {
        let (get, set) = (self.clone(), self.clone());
        Knob::new(
            name,
            1.0..=100.0,
            1.0,
            move || get.get(),
            move |value| set.set(value),
        )
    }
}

fn builder(mode: TunerMode) -> AutoTunerBuilder {
    let mut config = TunerConfig::default();
    config.mode = mode;
    AutoTuner::builder().config(config)
}

fn grow_when_deep() -> Rule {
    Rule::new("deep")
        .because("the queue is deep")
        .when(Condition::above("depth", 10.0))
        .step("workers", 1.0)
}

fn run(tuner: &AutoTuner, seconds: std::ops::Range<u64>) {
    for second in seconds {
        tuner.tick(Duration::from_secs(second));
    }
}

#[test]
fn a_change_says_what_why_and_with_which_numbers() {
    let (depth, workers) = (Cell::new(50.0), Cell::new(4.0));
    let tuner = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .knob(workers.knob("workers"))
        .rule(grow_when_deep())
        .build()
        .unwrap();
    let mut actions = tuner.subscribe();
    run(&tuner, 0..6);
    let action = actions.try_recv().unwrap();
    assert_eq!(
        (
            action.parameter.as_str(),
            action.old_value,
            action.new_value
        ),
        ("workers", 4.0, 5.0)
    );
    assert_eq!(
        action.reason,
        "the queue is deep: depth is 50 (above 10): raise workers from 4 to 5"
    );
    assert_eq!(action.evidence[0].value, 50.0);
    assert_eq!(workers.get(), 5.0);
    assert_eq!(tuner.history()[0], action);
}

#[test]
fn recommending_says_it_once_and_changes_nothing() {
    let (depth, workers) = (Cell::new(50.0), Cell::new(4.0));
    let tuner = builder(TunerMode::Recommend)
        .signal(depth.signal("depth"))
        .knob(workers.knob("workers"))
        .rule(grow_when_deep())
        .build()
        .unwrap();
    run(&tuner, 0..60);
    assert_eq!(workers.get(), 4.0);
    let history = tuner.history();
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].outcome, ActionOutcome::Recommended);
}

#[test]
fn a_change_that_made_things_worse_is_undone_within_two_windows_and_not_repeated_soon() {
    let (depth, workers) = (Cell::new(50.0), Cell::new(4.0));
    let latency = workers.clone();
    let tuner = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .signal(Signal::new("latency", move || Some(0.010 * latency.get())))
        .knob(workers.knob("workers"))
        .rule(grow_when_deep())
        .objective(Objective::minimize("latency"))
        .build()
        .unwrap();
    run(&tuner, 0..5);
    assert_eq!(workers.get(), 5.0);
    run(&tuner, 5..10);
    assert_eq!(workers.get(), 4.0, "{:#?}", tuner.history());
    let history = tuner.history();
    assert_eq!(history[0].outcome, ActionOutcome::RolledBack);
    assert_eq!(history[1].outcome, ActionOutcome::RollBack);
    assert!(
        history[1].reason.contains("latency went from 0.04 to 0.05"),
        "{}",
        history[1].reason
    );
    run(&tuner, 10..60);
    assert_eq!(tuner.history().len(), 2);
}

#[test]
fn a_setter_that_fails_is_reported_and_left_alone() {
    let depth = Cell::new(50.0);
    let calls = Arc::new(AtomicU64::new(0));
    let counter = calls.clone();
    let tuner = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .knob(Knob::new(
            "workers",
            1.0..=9.0,
            1.0,
            || 4.0,
            move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
                Err("the pool is shutting down")
            },
        ))
        .rule(grow_when_deep())
        .build()
        .unwrap();
    run(&tuner, 0..60);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(tuner.history()[0].outcome, ActionOutcome::Failed);
    assert!(
        tuner.history()[0]
            .reason
            .contains("the pool is shutting down")
    );
    assert_eq!(
        tuner.stats().knobs[0].last_error,
        "the pool is shutting down"
    );
}

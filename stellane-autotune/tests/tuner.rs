//! The tuner's guard rails, through its public API and on injected time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use stellane_autotune::{
    ActionOutcome, AutoTuner, AutoTunerBuilder, Condition, Knob, Objective, Rule, Signal,
    SignalHealth, TunerConfig, TunerMode,
    controllers::{Parking, Scaled, Staffing},
    names,
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

/// Four workers and a queue that is always deep.
fn deep(mode: TunerMode) -> (Cell, AutoTuner) {
    let workers = Cell::new(4.0);
    let tuner = builder(mode)
        .signal(Signal::new("depth", || Some(50.0)))
        .knob(workers.knob("workers"))
        .rule(grow_when_deep())
        .build()
        .unwrap();
    (workers, tuner)
}

/// The same, with a setter of its own and whatever it answers; and how often it was called.
fn deep_with_setter<E: std::fmt::Display + 'static>(
    read: f64,
    set: fn(f64) -> Result<(), E>,
) -> (Arc<AtomicU64>, AutoTuner) {
    let calls = Arc::new(AtomicU64::new(0));
    let counter = calls.clone();
    let tuner = builder(TunerMode::Apply)
        .signal(Signal::new("depth", || Some(50.0)))
        .knob(Knob::new(
            "workers",
            1.0..=9.0,
            1.0,
            move || read,
            move |value| {
                counter.fetch_add(1, Ordering::Relaxed);
                set(value)
            },
        ))
        .rule(grow_when_deep())
        .build()
        .unwrap();
    (calls, tuner)
}

fn run(tuner: &AutoTuner, seconds: std::ops::Range<u64>) {
    for second in seconds {
        tuner.tick(Duration::from_secs(second));
    }
}

#[test]
fn a_change_says_what_why_and_with_which_numbers() {
    let (workers, tuner) = deep(TunerMode::Apply);
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
    let (workers, tuner) = deep(TunerMode::Recommend);
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
    run(&tuner, 10..20);
    assert_eq!(tuner.history().len(), 2);
    // Tried again after a while, and each time that is longer: 15 s, 30 s, 60 s, …
    run(&tuner, 20..600);
    let rolled_back = tuner.history().len() / 2;
    assert!((3..=6).contains(&rolled_back), "{rolled_back}");
}

#[test]
fn a_setter_that_fails_is_reported_and_left_alone() {
    let (calls, tuner) = deep_with_setter(4.0, |_| Err("the pool is shutting down"));
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

/// One knob, one signal that a test can set to anything, and a rule that would move the knob.
fn bench(mode: TunerMode, raw: &Arc<Mutex<Option<f64>>>, workers: &Cell) -> AutoTuner {
    let raw = raw.clone();
    builder(mode)
        .signal(Signal::new("depth", move || *raw.lock().unwrap()).range(0.0..=1e6))
        .knob(workers.knob("workers"))
        .rule(grow_when_deep())
        .build()
        .unwrap()
}

#[test]
fn bad_readings_never_move_a_knob_and_are_reported() {
    let bad = [
        (None, SignalHealth::Missing),
        (Some(f64::NAN), SignalHealth::NotFinite),
        (Some(f64::INFINITY), SignalHealth::NotFinite),
        (Some(1e9), SignalHealth::OutOfRange),
        (Some(-1.0), SignalHealth::OutOfRange),
    ];
    for (reading, health) in bad {
        let (raw, workers) = (Arc::new(Mutex::new(reading)), Cell::new(4.0));
        let tuner = bench(TunerMode::Apply, &raw, &workers);
        run(&tuner, 0..100);
        assert_eq!(
            (workers.get(), tuner.history().len()),
            (4.0, 0),
            "{reading:?}"
        );
        assert_eq!(tuner.stats().signals[0].health, health, "{reading:?}");
        // It was the reading and nothing else.
        *raw.lock().unwrap() = Some(50.0);
        run(&tuner, 100..110);
        assert!(workers.get() > 4.0, "{reading:?}");
        assert_eq!(tuner.stats().signals[0].health, SignalHealth::Good);
    }
}

#[test]
fn a_reading_that_comes_and_goes_never_holds_long_enough() {
    let (raw, workers) = (Arc::new(Mutex::new(None)), Cell::new(4.0));
    let tuner = bench(TunerMode::Apply, &raw, &workers);
    for second in 0..100 {
        *raw.lock().unwrap() = (second % 2 == 0).then_some(50.0);
        tuner.tick(Duration::from_secs(second));
    }
    assert_eq!(workers.get(), 4.0);
}

#[test]
fn a_stuck_or_reset_counter_is_not_believed() {
    let (count, workers) = (Cell::new(0.0), Cell::new(4.0));
    let read = count.clone();
    let tuner = builder(TunerMode::Apply)
        .signal(Signal::counter("jobs", move || Some(read.get())))
        .knob(workers.knob("workers"))
        .rule(
            Rule::new("nothing is done")
                .when(Condition::below("jobs", 1.0))
                .step("workers", 1.0)
                .hold(12),
        )
        .build()
        .unwrap();
    let health = |tuner: &AutoTuner| tuner.stats().signals[0].health;
    for second in 0..5 {
        count.set(100.0 * second as f64);
        tuner.tick(Duration::from_secs(second));
    }
    assert_eq!(tuner.stats().signals[0].value, Some(100.0));
    run(&tuner, 5..10);
    assert_eq!(
        (tuner.stats().signals[0].value, health(&tuner)),
        (Some(0.0), SignalHealth::Good)
    );
    run(&tuner, 10..20);
    assert_eq!(health(&tuner), SignalHealth::Stuck);
    count.set(3.0);
    run(&tuner, 20..21);
    assert_eq!(health(&tuner), SignalHealth::Reset);
    assert_eq!((workers.get(), tuner.history().len()), (4.0, 0));
    // It was the counter and nothing else: one that moves again, if slowly, is believed.
    for second in 21..40 {
        count.set(3.0 + 0.5 * second as f64);
        tuner.tick(Duration::from_secs(second));
    }
    assert!(workers.get() > 4.0);
}

#[test]
fn nothing_is_decided_across_a_clock_jump() {
    for jump in [0, 1, 5, 100_000] {
        let (raw, workers) = (Arc::new(Mutex::new(Some(1.0))), Cell::new(4.0));
        let tuner = bench(TunerMode::Apply, &raw, &workers);
        run(&tuner, 1..6);
        *raw.lock().unwrap() = Some(50.0);
        // The jump, and then fewer ticks than the warm-up.
        run(&tuner, jump..jump + 3);
        assert_eq!(workers.get(), 4.0, "{jump}");
        assert!(tuner.stats().clock_jumps >= 1, "{jump}");
        run(&tuner, jump + 3..jump + 10);
        assert!(workers.get() > 4.0, "{jump}");
    }
}

#[test]
fn nothing_is_undone_any_more_once_applying_is_off() {
    let (depth, workers) = (Cell::new(50.0), Cell::new(4.0));
    let latency = workers.clone();
    let tuner = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .signal(Signal::new("latency", move || Some(latency.get())))
        .knob(workers.knob("workers"))
        .rule(grow_when_deep())
        .objective(Objective::minimize("latency"))
        .build()
        .unwrap();
    run(&tuner, 0..5);
    assert_eq!(workers.get(), 5.0);
    tuner.set_mode(TunerMode::Observe);
    run(&tuner, 5..20);
    assert_eq!((workers.get(), tuner.history().len()), (5.0, 1));
}

#[test]
fn a_setter_that_lies_is_left_alone() {
    let (calls, tuner) = deep_with_setter(4.0, |_| Ok::<_, Infallible>(()));
    run(&tuner, 0..50);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_knob_that_cannot_be_read_is_not_set() {
    for read in [f64::NAN, f64::INFINITY] {
        let (calls, tuner) = deep_with_setter(read, |_| Ok::<_, Infallible>(()));
        run(&tuner, 0..50);
        let made = (calls.load(Ordering::Relaxed), tuner.history().len());
        assert_eq!(made, (0, 0), "{read}");
    }
}

#[test]
fn a_knob_that_is_turned_by_hand_is_left_alone() {
    let (workers, tuner) = deep(TunerMode::Apply);
    run(&tuner, 0..5);
    assert_eq!(workers.get(), 5.0);
    workers.set(2.0);
    run(&tuner, 5..50);
    assert_eq!(workers.get(), 2.0);
}

#[test]
fn pinned_and_frozen_knobs_do_not_move() {
    let (depth, workers) = (Cell::new(50.0), Cell::new(4.0));
    let tuner = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .knob(workers.knob("workers").pinned())
        .rule(grow_when_deep())
        .build()
        .unwrap();
    run(&tuner, 0..20);
    assert!(tuner.set_pinned("workers", false));
    tuner.set_frozen(true);
    run(&tuner, 20..40);
    assert_eq!(workers.get(), 4.0);
    tuner.set_frozen(false);
    run(&tuner, 40..50);
    assert!(workers.get() > 4.0);
    assert!(!tuner.set_pinned("no such knob", true));
}

#[test]
fn an_oscillating_plant_freezes_its_knob() {
    let workers = Cell::new(50.0);
    let level = workers.clone();
    // Too few at 50 and below, too many above.
    let mut config = TunerConfig::default();
    (config.mode, config.cooldown) = (TunerMode::Apply, Duration::ZERO);
    let tuner = AutoTuner::builder()
        .config(config)
        .signal(Signal::new("level", move || Some(level.get())))
        .knob(workers.knob("workers"))
        .rule(
            Rule::new("up")
                .when(Condition::below("level", 50.5).clear_at(50.5))
                .step("workers", 1.0),
        )
        .rule(
            Rule::new("down")
                .when(Condition::above("level", 50.5).clear_at(50.5))
                .step("workers", -1.0),
        )
        .build()
        .unwrap();
    run(&tuner, 0..60);
    let history = tuner.history();
    assert_eq!(history.last().unwrap().outcome, ActionOutcome::Frozen);
    assert!(history.len() <= 6, "{history:#?}");
}

#[test]
fn noise_alone_changes_nothing_in_an_hour() {
    let workers = Cell::new(20.0);
    let state = Arc::new(AtomicU64::new(7));
    let tuner = builder(TunerMode::Apply)
        .signal(Signal::new(names::LATENCY_P99, move || {
            let x = state
                .load(Ordering::Relaxed)
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1);
            state.store(x, Ordering::Relaxed);
            Some(0.002 + 0.002 * (x >> 40) as f64 / (1 << 24) as f64)
        }))
        .signal(Signal::new(names::QUEUE_DEPTH, || Some(5.0)))
        .signal(Signal::new(names::CPU, || Some(0.5)))
        .signal(Signal::new(names::MEMORY, || Some(0.6)))
        .knob(workers.knob(names::WORKERS_MAX))
        .build()
        .unwrap();
    run(&tuner, 0..3600);
    assert_eq!((tuner.history(), workers.get()), (vec![], 20.0));
}

#[test]
fn memory_wins_over_a_long_queue() {
    let (memory, retain, workers) = (Cell::new(0.9), Cell::new(100.0), Cell::new(4.0));
    let tuner = builder(TunerMode::Apply)
        .signal(memory.signal(names::MEMORY))
        .signal(Signal::new(names::LATENCY_P99, || Some(1.0)))
        .signal(Signal::new(names::QUEUE_DEPTH, || Some(1e4)))
        .signal(Signal::new(names::CPU, || Some(0.5)))
        .knob(retain.knob(names::POOL_RETAIN))
        .knob(workers.knob(names::WORKERS_MAX))
        .build()
        .unwrap();
    run(&tuner, 0..5);
    let first = &tuner.history()[0];
    assert_eq!(
        (first.parameter.as_str(), first.rule.as_str()),
        (names::POOL_RETAIN, "memory_high")
    );
    assert!(
        first
            .reason
            .contains("memory runs short: memory is 0.9 (above 0.85)"),
        "{}",
        first.reason
    );
    run(&tuner, 5..60);
    assert!(retain.get() < 10.0, "{}", retain.get());
}

/// A limit that refuses keeps the queue empty: nothing waits, and still the workers are too few.
#[test]
fn workers_that_a_limit_holds_back_become_more() {
    let fewest = |shed: f64, cpu: f64| {
        let workers = Cell::new(1.0);
        let tuner = builder(TunerMode::Apply)
            .signal(Signal::new(names::WORKERS_BUSY, || Some(1.0)))
            .signal(Signal::new(names::QUEUE_DEPTH, || Some(0.0)))
            .signal(Signal::new(names::THROUGHPUT, || Some(100.0)))
            .signal(Signal::new(names::SHED_RATE, move || Some(shed)))
            .signal(Signal::new(names::CPU, move || Some(cpu)))
            .signal(Signal::new(names::JOB_RATE, {
                let workers = workers.clone();
                move || Some(100.0 * workers.get())
            }))
            .knob(workers.knob(names::WORKERS_MIN))
            .knob(Cell::new(16.0).knob(names::WORKERS_MAX))
            .build()
            .unwrap();
        run(&tuner, 0..60);
        workers.get()
    };
    assert!(fewest(50.0, 0.3) >= 4.0, "{}", fewest(50.0, 0.3));
    assert_eq!(fewest(0.0, 0.3), 1.0, "nothing is refused");
    assert_eq!(fewest(50.0, 0.95), 1.0, "there is no CPU for more");
}

#[test]
fn restoring_puts_every_knob_back() {
    let (workers, tuner) = deep(TunerMode::Apply);
    run(&tuner, 0..30);
    assert!(workers.get() > 6.0);
    assert_eq!(tuner.restore()[0].outcome, ActionOutcome::Restored);
    run(&tuner, 30..60);
    assert_eq!((workers.get(), tuner.mode()), (4.0, TunerMode::Observe));
}

/// A service as a fluid: what is served, refused and waited for follows from the knobs at once.
#[derive(Clone)]
struct Fluid {
    workers: Cell,
    queue: Cell,
    limit: Cell,
}

impl Fluid {
    const OFFERED: f64 = 1000.0;
    const WORK: f64 = 0.010;

    fn wrong() -> Self {
        Self {
            workers: Cell::new(1.0),
            queue: Cell::new(2.0),
            limit: Cell::new(4.0),
        }
    }
    fn inside(&self) -> f64 {
        self.limit.get().min(self.workers.get() + self.queue.get())
    }
    fn served(&self) -> f64 {
        Self::OFFERED.min(self.workers.get().min(self.inside()) / Self::WORK)
    }
    fn shed(&self) -> f64 {
        Self::OFFERED - self.served()
    }
    fn depth(&self) -> f64 {
        if self.shed() > 0.0 {
            (self.inside() - self.workers.get()).max(0.0)
        } else {
            0.0
        }
    }
    fn latency(&self) -> f64 {
        Self::WORK * (1.0 + self.depth() / self.workers.get())
    }
    fn tuner(&self, mode: TunerMode) -> AutoTuner {
        type Read = fn(&Fluid) -> f64;
        let signals: [(&'static str, Read); 9] = [
            (names::LATENCY_P99, Self::latency),
            (names::QUEUE_DEPTH, Self::depth),
            (names::SHED_RATE, Self::shed),
            (names::QUEUE_SHED_RATE, |fluid| {
                let queue_refuses = fluid.inside() < fluid.limit.get();
                fluid.shed() * f64::from(u8::from(queue_refuses))
            }),
            (names::JOB_RATE, Self::served),
            (names::LIMIT, |fluid| fluid.limit.get()),
            (names::THROUGHPUT, Self::served),
            (names::CPU, |fluid| fluid.served() / 4000.0),
            (names::WORKER_UTILIZATION, |fluid| {
                fluid.served() * Self::WORK / fluid.workers.get()
            }),
        ];
        let builder = signals
            .into_iter()
            .fold(builder(mode), |builder, (name, read)| {
                let fluid = self.clone();
                builder.signal(Signal::new(name, move || Some(read(&fluid))))
            });
        builder
            .signal(Signal::new(names::MEMORY, || Some(0.3)))
            .knob(self.workers.knob(names::WORKERS_MAX))
            .knob(self.queue.knob(names::QUEUE_BOUND))
            .knob(self.limit.knob(names::LIMIT_MAX))
            .build()
            .unwrap()
    }
}

#[test]
fn a_wrong_configuration_is_put_right_within_a_minute_by_the_default_rules() {
    let fluid = Fluid::wrong();
    assert_eq!(fluid.served(), 100.0);
    let tuner = fluid.tuner(TunerMode::Apply);
    run(&tuner, 0..60);
    let story: Vec<String> = tuner.history().iter().map(ToString::to_string).collect();
    assert!(
        fluid.served() >= 900.0,
        "{} of 1000\n{}",
        fluid.served(),
        story.join("\n")
    );

    // With applying off it only says so.
    let fluid = Fluid::wrong();
    let tuner = fluid.tuner(TunerMode::Recommend);
    run(&tuner, 0..60);
    assert_eq!(fluid.served(), 100.0);
    assert!(
        tuner
            .history()
            .iter()
            .all(|action| action.outcome == ActionOutcome::Recommended)
    );
    assert!(!tuner.history().is_empty());
}

/// Whatever the signals do, the knob stays in its range, on its steps and within its step bound,
/// and a replay of the recording decides the same.
#[test]
fn bounds_and_steps_always_hold_and_recordings_replay() {
    for seed in 1..=40_u64 {
        let mut x = seed;
        let mut draw = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (raw, workers) = (Arc::new(Mutex::new(None)), Cell::new(10.0));
        let signal = raw.clone();
        let mut config = TunerConfig::default();
        (config.mode, config.cooldown) = (TunerMode::Apply, Duration::from_secs(1));
        let tuner = AutoTuner::builder()
            .config(config)
            .signal(Signal::new("x", move || *signal.lock().unwrap()))
            .knob(workers.knob("workers"))
            .rule(
                Rule::new("up")
                    .when(Condition::above("x", 0.5))
                    .scale("workers", 3.0)
                    .hold(1),
            )
            .rule(
                Rule::new("down")
                    .when(Condition::below("x", 0.4))
                    .towards("workers", -5.0)
                    .hold(1),
            )
            .rule(
                Rule::new("urgent")
                    .when(Condition::above("x", 0.95))
                    .scale("workers", 0.1)
                    .urgent(),
            )
            .objective(Objective::minimize("x"))
            .build()
            .unwrap();
        tuner.set_recording(true);
        let mut before = workers.get();
        let mut actions = Vec::new();
        for second in 0..500 {
            *raw.lock().unwrap() = match draw() {
                p if p < 0.05 => None,
                p if p < 0.10 => Some(f64::NAN),
                _ => Some((draw() + (second / 50 % 2) as f64) / 2.0),
            };
            actions.extend(tuner.tick(Duration::from_secs(second)));
            let now = workers.get();
            assert!(
                (1.0..=100.0).contains(&now) && now.fract() == 0.0,
                "seed {seed}: {now}"
            );
            assert!(
                (now - before).abs() <= (0.75 * before.max(now)).max(1.0) + 0.5,
                "seed {seed}: {before} -> {now}"
            );
            before = now;
        }
        assert!(!actions.is_empty(), "seed {seed}");
        let replayed = tuner.replay(&tuner.recording());
        assert_eq!(replayed, actions, "seed {seed}");
    }
}

#[test]
fn staffing_finds_the_workers_that_the_load_needs() {
    let workers = Cell::new(1.0);
    let wait = workers.clone();
    let tuner = builder(TunerMode::Apply)
        .signal(Signal::new("arrivals", || Some(1000.0)))
        .signal(Signal::new("service_time", || Some(0.010)))
        .signal(Signal::new("wait", move || {
            Some(if wait.get() < 12.0 { 0.05 } else { 0.001 })
        }))
        .knob(workers.knob("workers"))
        .controller(Staffing::new("workers", "arrivals", "service_time", "wait"))
        .build()
        .unwrap();
    run(&tuner, 0..60);
    // 10 Erlang: 10 + sqrt(10), and enough that nobody waits.
    assert!(
        (12.0..=18.0).contains(&workers.get()),
        "{:#?}",
        tuner.history()
    );
}

#[test]
fn retention_falls_as_memory_fills_and_comes_back() {
    let (memory, retain) = (Cell::new(0.2), Cell::new(100.0));
    let tuner = builder(TunerMode::Apply)
        .default_rules(false)
        .signal(memory.signal("memory"))
        .knob(retain.knob("retain"))
        .controller(Scaled::new("retain", "memory", 0.7, 0.9))
        .build()
        .unwrap();
    run(&tuner, 0..20);
    assert_eq!(retain.get(), 100.0);
    memory.set(0.85);
    run(&tuner, 20..80);
    assert!((20.0..=32.0).contains(&retain.get()), "{}", retain.get());
    memory.set(0.2);
    run(&tuner, 80..140);
    assert!(retain.get() > 90.0, "{}", retain.get());
}

#[test]
fn connections_that_come_back_are_parked_later() {
    let (back, delay) = (Cell::new(90.0), Cell::new(4.0));
    let tuner = builder(TunerMode::Apply)
        .signal(Signal::new("parked", || Some(100.0)))
        .signal(back.signal("unparked"))
        .signal(Signal::new("memory", || Some(0.6)))
        .knob(delay.knob("park_after"))
        .controller(Parking::new("park_after", "parked", "unparked", "memory"))
        .build()
        .unwrap();
    run(&tuner, 0..30);
    let later = delay.get();
    assert!(later > 8.0, "{later}");
    back.set(2.0);
    run(&tuner, 30..90);
    assert!(delay.get() < later);
}

#[test]
fn a_builder_names_what_is_wrong() {
    let depth = Cell::new(0.0);
    let unknown = builder(TunerMode::Apply)
        .rule(grow_when_deep())
        .build()
        .unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "rule `deep` needs the signal `depth`, which is not registered; there is no signal"
    );
    let (one, other) = (Cell::new(0.0), Cell::new(0.0));
    let unknown = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .knob(one.knob("pool"))
        .knob(other.knob("queue"))
        .rule(grow_when_deep())
        .build()
        .unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "rule `deep` needs the knob `workers`, which is not registered; the knobs are `pool`, `queue`"
    );
    let twice = builder(TunerMode::Apply)
        .signal(depth.signal("depth"))
        .signal(depth.signal("depth"))
        .build()
        .unwrap_err();
    assert_eq!(
        twice.to_string(),
        "two signals are named `depth`: names must be unique"
    );
    let knob = Knob::new("k", 5.0..=1.0, 1.0, || 0.0, |_| ());
    let range = builder(TunerMode::Apply).knob(knob).build().unwrap_err();
    assert!(range.to_string().contains("its range is 5 to 1"), "{range}");
}

#[tokio::test]
async fn subscribers_hear_every_action_and_the_end() {
    let (_, tuner) = deep(TunerMode::Apply);
    let mut subscription = tuner.subscribe();
    let listener = tokio::spawn(async move {
        let mut heard = 0;
        while subscription.recv().await.is_some() {
            heard += 1;
        }
        (heard, subscription.missed())
    });
    tokio::task::yield_now().await;
    run(&tuner, 0..30);
    let made = tuner.history().len();
    drop(tuner);
    assert_eq!(listener.await.unwrap(), (made, 0));
}

#[test]
fn subscribers_hear_how_a_change_has_turned_out() {
    for (harm, expected) in [
        (false, ActionOutcome::Kept),
        (true, ActionOutcome::RolledBack),
    ] {
        let (workers, pace) = (Cell::new(4.0), Cell::new(100.0));
        let tuner = builder(TunerMode::Apply)
            .signal(Signal::new("depth", || Some(50.0)))
            .signal(pace.signal("pace"))
            .knob(workers.knob("workers"))
            .rule(grow_when_deep().objective(Objective::maximize("pace")))
            .build()
            .unwrap();
        let mut subscription = tuner.subscribe();
        let mut heard = Vec::new();
        for second in 0..60 {
            tuner.tick(Duration::from_secs(second));
            if harm && workers.get() > 4.0 {
                pace.set(10.0);
            }
            heard.extend(std::iter::from_fn(|| subscription.try_recv()));
        }
        let first: Vec<_> = heard
            .iter()
            .filter(|action| action.seq == heard[0].seq)
            .collect();
        assert_eq!(first.len(), 2, "{first:#?}");
        assert_eq!(
            (&first[0].outcome, &first[1].outcome),
            (&ActionOutcome::Pending, &expected)
        );
        assert_eq!(subscription.missed(), 0);
    }
}

/// A rule, and a knob at a value, with what may come of it: a move in the direction of the rule, or none.
#[test]
fn a_knob_outside_of_its_range_is_never_moved_against_the_rule() {
    for (value, by, expected) in [
        (200.0, 1.0, 200.0),
        (200.0, -1.0, 100.0),
        (0.0, -1.0, 0.0),
        (0.0, 1.0, 1.0),
        (100.0, 1.0, 100.0),
        (1.0, -1.0, 1.0),
        (50.0, 1.0, 51.0),
    ] {
        for mode in [TunerMode::Apply, TunerMode::Recommend] {
            let workers = Cell::new(value);
            let rule = Rule::new("deep")
                .when(Condition::above("depth", 10.0))
                .step("workers", by);
            let tuner = builder(mode)
                .signal(Signal::new("depth", || Some(50.0)))
                .knob(workers.knob("workers"))
                .rule(rule)
                .build()
                .unwrap();
            run(&tuner, 0..6);
            let actions = tuner.history();
            if expected == value {
                assert!(actions.is_empty(), "{value} {by}: {actions:?}");
                continue;
            }
            assert_eq!(actions[0].new_value, expected, "{value} {by}: {actions:?}");
            let word = if by > 0.0 { ": raise " } else { ": lower " };
            assert!(actions[0].reason.contains(word), "{}", actions[0].reason);
        }
    }
}

#[test]
fn a_knob_stays_on_its_side_of_another() {
    let (least, most) = (Cell::new(4.0), Cell::new(6.0));
    let grow = |by| {
        Rule::new("deep")
            .when(Condition::above("depth", 10.0))
            .scale("least", by)
    };
    let tuner = builder(TunerMode::Apply)
        .signal(Signal::new("depth", || Some(50.0)))
        .knob(least.knob("least").at_most("most"))
        .knob(most.knob("most").at_least("least"))
        .rule(grow(4.0))
        .build()
        .unwrap();
    run(&tuner, 0..60);
    assert_eq!((least.get(), most.get()), (6.0, 6.0));
    let unknown = builder(TunerMode::Apply).knob(least.knob("least").at_most("nothing"));
    assert!(unknown.build().unwrap_err().to_string().contains("nothing"));
}

#[test]
fn advice_that_is_nearly_the_same_is_said_once() {
    let (workers, refused) = (Cell::new(30.0), Cell::new(240.0));
    let rule = Rule::new("short")
        .when(Condition::above("refused", 10.0))
        .meet("workers", "refused", "answered");
    let tuner = builder(TunerMode::Recommend)
        .signal(refused.signal("refused"))
        .signal(Signal::new("answered", || Some(100.0)))
        .knob(workers.knob("workers"))
        .rule(rule)
        .build()
        .unwrap();
    for second in 0..600 {
        // 103, 102, 105 workers, and so on.
        refused.set(240.0 + [0.0, -4.0, 6.0, 9.0, -9.0][second as usize % 5]);
        tuner.tick(Duration::from_secs(second));
    }
    assert_eq!(tuner.history().len(), 1, "{:#?}", tuner.history());
    // Another situation is another advice.
    refused.set(20.0);
    run(&tuner, 600..660);
    assert_eq!(tuner.history().len(), 2, "{:#?}", tuner.history());
    workers.set(36.0);
    refused.set(240.0);
    run(&tuner, 660..720);
    assert_eq!(tuner.history().len(), 3, "{:#?}", tuner.history());
}

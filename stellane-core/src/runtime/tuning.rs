//! What the tuner sees, and what it may turn: the adapters between the components.

use std::{ops::RangeInclusive, time::Duration};

use stellane_autotune::{
    AdaptiveLimit, AutoTuner, BuildError, Clock, Knob, LimitConfig, Rule, Signal, TunerConfig,
    names,
};
use stellane_metrics::{Machine, RuntimeMetrics};
use stellane_pool::{PoolConfig, Pools};
#[cfg(feature = "workers")]
use stellane_pool::{WorkerPool, WorkerPoolConfig};

use crate::connection::{ConnectionConfig, ConnectionManager};
#[cfg(feature = "admin")]
use stellane_autotune::TunerMode;

pub(super) struct Parts<'a> {
    pub(super) connections: &'a ConnectionManager,
    pub(super) limit: &'a AdaptiveLimit,
    #[cfg(feature = "workers")]
    pub(super) workers: &'a WorkerPool,
    pub(super) pools: &'a Pools,
    pub(super) metrics: &'a RuntimeMetrics,
}

pub(super) fn tuner(config: &TunerConfig, parts: &Parts<'_>) -> Result<AutoTuner, BuildError> {
    let builder = signals(parts).into_iter().fold(
        AutoTuner::builder(),
        stellane_autotune::AutoTunerBuilder::signal,
    );
    #[cfg(feature = "workers")]
    let builder = builder
        .knob(min_workers(parts.workers))
        .knob(max_workers(parts.workers))
        .knob(queue_size(parts.workers));
    let tuner = builder
        .knob(retain_percent(parts.pools))
        .knob(idle_timeout(parts.connections))
        .knob(max_limit(parts.limit))
        .config(config.clone())
        .clock(Clock::tokio())
        .build()?;
    let knobs = tuner.stats().knobs.into_iter().map(|knob| knob.name);
    check(&AutoTuner::default_rules(), knobs.collect())?;
    Ok(tuner)
}

/// The tuner leaves out what a rule would turn and nobody made. Here all are made: one that is missing is a rule that never
/// does what it says.
fn check(rules: &[Rule], known: Vec<String>) -> Result<(), BuildError> {
    #[cfg(feature = "workers")]
    let left_out: [&str; 0] = [];
    #[cfg(not(feature = "workers"))]
    let left_out = [names::WORKERS_MIN, names::WORKERS_MAX, names::QUEUE_BOUND];
    for rule in rules {
        let is_there = |name: &str| known.iter().any(|known| known == name);
        let mut named = rule.knobs();
        let missing = named.find(|name| !is_there(name) && !left_out.contains(name));
        if let Some(name) = missing {
            return Err(BuildError::Unknown {
                what: "knob",
                name: name.to_owned(),
                rule: rule.name().to_owned(),
                known,
            });
        }
    }
    Ok(())
}

/// Each says what happened since the tick before: an average over a longer time would judge a change by
/// what was before it.
fn signals(parts: &Parts<'_>) -> Vec<Signal> {
    let metrics = parts.metrics;
    let cpus = Machine::read().cpus;
    let (fresh, answered, refused) = (metrics.clone(), parts.limit.clone(), metrics.clone());
    let limit = parts.limit.clone();
    let signals = [
        // The first signal: what the others read is as old as this. A counter may rightly stand still
        // for hours, in a service that nobody asks.
        Signal::counter(names::CPU, move || {
            Some(fresh.collect().cpu_time.as_secs_f64() / cpus)
        })
        .stuck_after(0),
        parts.limit.latency_signal(names::LATENCY_P99, 0.99),
        Signal::new(names::MEMORY, Machine::memory_used),
        Signal::counter(names::THROUGHPUT, move || {
            Some(answered.stats().successes as f64)
        })
        .stuck_after(0)
        .unit("/s"),
        Signal::counter(names::SHED_RATE, move || {
            Some(refused.snapshot().shed_total.values().sum::<u64>() as f64)
        })
        .stuck_after(0)
        .unit("/s"),
        Signal::new(names::LIMIT, move || Some(f64::from(limit.stats().limit))),
    ];
    #[cfg(feature = "workers")]
    let workers = of_workers(parts.workers);
    #[cfg(not(feature = "workers"))]
    let workers = [];
    signals.into_iter().chain(workers).collect()
}

#[cfg(feature = "workers")]
fn of_workers(workers: &WorkerPool) -> [Signal; 5] {
    let [depth, busy, running, shed, done] = std::array::from_fn(|_| workers.clone());
    [
        Signal::new(names::QUEUE_DEPTH, move || {
            Some(depth.stats().queue_depth as f64)
        }),
        Signal::new(names::WORKER_UTILIZATION, move || {
            let stats = busy.stats();
            Some(stats.active as f64 / stats.max_workers as f64)
        }),
        Signal::new(names::WORKERS_BUSY, move || {
            let stats = running.stats();
            let running = stats.active + stats.idle;
            (running > 0).then(|| stats.active as f64 / running as f64)
        }),
        Signal::counter(names::QUEUE_SHED_RATE, move || {
            Some(shed.stats().shed as f64)
        })
        .stuck_after(0)
        .unit("/s"),
        Signal::counter(names::JOB_RATE, move || Some(done.stats().completed as f64))
            .stuck_after(0)
            .unit("/s"),
    ]
}

/// A knob whose range is that of its key in the configuration.
fn knob<T: Into<f64>>(
    name: &'static str,
    range: RangeInclusive<T>,
    step: f64,
    get: impl Fn() -> f64 + Send + Sync + 'static,
    set: impl Fn(f64) + Send + Sync + 'static,
) -> Knob {
    let (low, high) = range.into_inner();
    Knob::new(name, low.into()..=high.into(), step, get, set)
}

#[cfg(feature = "workers")]
fn min_workers(workers: &WorkerPool) -> Knob {
    let (get, set) = (workers.clone(), workers.clone());
    knob(
        names::WORKERS_MIN,
        count(WorkerPoolConfig::WORKERS),
        1.0,
        move || get.stats().min_workers as f64,
        move |value| set.set_min_workers(value as usize),
    )
    .at_most(names::WORKERS_MAX)
    .unit(" workers")
}

#[cfg(feature = "workers")]
fn max_workers(workers: &WorkerPool) -> Knob {
    let (get, set) = (workers.clone(), workers.clone());
    knob(
        names::WORKERS_MAX,
        count(WorkerPoolConfig::WORKERS),
        1.0,
        move || get.stats().max_workers as f64,
        move |value| set.set_max_workers(value as usize),
    )
    .at_least(names::WORKERS_MIN)
    .unit(" workers")
}

#[cfg(feature = "workers")]
fn queue_size(workers: &WorkerPool) -> Knob {
    let (get, set) = (workers.clone(), workers.clone());
    knob(
        names::QUEUE_BOUND,
        count(WorkerPoolConfig::QUEUE_SIZE),
        1.0,
        move || get.stats().queue_size as f64,
        move |value| set.set_queue_size(value as usize),
    )
    .unit(" jobs")
}

fn retain_percent(pools: &Pools) -> Knob {
    let (get, set) = (pools.clone(), pools.clone());
    knob(
        names::POOL_RETAIN,
        count(PoolConfig::RETAIN_PERCENT),
        5.0,
        move || get.retain_percent() as f64,
        move |value| set.set_retain_percent(value as usize),
    )
    .unit("%")
}

fn idle_timeout(connections: &ConnectionManager) -> Knob {
    let (get, set) = (connections.clone(), connections.clone());
    // `0s` is off: nothing that a tuner may turn to.
    let most = ConnectionConfig::TIMES.end().as_secs_f64();
    knob(
        names::IDLE_TIMEOUT,
        1.0..=most,
        1.0,
        move || get.config().idle_timeout.as_secs_f64(),
        move |value| set.set_idle_timeout(Duration::from_secs_f64(value.max(1.0))),
    )
    .unit("s")
}

fn max_limit(limit: &AdaptiveLimit) -> Knob {
    let (get, set) = (limit.clone(), limit.clone());
    knob(
        names::LIMIT_MAX,
        LimitConfig::MAX,
        1.0,
        move || f64::from(get.stats().max),
        move |value| set.set_max(value as u32),
    )
    .unit(" requests")
}

/// As numbers of a knob.
fn count(range: RangeInclusive<usize>) -> RangeInclusive<f64> {
    *range.start() as f64..=*range.end() as f64
}

/// The keys of the configuration that the knobs turn.
#[cfg(feature = "admin")]
const KEYS: [(&str, &str); 6] = [
    (names::WORKERS_MIN, "workers.min_workers"),
    (names::WORKERS_MAX, "workers.max_workers"),
    (names::QUEUE_BOUND, "workers.queue_size"),
    (names::POOL_RETAIN, "pool.retain_percent"),
    (names::IDLE_TIMEOUT, "connection.idle_timeout"),
    (names::LIMIT_MAX, "limit.max"),
];

/// Whether the tuner has given this value to the knob of the key.
#[cfg(feature = "admin")]
pub(super) fn has_turned(tuner: &AutoTuner, key: &str, value: &toml::Value) -> bool {
    let Some((knob, _)) = KEYS.iter().find(|(_, of)| *of == key) else {
        return false;
    };
    let value = match value {
        toml::Value::String(time) => humantime_serde::re::humantime::parse_duration(time)
            .ok()
            .map(|time| time.as_secs_f64()),
        value => value.as_integer().map(|n| n as f64),
    };
    let history = tuner.history();
    let mut actions = history.iter().rev();
    let last = actions.find(|one| one.parameter == *knob && one.mode == TunerMode::Apply);
    last.is_some_and(|last| value == Some(last.new_value))
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "admin")]
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_rule_for_a_knob_that_nobody_made_is_an_error_that_names_those_there_are() {
        let rules = AutoTuner::default_rules();
        let all = rules.iter().flat_map(Rule::knobs).map(str::to_owned);
        let all: std::collections::BTreeSet<_> = all.collect();
        let all: Vec<_> = all.into_iter().collect();
        check(&rules, all.clone()).expect("all are there");
        for name in [names::POOL_RETAIN, names::IDLE_TIMEOUT, names::LIMIT_MAX] {
            let others: Vec<_> = all.iter().filter(|one| *one != name).cloned().collect();
            let error = check(&rules, others.clone()).expect_err(name).to_string();
            assert!(
                error.contains(&format!("needs the knob `{name}`")),
                "{error}"
            );
            let listed = format!("the knobs are `{}`", others.join("`, `"));
            assert!(error.contains(&listed), "{error}");
        }
    }

    #[cfg(feature = "admin")]
    #[test]
    fn a_key_is_the_tuners_as_long_as_it_has_the_value_that_the_tuner_gave_to_its_knob() {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

        use stellane_autotune::Condition;

        let shown = |key: &str, value: f64| match key {
            "connection.idle_timeout" => toml::Value::String(format!("{value}s")),
            _ => toml::Value::Integer(value as i64),
        };
        for (knob, key) in KEYS {
            for mode in [TunerMode::Apply, TunerMode::Recommend] {
                let mut config = TunerConfig::default();
                config.mode = mode;
                let asked = Signal::new("asked", || Some(1.0));
                let turn = Rule::new("turn").when(Condition::above("asked", 0.5));
                let builder = AutoTuner::builder().config(config).signal(asked);
                let builder = builder.rule(turn.step(knob, 1.0));
                let builder = KEYS.iter().fold(builder, |builder, (name, _)| {
                    let cell = Arc::new(AtomicU64::new(5));
                    let (get, set) = (Arc::clone(&cell), cell);
                    let get = move || get.load(Relaxed) as f64;
                    let set = move |value| set.store(value as u64, Relaxed);
                    builder.knob(Knob::new(*name, 1.0..=100.0, 1.0, get, set))
                });
                let tuner = builder.build().unwrap();
                for second in 1..20 {
                    tuner.tick(Duration::from_secs(second));
                }
                let value = tuner.history().last().expect("it acts").new_value;
                for (_, other) in KEYS {
                    let is_turned = has_turned(&tuner, other, &shown(other, value));
                    let expected = other == key && mode == TunerMode::Apply;
                    assert_eq!(is_turned, expected, "{other} for {key}, {mode:?}");
                }
                assert!(!has_turned(&tuner, key, &shown(key, value + 1.0)), "{key}");
                assert!(!has_turned(&tuner, "pool.enabled", &shown(key, value)));
            }
        }
    }
}

//! The tuner of the preset: its knobs, their ranges, and the rules that turn them.
#![cfg(feature = "full")]

use std::collections::BTreeSet;

use stellane_core::{
    autotune::{AutoTuner, names},
    config::RuntimeConfig,
    runtime::Components,
};
use toml::{Table, Value};

const KEYS: [(&str, &str); 6] = [
    (names::WORKERS_MIN, "workers.min_workers"),
    (names::WORKERS_MAX, "workers.max_workers"),
    (names::QUEUE_BOUND, "workers.queue_size"),
    (names::POOL_RETAIN, "pool.retain_percent"),
    (names::IDLE_TIMEOUT, "connection.idle_timeout"),
    (names::LIMIT_MAX, "limit.max"),
];

fn tuner(config: &RuntimeConfig) -> AutoTuner {
    Components::new(config).expect("starts").tuner
}

#[tokio::test]
async fn every_knob_that_a_rule_turns_is_there() {
    let stats = tuner(&RuntimeConfig::default()).stats();
    let made: BTreeSet<_> = stats.knobs.iter().map(|knob| knob.name.as_str()).collect();
    let rules = AutoTuner::default_rules();
    let named: BTreeSet<_> = rules.iter().flat_map(|rule| rule.knobs()).collect();
    assert_eq!(made, named);
    assert_eq!(made, KEYS.iter().map(|(knob, _)| *knob).collect());
}

/// The configuration with this value of a key, if it is valid.
fn with(key: &str, value: f64) -> Option<RuntimeConfig> {
    let mut base = RuntimeConfig::default();
    // What another key has to leave room for.
    base.workers.max_workers = 65_536;
    base.limit.min = 1;
    if key == "workers.max_workers" {
        base.workers.min_workers = 1;
    }
    let mut table = Table::try_from(base).expect("serialises");
    let (section, name) = key.split_once('.').expect("a section");
    let value = match &table[section][name] {
        Value::String(_) => Value::String(format!("{value}s")),
        _ => Value::Integer(value as i64),
    };
    table[section].as_table_mut().expect("a section")[name] = value;
    let config: RuntimeConfig = table.try_into().ok()?;
    config.validate().is_ok().then_some(config)
}

#[tokio::test]
async fn the_range_of_a_knob_is_that_of_its_key() {
    let stats = tuner(&RuntimeConfig::default()).stats();
    for (knob, key) in KEYS {
        let knob = stats.knobs.iter().find(|one| one.name == knob).expect(knob);
        assert!(with(key, knob.min).is_some(), "{key} = {}", knob.min);
        assert!(with(key, knob.max).is_some(), "{key} = {}", knob.max);
        assert!(
            with(key, knob.max + 1.0).is_none(),
            "{key} = {} is valid too",
            knob.max + 1.0
        );
        // For a time 0 is valid, and off.
        if knob.min > 0.0 && key != "connection.idle_timeout" {
            assert!(
                with(key, knob.min - 1.0).is_none(),
                "{key} = {} is valid too",
                knob.min - 1.0
            );
        }
    }
}

#[tokio::test]
async fn every_profile_begins_within_the_ranges() {
    for config in [
        RuntimeConfig::default(),
        RuntimeConfig::development(),
        // As from 11 CPUs on.
        RuntimeConfig::production().with(|config| config.workers.max_workers = 6400),
    ] {
        let tuner = tuner(&config);
        tuner.tick(std::time::Duration::from_secs(1));
        for knob in tuner.stats().knobs {
            let value = knob.value.expect("read");
            assert!(
                (knob.min..=knob.max).contains(&value),
                "{} is {value}",
                knob.name
            );
        }
    }
}

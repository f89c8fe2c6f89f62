//! What the tuner sees, and what it may turn: the adapters between the components.

use std::time::Duration;

use stellane_autotune::{
    AdaptiveLimit, AutoTuner, BuildError, Clock, Knob, Signal, TunerConfig, names,
};
use stellane_metrics::{RuntimeMetrics, RuntimeSnapshot};
use stellane_pool::{Pools, WorkerPool};

use crate::connection::ConnectionManager;

pub(super) struct Parts<'a> {
    pub(super) connections: &'a ConnectionManager,
    pub(super) limit: &'a AdaptiveLimit,
    pub(super) workers: &'a WorkerPool,
    pub(super) pools: &'a Pools,
    pub(super) metrics: &'a RuntimeMetrics,
}

pub(super) fn tuner(config: &TunerConfig, parts: &Parts<'_>) -> Result<AutoTuner, BuildError> {
    signals(parts)
        .into_iter()
        .fold(
            AutoTuner::builder(),
            stellane_autotune::AutoTunerBuilder::signal,
        )
        .knob(max_workers(parts.workers))
        .knob(queue_size(parts.workers))
        .knob(retain_percent(parts.pools))
        .knob(idle_timeout(parts.connections))
        .knob(max_limit(parts.limit))
        .config(config.clone())
        .clock(Clock::tokio())
        .build()
}

fn signals(parts: &Parts<'_>) -> Vec<Signal> {
    let metrics = parts.metrics;
    let read = |read: fn(&RuntimeSnapshot) -> Option<f64>| {
        let metrics = metrics.clone();
        move || read(&metrics.snapshot())
    };
    vec![
        Signal::new(
            names::LATENCY_P99,
            read(|s| (s.requests_per_second > 0.0).then(|| s.latency_p99.as_secs_f64())),
        )
        .unit("s"),
        Signal::new(names::QUEUE_DEPTH, read(|s| Some(s.queue_depth as f64))),
        Signal::new(
            names::WORKER_UTILIZATION,
            read(|s| {
                let workers = s.workers_active + s.workers_idle;
                (workers > 0).then(|| s.workers_active as f64 / workers as f64)
            }),
        ),
        Signal::new(names::CPU, read(|s| Some(s.cpu_usage / cpus(s)))),
        Signal::new(names::MEMORY, read(memory)),
        Signal::new(names::THROUGHPUT, read(|s| Some(s.requests_per_second))).unit("/s"),
        // May rightly stand still for hours.
        Signal::counter(
            names::SHED_RATE,
            read(|s| Some(s.shed_total.values().sum::<u64>() as f64)),
        )
        .stuck_after(0)
        .unit("/s"),
    ]
}

/// How many CPUs the process may use.
fn cpus(snapshot: &RuntimeSnapshot) -> f64 {
    if snapshot.cgroup_cpu_limit > 0.0 {
        return snapshot.cgroup_cpu_limit;
    }
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// Memory in use as a fraction of the container's limit; none without a container.
fn memory(snapshot: &RuntimeSnapshot) -> Option<f64> {
    let limit = snapshot.cgroup_memory_limit;
    (limit > 0).then(|| snapshot.rss as f64 / limit as f64)
}

fn max_workers(workers: &WorkerPool) -> Knob {
    let (get, set) = (workers.clone(), workers.clone());
    Knob::new(
        names::WORKERS_MAX,
        1.0..=1024.0,
        1.0,
        move || get.stats().max_workers as f64,
        move |value| set.set_max_workers(value as usize),
    )
    .unit(" workers")
}

fn queue_size(workers: &WorkerPool) -> Knob {
    let (get, set) = (workers.clone(), workers.clone());
    Knob::new(
        names::QUEUE_BOUND,
        1.0..=1_000_000.0,
        1.0,
        move || get.stats().queue_size as f64,
        move |value| set.set_queue_size(value as usize),
    )
    .unit(" jobs")
}

fn retain_percent(pools: &Pools) -> Knob {
    let (get, set) = (pools.clone(), pools.clone());
    Knob::new(
        names::POOL_RETAIN,
        0.0..=200.0,
        5.0,
        move || get.retain_percent() as f64,
        move |value| set.set_retain_percent(value as usize),
    )
    .unit("%")
}

fn idle_timeout(connections: &ConnectionManager) -> Knob {
    let (get, set) = (connections.clone(), connections.clone());
    Knob::new(
        names::IDLE_TIMEOUT,
        1.0..=3600.0,
        1.0,
        move || get.config().idle_timeout.as_secs_f64(),
        move |value| set.set_idle_timeout(Duration::from_secs_f64(value.max(1.0))),
    )
    .unit("s")
}

fn max_limit(limit: &AdaptiveLimit) -> Knob {
    let (get, set) = (limit.clone(), limit.clone());
    Knob::new(
        names::LIMIT_MAX,
        1.0..=100_000.0,
        1.0,
        move || f64::from(get.stats().max),
        move |value| set.set_max(value as u32),
    )
    .unit(" requests")
}

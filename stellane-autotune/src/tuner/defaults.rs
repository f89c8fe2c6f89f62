//! The rules that come with the tuner.

use super::{Condition, Objective, Rule};

/// The names that the default rules look for. A rule whose signals and at least one of whose knobs
/// are registered under these names is used; the others are left out.
pub mod names {
    /// Signal: the median of the latency, in seconds. No default rule asks for it.
    pub const LATENCY_P50: &str = "latency_p50";
    /// Signal: the 99th percentile of the latency, in seconds.
    pub const LATENCY_P99: &str = "latency_p99";
    /// Signal: jobs that wait for a worker.
    pub const QUEUE_DEPTH: &str = "queue_depth";
    /// Signal: busy workers as a fraction of how many there may be, [`WORKERS_MAX`].
    pub const WORKER_UTILIZATION: &str = "worker_utilization";
    /// Signal: busy workers as a fraction of those that run.
    pub const WORKERS_BUSY: &str = "workers_busy";
    /// Signal: process CPU as a fraction of what the process may use.
    pub const CPU: &str = "cpu";
    /// Signal: memory in use as a fraction of its limit.
    pub const MEMORY: &str = "memory";
    /// Signal: requests answered per second; refusals are no answers.
    pub const THROUGHPUT: &str = "throughput";
    /// Signal: requests refused per second, for any reason.
    pub const SHED_RATE: &str = "shed_rate";
    /// Signal: requests that failed per second. No default rule asks for it.
    pub const ERROR_RATE: &str = "error_rate";
    /// Signal: requests that are neither answered nor gone. No default rule asks for it.
    pub const IN_FLIGHT: &str = "in_flight";
    /// Signal: jobs refused per second because the queue of the workers was full.
    pub const QUEUE_SHED_RATE: &str = "queue_shed_rate";
    /// Signal: jobs that the workers finished per second.
    pub const JOB_RATE: &str = "job_rate";
    /// Signal: the concurrency limit in force.
    pub const LIMIT: &str = "limit";
    /// Knob: how many workers there may be.
    pub const WORKERS_MAX: &str = "workers.max";
    /// Knob: how many workers always run.
    pub const WORKERS_MIN: &str = "workers.min";
    /// Knob: how many jobs may wait.
    pub const QUEUE_BOUND: &str = "workers.queue";
    /// Knob: idle pooled memory that may stay, in per cent of the live.
    pub const POOL_RETAIN: &str = "pool.retain_percent";
    /// Knob: how long a connection may be idle, in seconds.
    pub const IDLE_TIMEOUT: &str = "connection.idle_timeout";
    /// Knob: the highest concurrency limit.
    pub const LIMIT_MAX: &str = "limit.max";
}

use names::*;

/// Rules for memory, workers, queue and limit, and those that undo them when the pressure is gone.
pub(super) fn rules() -> Vec<Rule> {
    vec![
        Rule::new("memory_critical")
            .because("memory is nearly exhausted")
            .when(Condition::above(MEMORY, 0.95).clear_at(0.90))
            .towards(POOL_RETAIN, 0.0)
            .scale(QUEUE_BOUND, 0.5)
            .scale(IDLE_TIMEOUT, 0.5)
            .scale(LIMIT_MAX, 0.8)
            .hold(1)
            .priority(100)
            .urgent(),
        Rule::new("memory_high")
            .because("memory runs short")
            .when(Condition::above(MEMORY, 0.85).clear_at(0.80))
            .scale(POOL_RETAIN, 0.5)
            .scale(IDLE_TIMEOUT, 0.7)
            .priority(90)
            .urgent(),
        Rule::new("memory_pressure")
            .because("memory fills up")
            .when(Condition::above(MEMORY, 0.70).clear_at(0.65))
            .scale(POOL_RETAIN, 0.8)
            .hold(3)
            .priority(80),
        Rule::new("slow_and_queued")
            .because("latency is high and the queue is deep")
            .when(Condition::above(LATENCY_P99, 0.005))
            .when(Condition::above_times(QUEUE_DEPTH, 2.0, WORKERS_MAX))
            .when(Condition::below(CPU, 0.95))
            .scale(WORKERS_MAX, 2.0)
            .objective(Objective::minimize(LATENCY_P99))
            .priority(50),
        Rule::new("workers_short")
            .because("all workers are busy and requests are refused while there is CPU to spare")
            .when(Condition::above(WORKER_UTILIZATION, 0.90))
            .when(refusing())
            .when(Condition::below(CPU, 0.80))
            .meet(WORKERS_MAX, SHED_RATE, THROUGHPUT)
            .objective(Objective::maximize(JOB_RATE))
            .priority(48),
        Rule::new("workers_late")
            .because("jobs wait for busy workers although there may be more")
            .when(Condition::above(WORKERS_BUSY, 0.90))
            .when(Condition::above_times(QUEUE_DEPTH, 0.5, WORKERS_MIN))
            .when(Condition::below_times(WORKERS_MIN, 0.90, WORKERS_MAX))
            .when(Condition::below(CPU, 0.80))
            .scale(WORKERS_MIN, 4.0)
            .objective(Objective::maximize(JOB_RATE))
            .priority(46),
        // A limit that holds the queue short hides that jobs would wait.
        Rule::new("workers_held_back")
            .because("all workers are busy and requests are refused although there may be more workers")
            .when(Condition::above(WORKERS_BUSY, 0.90))
            .when(refusing())
            .when(Condition::below_times(WORKERS_MIN, 0.90, WORKERS_MAX))
            .when(Condition::below(CPU, 0.80))
            .scale(WORKERS_MIN, 4.0)
            .objective(Objective::maximize(JOB_RATE))
            .priority(44),
        Rule::new("queue_short")
            .because("the queue refuses jobs while there are workers and CPU to spare")
            .when(Condition::above_times(QUEUE_SHED_RATE, 0.01, THROUGHPUT))
            .when(Condition::below(WORKER_UTILIZATION, 0.90))
            .when(Condition::below(CPU, 0.80))
            .when(Condition::below(MEMORY, 0.70))
            .meet(QUEUE_BOUND, QUEUE_SHED_RATE, JOB_RATE)
            .objective(Objective::maximize(JOB_RATE))
            .priority(45),
        Rule::new("limit_short")
            .because("the limit is as high as it may be and refuses requests while there is CPU to spare")
            .when(refusing())
            .when(Condition::above_times(LIMIT, 0.90, LIMIT_MAX))
            .when(Condition::below(CPU, 0.80))
            .when(Condition::below(MEMORY, 0.70))
            .meet(LIMIT_MAX, SHED_RATE, THROUGHPUT)
            .objective(Objective::maximize(THROUGHPUT))
            .priority(40),
        Rule::new("workers_idle")
            .because("most workers have nothing to do")
            .when(Condition::below(WORKER_UTILIZATION, 0.30))
            .when(Condition::below(QUEUE_DEPTH, 1.0))
            .step(WORKERS_MIN, -1.0)
            .step(WORKERS_MAX, -1.0)
            .hold(30)
            .objective(Objective::minimize(LATENCY_P99))
            .priority(-10),
        Rule::new("memory_ample")
            .because("there is memory to spare")
            .when(Condition::below(MEMORY, 0.50))
            .when(Condition::below(POOL_RETAIN, 50.0))
            .scale(POOL_RETAIN, 1.25)
            .hold(30)
            .priority(-20),
    ]
}

/// More than one of a hundred requests.
fn refusing() -> Condition {
    Condition::above_times(SHED_RATE, 0.01, THROUGHPUT)
}

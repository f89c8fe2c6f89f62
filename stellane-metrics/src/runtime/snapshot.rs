//! Everything known about a server at one moment.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

/// Counters by a label.
pub(crate) type ByLabel = BTreeMap<Cow<'static, str>, u64>;

/// Everything known about a server at one moment.
///
/// Totals count since the start; rates, averages and percentiles are those of
/// [`MetricsConfig::window`](crate::MetricsConfig). Durations are serialised in seconds, sizes in bytes.
/// What no component reports is zero.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuntimeSnapshot {
    /// Time since the collector was built.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub uptime: Duration,

    /// Requests that ended, in whatever way.
    pub requests_total: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Requests that started and did not end yet.
    pub requests_in_flight: u64,
    /// Requests whose future or body was dropped before its end.
    pub requests_cancelled_total: u64,
    /// Requests that ended in a 5xx, an error or a panic.
    pub requests_failed_total: u64,
    /// Mean duration to the end of the response body.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_avg: Duration,
    /// Median duration to the end of the response body.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_p50: Duration,
    /// 90th percentile.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_p90: Duration,
    /// 99th percentile.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_p99: Duration,
    /// 99.9th percentile.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_p999: Duration,
    /// Median duration to the head of the response: what the server does, not what the client takes to read.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_head_p50: Duration,
    /// 99th percentile of the same.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub latency_head_p99: Duration,
    /// Requests of the last tick per factor of two of duration: the n-th counts those below 2^n · 64 µs; a row of the heat map.
    pub latency_heat: Vec<u64>,

    /// Worker threads that run a job.
    pub workers_active: u64,
    /// Worker threads that wait.
    pub workers_idle: u64,
    /// Jobs that wait for a worker.
    pub queue_depth: u64,
    /// 99th percentile of the time a job waits for a worker.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub queue_wait_p99: Duration,
    /// Jobs that a worker took from another one.
    pub jobs_stolen_total: u64,

    /// Bytes the allocator has handed out if a hook tells, else anonymous resident memory.
    pub heap_size: u64,
    /// Resident memory.
    pub rss: u64,
    /// Idle bytes kept in pools.
    pub pool_retained_bytes: u64,
    /// Checkouts that a pool could serve.
    pub pool_hits: u64,
    /// Checkouts that had to allocate.
    pub pool_misses: u64,
    /// How often idle memory was given back.
    pub memory_trims: u64,
    /// How long the last trim took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub trim_pause: Duration,

    /// Connections with a request in flight.
    pub connections_active: u64,
    /// Connections that wait for a request.
    pub connections_idle: u64,
    /// Idle connections that were taken apart to their socket.
    pub connections_parked: u64,
    /// Connections accepted since the start.
    pub connections_total: u64,
    /// Connections accepted per second.
    pub connections_per_second: f64,
    /// Connections closed since the start, by reason.
    pub connections_closed_total: ByLabel,

    /// Strings in the interner.
    pub interner_entries: u64,
    /// Bytes of these strings.
    pub interner_bytes: u64,
    /// Strings that were not interned.
    pub interner_bypassed: u64,

    /// The concurrency limit at the edge; zero means none.
    pub limit: u64,
    /// Requests refused, by reason.
    pub shed_total: ByLabel,
    /// Changes made by the tuner, by parameter.
    pub tuning_actions_total: ByLabel,

    /// CPU time of the process, user and system.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub cpu_time: Duration,
    /// CPU time per second of wall-clock time: 1.5 means one core and a half.
    pub cpu_usage: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The limit of open file descriptors.
    pub max_fds: u64,
    /// Threads of the process.
    pub threads: u64,
    /// The memory limit of the container; zero means none.
    pub cgroup_memory_limit: u64,
    /// The CPU limit of the container in cores; zero means none.
    pub cgroup_cpu_limit: f64,

    /// Worker threads of the tokio runtime.
    pub tokio_workers: u64,
    /// Tasks alive in the tokio runtime.
    pub tokio_alive_tasks: u64,
    /// Tasks in the global queue of the tokio runtime: when this grows, the server is overloaded.
    pub tokio_queue_depth: u64,
    /// Share of the time in which the tokio workers were busy, 0 to 1.
    pub tokio_busy_ratio: f64,

    /// Whether the load has outgrown the thresholds at which an accelerated engine pays.
    pub migration: MigrationReadiness,
}

/// The indicators by which to consider an accelerated engine.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MigrationReadiness {
    /// More than 400 000 requests per second.
    pub performance_ceiling: ReadinessCheck,
    /// A 99th percentile under 1 ms is demanded, and not met: the value is in seconds. Without traffic it is not reached.
    pub latency: ReadinessCheck,
    /// More than 80% of the memory that the container, or the machine, has.
    pub memory: ReadinessCheck,
    /// More than 80% of the cores that the container, or the machine, has.
    pub cpu: ReadinessCheck,
    /// More than 10 000 connections.
    pub scale: ReadinessCheck,
    /// How many of the indicators are reached.
    pub reached: u8,
}

/// One indicator.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReadinessCheck {
    /// What is measured.
    pub value: f64,
    /// From where on the indicator is reached.
    pub threshold: f64,
    /// Whether it is.
    pub reached: bool,
}

impl ReadinessCheck {
    fn new(value: f64, threshold: f64) -> Self {
        Self {
            value,
            threshold,
            reached: value > threshold && threshold > 0.0,
        }
    }
}

impl RuntimeSnapshot {
    /// Fills in [`migration`](Self::migration) from the other fields.
    pub(super) fn judge(&mut self, memory: u64, cores: f64) {
        let connections = self.connections_active + self.connections_idle + self.connections_parked;
        let mut migration = MigrationReadiness {
            performance_ceiling: ReadinessCheck::new(self.requests_per_second, 400_000.0),
            latency: ReadinessCheck::new(self.latency_p99.as_secs_f64(), 0.001),
            memory: ReadinessCheck::new(self.rss as f64, memory as f64 * 0.8),
            cpu: ReadinessCheck::new(self.cpu_usage, cores * 0.8),
            scale: ReadinessCheck::new(connections as f64, 10_000.0),
            reached: 0,
        };
        let all = [
            migration.performance_ceiling,
            migration.latency,
            migration.memory,
            migration.cpu,
            migration.scale,
        ];
        migration.reached = all.iter().filter(|check| check.reached).count() as u8;
        self.migration = migration;
    }
}

/// Serialises a duration in seconds.
#[cfg(feature = "serde")]
pub(crate) fn seconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

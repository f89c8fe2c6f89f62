//! Everything known about a server at one moment.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use crate::RouteStats;

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
    /// The same per second: never more than [`requests_per_second`](Self::requests_per_second).
    pub requests_failed_per_second: f64,
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
    /// Connections that were handed over to another protocol.
    pub connections_upgraded: u64,
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
    /// What the limit does and why, in a sentence such as `limiting at 48: throughput flat at 1590/s`; empty without
    /// one.
    pub limit_state: String,
    /// Requests that have a place under the limit.
    pub limit_in_flight: u64,
    /// Requests that wait for one.
    pub limit_waiting: u64,
    /// Requests refused, by reason.
    pub shed_total: ByLabel,
    /// All of them per second.
    pub shed_per_second: f64,
    /// Changes made by the tuner, by parameter.
    pub tuning_actions_total: ByLabel,

    /// Threads of the runtimes that a handler holds now, by route.
    pub threads_held: ByLabel,
    /// How often a handler has held a thread of the runtimes for too long, by route.
    pub thread_holds_total: ByLabel,
    /// For how many seconds handlers have held threads whose place another thread took, by route, of those that are over.
    pub thread_held_seconds_total: BTreeMap<Cow<'static, str>, f64>,
    /// How often a background task was started again after a panic, by task.
    pub background_restarts_total: ByLabel,

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

    /// Worker threads of the tokio runtime, and of other [executors](crate::RuntimeMetrics::add_executor).
    pub tokio_workers: u64,
    /// Tasks alive there.
    pub tokio_alive_tasks: u64,
    /// Tasks in their global queues: when this grows, the server is overloaded.
    pub tokio_queue_depth: u64,
    /// Share of the time in which these workers were busy, 0 to 1.
    pub tokio_busy_ratio: f64,

    /// What somebody should know now, in words; empty while all is well.
    pub warnings: Vec<String>,

    /// Whether the load has outgrown the thresholds at which an accelerated engine pays.
    pub acceleration: Acceleration,
}

/// The indicators by which to consider an accelerated engine.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Acceleration {
    /// More than 400 000 requests per second.
    pub performance_ceiling: Threshold,
    /// A 99th percentile under 1 ms is demanded, and not met: the value is in seconds. Without traffic it is not reached.
    pub latency: Threshold,
    /// More than 80% of the memory that the container, or the machine, has.
    pub memory: Threshold,
    /// More than 80% of the cores that the container, or the machine, has.
    pub cpu: Threshold,
    /// More than 10 000 connections.
    pub scale: Threshold,
    /// How many of the indicators are reached.
    pub reached: u8,
    /// What to change, with the figures that speak for it; empty while nothing does.
    pub advice: Vec<Advice>,
}

/// A change that the figures of a server speak for.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Advice {
    /// What to change, as it stands in the configuration: `engine.kind = "per_core"`.
    pub change: &'static str,
    /// The figures.
    pub reason: String,
}

/// One indicator.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Threshold {
    /// What is measured.
    pub value: f64,
    /// From where on the indicator is reached.
    pub threshold: f64,
    /// Whether it is.
    pub reached: bool,
}

impl Threshold {
    fn new(value: f64, threshold: f64) -> Self {
        Self {
            value,
            threshold,
            reached: value > threshold && threshold > 0.0,
        }
    }
}

impl RuntimeSnapshot {
    /// Fills in [`acceleration`](Self::acceleration) from the other fields.
    pub(super) fn judge(
        &mut self,
        memory: u64,
        cores: f64,
        routes: impl FnOnce() -> Vec<RouteStats>,
    ) {
        let connections = self.connections_active
            + self.connections_idle
            + self.connections_parked
            + self.connections_upgraded;
        let mut acceleration = Acceleration {
            performance_ceiling: Threshold::new(self.requests_per_second, 400_000.0),
            latency: Threshold::new(self.latency_p99.as_secs_f64(), 0.001),
            memory: Threshold::new(self.rss as f64, memory as f64 * 0.8),
            cpu: Threshold::new(self.cpu_usage, cores * 0.8),
            scale: Threshold::new(connections as f64, 10_000.0),
            reached: 0,
            advice: self.advice(cores, routes),
        };
        let all = [
            acceleration.performance_ceiling,
            acceleration.latency,
            acceleration.memory,
            acceleration.cpu,
            acceleration.scale,
        ];
        acceleration.reached = all.iter().filter(|check| check.reached).count() as u8;
        self.acceleration = acceleration;
        self.warnings = self.warnings(cores);
    }

    fn warnings(&self, cores: f64) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.shed_per_second > 0.0 {
            let state = match &*self.limit_state {
                "" => String::new(),
                state => format!("; limit: {state}"),
            };
            warnings.push(format!(
                "{:.1} requests a second are refused{state}",
                self.shed_per_second
            ));
        }
        let failed = self.requests_failed_per_second / self.requests_per_second;
        if failed > FAILING {
            warnings.push(format!("{:.0} % of the requests fail", failed * 100.0));
        }
        if !self.threads_held.is_empty() {
            let routes: Vec<_> = self.threads_held.keys().map(|route| &**route).collect();
            warnings.push(format!(
                "threads of the runtime are held by {}",
                routes.join(", ")
            ));
        }
        if self.cgroup_memory_limit > 0
            && self.rss as f64 > self.cgroup_memory_limit as f64 * SCARCE
        {
            let (used, limit) = (self.rss >> 20, self.cgroup_memory_limit >> 20);
            warnings.push(format!(
                "memory: {used} MiB of the {limit} MiB that the container may have"
            ));
        }
        if self.max_fds > 0 && self.open_fds as f64 > self.max_fds as f64 * SCARCE {
            warnings.push(format!("open files: {} of {}", self.open_fds, self.max_fds));
        }
        if cores > 0.0 && self.cpu_usage > cores * SCARCE {
            warnings.push(format!(
                "CPU: {:.1} of {cores:.1} cores are busy",
                self.cpu_usage
            ));
        }
        warnings
    }
}

/// More connections than these in a second, for each core: one task that accepts for all becomes what others wait for.
const CHURN: f64 = 1000.0;
/// A server with a greater share of its cores busy has outgrown something.
const BUSY: f64 = 0.8;
/// Requests are even if the slowest hundredth takes less than so many medians: then none delays the others of its core.
const EVEN: f64 = 10.0;
/// From so many requests a second and core the cost of a handler shows.
const FREQUENT: f64 = 10_000.0;

/// From this share of failed requests on somebody should look.
const FAILING: f64 = 0.01;
/// From this share on a resource will soon be used up.
const SCARCE: f64 = 0.9;

impl RuntimeSnapshot {
    fn advice(&self, cores: f64, routes: impl FnOnce() -> Vec<RouteStats>) -> Vec<Advice> {
        let mut advice = Vec::new();
        let busy = self.cpu_usage / cores;
        if !(cores > 0.0 && busy > BUSY) {
            return advice;
        }
        let cpu = format!("{:.0}% of {cores:.1} cores are busy", busy * 100.0);
        let median = self.latency_head_p50.as_secs_f64();
        let slowest = self.latency_head_p99.as_secs_f64() / median;
        // Stealing work helps where requests differ, and one core has nobody to steal from.
        if cores >= 2.0 && median > 0.0 && slowest < EVEN {
            let churn = self.connections_per_second / cores;
            if churn > CHURN {
                advice.push(Advice {
                    change: "engine.kind = \"per_core\"",
                    reason: format!(
                        "{cpu}; {churn:.0} connections are made a second for each (from {CHURN}), and requests are \
                         even: the slowest hundredth takes {slowest:.1} medians (below {EVEN})"
                    ),
                });
            }
        }
        let rate = self.requests_per_second / cores;
        if rate > FREQUENT {
            let routes = routes();
            let all: u64 = routes.iter().map(|route| route.requests).sum();
            let busiest: Vec<_> = routes
                .iter()
                .take(3)
                .map(|route| route.share_of(all))
                .collect();
            advice.push(Advice {
                change: "selector.accelerated_routes",
                reason: format!(
                    "{cpu}; {rate:.0} requests are answered a second for each (from {FREQUENT}): prepare the \
                     responses that are the same for everybody. The busiest routes are {}",
                    busiest.join(", ")
                ),
            });
        }
        advice
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Four cores, three and a half of them busy with short connections and even requests.
    fn outgrown() -> RuntimeSnapshot {
        RuntimeSnapshot {
            cpu_usage: 3.5,
            connections_per_second: 8000.0,
            requests_per_second: 30_000.0,
            latency_head_p50: Duration::from_micros(20),
            latency_head_p99: Duration::from_micros(100),
            ..RuntimeSnapshot::default()
        }
    }

    fn routes() -> Vec<RouteStats> {
        let route = |route: &str, requests| RouteStats {
            route: route.to_owned(),
            requests,
            failed: 0,
            cancelled: 0,
            latency_avg: Duration::from_micros(20),
            latency_p99_bound: Duration::ZERO,
            response_bytes: 0,
        };
        vec![route("/hello", 750), route("/users/{id}", 250)]
    }

    fn changes(mut snapshot: RuntimeSnapshot, cores: f64) -> Vec<&'static str> {
        snapshot.judge(0, cores, routes);
        let advice = &snapshot.acceleration.advice;
        advice.iter().map(|advice| advice.change).collect()
    }

    #[test]
    fn a_busy_server_with_short_connections_and_even_requests_is_told_to_go_per_core() {
        let mut snapshot = outgrown();
        snapshot.judge(0, 4.0, routes);
        let [advice] = &snapshot.acceleration.advice[..] else {
            panic!("{:?}", snapshot.acceleration.advice);
        };
        assert_eq!(advice.change, "engine.kind = \"per_core\"");
        for figure in ["88% of 4.0 cores", "2000 connections", "5.0 medians"] {
            assert!(advice.reason.contains(figure), "{}", advice.reason);
        }
    }

    #[test]
    fn uneven_requests_idle_cores_or_a_single_core_are_reasons_not_to() {
        let mut uneven = outgrown();
        uneven.latency_head_p99 = Duration::from_millis(1);
        let mut idle = outgrown();
        idle.cpu_usage = 1.0;
        for (snapshot, cores) in [
            (uneven, 4.0),
            (idle, 4.0),
            (outgrown(), 1.0),
            (outgrown(), 0.0),
        ] {
            let told = changes(snapshot, cores);
            assert!(!told.contains(&"engine.kind = \"per_core\""), "{told:?}");
        }
    }

    #[test]
    fn what_somebody_should_know_is_said_in_words_and_nothing_while_all_is_well() {
        let mut snapshot = RuntimeSnapshot {
            requests_per_second: 1000.0,
            requests_failed_per_second: 5.0,
            cpu_usage: 3.0,
            rss: 100 << 20,
            cgroup_memory_limit: 256 << 20,
            open_fds: 20,
            max_fds: 1024,
            ..RuntimeSnapshot::default()
        };
        snapshot.judge(0, 4.0, routes);
        assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
        snapshot.requests_failed_per_second = 30.0;
        snapshot.shed_per_second = 572.04;
        snapshot.limit_state = "limiting at 28".to_owned();
        snapshot.threads_held.insert("/slow".into(), 2);
        snapshot.rss = 250 << 20;
        snapshot.open_fds = 1000;
        snapshot.cpu_usage = 3.9;
        snapshot.judge(0, 4.0, routes);
        assert_eq!(
            snapshot.warnings,
            [
                "572.0 requests a second are refused; limit: limiting at 28",
                "3 % of the requests fail",
                "threads of the runtime are held by /slow",
                "memory: 250 MiB of the 256 MiB that the container may have",
                "open files: 1000 of 1024",
                "CPU: 3.9 of 4.0 cores are busy",
            ]
        );
    }

    #[test]
    fn frequent_requests_on_a_busy_server_are_a_reason_to_prepare_responses() {
        let mut frequent = outgrown();
        frequent.connections_per_second = 0.0;
        frequent.requests_per_second = 50_000.0;
        frequent.judge(0, 4.0, routes);
        let [advice] = &frequent.acceleration.advice[..] else {
            panic!("{:?}", frequent.acceleration.advice);
        };
        assert_eq!(advice.change, "selector.accelerated_routes");
        for figure in [
            "12500 requests",
            "/hello (75% of all requests, 20µs each), /users/{id} (25%",
        ] {
            assert!(advice.reason.contains(figure), "{}", advice.reason);
        }
    }
}

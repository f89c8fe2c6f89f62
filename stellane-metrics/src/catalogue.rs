//! Every metric this crate exports, in one place: the scrape, the facade's descriptions, the dashboard's test read it.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

/// A metric of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name in the scrape. A histogram has `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it tells.
    pub help: &'static str,
}

impl Metric {
    /// The name without the `_total` of a counter: that of its family in OpenMetrics.
    pub fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            _ => self.name,
        }
    }

    /// Its unit as OpenTelemetry writes it, by the end of its name: `s`, `By`, `1` for a ratio; empty if it counts things.
    pub fn unit(&self) -> &'static str {
        match self.unit_suffix() {
            Some("_seconds") => "s",
            Some("_bytes") => "By",
            Some("_ratio") => "1",
            _ => "",
        }
    }

    /// The end of its [family](Self::family)'s name that is its unit.
    pub fn unit_suffix(&self) -> Option<&'static str> {
        let mut suffixes = ["_seconds", "_bytes", "_ratio"].into_iter();
        suffixes.find(|suffix| self.family().ends_with(suffix))
    }

    /// A metric that only goes up, for [`RuntimeMetrics::add`](crate::RuntimeMetrics::add). By custom its name ends with
    /// `_total`.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Counter;
        Self { name, kind, help }
    }

    /// A metric that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Gauge;
        Self { name, kind, help }
    }
}

macro_rules! catalogue {
    ($($constant:ident = $kind:ident $name:literal $help:literal;)*) => {
        $(pub(crate) static $constant: Metric = Metric { name: $name, kind: Kind::$kind, help: $help };)*

        /// Every metric, in the order of the scrape.
        ///
        /// ```
        /// let names: Vec<_> = stellane_metrics::catalogue().iter().map(|metric| metric.name).collect();
        /// assert!(names.contains(&"http_server_request_duration_seconds"));
        /// ```
        pub fn catalogue() -> &'static [&'static Metric] {
            static ALL: &[&Metric] = &[$(&$constant),*];
            ALL
        }
    };
}

catalogue! {
    REQUEST_DURATION = Histogram "http_server_request_duration_seconds"
        "Duration of requests until the end of the response body.";
    HEAD_DURATION = Histogram "stellane_http_response_head_duration_seconds"
        "Duration of requests until the head of the response.";
    REQUEST_BODY = Histogram "http_server_request_body_size_bytes"
        "Size of request bodies whose size is known.";
    RESPONSE_BODY = Histogram "http_server_response_body_size_bytes"
        "Size of response bodies as handed over.";
    ACTIVE_REQUESTS = Gauge "http_server_active_requests" "Requests in flight.";
    REQUESTS_CANCELLED = Counter "stellane_http_requests_cancelled_total"
        "Requests whose future or body was dropped before its end.";
    OVERFLOW = Counter "stellane_metrics_overflow_total"
        "Requests counted in an overflow series because a cap was reached.";
    SERIES = Gauge "stellane_metrics_series" "Series of the request table.";

    BUILD_INFO = Gauge "stellane_build_info" "Always 1; the version is a label.";
    UPTIME = Gauge "stellane_uptime_seconds" "Time since the collector was built.";
    WORKERS = Gauge "stellane_workers" "Worker threads by state.";
    QUEUE_DEPTH = Gauge "stellane_worker_queue_depth" "Jobs that wait for a worker.";
    QUEUE_WAIT = Gauge "stellane_worker_queue_wait_p99_seconds"
        "99th percentile of the time a job waits for a worker.";
    JOBS_STOLEN = Counter "stellane_worker_jobs_stolen_total"
        "Jobs that a worker took from another one.";
    HEAP = Gauge "stellane_heap_bytes" "Bytes the allocator has handed out, or anonymous memory.";
    POOL_RETAINED = Gauge "stellane_pool_retained_bytes" "Idle bytes kept in pools.";
    POOL_CHECKOUTS = Counter "stellane_pool_checkouts_total" "Checkouts from pools by outcome.";
    MEMORY_TRIMS = Counter "stellane_memory_trims_total" "How often idle memory was given back.";
    TRIM_PAUSE = Gauge "stellane_memory_trim_pause_seconds" "How long the last trim took.";
    CONNECTIONS = Gauge "stellane_connections" "Open connections by state.";
    CONNECTIONS_ACCEPTED = Counter "stellane_connections_accepted_total" "Connections accepted.";
    CONNECTIONS_CLOSED = Counter "stellane_connections_closed_total"
        "Connections closed by reason.";
    INTERNER_ENTRIES = Gauge "stellane_interner_entries" "Strings in the interner.";
    INTERNER_BYTES = Gauge "stellane_interner_bytes" "Bytes of the strings in the interner.";
    INTERNER_BYPASSED = Counter "stellane_interner_bypassed_total"
        "Strings that were not interned because the interner was full.";
    LIMIT = Gauge "stellane_concurrency_limit" "The concurrency limit at the edge.";
    SHED = Counter "stellane_requests_shed_total" "Requests refused by reason.";
    TUNING_ACTIONS = Counter "stellane_tuning_actions_total" "Changes made by the tuner by parameter.";
    THREADS_HELD = Gauge "stellane_held_threads"
        "Threads of the runtimes that a handler holds now, by route.";
    THREAD_HOLDS = Counter "stellane_thread_holds_total"
        "How often a handler has held a thread of the runtimes for too long, by route.";
    THREAD_HELD_SECONDS = Counter "stellane_thread_held_seconds_total"
        "For how many seconds handlers have held threads whose place another thread took, by route.";
    BACKGROUND_RESTARTS = Counter "stellane_background_restarts_total"
        "How often a background task was started again after a panic, by task.";
    TOKIO_WORKERS = Gauge "tokio_workers" "Worker threads of the tokio runtime.";
    TOKIO_TASKS = Gauge "tokio_alive_tasks" "Tasks alive in the tokio runtime.";
    TOKIO_QUEUE = Gauge "tokio_global_queue_depth" "Tasks in the global queue of the tokio runtime.";
    TOKIO_BUSY = Gauge "tokio_busy_ratio" "Share of the time in which the tokio workers were busy.";
    CPU = Counter "process_cpu_seconds_total" "User and system CPU time.";
    RSS = Gauge "process_resident_memory_bytes" "Resident memory.";
    FDS = Gauge "process_open_fds" "Open file descriptors.";
    MAX_FDS = Gauge "process_max_fds" "The limit of open file descriptors.";
    THREADS = Gauge "process_threads" "Threads of the process.";
    CGROUP_MEMORY = Gauge "stellane_cgroup_memory_limit_bytes"
        "The memory limit of the container; absent without one.";
    CGROUP_CPU = Gauge "stellane_cgroup_cpu_limit_cores"
        "The CPU limit of the container; absent without one.";
    DEPENDENCY_UP = Gauge "stellane_dependency_up"
        "1 when the latest check of the dependency succeeded.";
    DEPENDENCY_FAILURES = Counter "stellane_dependency_check_failures_total"
        "Checks of the dependency that failed.";
    READY = Gauge "stellane_ready" "1 when the readiness probe says ready.";
}

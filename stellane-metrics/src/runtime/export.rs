//! The snapshot, offered to a sink.

use super::{RuntimeMetrics, snapshot::ByLabel};
use crate::{
    catalogue::{self as names, Metric},
    sink::Sink,
};

impl RuntimeMetrics {
    pub(crate) fn export(&self, sink: &mut dyn Sink) {
        let s = self.snapshot();
        let mut gauge = |metric: &'static Metric, values: &[(&[(&str, &str)], f64)]| {
            sink.start(metric);
            for (labels, value) in values {
                sink.gauge(metric, labels, *value);
            }
        };
        let one = |value: f64| [(&[] as &[(&str, &str)], value)];
        gauge(
            &names::BUILD_INFO,
            &[(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        );
        gauge(&names::UPTIME, &one(s.uptime.as_secs_f64()));
        gauge(
            &names::WORKERS,
            &[
                (&[("state", "active")], s.workers_active as f64),
                (&[("state", "idle")], s.workers_idle as f64),
            ],
        );
        gauge(&names::QUEUE_DEPTH, &one(s.queue_depth as f64));
        gauge(&names::QUEUE_WAIT, &one(s.queue_wait_p99.as_secs_f64()));
        gauge(&names::HEAP, &one(s.heap_size as f64));
        gauge(&names::POOL_RETAINED, &one(s.pool_retained_bytes as f64));
        gauge(&names::TRIM_PAUSE, &one(s.trim_pause.as_secs_f64()));
        gauge(
            &names::CONNECTIONS,
            &[
                (&[("state", "active")], s.connections_active as f64),
                (&[("state", "idle")], s.connections_idle as f64),
                (&[("state", "parked")], s.connections_parked as f64),
                (&[("state", "upgraded")], s.connections_upgraded as f64),
            ],
        );
        gauge(&names::INTERNER_ENTRIES, &one(s.interner_entries as f64));
        gauge(&names::INTERNER_BYTES, &one(s.interner_bytes as f64));
        gauge(&names::LIMIT, &one(s.limit as f64));
        gauge(&names::RSS, &one(s.rss as f64));
        gauge(&names::FDS, &one(s.open_fds as f64));
        gauge(&names::MAX_FDS, &one(s.max_fds as f64));
        gauge(&names::THREADS, &one(s.threads as f64));
        if s.cgroup_memory_limit > 0 {
            gauge(&names::CGROUP_MEMORY, &one(s.cgroup_memory_limit as f64));
        }
        if s.cgroup_cpu_limit > 0.0 {
            gauge(&names::CGROUP_CPU, &one(s.cgroup_cpu_limit));
        }
        if s.tokio_workers > 0 {
            gauge(&names::TOKIO_WORKERS, &one(s.tokio_workers as f64));
            gauge(&names::TOKIO_TASKS, &one(s.tokio_alive_tasks as f64));
            gauge(&names::TOKIO_QUEUE, &one(s.tokio_queue_depth as f64));
            gauge(&names::TOKIO_BUSY, &one(s.tokio_busy_ratio));
        }
        // Counted in hundredths of a second, so a whole number of them would be too coarse.
        gauge(&names::CPU, &one(s.cpu_time.as_secs_f64()));

        sink.start(&names::THREADS_HELD);
        for (route, threads) in &s.threads_held {
            let labels = [("http_route", &**route)];
            sink.gauge(&names::THREADS_HELD, &labels, *threads as f64);
        }
        sink.start(&names::THREAD_HELD_SECONDS);
        for (route, seconds) in &s.thread_held_seconds_total {
            let labels = [("http_route", &**route)];
            sink.gauge(&names::THREAD_HELD_SECONDS, &labels, *seconds);
        }

        let mut counter = |metric: &'static Metric, values: &[(&[(&str, &str)], u64)]| {
            sink.start(metric);
            for (labels, value) in values {
                sink.counter(metric, labels, *value);
            }
        };
        counter(&names::JOBS_STOLEN, &[(&[], s.jobs_stolen_total)]);
        counter(
            &names::POOL_CHECKOUTS,
            &[
                (&[("outcome", "hit")], s.pool_hits),
                (&[("outcome", "miss")], s.pool_misses),
            ],
        );
        counter(&names::MEMORY_TRIMS, &[(&[], s.memory_trims)]);
        counter(&names::CONNECTIONS_ACCEPTED, &[(&[], s.connections_total)]);
        counter(&names::INTERNER_BYPASSED, &[(&[], s.interner_bypassed)]);
        by_label(
            sink,
            &names::CONNECTIONS_CLOSED,
            "reason",
            &s.connections_closed_total,
        );
        by_label(sink, &names::SHED, "reason", &s.shed_total);
        by_label(
            sink,
            &names::TUNING_ACTIONS,
            "parameter",
            &s.tuning_actions_total,
        );
        by_label(
            sink,
            &names::THREAD_HOLDS,
            "http_route",
            &s.thread_holds_total,
        );
        by_label(
            sink,
            &names::BACKGROUND_RESTARTS,
            "task",
            &s.background_restarts_total,
        );
        self.inner.added.export(sink);
    }
}

fn by_label(sink: &mut dyn Sink, metric: &'static Metric, label: &str, values: &ByLabel) {
    sink.start(metric);
    for (value, total) in values {
        sink.counter(metric, &[(label, value)], *total);
    }
}

use std::time::Duration;

use crate::connection::{ConnectionStats, DrainReport};

/// What an [`Engine`](super::Engine) is doing and did; totals are since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineMetrics {
    /// Connections that are open.
    pub connections_open: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Requests begun.
    pub requests_total: u64,
    /// Requests whose response head is not made yet.
    pub requests_in_flight: u64,
    /// One for each thread that serves, or each core of a [`HandoffEngine`](super::HandoffEngine); empty where an engine can't
    /// tell.
    pub cores: Vec<CoreMetrics>,
}

/// One thread of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoreMetrics {
    /// The CPU the thread is pinned to.
    pub cpu: Option<usize>,
    /// Tasks that live on it: about one for each connection that is not parked.
    pub tasks: usize,
    /// Time spent on work, not waiting.
    pub busy: Duration,
    /// How often it went to sleep for lack of work.
    pub parks: u64,
}

impl EngineMetrics {
    /// Those of an engine that serves through a [`ConnectionManager`](crate::connection::ConnectionManager).
    #[must_use]
    pub fn of(connections: &ConnectionStats, cores: Vec<CoreMetrics>) -> Self {
        Self {
            connections_open: connections.open,
            connections_total: connections.accepted_total,
            requests_total: connections.requests_total,
            requests_in_flight: connections.requests_in_flight,
            cores,
        }
    }
}

impl CoreMetrics {
    /// Those of a tokio runtime's worker.
    pub(super) fn of(runtime: &tokio::runtime::Handle, worker: usize) -> Self {
        let metrics = runtime.metrics();
        // Tokio counts tasks for the whole runtime.
        let workers = metrics.num_workers().max(1);
        let core = Self {
            tasks: metrics.num_alive_tasks() / workers,
            ..Self::default()
        };
        #[cfg(target_has_atomic = "64")]
        let core = Self {
            busy: metrics.worker_total_busy_duration(worker),
            parks: metrics.worker_park_count(worker),
            ..core
        };
        #[cfg(not(target_has_atomic = "64"))]
        let _ = worker;
        core
    }
}

/// How an engine stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Connections that ended while it stopped, the aborted ones included.
    pub closed: u64,
    /// Streams that went on to the end of their time and were told goodbye: see
    /// [`DrainReport::farewells`](crate::connection::DrainReport::farewells).
    pub farewells: u64,
    /// Connections that were still busy at the end of their time.
    pub aborted: u64,
    /// Connections that could not even be aborted, since their handler blocks its thread.
    pub left: u64,
    /// Requests that went on without their clients: see
    /// [`DrainReport::abandoned`](crate::connection::DrainReport::abandoned).
    pub abandoned: u64,
    /// Those of them that had not come to their end when their time was over.
    pub abandoned_stopped: u64,
}

impl From<DrainReport> for StopReport {
    fn from(drain: DrainReport) -> Self {
        Self {
            closed: drain.closed,
            farewells: drain.farewells,
            aborted: drain.aborted,
            left: drain.left as u64,
            abandoned: drain.abandoned,
            abandoned_stopped: drain.abandoned_stopped,
        }
    }
}

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Histogram, job::Stage, shared::Shared};

/// What a [`WorkerPool`](super::WorkerPool) does and did; counts are since it was built, times are of the
/// jobs of the last 10 to 20 seconds or since the last time somebody asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorkerPoolStats {
    /// Threads that run a job.
    pub active: usize,
    /// Threads that wait for one.
    pub idle: usize,
    /// Jobs that wait for a thread.
    pub queue_depth: usize,
    /// Jobs that are accepted and neither finished nor dropped: waiting, running, or suspended.
    pub outstanding: u64,
    /// The setting in force.
    pub min_workers: usize,
    /// The setting in force.
    pub max_workers: usize,
    /// The setting in force.
    pub queue_size: usize,
    /// Jobs accepted.
    pub submitted: u64,
    /// Jobs that came to their end.
    pub completed: u64,
    /// Jobs that panicked.
    pub panics: u64,
    /// Jobs whose caller left before their end.
    pub cancelled: u64,
    /// Of those, jobs that had not begun, and so never did.
    pub cancelled_waiting: u64,
    /// Jobs that were refused or given up: the sum of the three reasons.
    pub shed: u64,
    /// Because the queue was full.
    pub shed_full: u64,
    /// Because their deadline passed before they began.
    pub shed_expired: u64,
    /// Because they had waited too long in a standing queue ([`CoDel`](super::Discipline::CoDel)).
    pub shed_waited: u64,
    /// Jobs that a worker took from another's.
    pub stolen: u64,
    /// Polls that held a worker too long; [`WorkerPool::class_stats`](super::WorkerPool::class_stats) says
    /// whose.
    pub blocked: u64,
    /// Median time a job waited for a thread, exact to a quarter.
    pub wait_p50: Duration,
    /// 99th percentile of the same.
    pub wait_p99: Duration,
    /// Median time a job ran, its waiting in between left out.
    pub run_p50: Duration,
    /// 99th percentile of the same.
    pub run_p99: Duration,
}

impl WorkerPoolStats {
    pub(super) fn read(shared: &Shared, wait: &Histogram, run: &Histogram) -> Self {
        let limits = &shared.limits;
        let workers = limits.workers.load(Relaxed);
        let mut stats = Self {
            active: 0,
            idle: 0,
            queue_depth: shared.queued(),
            outstanding: shared.outstanding(),
            min_workers: limits.min.load(Relaxed),
            max_workers: limits.max.load(Relaxed),
            queue_size: limits.queue.load(Relaxed),
            submitted: shared.arrived().0,
            completed: 0,
            panics: 0,
            cancelled: shared.cancelled.load(Relaxed) + shared.left_as(Stage::Cancelled),
            cancelled_waiting: shared.left_as(Stage::Cancelled),
            shed: 0,
            shed_full: shared.left_as(Stage::Full),
            shed_expired: shared.left_as(Stage::Expired),
            shed_waited: shared.left_as(Stage::Waited),
            stolen: 0,
            blocked: shared
                .classes
                .stats()
                .iter()
                .map(|class| class.blocked)
                .sum(),
            wait_p50: wait.quantile(0.5),
            wait_p99: wait.quantile(0.99),
            run_p50: run.quantile(0.5),
            run_p99: run.quantile(0.99),
        };
        for slot in shared.slots().iter() {
            stats.active += usize::from(slot.polling_since.load(Relaxed) != 0);
            stats.completed += slot.completed.load(Relaxed);
            stats.panics += slot.panics.load(Relaxed);
            stats.stolen += slot.stolen.load(Relaxed);
        }
        stats.idle = workers.saturating_sub(stats.active);
        stats.shed = stats.shed_full + stats.shed_expired + stats.shed_waited;
        stats
    }
}

/// Two earlier readings, so that quantiles are of now.
#[derive(Debug, Default)]
pub(super) struct Recent {
    older: (Histogram, Histogram),
    newer: (Histogram, Histogram),
    newer_at: u64,
}

impl Recent {
    const SPAN: u64 = 10_000_000_000;

    pub(super) fn since_lately(
        &mut self,
        now: u64,
        wait: Histogram,
        run: Histogram,
    ) -> (Histogram, Histogram) {
        let lately = (wait.since(&self.older.0), run.since(&self.older.1));
        if now.saturating_sub(self.newer_at) >= Self::SPAN {
            self.older = std::mem::replace(&mut self.newer, (wait, run));
            self.newer_at = now;
        }
        lately
    }
}

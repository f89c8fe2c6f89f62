//! How many connections and requests there are in a second, as the sweep sees their totals.

use crate::connection::stats::ConnectionStats;

/// Over how many milliseconds it is measured, at least.
const SECOND: u64 = 1000;

/// The totals of the last measurement, and what came of it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Throughput {
    measured: u64,
    accepted_total: u64,
    requests_total: u64,
    accepted: u64,
    requests: u64,
}

impl Throughput {
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now.saturating_sub(self.measured) >= SECOND
    }

    pub(crate) fn measure(&mut self, now: u64, stats: &ConnectionStats) {
        let elapsed = now.saturating_sub(self.measured).max(1);
        let each_second = |count: u64| (count.saturating_mul(1000) + elapsed / 2) / elapsed;
        *self = Self {
            measured: now,
            accepted: each_second(stats.accepted_total.saturating_sub(self.accepted_total)),
            requests: each_second(stats.requests_total.saturating_sub(self.requests_total)),
            accepted_total: stats.accepted_total,
            requests_total: stats.requests_total,
        };
    }
}

impl ConnectionStats {
    pub(crate) fn with(self, speed: Throughput) -> Self {
        Self {
            accepted_per_second: speed.accepted,
            requests_per_second: speed.requests,
            ..self
        }
    }
}

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

    /// The statistics with what it measured.
    pub(crate) fn tell(&self, stats: ConnectionStats) -> ConnectionStats {
        ConnectionStats {
            accepted_per_second: self.accepted,
            requests_per_second: self.requests,
            ..stats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_time_that_has_passed() {
        let mut throughput = Throughput::default();
        assert!(!throughput.is_due(999) && throughput.is_due(1000));
        for (now, requests_total, per_second) in [(1000, 10, 10), (3000, 30, 10), (4000, 30, 0)] {
            let stats = ConnectionStats {
                requests_total,
                ..ConnectionStats::default()
            };
            throughput.measure(now, &stats);
            assert_eq!(
                throughput.tell(stats).requests_per_second,
                per_second,
                "{now}"
            );
        }
    }
}

//! The series of a route, added up.

use std::time::Duration;

use super::labels::Outcome;
use super::layout::Layout;
use super::registry::Table;

/// What one route has done since the start.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteStats {
    /// The template, or what stands for no template.
    pub route: String,
    /// Requests that ended.
    pub requests: u64,
    /// Of these, how many ended in a 5xx, an error or a panic.
    pub failed: u64,
    /// Of these, how many were cancelled.
    pub cancelled: u64,
    /// The mean duration to the end of the body. Serialised in seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::seconds"))]
    pub latency_avg: Duration,
    /// The 99th percentile as the scrape's buckets tell it: the upper bound of the bucket it falls into. Serialised in seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::seconds"))]
    pub latency_p99_bound: Duration,
    /// Bytes of response bodies handed over.
    pub response_bytes: u64,
}

impl RouteStats {
    /// For an advice: how much of all requests it has answered, and how long each took.
    pub(crate) fn share_of(&self, all: u64) -> String {
        let share = self.requests as f64 / all.max(1) as f64 * 100.0;
        format!(
            "{} ({share:.0}% of all requests, {:.0?} each)",
            self.route, self.latency_avg
        )
    }
}

pub(super) fn collect(table: &Table) -> Vec<RouteStats> {
    struct Sum {
        stats: RouteStats,
        sum_ns: u64,
        buckets: Vec<u64>,
    }
    let mut routes: Vec<Sum> = Vec::new();
    table.each_series(|key, cells, layout| {
        let route = key.map_or("__overflow__", |key| table.route(key.route));
        let at = routes
            .iter()
            .position(|sum| sum.stats.route == route)
            .unwrap_or_else(|| {
                routes.push(Sum {
                    stats: RouteStats {
                        route: route.to_owned(),
                        requests: 0,
                        failed: 0,
                        cancelled: 0,
                        latency_avg: Duration::ZERO,
                        latency_p99_bound: Duration::ZERO,
                        response_bytes: 0,
                    },
                    sum_ns: 0,
                    buckets: vec![0; layout.durations + 1],
                });
                routes.len() - 1
            });
        let sum = &mut routes[at];
        let buckets = &cells[layout.full()..=layout.full() + layout.durations];
        let count: u64 = buckets.iter().sum();
        sum.stats.requests += count;
        match key {
            Some(key) if key.outcome == Outcome::Cancelled => sum.stats.cancelled += count,
            Some(key) if key.has_failed() => sum.stats.failed += count,
            _ => {}
        }
        sum.stats.response_bytes += cells[layout.response() + Layout::SIZES + 1];
        sum.sum_ns += cells[layout.full() + layout.durations + 1];
        for (total, n) in sum.buckets.iter_mut().zip(buckets) {
            *total += n;
        }
    });

    let bounds = table.config.duration_buckets.bounds();
    let mut stats: Vec<RouteStats> = routes
        .into_iter()
        .map(|mut sum| {
            sum.stats.latency_avg = Duration::from_nanos(sum.sum_ns / sum.stats.requests.max(1));
            let rank = sum.stats.requests - sum.stats.requests / 100;
            let mut seen = 0;
            let bucket = sum.buckets.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            // Past the last bound there is nothing to name but the bound itself.
            let bound = bounds[bucket.unwrap_or(0).min(bounds.len() - 1)];
            sum.stats.latency_p99_bound = Duration::from_secs_f64(bound);
            sum.stats
        })
        .collect();
    stats.sort_by(|a, b| {
        b.requests
            .cmp(&a.requests)
            .then_with(|| a.route.cmp(&b.route))
    });
    stats
}

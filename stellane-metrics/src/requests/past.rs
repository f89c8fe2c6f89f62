//! What the busiest routes did in the last ten minutes, and how requests ended.

use std::{collections::VecDeque, sync::Arc};

use super::{
    labels::{Outcome, RouteId},
    registry::Table,
};
use crate::packed::Packed;

/// Of how many routes.
pub(crate) const ROUTES: usize = 50;
/// What is left of a route's load a second later: about the last minute counts.
const LOAD_STAYS: f32 = 0.98;
/// What is left of a duration's weight a second later: percentiles are those of about the last ten seconds.
const DURATION_STAYS: f32 = 0.8;
/// A route that is not told takes the place of one that is told and has less than this share of its load.
const BUSIER: f32 = 0.7;

/// Points of which the course of a route in the table has one.
#[cfg(feature = "admin")]
const TENTH: usize = 10;

/// How requests ended in a second: by the class of the status, or otherwise.
pub(crate) const ENDS: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "failed", "cancelled"];

/// A point a second of each of the routes with most load.
#[derive(Default)]
pub(crate) struct RoutesPast {
    /// By the number of the route.
    seen: Vec<Seen>,
    told: Vec<Told>,
    ends: [u64; ENDS.len()],
}

#[derive(Clone, Copy, Default)]
struct Seen {
    requests: u64,
    load: f32,
}

struct Told {
    route: RouteId,
    name: Arc<str>,
    /// Since the start, as it was a second ago; not known of a route that has just come in.
    before: Option<Sum>,
    /// The histogram of durations, as far as it is recent.
    recent: Box<[f32]>,
    points: VecDeque<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    requests: Packed,
    failed: Packed,
    p50: Packed,
    p99: Packed,
}

/// What a route did: a point a second, oldest first, the last one is the latest of the process's. Rates are per second.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteHistory {
    /// The template.
    pub route: String,
    /// Requests that ended.
    pub requests_per_second: Vec<f64>,
    /// Of these, how many ended in a 5xx, an error or a panic.
    pub failed_per_second: Vec<f64>,
    /// The median duration to the end of the body in seconds, of about the last ten seconds.
    pub latency_p50: Vec<f64>,
    /// The 99th percentile of the same.
    pub latency_p99: Vec<f64>,
}

/// What a route does now, over about ten seconds; then its rate, ten seconds each, oldest first.
#[cfg(feature = "admin")]
#[derive(serde::Serialize)]
pub(crate) struct RouteNow {
    requests_per_second: f64,
    failed_per_second: f64,
    latency_p50: f64,
    latency_p99: f64,
    /// Where the lowest bucket ends: of durations below nothing more is known.
    latency_least: f64,
    course: Vec<f64>,
}

impl RoutesPast {
    /// Adds a point, which tells of so many seconds. At most `most` are kept.
    pub(super) fn observe(
        &mut self,
        table: &Table,
        seconds: f64,
        most: usize,
    ) -> [u64; ENDS.len()] {
        let mut ends = [0; ENDS.len()];
        let mut now = vec![0_u64; self.seen.len()];
        let mut told: Vec<_> = self
            .told
            .iter()
            .map(|told| Sum::new(told.recent.len()))
            .collect();
        table.each_series(|key, cells, layout| {
            let durations = &cells[layout.full()..=layout.full() + layout.durations];
            let count: u64 = durations.iter().sum();
            let Some(key) = key else { return };
            let end = match (key.outcome, key.status) {
                (Outcome::Cancelled, _) => 6,
                (Outcome::Complete, status @ 100..600) => usize::from(status / 100) - 1,
                _ => 5,
            };
            ends[end] += count;
            let route = key.route as usize;
            if now.len() <= route {
                now.resize(route + 1, 0);
            }
            now[route] += count;
            if let Some(at) = self.told.iter().position(|told| told.route == key.route) {
                told[at].add(count, key.has_failed(), durations);
            }
        });
        self.seen.resize(now.len(), Seen::default());
        for (seen, requests) in self.seen.iter_mut().zip(now) {
            let more = requests.saturating_sub(seen.requests) as f32;
            *seen = Seen {
                requests,
                load: seen.load * LOAD_STAYS + more,
            };
        }
        for (route, sum) in self.told.iter_mut().zip(told) {
            route.push(sum, table.config.duration_buckets.bounds(), seconds, most);
        }
        self.choose(table, most);
        let since = std::array::from_fn(|end| ends[end].saturating_sub(self.ends[end]));
        self.ends = ends;
        since
    }

    /// Takes in the routes that have become busier than those that are told. What they did before is not known.
    fn choose(&mut self, table: &Table, most: usize) {
        let is_told = |told: &[Told], route: RouteId| told.iter().any(|told| told.route == route);
        let mut others: Vec<_> = (0..self.seen.len() as RouteId)
            .filter(|route| self.load(*route) > 0.0 && !is_told(&self.told, *route))
            .collect();
        others.sort_unstable_by(|a, b| self.load(*b).total_cmp(&self.load(*a)));
        for route in others {
            let new = Told::new(table, route, most);
            if self.told.len() < ROUTES {
                self.told.push(new);
                continue;
            }
            let idlest = (0..self.told.len()).min_by(|a, b| {
                self.load(self.told[*a].route)
                    .total_cmp(&self.load(self.told[*b].route))
            });
            match idlest {
                Some(at) if self.load(self.told[at].route) < BUSIER * self.load(route) => {
                    self.told[at] = new;
                }
                _ => return,
            }
        }
    }

    fn load(&self, route: RouteId) -> f32 {
        self.seen[route as usize].load
    }

    /// The routes that are told, in no order.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = RouteHistory> {
        self.told.iter().map(Told::history)
    }

    /// One that is told.
    pub(crate) fn route(&self, name: &str) -> Option<RouteHistory> {
        self.told
            .iter()
            .find(|told| &*told.name == name)
            .map(Told::history)
    }

    /// What each of them does now, and its rate in each of the last ten minutes' tenths of a minute.
    #[cfg(feature = "admin")]
    pub(crate) fn now(&self, least: f64) -> impl Iterator<Item = (&str, RouteNow)> {
        self.told
            .iter()
            .map(move |told| (&*told.name, told.now(least)))
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let of = |told: &Told| {
            told.name.len()
                + told.recent.len() * (size_of::<u64>() + size_of::<f32>())
                + told.points.capacity() * size_of::<Point>()
        };
        self.seen.capacity() * size_of::<Seen>()
            + self.told.capacity() * size_of::<Told>()
            + self.told.iter().map(of).sum::<usize>()
    }
}

/// What a route has done since the start.
struct Sum {
    requests: u64,
    failed: u64,
    durations: Box<[u64]>,
}

impl Sum {
    fn new(durations: usize) -> Self {
        Self {
            requests: 0,
            failed: 0,
            durations: vec![0; durations].into(),
        }
    }

    fn add(&mut self, count: u64, is_failed: bool, durations: &[u64]) {
        self.requests += count;
        self.failed += if is_failed { count } else { 0 };
        for (total, n) in self.durations.iter_mut().zip(durations) {
            *total += n;
        }
    }
}

impl Told {
    fn new(table: &Table, route: RouteId, most: usize) -> Self {
        let durations = table.config.duration_buckets.bounds().len() + 1;
        Self {
            route,
            name: table.route(route).into(),
            before: None,
            recent: vec![0.0; durations].into(),
            points: VecDeque::with_capacity(most),
        }
    }

    fn history(&self) -> RouteHistory {
        let column = |pick: fn(&Point) -> Packed| {
            self.points.iter().map(|point| pick(point).get()).collect()
        };
        RouteHistory {
            route: self.name.to_string(),
            requests_per_second: column(|point| point.requests),
            failed_per_second: column(|point| point.failed),
            latency_p50: column(|point| point.p50),
            latency_p99: column(|point| point.p99),
        }
    }

    #[cfg(feature = "admin")]
    fn now(&self, least: f64) -> RouteNow {
        let mean = |points: &[&Point], pick: fn(&Point) -> Packed| {
            points.iter().map(|point| pick(point).get()).sum::<f64>() / points.len().max(1) as f64
        };
        let latest: Vec<_> = self.points.iter().rev().collect();
        let recent = &latest[..latest.len().min(TENTH)];
        let course = latest.chunks(TENTH).rev();
        let last = |pick: fn(&Point) -> Packed| {
            recent
                .iter()
                .map(|point| pick(point).get())
                .find(|n| *n > 0.0)
                .unwrap_or_default()
        };
        RouteNow {
            requests_per_second: mean(recent, |point| point.requests),
            failed_per_second: mean(recent, |point| point.failed),
            latency_p50: last(|point| point.p50),
            latency_p99: last(|point| point.p99),
            latency_least: least,
            course: course
                .map(|points| mean(points, |point| point.requests))
                .collect(),
        }
    }

    fn push(&mut self, now: Sum, bounds: &[f64], seconds: f64, most: usize) {
        let Some(before) = self.before.replace(now) else {
            return;
        };
        let Some(now) = &self.before else { return };
        for ((recent, before), n) in self
            .recent
            .iter_mut()
            .zip(&before.durations)
            .zip(&now.durations)
        {
            *recent = *recent * DURATION_STAYS + n.saturating_sub(*before) as f32;
        }
        let per_second =
            |now: u64, before: u64| Packed::new(now.saturating_sub(before) as f64 / seconds);
        // A percentile of no requests is none.
        let quantile = |q| match now.requests > before.requests {
            true => Packed::new(quantile(&self.recent, bounds, q)),
            false => Packed::default(),
        };
        if self.points.len() == most {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            requests: per_second(now.requests, before.requests),
            failed: per_second(now.failed, before.failed),
            p50: quantile(0.5),
            p99: quantile(0.99),
        });
    }
}

/// As Prometheus tells it: within its bucket values are spread evenly; past the last bound it is that bound.
fn quantile(buckets: &[f32], bounds: &[f64], q: f64) -> f64 {
    let rank = q * buckets.iter().map(|n| f64::from(*n)).sum::<f64>();
    let mut below = 0.0;
    for (at, (n, bound)) in buckets.iter().zip(bounds).enumerate() {
        let n = f64::from(*n);
        if n > 0.0 && below + n >= rank {
            let from = if at == 0 { 0.0 } else { bounds[at - 1] };
            return from + (bound - from) * ((rank - below) / n);
        }
        below += n;
    }
    bounds.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_the_bucket_that_holds_it() {
        let bounds = [0.001, 0.01, 0.1];
        assert_eq!(quantile(&[100.0, 0.0, 0.0, 0.0], &bounds, 0.5), 0.0005);
        let p99 = quantile(&[90.0, 0.0, 10.0, 0.0], &bounds, 0.99);
        assert!((0.01..0.1).contains(&p99), "{p99}");
        assert_eq!(quantile(&[0.0, 0.0, 0.0, 5.0], &bounds, 0.5), 0.1);
    }
}

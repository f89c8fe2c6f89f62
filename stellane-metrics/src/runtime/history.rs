//! The last ten minutes: a point a second, in bounded memory.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{HEAT_ROWS, RuntimeSnapshot, snapshot::ByLabel};
use crate::{
    HttpMetrics,
    packed::Packed,
    requests::past::{ENDS, RoutesPast},
    text::cut,
};

const SECONDS: usize = 600;
/// Reasons and classes that are told apart.
const LABELS: usize = 48;
const EVENTS: usize = 200;
const EVENT_BYTES: usize = 200;

/// What happened in the last ten minutes, a point a second, oldest first: what the live page draws.
///
/// It and the course of the 50 routes with most load ([`route_history`](super::RuntimeMetrics::route_history)) take at most
/// 512 KiB: numbers have three digits.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuntimeHistory {
    /// [`RuntimeSnapshot::uptime`] of each point, in seconds.
    pub at: Vec<f64>,
    /// The numbers of [`RuntimeSnapshot`] by name: durations in seconds, sizes in bytes.
    pub numbers: BTreeMap<&'static str, Vec<f64>>,
    /// [`RuntimeSnapshot::latency_heat`] of each point.
    pub latency_heat: Vec<Vec<f64>>,
    /// How many in each second, by label: `responses` by class or end, `shed` and `closed` by reason.
    pub counts: BTreeMap<&'static str, BTreeMap<String, Vec<f64>>>,
    /// What happened, oldest first.
    pub events: Vec<RuntimeEvent>,
}

/// Something that happened: see [`RuntimeMetrics::tell`](super::RuntimeMetrics::tell).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuntimeEvent {
    /// [`RuntimeSnapshot::uptime`] when it was seen, in seconds.
    pub at: f64,
    /// In words.
    pub text: String,
}

trait Number {
    fn number(self) -> f64;
}

impl Number for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Number for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Number for Duration {
    fn number(self) -> f64 {
        self.as_secs_f64()
    }
}

type Read = fn(&RuntimeSnapshot) -> f64;

macro_rules! numbers {
    ($($name:ident)*) => { [$((stringify!($name), (|snapshot| snapshot.$name.number()) as Read)),*] };
}

/// What is kept of a snapshot.
const NUMBERS: [(&str, Read); 36] = numbers! {
    requests_per_second requests_failed_per_second requests_in_flight
    latency_p50 latency_p90 latency_p99 latency_p999 latency_head_p50 latency_head_p99
    workers_active workers_idle queue_depth queue_wait_p99
    heap_size rss pool_retained_bytes
    connections_active connections_idle connections_parked connections_upgraded connections_per_second
    interner_entries interner_bytes
    limit limit_in_flight limit_waiting shed_per_second
    cpu_usage open_fds threads cgroup_memory_limit
    tokio_workers tokio_alive_tasks tokio_queue_depth tokio_busy_ratio
    jobs_stolen_total
};

struct Point {
    at: Duration,
    numbers: [Packed; NUMBERS.len()],
    heat: [Packed; HEAT_ROWS],
    counts: [Packed; LABELS],
}

/// A label whose count is told.
struct Label {
    of: &'static str,
    name: Box<str>,
    total: u64,
}

pub(super) struct History {
    points: VecDeque<Point>,
    labels: Vec<Label>,
    routes: RoutesPast,
    events: VecDeque<RuntimeEvent>,
    /// What the last event of a kind said, so that it is said once.
    seen: Seen,
}

/// The state of what becomes an event when it changes.
#[derive(Default)]
struct Seen {
    limit: String,
    shed: Option<u64>,
    held: ByLabel,
    restarts: ByLabel,
}

impl Default for History {
    fn default() -> Self {
        Self {
            points: VecDeque::with_capacity(SECONDS),
            labels: Vec::with_capacity(LABELS),
            routes: RoutesPast::default(),
            events: VecDeque::with_capacity(EVENTS),
            seen: Seen::default(),
        }
    }
}

impl History {
    /// Takes down a snapshot: what has changed since the last one, and once a second a point.
    pub(super) fn observe(&mut self, snapshot: &RuntimeSnapshot, http: Option<&HttpMetrics>) {
        for text in self.seen.changes(snapshot) {
            self.tell(snapshot.uptime, &text);
        }
        let since = self
            .points
            .back()
            .map(|last| snapshot.uptime.saturating_sub(last.at));
        // A tick may come a little early.
        if since.is_some_and(|since| since < Duration::from_millis(990)) {
            return;
        }
        let seconds = since.unwrap_or(snapshot.uptime).as_secs_f64().max(0.001);
        let mut counts = [Packed::default(); LABELS];
        let mut count = |column: Option<usize>, n: u64| {
            if let Some(column) = column {
                counts[column] = Packed::new(n as f64 / seconds);
            }
        };
        if let Some(http) = http {
            let ends = http.observe(&mut self.routes, seconds, SECONDS);
            for (name, n) in ENDS.iter().zip(ends) {
                count(self.column("responses", name), n);
            }
        }
        for (of, totals) in [
            ("shed", &snapshot.shed_total),
            ("closed", &snapshot.connections_closed_total),
        ] {
            for (name, total) in totals {
                let column = self.column(of, name);
                let more = column.map_or(0, |column| {
                    total.saturating_sub(std::mem::replace(&mut self.labels[column].total, *total))
                });
                count(column, more);
            }
        }
        let mut heat = [Packed::default(); HEAT_ROWS];
        for (packed, n) in heat.iter_mut().zip(&snapshot.latency_heat) {
            *packed = Packed::new(*n as f64);
        }
        if self.points.len() == SECONDS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            at: snapshot.uptime,
            numbers: NUMBERS.map(|(_, read)| Packed::new(read(snapshot))),
            heat,
            counts,
        });
    }

    /// Where the counts of a label are. `None` for one too many.
    fn column(&mut self, of: &'static str, name: &str) -> Option<usize> {
        let found = self
            .labels
            .iter()
            .position(|label| label.of == of && &*label.name == name);
        if found.is_none() && self.labels.len() < LABELS {
            self.labels.push(Label {
                of,
                name: name.into(),
                total: 0,
            });
            return Some(self.labels.len() - 1);
        }
        found
    }

    pub(super) fn tell(&mut self, at: Duration, text: &str) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(RuntimeEvent {
            at: at.as_secs_f64(),
            text: cut(text, EVENT_BYTES).to_owned(),
        });
    }

    /// Of the routes with most load.
    pub(super) fn routes(&self) -> &RoutesPast {
        &self.routes
    }

    /// What came after this moment.
    pub(super) fn since(&self, at: Duration) -> RuntimeHistory {
        let points = || self.points.iter().filter(|point| point.at > at);
        let column =
            |pick: &dyn Fn(&Point) -> Packed| points().map(|point| pick(point).get()).collect();
        let mut counts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (at, label) in self.labels.iter().enumerate() {
            let courses = counts.entry(label.of).or_default();
            courses.insert(label.name.to_string(), column(&|point| point.counts[at]));
        }
        RuntimeHistory {
            at: points()
                .map(|point| point.at.as_millis() as f64 / 1000.0)
                .collect(),
            numbers: (0..NUMBERS.len())
                .map(|at| (NUMBERS[at].0, column(&|point| point.numbers[at])))
                .collect(),
            latency_heat: points()
                .map(|point| point.heat.iter().map(|n| n.get()).collect())
                .collect(),
            counts,
            events: self
                .events
                .iter()
                .filter(|event| event.at > at.as_secs_f64())
                .cloned()
                .collect(),
        }
    }
}

impl Seen {
    fn changes(&mut self, now: &RuntimeSnapshot) -> Vec<String> {
        let mut changes = Vec::new();
        // The numbers of the sentence move; that it limits, or does not, is what happened.
        let state = now.limit_state.split([' ', ':']).next().unwrap_or_default();
        if self.limit != state {
            if !self.limit.is_empty() {
                changes.push(format!("limit: {}", now.limit_state));
            }
            state.clone_into(&mut self.limit);
        }
        let total: u64 = now.shed_total.values().sum();
        match self.shed {
            None if now.shed_per_second > 0.0 => {
                let reasons: Vec<_> = now
                    .shed_total
                    .iter()
                    .filter(|(_, n)| **n > 0)
                    .map(|(reason, _)| &**reason)
                    .collect();
                changes.push(format!("refusing began: {}", reasons.join(", ")));
                self.shed = Some(total);
            }
            Some(before) if now.shed_per_second == 0.0 => {
                changes.push(format!(
                    "refusing ended, after {} requests",
                    total.saturating_sub(before)
                ));
                self.shed = None;
            }
            _ => {}
        }
        for (route, n) in &now.thread_holds_total {
            if self.held.get(route).is_none_or(|before| before < n) {
                changes.push(format!("{route} held a thread of the runtime"));
            }
        }
        for (task, n) in &now.background_restarts_total {
            if *n > 0 && self.restarts.get(task).is_none_or(|before| before < n) {
                changes.push(format!(
                    "background task {task} was started again after a panic"
                ));
            }
        }
        self.held.clone_from(&now.thread_holds_total);
        self.restarts.clone_from(&now.background_restarts_total);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MetricsConfig, MetricsLayer, label_route};

    impl History {
        /// What it holds on the heap.
        fn bytes(&self) -> usize {
            self.points.capacity() * size_of::<Point>()
                + self.labels.capacity() * size_of::<Label>()
                + self.events.capacity() * size_of::<RuntimeEvent>()
                + self
                    .events
                    .iter()
                    .map(|event| event.text.capacity())
                    .sum::<usize>()
                + self
                    .labels
                    .iter()
                    .map(|label| label.name.len())
                    .sum::<usize>()
                + self.routes.bytes()
        }
    }

    async fn request(http: &HttpMetrics, route: &'static str) {
        use tower::{Layer, ServiceExt};
        let service = tower::service_fn(move |_: http::Request<String>| async move {
            label_route(route);
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        });
        let service = MetricsLayer::new(http).layer(service);
        let response = service.oneshot(http::Request::new(String::new())).await;
        drop(response);
    }

    #[tokio::test]
    async fn ten_minutes_of_everything_stay_within_512_kib_and_the_busiest_routes_are_told() {
        let http = HttpMetrics::builder()
            .config(MetricsConfig::default())
            .build()
            .expect("valid");
        let mut history = History::default();
        let names: Vec<&'static str> = (0..80).map(|n| &*format!("/route/{n:02}").leak()).collect();
        let mut snapshot = RuntimeSnapshot {
            latency_heat: vec![7; HEAT_ROWS],
            ..RuntimeSnapshot::default()
        };
        for second in 0..700_u64 {
            // Thirty routes are busy in the end that were idle in the beginning.
            let busy = if second < 350 { 0..50 } else { 30..80 };
            for name in &names[busy] {
                request(&http, name).await;
            }
            snapshot.uptime = Duration::from_secs(second + 1);
            for n in 0..60_u64 {
                snapshot
                    .shed_total
                    .insert(format!("reason {n}").into(), second * n);
            }
            snapshot.limit_state = format!(
                "{}: {}",
                ["open", "limiting"][second as usize % 2],
                "é".repeat(300)
            );
            history.observe(&snapshot, Some(&http));
        }
        assert!(history.bytes() <= 512 * 1024, "{}", history.bytes());
        let told = history.since(Duration::ZERO);
        assert_eq!(
            (told.at.len(), told.at[0], told.at[599]),
            (600, 101.0, 700.0)
        );
        assert_eq!(
            told.counts["shed"].len() + told.counts["responses"].len(),
            LABELS
        );
        assert_eq!(
            told.counts["responses"]["cancelled"][599] + told.counts["responses"]["2xx"][599],
            50.0
        );
        assert_eq!(told.events.len(), EVENTS);
        let past: Vec<_> = history.routes().all().collect();
        let mut routes: Vec<_> = past.iter().map(|route| &*route.route).collect();
        routes.sort_unstable();
        assert_eq!(routes, names[30..]);
        let known = history.routes().route("/route/40").expect("told");
        assert_eq!(known.requests_per_second.len(), 600);
        assert!(known.requests_per_second.iter().all(|n| *n == 1.0));
        assert!(known.latency_p99.iter().all(|p99| *p99 > 0.0 && *p99 < 1.0));
    }

    #[test]
    fn what_happened_is_told_once() {
        let mut history = History::default();
        let mut now = RuntimeSnapshot {
            limit_state: "open: no evidence".to_owned(),
            ..RuntimeSnapshot::default()
        };
        let mut tick = |now: &mut RuntimeSnapshot| {
            now.uptime += Duration::from_millis(250);
            history.observe(now, None);
            history
                .since(Duration::ZERO)
                .events
                .iter()
                .map(|event| event.text.clone())
                .collect::<Vec<_>>()
        };
        assert!(tick(&mut now).is_empty());
        now.limit_state = "limiting at 48: throughput flat".to_owned();
        now.shed_per_second = 3.0;
        now.shed_total.insert("limit".into(), 3);
        tick(&mut now);
        now.limit_state = "limiting at 49: throughput flat".to_owned();
        now.shed_total.insert("limit".into(), 5);
        now.thread_holds_total.insert("/slow".into(), 1);
        now.background_restarts_total.insert("sweep".into(), 1);
        tick(&mut now);
        now.shed_per_second = 0.0;
        tick(&mut now);
        let said = tick(&mut now);
        assert_eq!(
            said,
            [
                "limit: limiting at 48: throughput flat",
                "refusing began: limit",
                "/slow held a thread of the runtime",
                "background task sweep was started again after a panic",
                "refusing ended, after 2 requests",
            ]
        );
    }
}

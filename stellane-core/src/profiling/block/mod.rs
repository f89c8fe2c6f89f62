//! Polls that held a worker too long, by route.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Extensions;

mod future;
mod layer;
mod service;

pub use self::{future::SlowPollFuture, layer::SlowPollLayer, service::SlowPollService};

/// As many routes are told apart; the rest are `(other)`.
const MAX_ROUTES: usize = 512;
const UNKNOWN: &str = "(unknown)";
const OTHER: &str = "(other)";

/// How a request's or a response's extensions name the route.
type RouteOf = dyn Fn(&Extensions) -> Option<String> + Send + Sync;

/// What [`SlowPollLayer`] found: the block profile. A cheap handle; clones share the table.
///
/// A future that computes or blocks between two awaits keeps its worker from everything else. This
/// measures each poll of a response future from outside, which needs no unstable runtime feature. It
/// can't see what runs in spawned tasks, and a poll also looks long when the system gave the CPU to
/// another process.
#[derive(Clone)]
pub struct SlowPolls {
    shared: Arc<Shared>,
}

struct Shared {
    /// Nanoseconds.
    threshold: AtomicU64,
    routes: Mutex<BTreeMap<String, SlowRoute>>,
    last_warning: Mutex<Option<Instant>>,
    route_of: Box<RouteOf>,
}

/// The slow polls of one route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowRoute {
    /// The route, as the extensions name it.
    pub route: String,
    /// Polls that took longer than the threshold.
    pub polls: u64,
    /// How long they took together.
    pub total: Duration,
    /// The longest of them.
    pub max: Duration,
    /// Where the last stood that has lost its core to another thread, on a `HandoffEngine` of the preset: one function
    /// each, the innermost first.
    pub stack: Vec<String>,
}

impl SlowPolls {
    /// A table for polls longer than `threshold`. Too low counts ordinary work and preemption, too high
    /// misses what makes other requests wait; [`default`](Self::default) takes 1 ms.
    #[must_use]
    pub fn new(threshold: Duration) -> Self {
        Self::with_route(threshold, |_| None)
    }

    /// Like [`new`](Self::new); `route` names the route from the extensions of the request or, if those
    /// do not know it, of the response. For axum that is `MatchedPath`, in a `route_layer`.
    #[must_use]
    pub fn with_route(
        threshold: Duration,
        route: impl Fn(&Extensions) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let slow = Self {
            shared: Arc::new(Shared {
                threshold: AtomicU64::new(0),
                routes: Mutex::default(),
                last_warning: Mutex::default(),
                route_of: Box::new(route),
            }),
        };
        slow.set_threshold(threshold);
        slow
    }

    /// A layer that reports to this table.
    pub fn layer(&self) -> SlowPollLayer {
        SlowPollLayer::new(self.clone())
    }

    /// Changes what counts as slow; zero turns the measuring off.
    pub fn set_threshold(&self, threshold: Duration) {
        let nanos = u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX);
        self.shared.threshold.store(nanos, Ordering::Relaxed);
    }

    /// What counts as slow; zero is off.
    #[must_use]
    pub fn threshold(&self) -> Duration {
        Duration::from_nanos(self.shared.threshold.load(Ordering::Relaxed))
    }

    /// Every route with a slow poll, the one that took most time first.
    #[must_use]
    pub fn stats(&self) -> Vec<SlowRoute> {
        let routes = self
            .shared
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut routes: Vec<_> = routes.values().cloned().collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.total));
        routes
    }

    fn route_of(&self, extensions: &Extensions) -> Option<String> {
        (self.shared.route_of)(extensions)
    }

    fn record(&self, route: Option<&str>, polls: &Polls) {
        let route = self.change(route, |entry| {
            entry.polls += polls.slow;
            entry.total += polls.total;
            entry.max = entry.max.max(polls.max);
        });
        self.warn(route, polls);
    }

    #[cfg(feature = "preset")]
    pub(super) fn record_stack(&self, route: Option<&str>, stack: Vec<String>) {
        self.change(route, |entry| entry.stack = stack);
    }

    /// Changes what is known of a route; its name.
    fn change<'a>(&self, route: Option<&'a str>, change: impl FnOnce(&mut SlowRoute)) -> &'a str {
        let route = route.unwrap_or(UNKNOWN);
        let mut routes = self
            .shared
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let full = routes.len() >= MAX_ROUTES && !routes.contains_key(route);
        let route = if full { OTHER } else { route };
        let entry = routes.entry(route.to_owned()).or_default();
        if entry.route.is_empty() {
            entry.route = route.to_owned();
        }
        change(entry);
        route
    }

    /// At most once a second, not to make bad worse.
    fn warn(&self, route: &str, polls: &Polls) {
        let now = Instant::now();
        let mut last = self
            .shared
            .last_warning
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now - last < Duration::from_secs(1)) {
            return;
        }
        *last = Some(now);
        drop(last);
        let held = polls.max;
        tracing::warn!(
            route,
            "a poll held its worker for {held:?}: use a worker pool or `spawn_blocking`"
        );
    }
}

impl Default for SlowPolls {
    fn default() -> Self {
        Self::new(Duration::from_millis(1))
    }
}

impl fmt::Debug for SlowPolls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowPolls")
            .field("threshold", &self.threshold())
            .finish_non_exhaustive()
    }
}

/// The slow polls of one request so far.
#[derive(Debug, Default)]
struct Polls {
    slow: u64,
    total: Duration,
    max: Duration,
}

impl Polls {
    fn add(&mut self, poll: Duration) {
        self.slow += 1;
        self.total += poll;
        self.max = self.max.max(poll);
    }
}

//! Routes whose handlers wait by their threads: what is learned of them, and how many may do so at once.

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Context,
    time::{Duration, Instant},
};

use http::Method;
use stellane_metrics::{HttpMetrics, RunningPoll};

use super::classes::{Rules, RulesBuilder};
use crate::engine::{self, Place};

/// After so many polls in a row that have held no thread a route is forgotten.
const CALM: u32 = 64;
/// So often a request asks to leave the core: the task that polls it may be another one than that which it is woken by.
const ASKS: u8 = 3;
/// Lines of the log are no nearer to each other.
const APART: Duration = Duration::from_secs(10);

/// See the [module docs](self); a cheap handle.
#[derive(Clone)]
pub(super) struct Learned(Arc<Inner>);

struct Inner {
    /// Whether any is known: all that a request asks where none is.
    any: AtomicBool,
    http: HttpMetrics,
    known: Mutex<Known>,
    /// How many requests hold a thread by waiting now.
    now: AtomicUsize,
    /// How many may before others of their routes are refused.
    most: AtomicUsize,
    refused: AtomicU64,
    said: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Known {
    routes: Vec<Arc<Route>>,
    /// The numbers of the routes by path and method; none of all others that have a name.
    rules: Option<Rules<Option<usize>>>,
    /// How many had a name.
    named: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Route {
    method: Method,
    template: Arc<str>,
    /// How many polls of it hold threads now, that it was not learned by.
    holding: AtomicU32,
    /// How many polls have held none since one has.
    calm: AtomicU32,
}

impl Learned {
    pub(super) fn new(http: &HttpMetrics) -> Self {
        Self(Arc::new(Inner {
            any: AtomicBool::new(false),
            http: http.clone(),
            known: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            refused: AtomicU64::new(0),
            said: Mutex::default(),
        }))
    }

    /// How many may hold a thread by waiting before others of their routes are refused.
    pub(super) fn set_most(&self, most: usize) {
        self.0.most.store(most, Relaxed);
    }

    /// Whether any is known.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.0.any.load(Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// One more holds a thread by waiting.
    pub(super) fn begin(&self) {
        self.0.now.fetch_add(1, SeqCst);
    }

    pub(super) fn end(&self) {
        self.0.now.fetch_sub(1, SeqCst);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.now.load(SeqCst) >= self.0.most.load(Relaxed)
    }

    /// This poll holds its thread: of those that are known.
    pub(super) fn holds(&self, poll: &RunningPoll) {
        if let Some(route) = self.known().of(poll) {
            route.holding.fetch_add(1, SeqCst);
        }
    }

    /// And it waits: from now on it is known.
    pub(super) fn waits(&self, poll: &RunningPoll) {
        let mut known = self.known();
        if known.of(poll).is_some() {
            return;
        }
        let (Some(template), Ok(method)) = (&poll.route, poll.method.parse()) else {
            return;
        };
        // Its method is none that a route could have.
        if poll.method.starts_with('_') {
            return;
        }
        known.routes.push(Arc::new(Route {
            method,
            template: Arc::clone(template),
            holding: AtomicU32::new(0),
            calm: AtomicU32::new(0),
        }));
        self.changed(&mut known);
        tracing::debug!(
            target: "stellane::held",
            route = &**template,
            method = poll.method,
            "handlers of this route wait by their threads: they get threads of their own"
        );
    }

    /// The route of such a request, if it is known.
    #[cold]
    pub(super) fn find(&self, method: &Method, path: &str) -> Option<Arc<Route>> {
        let mut known = self.known();
        // What is named since then may be more exact.
        if known.named != self.0.http.template_count() {
            self.changed(&mut known);
        }
        let number = known.rules.as_ref()?.find(path, method)??;
        known.routes.get(number).cloned()
    }

    /// A poll of this route has ended.
    fn polled(&self, route: &Arc<Route>) {
        let one_less = |holding: u32| holding.checked_sub(1);
        if route.holding.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
            return route.calm.store(0, Relaxed);
        }
        if route.calm.fetch_add(1, Relaxed) + 1 < CALM {
            return;
        }
        let mut known = self.known();
        known.routes.retain(|other| !Arc::ptr_eq(other, route));
        self.changed(&mut known);
    }

    /// Notes that one is refused.
    pub(super) fn refuse(&self, route: &Route) {
        let refused = self.0.refused.fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| now - at < APART) {
            return;
        }
        *said = Some(now);
        drop(said);
        tracing::warn!(
            target: "stellane::held",
            route = &*route.template,
            refused,
            "requests are refused: handlers of their route wait by their threads, and {} do already (`engine.max_blocked`)",
            self.0.now.load(Relaxed)
        );
    }

    fn changed(&self, known: &mut Known) {
        known.named = self.0.http.template_count();
        known.rules =
            rules(&known.routes, &self.0.http.templates()).or_else(|| rules(&known.routes, &[]));
        let any = known.rules.is_some() && !known.routes.is_empty();
        self.0.any.store(any, Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(&self, poll: &RunningPoll) -> Option<&Arc<Route>> {
        let template = poll.route.as_ref()?;
        let is_it = |route: &&Arc<Route>| {
            route.template == *template && route.method.as_str() == poll.method
        };
        self.routes.iter().find(is_it)
    }
}

/// `None` where the names are no templates, or contradict each other.
fn rules(routes: &[Arc<Route>], named: &[Arc<str>]) -> Option<Rules<Option<usize>>> {
    let mut rules = RulesBuilder::new();
    for (number, route) in routes.iter().enumerate() {
        let (path, method) = (route.template.to_string(), route.method.to_string());
        rules.add(Some(number), &[path], &[method], &[]);
    }
    for template in named.iter().filter(|template| template.starts_with('/')) {
        rules.add(None, &[template.to_string()], &[], &[]);
    }
    rules.build().ok()
}

/// A request of such a route.
#[derive(Debug)]
pub(super) struct ApartRequest {
    learned: Learned,
    route: Arc<Route>,
    /// Whether it is counted among those that hold a thread.
    counted: bool,
    asks: u8,
}

impl ApartRequest {
    pub(super) fn new(learned: &Learned, route: Arc<Route>) -> Self {
        Self {
            learned: learned.clone(),
            route,
            counted: false,
            asks: 0,
        }
    }

    /// Whether it has asked to be polled on a thread of its own, and is not polled here.
    #[cold]
    pub(super) fn leaves(&mut self, cx: &Context<'_>) -> bool {
        if engine::here() != Place::Core || self.asks == ASKS {
            self.asks = 0;
            return false;
        }
        self.asks += 1;
        if !mem::replace(&mut self.counted, true) {
            self.learned.begin();
        }
        engine::leave(cx);
        true
    }

    /// Whether so many hold threads that it would better be refused, if it has not begun.
    pub(super) fn is_too_much(&self) -> bool {
        !self.counted && self.learned.is_full()
    }

    pub(super) fn refuse(&self) {
        self.learned.refuse(&self.route);
    }

    pub(super) fn route(&self) -> &str {
        &self.route.template
    }

    /// A poll of it has ended.
    pub(super) fn polled(&mut self) {
        self.uncount();
        self.learned.polled(&self.route);
    }

    fn uncount(&mut self) {
        if mem::take(&mut self.counted) {
            self.learned.end();
        }
    }
}

impl Drop for ApartRequest {
    fn drop(&mut self) {
        self.uncount();
    }
}

impl fmt::Debug for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned")
            .field("routes", &self.known().routes)
            .finish_non_exhaustive()
    }
}

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
    /// How many handlers were seen to wait by their threads, and still do.
    waiting: AtomicUsize,
    /// How many may before others of their routes are refused.
    most: AtomicUsize,
    /// How many polls have left their cores, or are about to, whether they wait or not.
    apart: AtomicUsize,
    refused: AtomicU64,
    said: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Known {
    routes: Vec<Arc<Route>>,
    /// All that have a name, to tell which of them a request is of.
    templates: Vec<Arc<str>>,
    /// The numbers of the templates; `None` where they contradict each other. Then nothing is known of any request.
    rules: Option<Rules<usize>>,
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
            waiting: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            apart: AtomicUsize::new(0),
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

    /// One more waits by its thread.
    pub(super) fn begin_waiting(&self) {
        self.0.waiting.fetch_add(1, SeqCst);
    }

    pub(super) fn end_waiting(&self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }

    /// Whether no more may.
    pub(super) fn is_full(&self) -> bool {
        self.0.waiting.load(SeqCst) >= self.0.most.load(Relaxed)
    }

    /// Whether one more poll may leave its core; it is counted then.
    fn may_leave(&self) -> bool {
        let most = self.0.most.load(Relaxed);
        let one_more = |apart| (apart < most).then(|| apart + 1);
        self.0.apart.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }

    /// This poll holds its thread: of those that are known.
    pub(super) fn holds(&self, poll: &RunningPoll) {
        let Some(template) = &poll.route else { return };
        if let Some(route) = self.known().of(poll.method, template) {
            route.holding.fetch_add(1, SeqCst);
        }
    }

    /// And it waits: from now on it is known.
    pub(super) fn waits(&self, poll: &RunningPoll) {
        let (Some(template), Ok(method)) = (&poll.route, poll.method.parse()) else {
            return;
        };
        let mut known = self.known();
        if known.of(poll.method, template).is_some() {
            return;
        }
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
        self.0.any.store(true, Relaxed);
    }

    /// The route of such a request, if it is known.
    #[cold]
    pub(super) fn find(&self, method: &Method, path: &str) -> Option<Arc<Route>> {
        let mut known = self.known();
        // What is named since then may be more exact.
        if known.templates.len() != self.0.http.template_count() {
            known.templates = self.0.http.templates();
            known.rules = rules(&known.templates);
        }
        let number = known.rules.as_ref()?.find(path, method)?;
        let template = known.templates.get(number)?;
        known.of(method.as_str(), template).cloned()
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
        self.0.any.store(!known.routes.is_empty(), Relaxed);
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
            self.0.waiting.load(Relaxed)
        );
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(&self, method: &str, template: &str) -> Option<&Arc<Route>> {
        let is_it = |route: &&Arc<Route>| *route.template == *template && route.method == method;
        self.routes.iter().find(is_it)
    }
}

fn rules(templates: &[Arc<str>]) -> Option<Rules<usize>> {
    let mut rules = RulesBuilder::new();
    let numbered = templates.iter().enumerate();
    // Others are names of something else.
    for (number, template) in numbered.filter(|(_, template)| template.starts_with('/')) {
        rules.add(number, &[template.to_string()], &[], &[]);
    }
    rules.build().ok()
}

/// A request of such a route.
#[derive(Debug)]
pub(super) struct ApartRequest {
    learned: Learned,
    route: Arc<Route>,
    /// Whether it is counted among those that leave their cores.
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
        let stays = engine::here() != Place::Core || self.asks == ASKS;
        if stays || !(self.counted || self.learned.may_leave()) {
            self.asks = 0;
            return false;
        }
        self.asks += 1;
        self.counted = true;
        engine::leave(cx);
        true
    }

    /// Whether it is to be refused, if it has not begun.
    pub(super) fn is_too_much(&self) -> bool {
        self.learned.is_full()
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
            self.learned.0.apart.fetch_sub(1, SeqCst);
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

//! Handlers that hold a thread: what is counted and told of them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use stellane_autotune::{AdaptiveLimit, LocalSignal, embed::ThreadPlace};
use stellane_metrics::{HttpMetrics, RunningPoll, RuntimeSnapshot, embed::thread_number};

use super::learned::Learned;
use crate::engine::{Observe, ObserveThread};
#[cfg(feature = "profiling")]
use crate::profiling::{HeldStacks, Target};

pub(super) type ByRoute = BTreeMap<Cow<'static, str>, u64>;

/// Lines of a route are no nearer to each other.
const APART: Duration = Duration::from_secs(10);

/// What is held now, and how often something was; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct HeldThreads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    learned: Learned,
    /// Stands for a route that is not known.
    unmatched: String,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    now: ByRoute,
    total: ByRoute,
    /// For how long in all, of those that are over.
    time: BTreeMap<Cow<'static, str>, Duration>,
    /// Those that an engine tells of, by the numbers of their threads.
    open: BTreeMap<usize, Hold>,
    said: BTreeMap<Cow<'static, str>, Said>,
}

#[derive(Debug)]
struct Hold {
    route: Cow<'static, str>,
    /// By which the metrics know its thread.
    #[cfg(feature = "admin")]
    polls: usize,
    since: Instant,
    /// Whether it was told of while it lasted.
    told: bool,
    /// Where it stands, if that is asked for.
    stack: Option<Stack>,
}

/// Set once it is known.
pub(super) type Stack = Arc<OnceLock<String>>;

/// A hold that is told of.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) route: Cow<'static, str>,
    stack: Option<Stack>,
}

impl Told {
    /// Of which no more is known.
    #[cfg(feature = "admin")]
    pub(super) fn of(route: Cow<'static, str>) -> Self {
        Self { route, stack: None }
    }

    pub(super) fn stack(&self) -> Option<&str> {
        self.stack.as_ref()?.get().map(String::as_str)
    }
}

#[derive(Debug)]
struct Said {
    at: Instant,
    left_out: u64,
}

impl HeldThreads {
    pub(super) fn new(unmatched: &str, metrics: &HttpMetrics) -> Self {
        Self(Arc::new(Inner {
            learned: Learned::new(metrics),
            unmatched: unmatched.to_owned(),
            counts: Mutex::default(),
        }))
    }

    /// Routes of which it is known.
    pub(super) fn learned(&self) -> &Learned {
        &self.0.learned
    }

    pub(super) fn fill(&self, snapshot: &mut RuntimeSnapshot) {
        let counts = self.counts();
        snapshot.threads_held = counts.now.clone();
        snapshot.thread_holds_total = counts.total.clone();
        let refused = self.0.learned.refused();
        snapshot.shed_total.insert("max_blocked".into(), refused);
        let seconds =
            |(route, time): (&Cow<'static, str>, &Duration)| (route.clone(), time.as_secs_f64());
        snapshot.thread_held_seconds_total = counts.time.iter().map(seconds).collect();
    }

    pub(super) fn name(&self, route: Option<&str>) -> Cow<'static, str> {
        let route = route.unwrap_or(&self.0.unmatched);
        route.to_owned().into()
    }

    /// What is held now, and what was not held before.
    #[cfg(feature = "admin")]
    pub(super) fn set(&self, now: ByRoute, new: &[Cow<'static, str>]) {
        let mut counts = self.counts();
        for route in new {
            *counts.total.entry(route.clone()).or_default() += 1;
        }
        counts.now = now;
    }

    /// How many threads are held now that nobody has taken the place of.
    #[cfg(feature = "admin")]
    pub(super) fn in_the_way(&self) -> usize {
        let counts = self.counts();
        let threads = counts.now.values().sum::<u64>();
        let threads = usize::try_from(threads).unwrap_or(usize::MAX);
        threads.saturating_sub(counts.open.len())
    }

    /// Those that have lasted for so long and were not told of.
    #[cfg(feature = "admin")]
    pub(super) fn lasting(&self, after: Duration) -> Vec<Told> {
        if after.is_zero() {
            // It is not to be told.
            return Vec::new();
        }
        let mut counts = self.counts();
        let is_new = |hold: &&mut Hold| !hold.told && hold.since.elapsed() >= after;
        let new = counts.open.values_mut().filter(is_new);
        let tell = |hold: &mut Hold| {
            hold.told = true;
            let stack = hold.stack.clone();
            let route = hold.route.clone();
            Told { route, stack }
        };
        new.map(tell).collect()
    }

    /// One without a route is counted when it has got one, or is over: a thread may have been without a CPU before it came to
    /// the router.
    fn begin(&self, thread: usize, hold: Hold) {
        let mut counts = self.counts();
        *counts.now.entry(hold.route.clone()).or_default() += 1;
        if hold.route != self.0.unmatched {
            *counts.total.entry(hold.route.clone()).or_default() += 1;
        }
        counts.open.insert(thread, hold);
    }

    /// Names those that have got a route since.
    #[cfg(feature = "admin")]
    pub(super) fn name_anew(&self, metrics: &HttpMetrics) {
        let counts = &mut *self.counts();
        let open = counts.open.values_mut();
        for hold in open.filter(|hold| hold.route == self.0.unmatched) {
            let poll = metrics.running_poll(hold.polls);
            let Some(route) = poll.and_then(|poll| poll.route) else {
                continue;
            };
            less(&mut counts.now, &hold.route);
            hold.route = route.to_string().into();
            *counts.now.entry(hold.route.clone()).or_default() += 1;
            *counts.total.entry(hold.route.clone()).or_default() += 1;
        }
    }

    /// If it is to be told of, how long it lasted, and how many were not told of before.
    fn end(&self, thread: usize) -> Option<(Told, Duration, u64)> {
        let mut counts = self.counts();
        let Hold {
            route,
            since,
            told,
            stack,
            ..
        } = counts.open.remove(&thread)?;
        let lasted = since.elapsed();
        *counts.time.entry(route.clone()).or_default() += lasted;
        less(&mut counts.now, &route);
        if route == self.0.unmatched {
            *counts.total.entry(route.clone()).or_default() += 1;
        }
        if told {
            return None;
        }
        let at = Instant::now();
        let left_out = match counts.said.get_mut(&route) {
            Some(said) if at - said.at < APART => {
                said.left_out += 1;
                return None;
            }
            said => said.map_or(0, |said| said.left_out),
        };
        let said = Said { at, left_out: 0 };
        counts.said.insert(route.clone(), said);
        Some((Told { route, stack }, lasted, left_out))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn less(now: &mut ByRoute, route: &str) {
    if let Some(count) = now.get_mut(route) {
        *count -= 1;
        if *count == 0 {
            now.remove(route);
        }
    }
}

/// Counts and tells of the threads of an engine that are held, and gives back the places of requests that only wait.
#[derive(Debug, Clone)]
pub(super) struct HeldObserver {
    pub(super) held: HeldThreads,
    pub(super) metrics: HttpMetrics,
    pub(super) limit: AdaptiveLimit,
    pub(super) signal: LocalSignal,
    /// If they are asked for.
    #[cfg(feature = "profiling")]
    pub(super) stacks: Option<HeldStacks>,
}

#[derive(Debug)]
struct ObservedThread {
    observer: HeldObserver,
    #[cfg(feature = "profiling")]
    target: Option<Target>,
    /// By which the metrics know it.
    polls: usize,
    /// By which it is told from all others.
    number: usize,
    place: Arc<ThreadPlace>,
    /// Whether what it polls is counted among those that wait.
    counted: AtomicBool,
}

impl ObservedThread {
    fn end(&self) -> Option<(Told, Duration, u64)> {
        let held = &self.observer.held;
        if self.counted.swap(false, SeqCst) {
            held.learned().end_waiting();
        }
        held.end(self.number)
    }

    /// Has its stack taken, if that is asked for.
    #[cfg(feature = "profiling")]
    fn stack(&self, route: Option<&str>) -> Option<Stack> {
        let (stacks, target) = (self.observer.stacks.as_ref()?, self.target.as_ref()?);
        Some(stacks.take(target, route))
    }

    #[cfg(not(feature = "profiling"))]
    fn stack(&self, _: Option<&str>) -> Option<Stack> {
        None
    }

    fn poll(&self) -> Option<RunningPoll> {
        self.observer.metrics.running_poll(self.polls)
    }
}

impl Observe for HeldObserver {
    fn compute(&self, per_core: f64) {
        self.signal.report_computing(per_core);
    }

    fn thread(&self) -> Box<dyn ObserveThread> {
        let place = ThreadPlace::here(&self.limit);
        Box::new(ObservedThread {
            observer: self.clone(),
            #[cfg(feature = "profiling")]
            target: self.stacks.as_ref().and_then(|_| Target::here()),
            polls: thread_number(),
            number: Arc::as_ptr(&place).addr(),
            place,
            counted: AtomicBool::new(false),
        })
    }
}

impl ObserveThread for ObservedThread {
    fn is_held(&self, lasted: Duration) {
        let held = &self.observer.held;
        let poll = self.poll();
        if let Some(poll) = &poll {
            held.learned().holds(poll);
        }
        let route = poll.and_then(|poll| poll.route);
        let now = Instant::now();
        let hold = Hold {
            stack: self.stack(route.as_deref()),
            route: held.name(route.as_deref()),
            #[cfg(feature = "admin")]
            polls: self.polls,
            since: now.checked_sub(lasted).unwrap_or(now),
            told: false,
        };
        held.begin(self.number, hold);
    }

    fn waits(&self) {
        let learned = self.observer.held.learned();
        learned.begin_waiting();
        self.counted.store(true, SeqCst);
        if let Some(poll) = self.poll() {
            learned.waits(&poll);
        }
        self.place.lend();
    }

    fn goes_on(&self) {
        let Some((told, lasted, left_out)) = self.end() else {
            return;
        };
        tracing::warn!(
            target: "stellane::held",
            route = &*told.route,
            left_out,
            stack = told.stack(),
            "a handler has held its thread for {lasted:?}; others went on, on another one"
        );
    }

    fn has_gone_on(&self) {
        self.end();
    }
}

//! Handlers that hold a thread of the runtimes.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stellane_metrics::{RunningPoll, RuntimeSnapshot};

type ByRoute = BTreeMap<Cow<'static, str>, u64>;

/// What is held now, and how often something was; a cheap handle.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct HeldThreads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Stands for a route that is not known.
    unmatched: String,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    now: ByRoute,
    total: ByRoute,
}

impl HeldThreads {
    pub(in crate::runtime) fn new(unmatched: &str) -> Self {
        Self(Arc::new(Inner {
            unmatched: unmatched.to_owned(),
            counts: Mutex::default(),
        }))
    }

    pub(in crate::runtime) fn fill(&self, snapshot: &mut RuntimeSnapshot) {
        let counts = self.counts();
        snapshot.threads_held = counts.now.clone();
        snapshot.thread_holds_total = counts.total.clone();
    }

    /// How many threads are held now.
    pub(super) fn now(&self) -> usize {
        let threads = self.counts().now.values().sum::<u64>();
        usize::try_from(threads).unwrap_or(usize::MAX)
    }

    fn name(&self, route: Option<&str>) -> Cow<'static, str> {
        let route = route.unwrap_or(&self.0.unmatched);
        route.to_owned().into()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks again and again at what the threads poll. It counts its own looks and no time: a machine that stood still
/// holds nobody.
#[derive(Debug)]
pub(super) struct Look {
    tick: Duration,
    /// After so many looks that found the same, a thread is held; 0 is never.
    most: u32,
    /// The poll of each thread, and how many looks have found it.
    seen: BTreeMap<usize, (u32, u32)>,
}

impl Look {
    pub(super) fn new(after: Duration, tick: Duration) -> Self {
        let most = after.as_nanos().div_ceil(tick.as_nanos());
        Self {
            tick,
            most: u32::try_from(most).unwrap_or(u32::MAX),
            seen: BTreeMap::new(),
        }
    }

    /// How long a thread is held before that is told.
    pub(super) fn after(&self) -> Duration {
        self.tick * self.most
    }

    /// Looks once, and counts; the routes of handlers that have just held a thread for too long.
    pub(super) fn at(
        &mut self,
        polls: impl Iterator<Item = RunningPoll>,
        held: &HeldThreads,
    ) -> Vec<Cow<'static, str>> {
        if self.most == 0 {
            return Vec::new();
        }
        let before = mem::take(&mut self.seen);
        let (mut now, mut new) = (ByRoute::new(), Vec::new());
        for poll in polls {
            let looks = match before.get(&poll.thread) {
                Some((serial, looks)) if *serial == poll.serial => looks.saturating_add(1),
                _ => 0,
            };
            self.seen.insert(poll.thread, (poll.serial, looks));
            if looks >= self.most {
                let route = held.name(poll.route.as_deref());
                if looks == self.most {
                    new.push(route.clone());
                }
                *now.entry(route).or_default() += 1;
            }
        }
        let mut counts = held.counts();
        for route in &new {
            *counts.total.entry(route.clone()).or_default() += 1;
        }
        counts.now = now;
        new
    }
}

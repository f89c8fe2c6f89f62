use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// What a job belongs to, usually a route. Made by [`WorkerPool::class`](super::WorkerPool::class).
///
/// Classes share the workers by their weights: while several have jobs that wait, each gets worker *time* in
/// proportion to its weight, so a route of long jobs cannot starve one of short ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Class(pub(super) u16);

const MAX_CLASSES: usize = 64;

#[derive(Debug)]
pub(super) struct Classes {
    table: [OnceLock<ClassState>; MAX_CLASSES],
    count: AtomicUsize,
    adding: Mutex<()>,
    /// The time of the class that was served last: one that comes back starts here, not with the credit of
    /// its absence.
    floor: AtomicU64,
}

#[derive(Debug)]
pub(super) struct ClassState {
    name: Arc<str>,
    weight: u32,
    /// Nanoseconds of worker time it has had, divided by its weight.
    served: AtomicU64,
    running: AtomicU64,
    /// Zero before the first.
    mean_run: AtomicU64,
    pub(super) blocked: AtomicU64,
}

impl Default for Classes {
    fn default() -> Self {
        let classes = Self {
            table: std::array::from_fn(|_| OnceLock::new()),
            count: AtomicUsize::new(0),
            adding: Mutex::default(),
            floor: AtomicU64::new(0),
        };
        classes.add("default", 1);
        classes
    }
}

impl Classes {
    /// The class of that name; the default one when there are too many.
    pub(super) fn add(&self, name: &str, weight: u32) -> Class {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.all().position(|class| &*class.name == name);
        let at = known.unwrap_or_else(|| self.count.load(Relaxed));
        let Some(slot) = self.table.get(at) else {
            return Class::default();
        };
        slot.get_or_init(|| ClassState {
            name: name.into(),
            weight: weight.max(1),
            served: AtomicU64::new(self.floor.load(Relaxed)),
            running: AtomicU64::new(0),
            mean_run: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
        });
        self.count.fetch_max(at + 1, Relaxed);
        Class(at as u16)
    }

    fn all(&self) -> impl Iterator<Item = &ClassState> {
        self.table.iter().map_while(OnceLock::get)
    }

    pub(super) fn state(&self, class: u16) -> Option<&ClassState> {
        self.table.get(usize::from(class))?.get()
    }

    pub(super) fn name(&self, class: u16) -> Arc<str> {
        self.state(class)
            .map_or_else(|| "".into(), |class| Arc::clone(&class.name))
    }

    pub(super) fn weight(&self, class: usize) -> u64 {
        self.state(class as u16)
            .map_or(1, |class| u64::from(class.weight))
    }

    /// One class needs no accounts.
    pub(super) fn single(&self) -> bool {
        self.count.load(Relaxed) == 1
    }

    /// Of the lanes with jobs, the one whose class is furthest behind.
    pub(super) fn pick(&self, mut lanes: impl Iterator<Item = usize>) -> Option<usize> {
        if self.single() {
            return lanes.next();
        }
        lanes.min_by_key(|lane| {
            self.state(*lane as u16).map_or(0, |class| {
                let running = class.running.load(Relaxed) * class.mean_run.load(Relaxed);
                class.served.load(Relaxed) + running / u64::from(class.weight)
            })
        })
    }

    /// A class without waiting jobs gets one.
    pub(super) fn returns(&self, class: u16) {
        if !self.single()
            && let Some(class) = self.state(class)
        {
            class.served.fetch_max(self.floor.load(Relaxed), Relaxed);
        }
    }

    pub(super) fn begins(&self, class: u16) {
        if !self.single()
            && let Some(class) = self.state(class)
        {
            class.running.fetch_add(1, Relaxed);
            self.floor.store(class.served.load(Relaxed), Relaxed);
        }
    }

    /// The time of its polls on a worker counts when they have ended, whether the jobs are finished or not.
    ///
    /// `preempted`: the threads take turns on one CPU, so that a poll may seem far longer than it was.
    pub(super) fn ran(&self, class: u16, polls: u64, all: u64, preempted: bool) {
        let Some(class) = self.state(class) else {
            return;
        };
        let mean = class.mean_run.load(Relaxed);
        let most = if preempted && mean > 0 {
            4 * mean
        } else {
            u64::MAX
        };
        let nanos = (all / polls).min(most);
        // Written only when it says something new: all workers and callers read it.
        if mean == 0 || nanos.abs_diff(mean) > (mean / 4).max(500) {
            let mean = mean as i64 + (nanos as i64 - mean as i64) / 8;
            class.mean_run.store(mean.max(1) as u64, Relaxed);
        }
        if !self.single() {
            let share = all / u64::from(class.weight);
            class.served.fetch_add(share, Relaxed);
        }
    }

    pub(super) fn ends(&self, class: u16) {
        if !self.single()
            && let Some(class) = self.state(class)
        {
            // A job that began before there was a second class was not counted.
            let _ = class
                .running
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }

    pub(super) fn mean_run(&self, class: usize) -> u64 {
        self.state(class as u16)
            .map_or(0, |class| class.mean_run.load(Relaxed))
    }

    pub(super) fn stats(&self) -> Vec<ClassStats> {
        self.all()
            .map(|class| ClassStats {
                name: Arc::clone(&class.name),
                weight: class.weight,
                mean_run: Duration::from_nanos(class.mean_run.load(Relaxed)),
                blocked: class.blocked.load(Relaxed),
            })
            .collect()
    }
}

/// One [`Class`] of a [`WorkerPool`](super::WorkerPool).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// As it was made.
    pub name: Arc<str>,
    /// Its share against that of the others.
    pub weight: u32,
    /// How long one of its polls takes, smoothed.
    pub mean_run: Duration,
    /// Polls that held a worker longer than
    /// [`blocked_after`](super::WorkerPoolConfig::blocked_after).
    pub blocked: u64,
}

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "tokio")]
use std::time::Duration;

/// What the machine under a service says of itself: how many tasks are ready to run for each that can run.
///
/// Below 0.5 it has next to nothing to do, at 1 every core has just enough, and from about 2.5 on work queues here,
/// whatever the latency of requests says. A limit that is given one, by
/// [`AdaptiveLimitBuilder::local_signal`](super::AdaptiveLimitBuilder::local_signal), knows within a moment that the
/// service is full, and that it is not while requests wait for something else.
///
/// Who knows better than this crate [reports](Self::report). Without the feature `tokio` nobody else does, and at a
/// client, or where the service is elsewhere, nobody should: then throughput that no longer follows concurrency is the
/// only evidence, and a service that collapses when it is too full may not recover from a cold start at many times its
/// capacity. Let such a limit begin lower, by [`LimitConfig::initial`](super::LimitConfig::initial).
///
/// A cheap clone; all clones are the same signal.
///
/// ```
/// use stellane_autotune::LocalSignal;
///
/// let signal = LocalSignal::new();
/// assert_eq!(signal.tasks_per_core(), None);
/// signal.report(3.0);
/// assert_eq!(signal.tasks_per_core(), Some(3.0));
/// ```
#[derive(Debug, Clone, Default)]
pub struct LocalSignal(Arc<Sources>);

#[derive(Debug, Default)]
struct Sources {
    reported: Tasks,
    queued: Tasks,
    watched: Mutex<Vec<Arc<Tasks>>>,
}

/// The bits of a number of tasks; NaN where it is not known.
#[derive(Debug)]
struct Tasks(AtomicU64);

impl LocalSignal {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many tasks are ready to run for each that can run. It counts instead of what others see. NaN: it is no
    /// longer known.
    pub fn report(&self, tasks_per_core: f64) {
        self.0.reported.set(tasks_per_core);
    }

    /// How many tasks wait in a queue beside the runtimes, such as that of a pool of threads, for each core: runtimes
    /// whose handlers wait for such a pool have nothing to do themselves. NaN: it is no longer known.
    pub fn report_queue(&self, tasks_per_core: f64) {
        self.0.queued.set(tasks_per_core);
    }

    /// The latest report, or else the average of all runtimes that are watched, or the queue beside them if that is
    /// longer.
    #[must_use]
    pub fn tasks_per_core(&self) -> Option<f64> {
        let queued = self.0.queued.get();
        self.0.reported.get().or_else(|| {
            let watched = self.watched();
            let known = watched.iter().filter_map(|tasks| tasks.get());
            let (count, sum) =
                known.fold((0.0, 0.0), |(count, sum), tasks| (count + 1.0, sum + tasks));
            let average = (count > 0.0).then(|| sum / count);
            // Nothing is less than something.
            if queued > average { queued } else { average }
        })
    }

    /// Whether a runtime is watched.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        !self.watched().is_empty()
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Arc<Tasks>>> {
        self.0
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    fn set(&self, tasks: f64) {
        self.0.store(tasks.to_bits(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<f64> {
        let tasks = f64::from_bits(self.0.load(Ordering::Relaxed));
        (!tasks.is_nan()).then_some(tasks)
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

/// How often a runtime is looked at.
#[cfg(feature = "tokio")]
const TICK: Duration = Duration::from_millis(20);
/// A task that waits less than this for its turn waits for no other: timers are exact to a millisecond.
#[cfg(feature = "tokio")]
const AT_ONCE: f64 = 0.002;
/// A task that waits longer than this has others before it.
#[cfg(feature = "tokio")]
const QUEUED: f64 = 0.010;
/// So long tasks must have waited without a break, in seconds. One handler that blocks delays one tick, and a busy
/// service whose handlers compute for some milliseconds has queues of a tenth of a second, and empties them.
#[cfg(feature = "tokio")]
const LONG: f64 = 0.25;

#[cfg(feature = "tokio")]
impl LocalSignal {
    /// A signal, and what reports to it how long tasks of the current tokio runtime wait for their turn: spawn it on
    /// that runtime. When it is dropped nothing is known any more.
    ///
    /// ```
    /// use stellane_autotune::{AdaptiveLimit, LocalSignal};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), stellane_autotune::BuildError> {
    /// let (signal, watching) = LocalSignal::tokio();
    /// tokio::spawn(watching);
    /// let limit = AdaptiveLimit::builder().local_signal(&signal).build()?;
    /// # Ok(()) }
    /// ```
    pub fn tokio() -> (Self, impl Future<Output = ()> + Send + 'static) {
        let signal = Self::new();
        let watching = signal.watch_tokio();
        (signal, watching)
    }

    /// The same for a signal that is there: of several runtimes, each of which serves, it tells the average.
    pub fn watch_tokio(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let watched = Watched {
            tasks: Arc::default(),
            signal: self.clone(),
        };
        self.watched().push(Arc::clone(&watched.tasks));
        async move {
            let mut queue = Queue::default();
            loop {
                let due = tokio::time::Instant::now() + TICK;
                tokio::time::sleep_until(due).await;
                watched
                    .tasks
                    .set(queue.tasks_per_core(due.elapsed().as_secs_f64()));
            }
        }
    }
}

/// Forgotten when it is dropped.
#[cfg(feature = "tokio")]
struct Watched {
    tasks: Arc<Tasks>,
    signal: LocalSignal,
}

#[cfg(feature = "tokio")]
impl Drop for Watched {
    fn drop(&mut self) {
        let is_other = |tasks: &Arc<Tasks>| !Arc::ptr_eq(tasks, &self.tasks);
        self.signal.watched().retain(is_other);
    }
}

/// What the delays of ticks say about the queue of a runtime.
#[cfg(feature = "tokio")]
#[derive(Debug, Default)]
struct Queue {
    /// For how long each tick found others before it, and the shortest that one waited.
    waited: f64,
    shortest: f64,
    /// The share of ticks that had to wait.
    busy: f64,
}

#[cfg(feature = "tokio")]
impl Queue {
    fn tasks_per_core(&mut self, delay: f64) -> f64 {
        let had_to_wait = f64::from(u8::from(delay > AT_ONCE));
        self.busy += 0.1 * (had_to_wait - self.busy);
        if delay < QUEUED {
            (self.waited, self.shortest) = (0.0, f64::INFINITY);
            return self.busy;
        }
        let first = self.waited == 0.0;
        self.waited += delay;
        self.shortest = if first {
            delay
        } else {
            self.shortest.min(delay)
        };
        if first || self.waited < LONG {
            return self.busy;
        }
        1.0 + self.shortest / AT_ONCE
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    fn last(delays: &[f64]) -> f64 {
        let mut queue = Queue::default();
        let tasks = delays.iter().map(|delay| queue.tasks_per_core(*delay));
        tasks.last().unwrap_or_default()
    }

    #[test]
    fn only_tasks_that_wait_without_a_break_are_a_queue() {
        for (delays, is_full) in [
            (&[0.001; 40][..], false),
            // A handler that blocks for 5 s, and nobody behind it.
            (&[0.001, 5.0], false),
            (&[0.001, 5.0, 0.001, 5.0, 0.003], false),
            // A busy one whose handlers compute for 20 ms.
            (&[0.02, 0.04, 0.02, 0.03, 0.001, 0.02, 0.05], false),
            // Twice as much as it can do.
            (&[0.02, 0.04, 0.06, 0.08, 0.1], true),
            (&[0.2, 0.3], true),
        ] {
            let tasks = last(delays);
            assert_eq!(tasks > 2.5, is_full, "{delays:?}: {tasks}");
        }
        assert!(last(&[0.001; 40]) < 0.5, "idle");
    }

    #[test]
    fn the_longer_queue_counts() {
        let signal = LocalSignal::new();
        signal.report_queue(5.0);
        assert_eq!(signal.tasks_per_core(), Some(5.0));
        let runtime = Arc::new(Tasks::default());
        signal.watched().push(Arc::clone(&runtime));
        for (of_runtime, expected) in [(0.5, 5.0), (7.0, 7.0), (f64::NAN, 5.0)] {
            runtime.set(of_runtime);
            assert_eq!(signal.tasks_per_core(), Some(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_is_watched_until_that_is_dropped() {
        let (signal, watching) = LocalSignal::tokio();
        let watching = tokio::spawn(watching);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(signal.tasks_per_core().is_some_and(|tasks| tasks < 0.5));
        watching.abort();
        assert!(watching.await.is_err());
        assert_eq!(signal.tasks_per_core(), None);
    }
}

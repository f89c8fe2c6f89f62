#[cfg(feature = "tokio")]
mod cpu;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
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
    computing: Tasks,
    /// Threads of the runtimes that are held.
    held: AtomicUsize,
    watched: Mutex<Vec<Arc<Watched>>>,
}

/// What is known of a runtime.
#[derive(Debug, Default)]
struct Watched {
    tasks: Tasks,
    /// How many it has.
    #[cfg(feature = "tokio")]
    threads: AtomicUsize,
    /// When the next tick should come.
    #[cfg(feature = "tokio")]
    due: Mutex<Option<tokio::time::Instant>>,
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

    /// How many tasks compute on threads beside the runtimes, or would if there were a CPU for them, for each core: an
    /// executor that gives up threads to those that compute for long has nothing to do itself. NaN: it is not known.
    pub fn report_computing(&self, tasks_per_core: f64) {
        self.0.computing.set(tasks_per_core);
    }

    /// How many threads of the runtimes that are watched do not come back from a task. A runtime tells of the time of
    /// a task when that is over, so whoever sees such threads from outside tells here, again and again: else one whose
    /// other threads have more than they can do looks as if it had time.
    pub fn report_held(&self, threads: usize) {
        self.0.held.store(threads, Ordering::Relaxed);
    }

    /// The latest report, or else the average of all runtimes that are watched, or what waits or computes beside them if
    /// that is more.
    #[must_use]
    pub fn tasks_per_core(&self) -> Option<f64> {
        self.tasks(|watched| watched.tasks.get())
    }

    /// The same, and a tick that is late now counts already: for whoever has seen that others are served meanwhile. One
    /// that has just come tells of the time before it, and the next may be a second away.
    pub(super) fn tasks_per_core_now(&self) -> Option<f64> {
        self.tasks(Watched::tasks_now)
    }

    fn tasks(&self, of: impl Fn(&Watched) -> Option<f64>) -> Option<f64> {
        let beside = [&self.0.queued, &self.0.computing];
        let beside = beside.into_iter().filter_map(Tasks::get);
        self.0.reported.get().or_else(|| {
            let watched = self.watched();
            let known = watched.iter().filter_map(|watched| of(watched));
            let (count, sum) =
                known.fold((0.0, 0.0), |(count, sum), tasks| (count + 1.0, sum + tasks));
            let average = (count > 0.0).then(|| sum / count);
            average.into_iter().chain(beside).reduce(f64::max)
        })
    }

    /// Whether a runtime is watched.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        !self.watched().is_empty()
    }

    /// How many CPUs the threads of the runtimes that are watched can use at once, of those that the process may.
    #[cfg(feature = "tokio")]
    fn cpus(&self, allowed: f64) -> f64 {
        let watched = self.watched();
        let threads = watched
            .iter()
            .map(|watched| watched.threads.load(Ordering::Relaxed));
        allowed.min(threads.sum::<usize>() as f64)
    }

    /// The share of so many threads that is held. The one that asks is not.
    #[cfg(feature = "tokio")]
    fn held_share(&self, threads: usize) -> f64 {
        let held = self.0.held.load(Ordering::Relaxed);
        held.min(threads.saturating_sub(1)) as f64 / threads.max(1) as f64
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        let watched = self.0.watched.lock();
        watched.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    #[cfg(not(feature = "tokio"))]
    fn tasks_now(&self) -> Option<f64> {
        self.tasks.get()
    }

    #[cfg(feature = "tokio")]
    fn tasks_now(&self) -> Option<f64> {
        let tasks = self.tasks.get()?;
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = due.map_or(Duration::ZERO, |due| due.elapsed());
        Some(if delay > QUEUED {
            tasks.max(waiting(delay))
        } else {
            tasks
        })
    }

    #[cfg(feature = "tokio")]
    fn set_due(&self, due: tokio::time::Instant) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Some(due);
    }
}

/// How many tasks there are for each core if one of them waits so long for its turn.
#[cfg(feature = "tokio")]
fn waiting(delay: Duration) -> f64 {
    1.0 + delay.as_secs_f64() / AT_ONCE.as_secs_f64()
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
/// And how often one that has had next to nothing to do for a second: an idle server should sleep.
#[cfg(feature = "tokio")]
const CALM_TICK: Duration = Duration::from_millis(100);
/// Less than one part of so many is next to nothing.
#[cfg(feature = "tokio")]
const CALM: u32 = 20;
/// A task that waits less than this for its turn waits for no other: timers are exact to a millisecond.
#[cfg(feature = "tokio")]
const AT_ONCE: Duration = Duration::from_millis(2);
/// A task that waits longer than this has others before it.
#[cfg(feature = "tokio")]
const QUEUED: Duration = Duration::from_millis(10);
/// So long tasks must have waited without a break. One handler that blocks delays one tick, and a busy
/// service whose handlers compute for some milliseconds has queues of a tenth of a second, and empties them.
#[cfg(feature = "tokio")]
const LONG: Duration = Duration::from_millis(250);

/// How long the share of time in which there was something to do is averaged over.
#[cfg(feature = "tokio")]
const LATELY: Duration = Duration::from_millis(200);
/// A process that has less than this part of the CPUs that it could use waits for others: load generators beside a service take
/// half of them, or two thirds.
#[cfg(feature = "tokio")]
const STARVED: u32 = 4;

#[cfg(feature = "tokio")]
impl LocalSignal {
    /// A signal, and what reports to it how long tasks of the current tokio runtime wait for their turn: spawn it on
    /// that runtime. When it is dropped nothing is known any more. A process that gets less than a quarter of the CPUs
    /// that it could use, as its neighbours have them, is not taken for full (on Unix; elsewhere that is not known).
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
        self.watch(worked)
    }

    /// The same for an executor that has the time of a tokio runtime, and tells itself how long it has worked: spawn it on
    /// that runtime, whose turn is to come when that of a task of the executor would.
    pub fn watch_executor(
        &self,
        worked: impl Fn() -> Duration + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.watch(worked)
    }

    fn watch<W: Fn() -> Duration + Send + 'static>(
        &self,
        worked: W,
    ) -> impl Future<Output = ()> + Send + 'static + use<W> {
        let watch = Watch {
            watched: Arc::default(),
            signal: self.clone(),
        };
        self.watched().push(Arc::clone(&watch.watched));
        async move {
            let threads = workers();
            watch.watched.threads.store(threads, Ordering::Relaxed);
            let spent = move |held| Spent {
                worked: worked() + held,
                cpu_time: cpu::time(),
            };
            let (mut held, mut calm) = (Duration::ZERO, Duration::ZERO);
            let mut queue = Queue::since(spent(held));
            let allowed = cpu::allowed();
            loop {
                let pause = if calm < Duration::from_secs(1) {
                    TICK
                } else {
                    CALM_TICK
                };
                let due = tokio::time::Instant::now() + pause;
                watch.watched.set_due(due);
                tokio::time::sleep_until(due).await;
                let delay = due.elapsed();
                held += (pause + delay).mul_f64(watch.signal.held_share(threads));
                let before = queue.spent.worked;
                let spent = spent(held);
                queue.cpus = watch.signal.cpus(allowed);
                let tasks = queue.tasks_per_core(delay, spent, pause);
                watch.watched.tasks.set(tasks);
                let is_calm = delay < QUEUED && CALM * spent.worked.saturating_sub(before) < pause;
                calm = if is_calm {
                    calm + pause
                } else {
                    Duration::ZERO
                };
            }
        }
    }
}

/// How many workers the current runtime has.
#[cfg(feature = "tokio")]
fn workers() -> usize {
    tokio::runtime::Handle::current().metrics().num_workers()
}

/// How long the workers of the current runtime have worked, on average; each tells it from time to time only.
#[cfg(feature = "tokio")]
fn worked() -> Duration {
    let metrics = tokio::runtime::Handle::current().metrics();
    let workers = metrics.num_workers();
    #[cfg(target_has_atomic = "64")]
    let worked = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker));
    #[cfg(not(target_has_atomic = "64"))]
    let worked = (0..workers).map(|_| Duration::MAX / 2);
    worked.sum::<Duration>() / u32::try_from(workers).unwrap_or(u32::MAX).max(1)
}

/// Forgotten when it is dropped.
#[cfg(feature = "tokio")]
struct Watch {
    watched: Arc<Watched>,
    signal: LocalSignal,
}

#[cfg(feature = "tokio")]
impl Drop for Watch {
    fn drop(&mut self) {
        let is_other = |watched: &Arc<Watched>| !Arc::ptr_eq(watched, &self.watched);
        self.signal.watched().retain(is_other);
    }
}

/// What the delays of ticks say about the queue of a runtime.
#[cfg(feature = "tokio")]
#[derive(Debug)]
struct Queue {
    late: Option<Late>,
    /// The share of time of late in which there was something to do.
    busy: f64,
    /// Until the latest tick.
    spent: Spent,
    /// Of those that the process may use, how many the runtimes can.
    cpus: f64,
}

/// How long the workers of a runtime have worked, on average, and the CPU time of the process if that is known.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
struct Spent {
    worked: Duration,
    cpu_time: Option<Duration>,
}

/// Ticks that found others before them, without a break.
#[cfg(feature = "tokio")]
#[derive(Debug)]
struct Late {
    ticks: u32,
    waited: Duration,
    shortest: Duration,
    /// Since before the first of them, and what had been spent then.
    lasts: Duration,
    spent: Spent,
}

#[cfg(feature = "tokio")]
impl Queue {
    fn since(spent: Spent) -> Self {
        Self {
            late: None,
            busy: 0.0,
            spent,
            cpus: 1.0,
        }
    }

    /// After a tick that was so late, `pause` after the one before.
    fn tasks_per_core(&mut self, delay: Duration, spent: Spent, pause: Duration) -> f64 {
        let before = std::mem::replace(&mut self.spent, spent);
        // The workers tell how long they had something to do, and each that comes late had others before it.
        let worked = spent.worked.saturating_sub(before.worked);
        let busy = (worked.max(delay).as_secs_f64() / (pause + delay).as_secs_f64()).min(1.0);
        let weight = 1.0 - (-(pause + delay).as_secs_f64() / LATELY.as_secs_f64()).exp();
        self.busy += weight * (busy - self.busy);
        if delay < QUEUED {
            self.late = None;
            return self.busy;
        }
        let late = self.late.get_or_insert(Late {
            ticks: 0,
            waited: Duration::ZERO,
            shortest: Duration::MAX,
            lasts: Duration::ZERO,
            spent: before,
        });
        late.ticks += 1;
        late.waited += delay;
        late.shortest = late.shortest.min(delay);
        late.lasts += pause + delay;
        // A tick that is late while the workers have nothing to do, or no CPU, waits for one that others have: then they
        // seem to work also while they wait for it.
        let worked = spent.worked.saturating_sub(late.spent.worked);
        let had = spent.cpu_time.zip(late.spent.cpu_time);
        let fair = late.lasts.mul_f64(self.cpus) / STARVED;
        let is_own = 2 * worked > late.lasts
            && had.is_none_or(|(now, then)| now.saturating_sub(then) > fair);
        if late.ticks < 2 || late.waited < LONG || !is_own {
            return self.busy;
        }
        waiting(late.shortest)
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    /// After ticks that were so many milliseconds late, of workers that had something to do for such a share of the time.
    fn last(delays: &[u64], load: f64) -> f64 {
        last_of(delays, load, None)
    }

    /// Of a process that had a CPU for such a share of the time.
    fn last_of(delays: &[u64], load: f64, share: Option<f64>) -> f64 {
        let spent = |passed: Duration| Spent {
            worked: passed.mul_f64(load),
            cpu_time: share.map(|share| passed.mul_f64(share)),
        };
        let mut passed = Duration::ZERO;
        let mut queue = Queue::since(spent(passed));
        let tasks = delays.iter().map(|delay| {
            let delay = Duration::from_millis(*delay);
            passed += TICK + delay;
            queue.tasks_per_core(delay, spent(passed), TICK)
        });
        tasks.last().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_that_is_late_counts_before_it_comes() {
        let (signal, watched) = (LocalSignal::new(), Arc::<Watched>::default());
        signal.watched().push(Arc::clone(&watched));
        watched.tasks.set(0.5);
        watched.set_due(tokio::time::Instant::now() + TICK);
        tokio::time::advance(TICK).await;
        assert_eq!(signal.tasks_per_core_now(), Some(0.5));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(signal.tasks_per_core_now(), Some(301.0));
        // One late tick is no evidence.
        assert_eq!(signal.tasks_per_core(), Some(0.5));
    }

    #[test]
    fn time_counts_and_not_how_often_it_was_looked() {
        // A second that it waited for, and a few ticks on time between two of them.
        let mut delays = [[1000, 0, 0, 0, 0, 0].as_slice(); 5].concat();
        delays.push(1000);
        let tasks = last(&delays, 0.98);
        assert!(tasks > 0.95, "{tasks}");
        let idle = last(&[0; 100], 0.3);
        assert!((0.29..0.31).contains(&idle), "{idle}");
    }

    #[test]
    fn only_tasks_that_wait_without_a_break_are_a_queue() {
        for (delays, is_full) in [
            (&[1; 40][..], false),
            // A handler that blocks for 5 s, and nobody behind it.
            (&[1, 5000], false),
            (&[1, 5000, 1, 5000, 3], false),
            // A busy one whose handlers compute for 20 ms.
            (&[20, 40, 20, 30, 1, 20, 50], false),
            // Twice as much as it can do.
            (&[20, 40, 60, 80, 100], true),
            (&[200, 300], true),
        ] {
            let tasks = last(delays, 1.0);
            assert_eq!(tasks > 2.5, is_full, "{delays:?}: {tasks}");
            let idle = last(delays, 0.1);
            assert!(idle <= 1.0, "others have the CPU: {delays:?}: {idle}");
        }
        assert!(last(&[1; 40], 0.0) < 0.5, "idle");
    }

    #[test]
    fn a_process_whose_cpus_others_have_is_not_full() {
        for (share, is_full) in [(0.1, false), (0.2, false), (0.4, true), (1.0, true)] {
            let tasks = last_of(&[20, 40, 60, 80, 100], 1.0, Some(share));
            assert_eq!(tasks > 2.5, is_full, "{share}: {tasks}");
        }
    }

    #[test]
    fn a_process_has_no_more_cpus_than_its_runtimes_have_threads() {
        let signal = LocalSignal::new();
        for (threads, cpus) in [(1, 1.0), (2, 3.0), (5, 4.5)] {
            let runtime = Arc::<Watched>::default();
            runtime.threads.store(threads, Ordering::Relaxed);
            signal.watched().push(runtime);
            assert_eq!(signal.cpus(4.5), cpus);
        }
    }

    #[test]
    fn held_threads_work_though_their_runtime_does_not_know_it() {
        let signal = LocalSignal::new();
        for (held, threads, share) in [(0, 4, 0.0), (3, 4, 0.75), (4, 4, 0.75), (5, 1, 0.0)] {
            signal.report_held(held);
            let load = signal.held_share(threads);
            assert_eq!(load, share);
            // The one thread that is left has twice as much as it can do.
            let others = (threads - 1 - held.min(threads - 1)) as f64 * 0.1;
            let tasks = last(
                &[20, 40, 60, 80, 100],
                load + (1.0 + others) / threads as f64,
            );
            assert_eq!(tasks > 2.5, held >= 3, "{held} of {threads}: {tasks}");
        }
    }

    #[test]
    fn the_longer_queue_counts() {
        let signal = LocalSignal::new();
        signal.report_queue(5.0);
        assert_eq!(signal.tasks_per_core(), Some(5.0));
        let runtime = Arc::<Watched>::default();
        signal.watched().push(Arc::clone(&runtime));
        for (of_runtime, expected) in [(0.5, 5.0), (7.0, 7.0), (f64::NAN, 5.0)] {
            runtime.tasks.set(of_runtime);
            assert_eq!(signal.tasks_per_core(), Some(expected));
        }
        signal.report_computing(6.0);
        assert_eq!(signal.tasks_per_core(), Some(6.0));
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

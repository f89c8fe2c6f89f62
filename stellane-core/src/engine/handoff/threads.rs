//! The threads: each polls the tasks of a core for as long as it has one.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use async_task::Runnable;
use tokio::{runtime::Handle, sync::watch, task::yield_now};

use super::{
    super::EngineConfig,
    apart::{self, Place},
    core::{Core, CoreSpawner, Waited},
    marks::{PollMark, Rest},
    observe::{Observe, ObserveThread},
};
use crate::connection::{ConnectionManager, spawn::set_here};

/// So many polls between two looks at sockets and timers.
const BATCH: u32 = 61;
/// Who waits behind a poll that lasts this long is worth waking another core for.
const LONG: Duration = Duration::from_micros(50);
/// A thread without a core gives its memory back after this time,
const TIDY: Duration = Duration::from_secs(1);
/// and ends after that much more.
const SPARE: Duration = Duration::from_secs(9);

/// What all threads of an engine know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: EngineConfig,
    pub(super) connections: ConnectionManager,
    pub(super) observer: Option<Arc<dyn Observe>>,
    pub(super) cores: Vec<Arc<Core>>,
    pub(super) rest: Rest,
    pub(super) supervisor: OnceLock<Thread>,
    pub(super) counts: watch::Sender<Counts>,
    /// Accept loops that have not ended.
    pub(super) loops: watch::Sender<usize>,
    pub(super) handed_off: AtomicU64,
    pub(super) refused: AtomicU64,
    /// In whose context handlers run.
    pub(super) main: Handle,
    /// Threads that have no core.
    spares: Mutex<Vec<Arc<Worker>>>,
    /// Those that poll a task which has left its core.
    apart: Mutex<Vec<Apart>>,
    stopped: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) threads: usize,
    /// Those in a poll whose core went to another.
    pub(super) blocked: usize,
}

/// A poll of a task that has left its core.
#[derive(Debug)]
pub(super) struct Apart {
    pub(super) worker: Arc<Worker>,
    pub(super) core: Arc<Core>,
    pub(super) poll: u64,
    /// How many looks have found it.
    pub(super) looks: u32,
}

/// What a thread that has no core gets.
#[derive(Debug)]
enum Job {
    Core(Arc<Core>),
    /// To be polled once.
    Task(Arc<Core>, Runnable),
}

/// What is known of one thread.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) mark: PollMark,
    id: OnceLock<u32>,
    pub(super) observed: OnceLock<Box<dyn ObserveThread>>,
    /// What it is given while it has no core.
    next: Mutex<Option<Job>>,
    given: Condvar,
}

/// Why a thread has no core any more.
enum End {
    Lost,
    Stopped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        config: &EngineConfig,
        connections: &ConnectionManager,
        observer: Option<Arc<dyn Observe>>,
        main: Handle,
    ) -> io::Result<Self> {
        let cores = (0..config.threads()).map(|_| Core::new().map(Arc::new));
        Ok(Self {
            cores: cores.collect::<Result<_, _>>()?,
            config: config.clone(),
            connections: connections.clone(),
            observer,
            rest: Rest::new(),
            supervisor: OnceLock::new(),
            counts: watch::Sender::default(),
            loops: watch::Sender::default(),
            handed_off: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            main,
            spares: Mutex::default(),
            apart: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    pub(super) fn wake_supervisor(&self) {
        self.supervisor.get().map(Thread::unpark);
    }

    /// Ends what is left on the cores, and the threads. One that is in a poll ends after it.
    pub(super) fn end(&self) {
        self.stopped.store(true, SeqCst);
        for core in &self.cores {
            core.close();
        }
        for spare in lock(&self.spares).iter() {
            spare.wake();
        }
        self.wake_supervisor();
    }

    /// Whether there is a thread for a core, or may be one more.
    pub(super) fn has_room(&self) -> bool {
        self.counts.borrow().threads < self.cores.len() + 2 * self.config.max_blocked
            || !lock(&self.spares).is_empty()
    }

    /// Threads that poll a task which has left its core.
    pub(super) fn apart(&self) -> MutexGuard<'_, Vec<Apart>> {
        lock(&self.apart)
    }

    /// Gives a core to a thread that has none, or to a new one.
    pub(super) fn give_core(self: &Arc<Self>, core: &Arc<Core>) -> io::Result<Arc<Worker>> {
        let given = self.give(Job::Core(Arc::clone(core)));
        given.map_err(|(error, _)| error)
    }

    /// Has such a thread poll a task that leaves its core; the core has to, if there is none.
    fn give_task(self: &Arc<Self>, core: &Arc<Core>, task: Runnable) {
        if !self.has_room() {
            return core.schedule(task);
        }
        self.counts.send_modify(|counts| counts.blocked += 1);
        if let Err((_, job)) = self.give(Job::Task(Arc::clone(core), task)) {
            self.counts.send_modify(|counts| counts.blocked -= 1);
            if let Some(Job::Task(core, task)) = job {
                core.schedule(task);
            }
        }
    }

    /// With what was to be given, if there is no thread for it.
    fn give(self: &Arc<Self>, job: Job) -> Result<Arc<Worker>, (io::Error, Option<Job>)> {
        let spare = lock(&self.spares).pop();
        let Some(spare) = spare else {
            return self.start_thread(job);
        };
        *lock(&spare.next) = Some(job);
        spare.wake();
        Ok(spare)
    }

    fn start_thread(self: &Arc<Self>, job: Job) -> Result<Arc<Worker>, (io::Error, Option<Job>)> {
        let worker = Arc::new(Worker {
            mark: PollMark::new(),
            id: OnceLock::new(),
            observed: OnceLock::new(),
            next: Mutex::new(Some(job)),
            given: Condvar::new(),
        });
        self.counts.send_modify(|counts| counts.threads += 1);
        let (shared, own) = (Arc::clone(self), Arc::clone(&worker));
        let counted = Counted(Arc::clone(self));
        thread::Builder::new()
            .name("stellane-core".to_owned())
            .spawn(move || {
                let _counted = counted;
                shared.live(&own);
            })
            .map_err(|error| (error, lock(&worker.next).take()))?;
        Ok(worker)
    }

    /// A thread's life.
    fn live(self: &Arc<Self>, own: &Arc<Worker>) {
        let _ = own.id.set(thread_id());
        if let Some(observer) = &self.observer {
            let _ = own.observed.set(observer.thread());
        }
        let _entered = self.main.enter();
        let mut polls = 0;
        while let Some(job) = own.next_job(self) {
            let (Job::Core(core) | Job::Task(core, _)) = &job;
            set_here(Some(Arc::new(CoreSpawner(Arc::clone(core)))));
            let end = match job {
                Job::Core(core) => {
                    apart::set_here(Place::Core);
                    self.run(&core, own, &mut polls)
                }
                Job::Task(core, task) => {
                    apart::set_here(Place::Apart);
                    polls += 1;
                    self.run_apart(core, task, own, polls)
                }
            };
            apart::set_here(Place::Elsewhere);
            set_here(None);
            match end {
                End::Lost => {
                    if let Some(observed) = own.observed.get() {
                        observed.goes_on();
                    }
                    // Before it is counted: where nobody is blocked any more no other thread has to be started.
                    lock(&self.spares).push(Arc::clone(own));
                    self.counts.send_modify(|counts| counts.blocked -= 1);
                }
                End::Stopped => return,
            }
        }
    }

    /// Polls a task that has left its core.
    fn run_apart(&self, core: Arc<Core>, task: Runnable, own: &Arc<Worker>, poll: u64) -> End {
        if self.is_stopped() {
            // It is dropped with all that are left.
            core.schedule(task);
            return End::Lost;
        }
        own.mark.begin(poll);
        let worker = Arc::clone(own);
        self.apart().push(Apart {
            worker,
            core,
            poll,
            looks: 0,
        });
        let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
        self.apart()
            .retain(|apart| !Arc::ptr_eq(&apart.worker, own));
        // Whether it was held too long, nobody needs to know any more.
        let _ = own.mark.end();
        End::Lost
    }

    /// Polls the tasks of a core until it loses it.
    fn run(self: &Arc<Self>, core: &Arc<Core>, own: &Worker, polls: &mut u64) -> End {
        let mut left = BATCH;
        let mut works_since = Instant::now();
        // Another core has too much to do.
        let mut asked = false;
        loop {
            if self.is_stopped() {
                return End::Stopped;
            }
            let mut since = None;
            while left > 0 {
                let next = core.next();
                let Some((task, more)) = next.or_else(|| self.steal(core, asked)) else {
                    break;
                };
                if more && self.rest.idle() > 0 {
                    self.share(&mut since);
                }
                left -= 1;
                *polls += 1;
                own.mark.begin(*polls);
                // As in a task of tokio's: a panic is the end of this task only.
                let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
                let has_core = own.mark.end();
                if let Some(task) = apart::left() {
                    self.give_task(core, task);
                }
                if !has_core {
                    return End::Lost;
                }
            }
            // Not kept by who is held in a poll: it is to end with the engine.
            let Some(reactor) = core.reactor() else {
                return End::Stopped;
            };
            core.add_work(works_since.elapsed());
            if left == 0 {
                left = BATCH;
                reactor.block_on(yield_now());
                works_since = Instant::now();
                continue;
            }
            let waited = reactor.block_on(core.work(&self.rest));
            works_since = Instant::now();
            asked = waited != Some(Waited::No);
            if asked {
                left = BATCH;
                core.add_park();
            }
            if waited == Some(Waited::AndWatchSleeps) {
                self.wake_supervisor();
            }
        }
    }

    /// A task of another core, if there is more than that core can do.
    fn steal(&self, thief: &Arc<Core>, asked: bool) -> Option<(Runnable, bool)> {
        let others = || self.cores.iter().filter(|core| !Arc::ptr_eq(core, thief));
        match asked {
            true => others().find_map(|core| core.next()),
            false => None,
        }
    }

    /// Wakes an idle core for what waits behind polls that last long. Those that do not cost less than to wake it.
    fn share(&self, since: &mut Option<Instant>) {
        let now = Instant::now();
        if since.is_some_and(|since| now - since > LONG) {
            self.cores.iter().any(|core| core.wake());
        }
        *since = Some(now);
    }
}

impl Worker {
    /// What the kernel calls the thread, once it has begun.
    pub(super) fn id(&self) -> Option<u32> {
        self.id.get().copied()
    }

    fn wake(&self) {
        // Not between its look and its wait.
        drop(lock(&self.next));
        self.given.notify_one();
    }

    /// Waits for a core or a task; `None` if none comes for long, or the engine has stopped.
    fn next_job(self: &Arc<Self>, shared: &Shared) -> Option<Job> {
        for (turn, patience) in [TIDY, SPARE].into_iter().enumerate() {
            let waits = |next: &mut Option<_>| next.is_none() && !shared.is_stopped();
            let waited = self
                .given
                .wait_timeout_while(lock(&self.next), patience, waits);
            let (mut next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(job) = next.take() {
                return Some(job);
            }
            drop(next);
            if !timeout.timed_out() {
                break;
            }
            if turn == 0 {
                shared.connections.release_thread();
            }
        }
        let mut spares = lock(&shared.spares);
        let before = spares.len();
        spares.retain(|spare| !Arc::ptr_eq(spare, self));
        if spares.len() < before {
            return None;
        }
        drop(spares);
        // It was taken from among them a moment ago: something is on its way.
        let next = self
            .given
            .wait_while(lock(&self.next), |next| next.is_none());
        next.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A thread, until it ends or does not even begin.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.threads -= 1);
    }
}

/// An accept loop, until it ends.
pub(super) struct Loop(Arc<Shared>);

impl Loop {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        shared.loops.send_modify(|loops| *loops += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.loops.send_modify(|loops| *loops -= 1);
    }
}

#[cfg(target_os = "linux")]
fn thread_id() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

#[cfg(not(target_os = "linux"))]
fn thread_id() -> u32 {
    0
}

//! The workers' threads, and the one that watches them.

use std::{
    fmt,
    hint::spin_loop,
    io,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    thread::{Builder, yield_now},
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    context::WorkerContext,
    idle::Wake,
    origin::Origin,
    shared::{Phase, Shared, Task},
    supervisor::Supervisor,
};

#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadSettings {
    pub(super) idle_timeout: Duration,
    pub(super) nice: u8,
}

/// How often a worker that finds nothing looks again at once: some hundred nanoseconds, less than it costs to let
/// others run.
const LOOKS: u32 = 8;

/// How often it lets others run after that, before it sleeps: waking it costs the submitter some microseconds, and
/// the next job is often near.
const YIELDS: u32 = 16;

/// The same when others look, too.
const YIELDS_OF_MANY: u32 = 4;

/// What starts the threads of a pool: its first job. A pool that nobody uses has none.
#[derive(Default)]
pub(super) struct Starter {
    waits: AtomicBool,
    with: Mutex<Option<(Supervisor, ThreadSettings)>>,
}

impl Starter {
    /// There is a first job to wait for.
    pub(super) fn arm(&self, supervisor: Supervisor, settings: ThreadSettings) {
        *self.with() = Some((supervisor, settings));
        self.waits.store(true, Release);
    }

    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Acquire)
    }

    /// No job comes any more. What waited holds the pool.
    pub(super) fn disarm(&self) {
        drop(self.with().take());
    }

    /// Starts the workers and the supervisor; whether there are any now. The next job tries again.
    #[cold]
    pub(super) fn start(&self, shared: &Arc<Shared>) -> bool {
        let mut with = self.with();
        let Some((supervisor, settings)) = with.take() else {
            // Another job was faster, or the pool has ended.
            return true;
        };
        // The supervisor adds those that are missing.
        let min = shared.limits.min.load(Relaxed);
        let missing = (shared.limits.workers.load(Relaxed)..min)
            .any(|_| add_worker(shared, settings).is_err());
        if missing && shared.limits.workers.load(Relaxed) == 0 {
            *with = Some((supervisor, settings));
            return false;
        }
        // A thread that can't be started does not give back what it was to have.
        let supervisor = Arc::new(Mutex::new(Some(supervisor)));
        let (watched, its) = (Arc::clone(shared), Arc::clone(&supervisor));
        let spawned = Builder::new()
            .name("stellane-watch".to_owned())
            .spawn(move || {
                if let Some(supervisor) = lock(&its).take() {
                    supervise(&watched, supervisor, settings);
                }
            });
        match spawned {
            Ok(thread) => {
                let _ = shared.supervisor.thread.set(thread.thread().clone());
                self.waits.store(false, Release);
            }
            // The workers there are go on; the next job tries again.
            Err(_) => {
                *with = lock(&supervisor)
                    .take()
                    .map(|supervisor| (supervisor, settings))
            }
        }
        true
    }

    fn with(&self) -> MutexGuard<'_, Option<(Supervisor, ThreadSettings)>> {
        lock(&self.with)
    }
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starter").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn supervise(shared: &Arc<Shared>, mut supervisor: Supervisor, settings: ThreadSettings) {
    loop {
        shared.supervisor.hurry.store(false, SeqCst);
        let now = shared.clock.now();
        for _ in 0..supervisor.look(now) {
            // Without another thread the jobs only wait longer; the next look tries again.
            if add_worker(shared, settings).is_err() {
                break;
            }
        }
        match shared.phase() {
            Phase::Open => {}
            Phase::Draining if shared.outstanding() == 0 => {
                shared.end(Phase::Closed);
                return;
            }
            Phase::Draining => {}
            Phase::Closed => return,
        }
        if supervisor.quiet(now) {
            shared.supervisor.asleep.store(true, SeqCst);
            if shared.queued() == 0 && !shared.supervisor.hurry.load(SeqCst) {
                std::thread::park();
            }
            shared.supervisor.asleep.store(false, SeqCst);
        } else if !shared.supervisor.hurry.load(SeqCst) {
            std::thread::park_timeout(Supervisor::INTERVAL);
        }
    }
}

fn add_worker(shared: &Arc<Shared>, settings: ThreadSettings) -> io::Result<()> {
    let workers = shared.limits.workers.fetch_add(1, SeqCst);
    let owned = Arc::clone(shared);
    let started = Builder::new()
        .name(format!("stellane-worker-{workers}"))
        .spawn(move || {
            if let Some(local) = owned.claim_slot() {
                yield_to_others(settings.nice);
                let id = thread_id().unwrap_or(0);
                local.slot.thread.store(id, Relaxed);
                let local = Rc::new(local);
                local.enter(|| work(&local, settings.idle_timeout));
                owned.hand_back(&local);
                local.slot.thread.store(0, Relaxed);
                WorkerContext::give_back(local);
            }
        });
    if started.is_err() {
        shared.limits.workers.fetch_sub(1, SeqCst);
    }
    started.map(drop)
}

/// Why a worker stops running jobs.
enum Pause {
    /// The next job has another runtime than the one that is entered.
    Other(Task),
    Idle,
    /// There are too many workers.
    Surplus,
}

fn work(local: &WorkerContext, idle_timeout: Duration) {
    let shared = &*local.shared;
    let mut first = None;
    loop {
        let pause = {
            let origin = first
                .as_ref()
                .map(|task: &Task| Arc::clone(&task.metadata().origin));
            let runtime = origin.as_ref().and_then(|origin| origin.runtime.clone());
            let _entered = runtime.as_ref().map(Handle::enter);
            run_jobs(local, origin, first.take())
        };
        match pause {
            Pause::Other(task) => first = Some(task),
            Pause::Surplus => break,
            Pause::Idle => {
                let ending = || shared.phase() == Phase::Closed;
                let wake = shared
                    .idle
                    .sleep(idle_timeout, || ending() || shared.has_work());
                if wake == Wake::TimedOut && surplus(shared, true) {
                    break;
                }
            }
        }
    }
    local.found();
}

/// Runs jobs as long as there are any of that runtime, and waits a little for more.
fn run_jobs(local: &WorkerContext, mut origin: Option<Arc<Origin>>, first: Option<Task>) -> Pause {
    let shared = &*local.shared;
    local.now.set(shared.clock.now());
    if let Some(task) = first {
        shared.run(local, task);
    }
    let mut looks = 0;
    loop {
        if surplus(shared, false) {
            shared.rest(local);
            return Pause::Surplus;
        }
        if let Some(task) = shared.next(local) {
            local.found();
            let its = &task.metadata().origin;
            if !origin.as_ref().is_some_and(|last| Arc::ptr_eq(last, its)) {
                let same = |last: &Arc<Origin>| last.runtime_id() == its.runtime_id();
                if !origin.as_ref().is_some_and(same) {
                    shared.rest(local);
                    return Pause::Other(task);
                }
                origin = Some(Arc::clone(its));
            }
            shared.run(local, task);
            looks = 0;
            continue;
        }
        // Once more after it has told of it.
        local.search();
        if looks < LOOKS {
            spin_loop();
        } else {
            let alone = shared.idle.searching() == 1;
            let yields = if alone { YIELDS } else { YIELDS_OF_MANY };
            if looks >= LOOKS + yields {
                return Pause::Idle;
            }
            yield_now();
        }
        looks += 1;
        local.now.set(shared.clock.now());
    }
}

/// Whether the calling worker is one too many; it is no longer counted then.
fn surplus(shared: &Shared, idle: bool) -> bool {
    let limits = &shared.limits;
    let closed = shared.phase() == Phase::Closed;
    let most = if closed {
        0
    } else if idle {
        limits.target.load(Relaxed)
    } else {
        limits.max.load(Relaxed)
    };
    let fewer = |workers: usize| (workers > most).then(|| workers - 1);
    limits.workers.load(Relaxed) > most
        && limits.workers.fetch_update(SeqCst, Relaxed, fewer).is_ok()
}

/// The calling thread's share of a busy machine.
fn yield_to_others(nice: u8) {
    #[cfg(all(target_os = "linux", not(miri)))]
    if nice > 0 {
        // Of the thread alone, on Linux. Refused, the work is merely less polite.
        let _ = rustix::process::setpriority_process(None, i32::from(nice));
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = nice;
}

fn thread_id() -> Option<u32> {
    if !cfg!(target_os = "linux") || cfg!(miri) {
        return None;
    }
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

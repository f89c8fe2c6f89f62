//! SIGTERM and SIGINT, from the build of a runtime to the end of the process.
//!
//! A handler for a signal is the process's and stays for good, so there is one thread for all runtimes of the process.
//! It waits for signals by itself, and needs no runtime to act: the process ends even if all of its threads are blocked.
//!
//! | when | SIGTERM | SIGINT |
//! |---|---|---|
//! | built, but none serves yet | ends, status 0: nothing is cut | ends, as without a handler |
//! | serving | begins the drain; what is built beside it ends as soon as it serves | the same |
//! | asked already | ends at once, status 143 | ends at once, status 130 |
//! | no runtime any more | ends, as without a handler | the same |
//!
//! The drain has its time; a second before the [grace period](crate::config::ServerConfig::grace_period) is over, a
//! process that is blocked is ended with a line that says what was cut.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use crate::{connection::ConnectionManager, logging};

/// How long a line may take to be written: nobody may be reading it.
const PATIENCE_WITH_LOG: Duration = Duration::from_millis(200);
/// So often the workers of a runtime are asked whether they are free, each time for 10 ms.
const TURNS: u32 = 20;
/// So long before whoever waits for the process loses patience.
const EARLIER: Duration = Duration::from_secs(1);

/// What a runtime hears of the signals, and they of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Ending(Arc<Run>);

#[derive(Debug)]
struct Run {
    connections: ConnectionManager,
    grace: Duration,
    asked: CancellationToken,
    phase: Mutex<Phase>,
    changed: Condvar,
    /// What may be held by requests that were cut.
    held: Mutex<Option<Threads>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Built,
    Serving,
    Ended,
}

/// Every runtime of the process that has not ended.
#[derive(Debug, Default)]
struct Hub {
    runs: Mutex<Vec<Weak<Run>>>,
    /// Somebody else had a handler before: it is not ours to do what the system would without one.
    others: bool,
}

static HUB: OnceLock<Hub> = OnceLock::new();

impl Ending {
    /// From now on the signals are obeyed. `grace` is how long the end may take.
    ///
    /// # Errors
    /// The handlers can't be installed.
    pub(super) fn new(connections: &ConnectionManager, grace: Duration) -> io::Result<Self> {
        static INSTALLED: Mutex<bool> = Mutex::new(false);
        let hub = HUB.get_or_init(|| Hub {
            others: are_caught(),
            ..Hub::default()
        });
        let run = Arc::new(Run {
            connections: connections.clone(),
            grace,
            asked: CancellationToken::new(),
            phase: Mutex::new(Phase::Built),
            changed: Condvar::new(),
            held: Mutex::default(),
        });
        {
            let mut runs = lock(&hub.runs);
            runs.retain(|run| run.strong_count() > 0);
            runs.push(Arc::downgrade(&run));
        }
        let mut installed = lock(&INSTALLED);
        if !*installed {
            let signals = Signals::new([SIGINT, SIGTERM])?;
            thread::Builder::new()
                .name("stellane-signals".to_owned())
                .spawn(|| obey(signals, hub))?;
            *installed = true;
        }
        Ok(Self(run))
    }

    /// The service begins, on this runtime; resolves when it is to end.
    pub(super) fn serve(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.enter(Phase::Serving);
        if self.0.asked.is_cancelled() {
            // Another one was serving when the signal came.
            self.0.watch(1);
        }
        self.0.asked.clone().cancelled_owned()
    }

    /// It ends for another reason than a signal, and is to end in time all the same.
    #[cfg(feature = "restart")]
    pub(super) fn watch(&self) {
        self.0.watch(1);
    }

    /// It has ended. What was cut may hold the threads of this runtime for ever, and so may what nobody waits for any more.
    pub(super) async fn has_ended(&self, has_cut: bool) {
        let runtime = Handle::current();
        let is_held = has_cut || !all_have_a_turn(&runtime).await;
        *lock(&self.0.held) = Threads::of(runtime, is_held);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
    }
}

impl Run {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    fn enter(&self, phase: Phase) {
        *self.phase() = phase;
        self.changed.notify_all();
    }

    /// The end may take its time, but not longer.
    fn watch(self: &Arc<Self>, status: i32) {
        let run = Arc::clone(self);
        let watched = thread::Builder::new()
            .name("stellane-ending".to_owned())
            .spawn(move || run.end_in_time(status));
        if let Err(error) = watched {
            tracing::warn!(%error, "nobody watches whether this process ends");
        }
    }

    /// Waits for the end, and ends the process if it does not come.
    fn end_in_time(&self, status: i32) {
        let deadline = Instant::now() + self.grace.saturating_sub(EARLIER);
        let mut phase = self.phase();
        while *phase != Phase::Ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.changed.wait_timeout(phase, left);
            phase = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let ended = *phase == Phase::Ended;
        drop(phase);
        if ended {
            // What is open now is held by threads that are blocked, and they hold the process. So may what was cut.
            let held = lock(&self.held).take();
            let is_open = || self.connections.stats().open > 0;
            while (is_open() || held.is_some()) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
            }
            if !is_open() && !held.is_some_and(|threads| threads.are_held()) {
                return;
            }
        }
        let connections = self.connections.clone();
        say(move || {
            let cut = cut(&connections);
            format!("the process is blocked and did not end in time: it is ended, {cut}")
        });
        low_level::exit(status);
    }
}

/// The threads of a runtime as they were: tokio waits for each when the runtime is dropped.
#[derive(Debug)]
struct Threads {
    runtime: Handle,
    /// Those of other runtimes are among them: they have the same name.
    ids: Vec<OsString>,
    /// One is known to be held.
    is_held: bool,
}

impl Threads {
    /// `None` where nobody can tell.
    fn of(runtime: Handle, is_held: bool) -> Option<Self> {
        let ids: Vec<_> = std::fs::read_dir("/proc/self/task")
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|id| is_of_tokio(id))
            .collect();
        (!ids.is_empty()).then_some(Self {
            runtime,
            ids,
            is_held,
        })
    }

    /// Whether the runtime is being dropped, which does not end.
    fn are_held(&self) -> bool {
        let alive = Arc::new(());
        let is_alive = Arc::downgrade(&alive);
        // One that is being dropped drops what it is given.
        let task = self.runtime.spawn(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        let is_dropped = is_alive.strong_count() == 0;
        task.abort();
        let is_held = |id: &OsString| is_of_tokio(id) && (self.is_held || is_stuck(id));
        is_dropped && self.ids.iter().any(is_held)
    }
}

/// Whether every worker of a runtime runs a task that is spawned now: one that is held does not.
async fn all_have_a_turn(runtime: &Handle) -> bool {
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        return true;
    }
    let workers = runtime.metrics().num_workers();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    for _ in 0..TURNS {
        // One more for the one that stays with the worker that spawns.
        for _ in 0..=workers {
            let seen = Arc::clone(&seen);
            runtime.spawn(async move {
                lock(&seen).insert(thread::current().id());
                // Meanwhile others take the tasks that are for them.
                thread::sleep(Duration::from_micros(100));
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        if lock(&seen).len() >= workers {
            return true;
        }
    }
    false
}

/// Whether a thread waits, again and again, for something else in the system than a thread of a runtime without work does.
fn is_stuck(id: &OsStr) -> bool {
    let at = Path::new("/proc/self/task").join(id).join("wchan");
    (0..3).all(|_| {
        thread::sleep(Duration::from_millis(20));
        let at = std::fs::read_to_string(&at).unwrap_or_default();
        !at.is_empty()
            && at != "0"
            && !["ep_poll", "epoll", "futex"]
                .iter()
                .any(|one| at.contains(one))
    })
}

/// Whether a thread has the name that tokio gives, unless it is told otherwise.
fn is_of_tokio(thread: &OsStr) -> bool {
    let name = Path::new("/proc/self/task").join(thread).join("comm");
    std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "tokio-rt-worker")
}

/// What the thread for signals does, for ever.
fn obey(mut signals: Signals, hub: &Hub) {
    for signal in signals.forever() {
        let runs: Vec<_> = lock(&hub.runs).iter().filter_map(Weak::upgrade).collect();
        let in_phase = |phase| runs.iter().filter(move |run| *run.phase() == phase);
        let again = in_phase(Phase::Serving).find(|run| run.asked.is_cancelled());
        if let Some(run) = again {
            let connections = run.connections.clone();
            say(move || {
                let name = low_level::signal_name(signal).unwrap_or("a signal");
                format!("{name} again: the process ends now, {}", cut(&connections))
            });
            low_level::exit(128 + signal);
        }
        let serves = in_phase(Phase::Serving).next().is_some();
        for run in in_phase(Phase::Serving) {
            run.asked.cancel();
            run.watch(128 + signal);
        }
        if serves {
            in_phase(Phase::Built).for_each(|run| run.asked.cancel());
        }
        if serves || hub.others {
            continue;
        }
        if signal == SIGTERM && in_phase(Phase::Built).next().is_some() {
            say(|| "SIGTERM before the service began: the process ends".to_owned());
            low_level::exit(0);
        }
        // The system spares the first process of a container.
        if std::process::id() != 1 {
            let _ = low_level::emulate_default_handler(signal);
        }
        low_level::exit(128 + signal);
    }
}

fn cut(connections: &ConnectionManager) -> String {
    let stats = connections.stats();
    format!(
        "{} connections are cut, {} of them in the midst of something",
        stats.open, stats.active
    )
}

/// Writes a line, unless that takes long: the process is about to end, and nobody may be reading.
fn say(line: impl FnOnce() -> String + Send + 'static) {
    let (said, is_said) = mpsc::channel();
    let saying = move || {
        let line = line();
        if tracing::dispatcher::has_been_set() {
            tracing::warn!("{line}");
            logging::flush();
        } else {
            eprintln!("{line}");
        }
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(saying).is_ok() {
        let _ = is_said.recv_timeout(PATIENCE_WITH_LOG);
    }
}

/// Whether somebody catches SIGINT or SIGTERM already.
fn are_caught() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = |signal: i32| 1 << (signal - 1);
    caught.is_some_and(|caught| caught & (bit(SIGINT) | bit(SIGTERM)) != 0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Gives the memory of parked connections back to the system.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use tokio::runtime::{Handle, Id, RuntimeFlavor};

/// Shortest time between two rounds, in milliseconds.
const INTERVAL: u64 = 500;
/// So many sweeps in a row ask for workers that had no turn, since they are busy, and purge none.
const MOST_TRIES: u32 = 20;
/// Keeps a worker that has been purged busy for the moment in which others take the tasks that are for them.
const ASIDE: Duration = Duration::from_micros(100);

/// What the user wants to be called.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn() + Send + Sync>);

impl Hook {
    pub(crate) fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }
}

/// Has glibc's malloc hand memory that is free back to the system: a
/// [purge hook](crate::connection::ConnectionManagerBuilder::purge_hook) for programs that keep the system's allocator, which
/// without it keeps what busy connections needed. 2000 connections that were busy at once were 1.3 KB each with it when
/// idle, and 2.4 to 2.9 KB without (0.2 to 0.3 KB with mimalloc and its own hook); 10 000 that had asked once 0.8 to 1.5 KB
/// with it and 1.0 to 2.7 without, however they came.
///
/// Elsewhere than with glibc on Linux it does nothing, and in a program with another allocator next to nothing.
pub fn malloc_trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it is declared as in malloc.h, any thread may call it at any time, and it gives back only what nobody
        // uses.
        unsafe { malloc_trim(0) };
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Calls the hook after each round of connections that have parked, or were closed by a drain, once on every worker of
/// every runtime that serves: allocators with a heap for each thread give back only what the calling thread holds. One
/// worker at a time: mimalloc leaves out what it would give back while another thread does, and the others can go on
/// serving.
#[derive(Debug)]
pub(crate) struct MemoryRelease {
    hook: Option<Hook>,
    /// Connections that were parked, or closed by a drain, since the last round ended.
    freed: AtomicU64,
    last_round: AtomicU64,
    rounds: AtomicU64,
    /// How far each runtime is.
    runtimes: Mutex<Vec<Round>>,
    /// Held by the thread that is being purged. Of tokio, since a hook that panics does not poison it.
    turn: tokio::sync::Mutex<()>,
}

/// Which threads of a runtime had their turn since a round ended.
#[derive(Debug)]
struct Round {
    runtime: Id,
    number: u64,
    purged: Vec<ThreadId>,
    /// How often threads were asked for since the last one was purged.
    tries: u32,
}

impl Round {
    fn new(runtime: Id, number: u64) -> Self {
        Self {
            runtime,
            number,
            purged: Vec::new(),
            tries: 0,
        }
    }

    /// How many of these threads are to be asked for.
    fn missing(&mut self, threads: usize) -> usize {
        // Nothing has parked before the first round ends.
        if self.number == 0 || self.tries == MOST_TRIES {
            return 0;
        }
        self.tries += 1;
        threads.saturating_sub(self.purged.len())
    }

    fn has(&self, thread: ThreadId) -> bool {
        self.purged.contains(&thread)
    }

    fn add(&mut self, thread: ThreadId) {
        self.purged.push(thread);
        self.tries = 0;
    }
}

impl MemoryRelease {
    pub(crate) fn new(hook: Option<Hook>) -> Self {
        Self {
            hook,
            freed: AtomicU64::new(0),
            last_round: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            runtimes: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Whether there is a hook.
    #[cfg(feature = "preset")]
    pub(crate) fn is_given_back(&self) -> bool {
        self.hook.is_some()
    }

    pub(crate) fn count_freed(&self) {
        self.freed.fetch_add(1, Relaxed);
    }

    /// Ends a round, unless nothing was freed or the last one is too near. For one caller at a time.
    pub(crate) fn end_round(&self, now: u64) {
        let due = now >= self.last_round.load(Relaxed) + INTERVAL;
        if due && self.freed.swap(0, Relaxed) > 0 {
            self.last_round.store(now, Relaxed);
            self.rounds.fetch_add(1, Relaxed);
        }
    }

    /// Purges the threads of this runtime that were not purged since the last round ended, this one at once. Those that have
    /// no time now, or come while another is at it, are asked for by the next sweep.
    pub(crate) fn release_here(self: &Arc<Self>) {
        if self.hook.is_none() {
            return;
        }
        let runtime = Handle::current();
        let id = runtime.id();
        let alone = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        // What `block_on` drives is on no worker.
        let outside = !alone && tokio::task::try_id().is_none();
        let threads = runtime.metrics().num_workers() + usize::from(outside);
        let missing = self.with_round(id, |round| round.missing(threads));
        if missing == 0 {
            return;
        }
        let missing = missing - usize::from(self.this_thread(id));
        if alone || missing == 0 {
            return;
        }
        // The last task that a worker spawns stays with it: one more lets the others go.
        for _ in 0..=missing {
            let purge = Arc::clone(self);
            runtime.spawn(async move {
                if !purge.this_thread(id) {
                    thread::sleep(ASIDE);
                }
            });
        }
    }

    /// Purges this thread, which has nothing to do for now and is of no runtime, unless another one is at it.
    #[cfg(feature = "engine")]
    pub(crate) fn release_thread(&self) {
        if let (Some(Hook(hook)), Ok(_turn)) = (&self.hook, self.turn.try_lock()) {
            hook();
        }
    }

    /// Purges this thread, unless that was done, or another one is at it; whether it did.
    fn this_thread(&self, runtime: Id) -> bool {
        let thread = thread::current().id();
        let (Some(Hook(hook)), Ok(_turn)) = (&self.hook, self.turn.try_lock()) else {
            return false;
        };
        let claimed = self.with_round(runtime, |round| {
            let new = !round.has(thread);
            if new {
                round.add(thread);
            }
            new
        });
        if claimed {
            hook();
        }
        claimed
    }

    /// Where a runtime is since the last round ended.
    fn with_round<T>(&self, runtime: Id, with: impl FnOnce(&mut Round) -> T) -> T {
        let number = self.rounds.load(Relaxed);
        let mut runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = runtimes.iter().position(|round| round.runtime == runtime);
        let at = at.unwrap_or_else(|| {
            runtimes.push(Round::new(runtime, number));
            runtimes.len() - 1
        });
        let round = &mut runtimes[at];
        if round.number != number {
            *round = Round::new(runtime, number);
        }
        with(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_asks_for_those_it_misses_and_gives_up_on_those_that_never_come() {
        let runtime = Handle::current().id();
        let (one, other) = (thread::current().id(), thread::spawn(|| {}).thread().id());
        assert_eq!(
            Round::new(runtime, 0).missing(2),
            0,
            "before the first round ends"
        );
        let mut round = Round::new(runtime, 1);
        for _ in 1..MOST_TRIES {
            assert_eq!(round.missing(2), 2);
        }
        round.add(one);
        assert!(round.has(one) && !round.has(other));
        for _ in 0..MOST_TRIES {
            assert_eq!(round.missing(2), 1);
        }
        assert_eq!(round.missing(2), 0, "it has tried long enough");
        round.add(other);
        assert_eq!(round.missing(2), 0, "all were purged");
    }
}

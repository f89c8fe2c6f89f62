//! Who sleeps and who is to be woken. The protocol is checked by loom in `tests/worker_loom.rs`, which
//! includes this file.

#[cfg(loom)]
use loom::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::*, fence},
    },
    thread::{self, Thread},
};
use std::{sync::PoisonError, time::Duration};
#[cfg(not(loom))]
use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::*, fence},
    },
    thread::{self, Thread},
};

/// The sleeping workers, and how many of the others are looking for work.
///
/// Whoever publishes work calls [`notify`](Self::notify) after it. That wakes nobody while a worker is
/// searching: it will find the work, and when it does and was the last to search, it calls
/// [`found`](Self::found), which wakes the next one if there is more. A worker that found nothing tells of its
/// sleep first and looks once more afterwards. Between that look and the publisher's stand two sequentially
/// consistent fences, so one of the two sees the other.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The one that went to sleep last is woken first, so that surplus workers stay asleep.
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
    /// How many sleep, to be read without the lock.
    asleep: AtomicUsize,
    searching: AtomicUsize,
}

#[derive(Debug)]
struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

/// Why a sleep has ended; after the first two the worker counts as searching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// There is work, or was a moment ago.
    Work,
    /// Nothing came for so long.
    TimedOut,
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Sleeper>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many workers sleep.
    pub(super) fn asleep(&self) -> usize {
        self.asleep.load(Relaxed)
    }

    /// How many workers look for work.
    pub(super) fn searching(&self) -> usize {
        self.searching.load(Relaxed)
    }

    /// Work was published: wakes a worker unless one is searching.
    pub(super) fn notify(&self) {
        fence(SeqCst);
        if self.searching.load(Relaxed) == 0 && self.asleep.load(Relaxed) > 0 {
            self.wake_one(false);
        }
    }

    /// Wakes a worker although others search: work has waited for long, so they seem to be held up.
    pub(super) fn wake_another(&self) {
        if self.asleep.load(Relaxed) > 0 {
            self.wake_one(true);
        }
    }

    fn wake_one(&self, another: bool) {
        let sleeper = {
            let mut sleepers = self.lock();
            // Another publisher may have woken one since; that one searches.
            if !another && self.searching.load(Relaxed) > 0 {
                return;
            }
            let Some(sleeper) = sleepers.pop() else {
                return;
            };
            // In its name, so that further work wakes nobody until it has looked.
            self.searching.fetch_add(1, SeqCst);
            self.asleep.store(sleepers.len(), Relaxed);
            sleeper
        };
        sleeper.woken.store(true, Release);
        sleeper.thread.unpark();
    }

    /// Wakes all, for a change of settings or the end.
    pub(super) fn notify_all(&self) {
        fence(SeqCst);
        let sleepers = {
            let mut sleepers = self.lock();
            self.searching.fetch_add(sleepers.len(), SeqCst);
            self.asleep.store(0, Relaxed);
            std::mem::take(&mut *sleepers)
        };
        for sleeper in sleepers {
            sleeper.woken.store(true, Release);
            sleeper.thread.unpark();
        }
    }

    /// The calling worker has nothing to do and begins to look; or will as soon as it has delivered a result.
    pub(super) fn search(&self) {
        self.searching.fetch_add(1, SeqCst);
    }

    /// The calling worker stops looking, with work in its hands or to end.
    pub(super) fn found(&self, more: impl FnOnce() -> bool) {
        // Publishers that saw it search woke nobody.
        if self.searching.fetch_sub(1, SeqCst) == 1 {
            fence(SeqCst);
            if more() {
                self.notify();
            }
        }
    }

    /// Puts the calling worker, which is searching, to sleep until it is woken or `timeout` has passed.
    pub(super) fn sleep(&self, timeout: Duration, work: impl FnOnce() -> bool) -> Wake {
        let me = Arc::new(Sleeper {
            thread: thread::current(),
            woken: AtomicBool::new(false),
        });
        {
            let mut sleepers = self.lock();
            sleepers.push(Arc::clone(&me));
            self.asleep.store(sleepers.len(), Relaxed);
        }
        self.searching.fetch_sub(1, SeqCst);
        fence(SeqCst);
        if work() {
            self.leave(&me);
            return Wake::Work;
        }
        loop {
            if me.woken.load(Acquire) {
                return Wake::Work;
            }
            if park(timeout) {
                // Who is no longer on the list is being woken.
                return if self.leave(&me) {
                    Wake::TimedOut
                } else {
                    Wake::Work
                };
            }
        }
    }

    /// Takes a sleeper off the list and counts it as searching again; false if it was woken meanwhile, and
    /// so is counted already.
    fn leave(&self, me: &Arc<Sleeper>) -> bool {
        let mut sleepers = self.lock();
        let Some(at) = sleepers.iter().position(|other| Arc::ptr_eq(me, other)) else {
            return false;
        };
        sleepers.remove(at);
        self.searching.fetch_add(1, SeqCst);
        self.asleep.store(sleepers.len(), Relaxed);
        true
    }
}

/// Returns whether the whole time has passed.
#[cfg(not(loom))]
fn park(timeout: Duration) -> bool {
    let began = std::time::Instant::now();
    thread::park_timeout(timeout);
    began.elapsed() >= timeout
}

/// Loom has no time; there a zero passes at once and everything else never.
#[cfg(loom)]
fn park(timeout: Duration) -> bool {
    if timeout.is_zero() {
        return true;
    }
    thread::park();
    false
}

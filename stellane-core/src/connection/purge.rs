//! Gives the memory of parked connections back to the system.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::{Handle, Id, RuntimeFlavor};

/// Shortest time between two waves, in milliseconds.
const INTERVAL: u64 = 500;

/// What the user wants to be called.
#[derive(Clone)]
pub(super) struct Hook(Arc<dyn Fn() + Send + Sync>);

impl Hook {
    pub(super) fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Calls the hook after each wave of connections that have parked, once on every worker of every runtime that
/// serves: allocators with a heap for each thread give back only what the calling thread holds.
#[derive(Debug)]
pub(super) struct Purge {
    hook: Option<Hook>,
    /// Connections parked since the last wave.
    parked: AtomicU64,
    last_wave: AtomicU64,
    waves: AtomicU64,
    /// After which wave each runtime was purged.
    purged: Mutex<Vec<(Id, u64)>>,
}

impl Purge {
    pub(super) fn new(hook: Option<Hook>) -> Self {
        Self {
            hook,
            parked: AtomicU64::new(0),
            last_wave: AtomicU64::new(0),
            waves: AtomicU64::new(0),
            purged: Mutex::default(),
        }
    }

    pub(super) fn count_parked(&self) {
        self.parked.fetch_add(1, Relaxed);
    }

    /// Ends a wave, unless nothing has parked or the last one is too near. For one caller at a time.
    pub(super) fn end_wave(&self, now: u64) {
        let due = now >= self.last_wave.load(Relaxed) + INTERVAL;
        if due && self.parked.swap(0, Relaxed) > 0 {
            self.last_wave.store(now, Relaxed);
            self.waves.fetch_add(1, Relaxed);
        }
    }

    /// Purges this runtime, unless that was done since the last wave.
    pub(super) fn here(&self) {
        let Some(hook) = &self.hook else { return };
        let runtime = Handle::current();
        if !self.claim(runtime.id()) {
            return;
        }
        let others = match runtime.runtime_flavor() {
            RuntimeFlavor::CurrentThread => 0,
            // What `block_on` drives is on no worker.
            _ => runtime.metrics().num_workers() - usize::from(tokio::task::try_id().is_some()),
        };
        for _ in 0..others {
            let Hook(hook) = hook.clone();
            runtime.spawn(async move {
                hook();
                // Keeps this worker busy for the moment in which the others take the other tasks.
                std::thread::sleep(Duration::from_micros(100));
            });
        }
        (hook.0)();
    }

    fn claim(&self, runtime: Id) -> bool {
        let waves = self.waves.load(Relaxed);
        let mut purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
        let at = purged.iter().position(|(id, _)| *id == runtime);
        let at = at.unwrap_or_else(|| {
            purged.push((runtime, 0));
            purged.len() - 1
        });
        std::mem::replace(&mut purged[at].1, waves) != waves
    }
}

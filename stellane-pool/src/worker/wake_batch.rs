//! Results that are delivered together.
//!
//! Where workers and reactor share one CPU, every result that is told at once makes them take turns: the reactor's
//! thread has priority. There a worker first ends the short jobs that it has in hand. Then it wakes one caller, whose
//! poll wakes the others from within the reactor.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

use super::shared::Shared;

/// Callers that are to be woken.
#[derive(Debug)]
pub(super) struct WakeBatch {
    enabled: bool,
    callers: Mutex<Vec<Waker>>,
    /// There are some; to be read without the lock.
    some: AtomicBool,
}

impl WakeBatch {
    /// For how long a worker has jobs in hand, in nanoseconds.
    pub(super) const TIME: u64 = 300_000;

    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            callers: Mutex::default(),
            some: AtomicBool::new(false),
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    fn push(&self, caller: Waker) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.push(caller);
        self.some.store(true, SeqCst);
    }

    /// Wakes them, one after the other: whoever is woken first may take all others off the list meanwhile.
    pub(super) fn deliver(&self) {
        while self.some.load(SeqCst) {
            let caller = {
                let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
                let caller = callers.pop();
                self.some.store(!callers.is_empty(), SeqCst);
                caller
            };
            if let Some(caller) = caller {
                caller.wake();
            }
        }
    }
}

/// Wakes a caller with the others if a worker does it.
struct Later {
    shared: Arc<Shared>,
    caller: Waker,
}

impl Wake for Later {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.shared.on_worker(|_| ()).is_some() {
            self.shared.wake_batch.push(self.caller.clone());
        } else {
            self.caller.wake_by_ref();
        }
    }
}

pub(super) fn later(shared: &Arc<Shared>, caller: &Waker) -> Waker {
    let (shared, caller) = (Arc::clone(shared), caller.clone());
    Arc::new(Later { shared, caller }).into()
}

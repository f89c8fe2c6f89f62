use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::shared::Shared;
use super::{Class, Permit};
use crate::clock::saturating_nanos;

/// One request that waits for a place. Who wins the change away from `WAITING` decides: the
/// granter hands the place over, the waiter goes away without one.
#[derive(Debug)]
pub(super) struct Waiter {
    state: AtomicU8,
    class: Class,
    waker: Mutex<Option<Waker>>,
}

/// Those who wait, oldest first.
///
/// A queue that empties now and then absorbs bursts, and is served in order. One that has not been empty
/// for [`STANDING`] serves nobody in order: everyone would wait as long as it is, and leave. Then the newest
/// is served first, so that what is served is served soon, and the oldest reach `max_wait`.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    queue: VecDeque<Arc<Waiter>>,
    /// Since when there has been somebody, in nanoseconds.
    since: u64,
}

/// From when on a queue that was never empty is a standing one.
const STANDING: Duration = Duration::from_millis(100);

impl Waiters {
    fn is_standing(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > saturating_nanos(STANDING)
    }

    /// Takes the first in line whom `admit` lets in, of so many `candidates`.
    fn take(
        &mut self,
        now: u64,
        candidates: usize,
        admit: impl Fn(&Waiter) -> bool,
    ) -> Option<Arc<Waiter>> {
        let mut line = self.queue.iter().enumerate();
        let admitted = if self.is_standing(now) {
            line.rev().take(candidates).find(|(_, w)| admit(w))
        } else {
            line.by_ref().take(candidates).find(|(_, w)| admit(w))
        };
        let index = admitted?.0;
        self.queue.remove(index)
    }
}

const WAITING: u8 = 0;
const GRANTED: u8 = 1;
const GONE: u8 = 2;

impl Waiter {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_waiting(&self, to: u8) -> bool {
        self.state
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// A place in the queue; leaves it when dropped, and gives the place back if one was granted.
#[derive(Debug)]
pub(super) struct Queued {
    shared: Arc<Shared>,
    waiter: Arc<Waiter>,
}

impl Queued {
    /// Joins the queue unless it is full.
    pub(super) fn join(shared: &Arc<Shared>, class: Class, max_waiters: u32) -> Option<Self> {
        let waiter = Arc::new(Waiter {
            state: AtomicU8::new(WAITING),
            class,
            waker: Mutex::new(None),
        });
        {
            let mut waiters = shared.lock_waiters();
            if waiters.queue.len() >= max_waiters as usize {
                return None;
            }
            if waiters.queue.is_empty() {
                waiters.since = shared.clock.nanos();
                shared.gate.set_waiters(true);
            }
            waiters.queue.push_back(Arc::clone(&waiter));
        }
        let queued = Self {
            shared: Arc::clone(shared),
            waiter,
        };
        // A place may have become free before this waiter could be seen.
        shared.grant_waiters();
        Some(queued)
    }

    /// Ready when a place was granted: see [`Self::into_permit`].
    pub(super) fn poll_granted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = self.waiter.waker();
        if self.waiter.state.load(Ordering::Acquire) == GRANTED {
            return Poll::Ready(());
        }
        match &mut *waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Turns the granted place into a permit.
    pub(super) fn into_permit(self) -> Permit {
        self.waiter.state.store(GONE, Ordering::Release);
        Permit::new(Arc::clone(&self.shared), self.waiter.class)
    }

    pub(super) fn class(&self) -> Class {
        self.waiter.class
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.waiter.leave_waiting(GONE) {
            // The queue may hold many that left: forget them here, so that it stays bounded.
            let mut waiters = self.shared.lock_waiters();
            waiters
                .queue
                .retain(|other| !Arc::ptr_eq(other, &self.waiter));
            self.shared.note_empty(&waiters);
        } else if self.waiter.state.load(Ordering::Acquire) == GRANTED {
            self.shared.release(self.waiter.class);
        }
    }
}

impl Shared {
    fn lock_waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.lock_waiters().queue.len() as u32
    }

    fn note_empty(&self, waiters: &Waiters) {
        if waiters.queue.is_empty() {
            self.gate.set_waiters(false);
        }
    }

    /// Hands free places to those who wait.
    #[cold]
    pub(super) fn grant_waiters(&self) {
        loop {
            let mut waiters = self.lock_waiters();
            if waiters.queue.is_empty() {
                return;
            }
            // Behind a head that must wait, only a guaranteed share can let somebody in.
            let candidates = if self.has_classes() {
                waiters.queue.len()
            } else {
                1
            };
            let now = self.clock.nanos();
            let admitted = waiters.take(now, candidates, |w| self.try_enter(w.class, true));
            let Some(waiter) = admitted else {
                return;
            };
            self.note_empty(&waiters);
            drop(waiters);
            if waiter.leave_waiting(GRANTED) {
                if let Some(waker) = waiter.waker().take() {
                    waker.wake();
                }
            } else {
                self.leave(waiter.class);
            }
        }
    }
}

//! Waiting for a place.

use std::{
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Class, Permit,
    keys::Keys,
    shared::{Own, Shared},
    waiters::{AT_A_TIME, GONE, GRANTED, REFUSED, WAITING, Waiter, Waiters},
};

/// Who has waited for so long while there is no limit is refused: seven steps let in a hundred times as many. With half
/// a second one in 10^5 of honest requests was refused, of a thousand who came at once.
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// No more wait then, however many clients there are.
const MOST_WAITING: usize = 100_000;
/// Until the next step at least, for a clock that stands still or was read long ago.
#[cfg(any(feature = "sim", feature = "tokio"))]
const SOONEST: Duration = Duration::from_millis(1);

/// A place in the queue; leaves it when dropped, and gives the place back if one was granted.
#[derive(Debug)]
pub(crate) struct Queued {
    shared: Arc<Own>,
    waiter: Arc<Waiter>,
}

impl Queued {
    /// Joins the queue unless it is full.
    pub(crate) fn join(
        shared: &Arc<Own>,
        class: Class,
        keys: Keys,
        max_waiters: u32,
    ) -> Option<Self> {
        let now = shared.clock.nanos();
        let mut waiters = shared.lock_waiters();
        if waiters.len() >= shared.most_waiting(max_waiters) {
            return None;
        }
        if waiters.len() == 0 {
            shared.gate.set_waiters(true);
        }
        let waiter = waiters.push(class, keys, now, shared.gate.load().1);
        // A place may have become free before this waiter could be seen.
        shared.grant(waiters, now);
        Some(Self {
            shared: Arc::clone(shared),
            waiter,
        })
    }

    /// Ready when the waiting is over, with whether a place was granted: see [`Self::into_permit`].
    pub(crate) fn poll_granted(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if let over @ Poll::Ready(_) = self.is_granted() {
            return over;
        }
        match &mut *self.waiter.waker() {
            Some(known) if known.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        // Who ends it sees that waker, or has ended it before.
        self.is_granted()
    }

    fn is_granted(&self) -> Poll<bool> {
        match self.waiter.state() {
            WAITING => Poll::Pending,
            state => Poll::Ready(state == GRANTED),
        }
    }

    /// Turns the granted place into a permit.
    pub(crate) fn into_permit(self) -> Permit {
        self.waiter.go();
        Permit::new(
            Arc::clone(&self.shared),
            self.waiter.class,
            self.waiter.keys,
        )
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.waiter.leave_waiting(GONE) {
            // The queue may hold many that left: forget them here, so that it stays bounded.
            let now = self.shared.clock.nanos();
            let mut waiters = self.shared.lock_waiters();
            waiters.remove(&self.waiter);
            if !self.shared.is_open() {
                waiters.note_unserved(&self.waiter, now);
            }
            self.shared.note_empty(&mut waiters, now);
        } else if self.waiter.state() == GRANTED {
            self.shared.release(self.waiter.class, self.waiter.keys);
        }
    }
}

impl Shared {
    pub(super) fn lock_waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn set_open(&self, open: bool, now: u64) {
        let mut waiters = self.lock_waiters();
        self.open.store(open, Ordering::Relaxed);
        if !open {
            waiters.press(now);
        }
    }

    /// How long a request may wait for a place, if it may.
    ///
    /// While there is no limit only for the next step of what may begin at once, and whoever comes waits in order: nothing
    /// says that it is in vain.
    pub(crate) fn may_wait(&self) -> Option<Duration> {
        // There is no next step of a limit that is as high as it may be.
        if self.is_open() && self.load().1 < self.max() {
            return self.can_wait.then_some(OPEN_WAIT);
        }
        Some(self.max_wait).filter(|wait| !wait.is_zero())
    }

    /// How long until the limit may rise by nothing but the time, for those who wait: whoever does then calls
    /// [`step`](Self::step), and asks again.
    #[cfg(any(feature = "sim", feature = "tokio"))]
    pub(crate) fn next_step(&self) -> Duration {
        let next_step = self.next_step.load(Ordering::Relaxed);
        if next_step == u64::MAX {
            return Duration::from_nanos(next_step);
        }
        let left = next_step.saturating_sub(self.clock.nanos());
        Duration::from_nanos(left).max(SOONEST)
    }

    /// Takes the step that is due, unless another who waits has.
    #[cfg(any(feature = "sim", feature = "tokio"))]
    pub(crate) fn step(&self) {
        let now = self.clock.nanos();
        if now >= self.next_step.load(Ordering::Relaxed) {
            self.look(now);
        }
    }

    fn most_waiting(&self, max_waiters: u32) -> usize {
        match self.is_open() {
            true => MOST_WAITING,
            false => max_waiters as usize,
        }
    }

    /// Whether whoever comes now may not wait, or is refused in the end, most likely; that alone is no reason for who has
    /// come `again`.
    pub(super) fn is_in_vain(&self, max_waiters: u32, again: bool) -> bool {
        let (now, limit) = (self.clock.nanos(), self.gate.load().1);
        let most = self.most_waiting(max_waiters);
        let mut waiters = self.lock_waiters();
        waiters.len() >= most || !again && waiters.is_hopeless(now, limit)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.lock_waiters().len() as u32
    }

    pub(super) fn note_empty(&self, waiters: &mut Waiters, now: u64) {
        if waiters.note_empty(now) {
            self.gate.set_waiters(false);
        }
    }

    /// Hands free places to those who wait.
    #[cold]
    pub(super) fn grant_waiters(&self) {
        self.grant_waiters_at(self.clock.nanos());
    }

    pub(super) fn grant_waiters_at(&self, now: u64) {
        self.grant(self.lock_waiters(), now);
    }

    fn grant<'a>(&'a self, mut waiters: MutexGuard<'a, Waiters>, now: u64) {
        // Behind a head that must wait, only a guaranteed share or another key can let somebody in.
        let is_in_order = !self.has_classes() && !self.keys.is_used();
        while waiters.len() > 0 {
            let late = match self.is_open() {
                true => Vec::new(),
                false => waiters.take_late(now),
            };
            // Who gives a place back from here on sees that somebody waits.
            let is_full = || !self.has_classes() && self.is_surely_full(now);
            let candidates = if is_in_order { 1 } else { waiters.len() };
            let admitted = if is_full() {
                None
            } else {
                waiters.take(now, candidates, |w| self.try_enter(w.class, w.keys, true))
            };
            let no_more = admitted.is_none() || is_full();
            let is_over = no_more && late.len() < AT_A_TIME;
            self.note_empty(&mut waiters, now);
            drop(waiters);
            for waiter in late {
                waiter.end(REFUSED);
            }
            if let Some(waiter) = admitted
                && !waiter.end(GRANTED)
            {
                self.leave(waiter.class, waiter.keys);
            } else if is_over {
                return;
            }
            waiters = self.lock_waiters();
        }
    }
}

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
    waiters::{Ended, Waiter, Waiters},
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
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    /// In a slot of the queue, which knows more.
    Waits(usize),
    Granted(Class, Keys),
    Over,
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
        let is_first = waiters.len() == 0;
        if is_first {
            shared.gate.set_waiters(true);
        }
        let slot = waiters.push(class, keys, now, shared.gate.load().1);
        // A place may have become free before the first could be seen; it is the others' who wait for nothing else.
        if is_first || !shared.is_plain() || waiters.are_late(now) {
            shared.grant(waiters, now);
        }
        Some(Self {
            shared: Arc::clone(shared),
            standing: Standing::Waits(slot),
        })
    }

    /// Of one that need not wait.
    pub(super) fn granted(shared: &Arc<Own>, class: Class, keys: Keys) -> Self {
        Self {
            shared: Arc::clone(shared),
            standing: Standing::Granted(class, keys),
        }
    }

    /// The limit whose places it waits for.
    pub(super) fn limit(&self) -> &Arc<Own> {
        &self.shared
    }

    /// Ready when the waiting is over, with whether a place was granted: see [`Self::take_permit`].
    pub(crate) fn poll_granted(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let Standing::Waits(slot) = self.standing else {
            return Poll::Ready(matches!(self.standing, Standing::Granted(..)));
        };
        let (polled, known) = self.shared.lock_waiters().poll(slot, cx);
        drop(known);
        polled.map(|of| {
            self.standing = of.map_or(Standing::Over, |(class, keys)| {
                Standing::Granted(class, keys)
            });
            of.is_some()
        })
    }

    /// The permit, once, if a place was granted.
    pub(crate) fn take_permit(&mut self) -> Option<Permit> {
        let Standing::Granted(class, keys) = self.standing else {
            return None;
        };
        self.standing = Standing::Over;
        Some(Permit::new(Arc::clone(&self.shared), class, keys))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        match self.standing {
            Standing::Waits(slot) => self.shared.leave_queue(slot),
            Standing::Granted(class, keys) => self.shared.release(class, keys),
            Standing::Over => {}
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
            return self.settings.can_wait.then_some(OPEN_WAIT);
        }
        Some(self.settings.max_wait).filter(|wait| !wait.is_zero())
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
    pub(super) fn is_in_vain(&self, again: bool) -> bool {
        let (now, limit) = (self.clock.nanos(), self.gate.load().1);
        let most = self.most_waiting(self.settings.max_waiters);
        let mut waiters = self.lock_waiters();
        waiters.len() >= most || !again && waiters.is_hopeless(now, limit)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.lock_waiters().len() as u32
    }

    /// One leaves who has not been told how its waiting ended.
    #[cold]
    fn leave_queue(&self, slot: usize) {
        let now = self.clock.nanos();
        let mut waiters = self.lock_waiters();
        let waiter = waiters.leave(slot);
        if waiter.granted.is_none() {
            if !self.is_open() {
                waiters.note_unserved(waiter.since, now);
            }
            self.note_empty(&mut waiters, now);
        }
        drop(waiters);
        if waiter.granted == Some(true) {
            self.release(waiter.class, waiter.keys);
        }
    }

    /// Whether the next in line gets in if anybody does; else a guaranteed share or another key can let somebody in behind
    /// one who must wait.
    fn is_in_order(&self) -> bool {
        !self.has_classes() && !self.keys.is_used()
    }

    /// Whether that is so, and only a place that is given back or another limit lets anybody in: nothing is lent that turns
    /// out to be free, and nobody may go beyond the limit.
    pub(super) fn is_plain(&self) -> bool {
        let is_lent = || self.lending.handed() > 0;
        let may_go_beyond = || self.fairness.may_go_beyond(self.lending.debt());
        self.is_in_order() && !is_lent() && !may_go_beyond()
    }

    /// Whether nobody waits any more.
    pub(super) fn note_empty(&self, waiters: &mut Waiters, now: u64) -> bool {
        let is_empty = waiters.note_empty(now);
        if is_empty {
            self.gate.set_waiters(false);
        }
        is_empty
    }

    /// Hands free places to those who wait.
    #[cold]
    pub(super) fn grant_waiters(&self) {
        self.grant_waiters_at(self.clock.nanos());
    }

    pub(super) fn grant_waiters_at(&self, now: u64) {
        self.grant(self.lock_waiters(), now);
    }

    /// Hands a place that is given back to the next in line: it stays taken, and nobody else can have it in between. False if
    /// there is more to decide, or nobody waits any more.
    #[cold]
    pub(super) fn hand_on(&self) -> bool {
        let (in_flight, limit) = self.gate.load();
        if in_flight != limit {
            return false;
        }
        let mut waiters = self.lock_waiters();
        let now = match waiters.asks_for_time() {
            true => self.clock.nanos(),
            false => 0,
        };
        if !self.is_open() && waiters.are_late(now) {
            return false;
        }
        let Some(next) = waiters.grant(now, 1, |_| true) else {
            return false;
        };
        self.note_empty(&mut waiters, now);
        drop(waiters);
        next.wake();
        true
    }

    fn grant<'a>(&'a self, mut waiters: MutexGuard<'a, Waiters>, now: u64) {
        let is_in_order = self.is_in_order();
        let is_full = || !self.has_classes() && self.is_surely_full(now);
        while waiters.len() > 0 {
            if !self.is_open() && waiters.are_late(now) {
                let late = waiters.refuse_late(now);
                self.note_empty(&mut waiters, now);
                drop(waiters);
                late.into_iter().for_each(Ended::wake);
                waiters = self.lock_waiters();
                continue;
            }
            // To ask one costs less than to look first whether it is in vain.
            let candidates = match is_in_order {
                true => 1,
                false if is_full() => return,
                false => waiters.len(),
            };
            let admit = |w: &Waiter| self.try_enter(w.class, w.keys, true);
            let Some(admitted) = waiters.grant(now, candidates, admit) else {
                return;
            };
            // Who gives a place back from here on sees that somebody waits.
            let is_over = self.note_empty(&mut waiters, now) || is_full();
            drop(waiters);
            admitted.wake();
            if is_over {
                return;
            }
            waiters = self.lock_waiters();
        }
    }
}

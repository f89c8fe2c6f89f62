use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Class, Permit, keys::Keys, shared::Shared};
use crate::clock::saturating_nanos;

/// One request that waits for a place. Who wins the change away from `WAITING` decides: the
/// granter hands the place over, the waiter goes away without one.
#[derive(Debug)]
pub(super) struct Waiter {
    state: AtomicU8,
    class: Class,
    keys: Keys,
    /// Since when, in nanoseconds.
    since: u64,
    waker: Mutex<Option<Waker>>,
}

/// Those who wait, oldest first.
///
/// They are served in order as long as that serves them all in time. Once somebody has left after a long wait,
/// order serves nobody: everyone would wait as long as the queue is, and leave. Then the queue is pressed: the
/// newest is served first, so that what is served is served soon, and who has waited for long is refused.
///
/// Those are refused together, when the oldest has waited twice as long: a client that asks again at once would otherwise
/// be back at once, and its refusals take all the CPU there is.
///
/// While the queue is pressed, few wait [with hope](Self::hopeful): the next ones come long before the others have their
/// turn. Who may refuse [early](super::AdaptiveLimitLayer::refuse) need not have them wait in vain: to refuse on arrival
/// costs two thirds of what it costs later.
#[derive(Debug)]
pub(super) struct Waiters {
    hopeful: VecDeque<Arc<Waiter>>,
    /// Who came to a pressed queue that was long enough: served when nobody else waits.
    others: VecDeque<Arc<Waiter>>,
    /// What a long wait is, in nanoseconds.
    long: u64,
    /// Until when the queue is pressed, in nanoseconds.
    pressed_until: u64,
    /// When it became empty.
    emptied: u64,
    /// When somebody came after it had been empty for a long wait.
    rested: u64,
}

/// A long wait, as a part of `max_wait`.
const LONG: u32 = 20;
/// While the queue is pressed so many wait with hope, or as many as there are places if that is more: enough that a free
/// place finds somebody.
const LEAST_HOPEFUL: usize = 16;
/// Who has waited for so long while there is no limit is refused: seven steps let in a hundred times as many. With half
/// a second one in 10^5 of honest requests was refused, of a thousand who came at once.
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// No more wait then, however many clients there are.
const MOST_WAITING: usize = 100_000;
/// Until the next step at least, for a clock that stands still or was read long ago.
#[cfg(any(feature = "sim", feature = "tokio"))]
const SOONEST: Duration = Duration::from_millis(1);
/// How many are refused at a time, so that nobody holds the lock for long.
const AT_A_TIME: usize = 64;

impl Waiters {
    pub(super) fn new(max_wait: Duration) -> Self {
        Self {
            hopeful: VecDeque::new(),
            others: VecDeque::new(),
            long: saturating_nanos(max_wait / LONG),
            pressed_until: 0,
            emptied: 0,
            rested: 0,
        }
    }

    /// The limit has become one: who has waited until now would wait as long as the queue is.
    fn press(&mut self, now: u64) {
        self.pressed_until = now.saturating_add(self.pause());
    }

    fn is_pressed(&self, now: u64) -> bool {
        // No longer than that, also when the clock went back.
        now < self.pressed_until && self.pressed_until - now <= self.pause()
    }

    fn pause(&self) -> u64 {
        u64::from(LONG).saturating_mul(self.long)
    }

    fn len(&self) -> usize {
        self.hopeful.len() + self.others.len()
    }

    /// Whether whoever comes now waits in vain, most likely. That keeps a pressed queue so, unless it has rested of late:
    /// bursts don't.
    fn is_hopeless(&mut self, now: u64, limit: u32) -> bool {
        let hopeless =
            self.is_pressed(now) && self.hopeful.len() >= LEAST_HOPEFUL.max(limit as usize);
        if hopeless && now.saturating_sub(self.rested) >= self.pause() {
            self.press(now);
        }
        hopeless
    }

    fn push(&mut self, waiter: Arc<Waiter>, limit: u32) {
        let now = waiter.since;
        if self.len() == 0 && now.saturating_sub(self.emptied) >= self.long {
            self.rested = now;
        }
        match self.is_hopeless(now, limit) {
            true => self.others.push_back(waiter),
            false => self.hopeful.push_back(waiter),
        }
    }

    /// Somebody left without a place.
    fn note_unserved(&mut self, waiter: &Waiter, now: u64) {
        if now.saturating_sub(waiter.since) >= self.long {
            self.pressed_until = now.saturating_add(self.pause());
        }
    }

    /// Takes some who have waited too long for a queue that is pressed.
    fn take_late(&mut self, now: u64) -> [Option<Arc<Waiter>>; AT_A_TIME] {
        let mut late = [const { None }; AT_A_TIME];
        let long = self.long;
        let waited = |waiter: &Waiter| now.saturating_sub(waiter.since);
        let [hopeful, others] = [&mut self.hopeful, &mut self.others];
        let mut first = hopeful.front().into_iter().chain(others.front());
        let is_due = first.any(|w| waited(w) >= 2 * long);
        // Nobody may wait at all, or not for so long.
        if is_due && (long == 0 || self.is_pressed(now)) {
            for slot in &mut late {
                let late_line = [&mut self.others, &mut self.hopeful]
                    .into_iter()
                    .find(|line| line.front().is_some_and(|w| waited(w) >= long));
                *slot = late_line.and_then(VecDeque::pop_front);
            }
            self.press(now);
        }
        late
    }

    /// Takes the first in line whom `admit` lets in, of so many `candidates`.
    fn take(
        &mut self,
        now: u64,
        candidates: usize,
        admit: impl Fn(&Waiter) -> bool,
    ) -> Option<Arc<Waiter>> {
        let pressed = self.is_pressed(now);
        let mut left = candidates;
        for queue in [&mut self.hopeful, &mut self.others] {
            let mut line = queue.iter().enumerate();
            let admitted = if pressed {
                line.rev().take(left).find(|(_, w)| admit(w))
            } else {
                line.by_ref().take(left).find(|(_, w)| admit(w))
            };
            if let Some((index, _)) = admitted {
                return queue.remove(index);
            }
            left = left.saturating_sub(queue.len());
        }
        None
    }
}

const WAITING: u8 = 0;
const GRANTED: u8 = 1;
const REFUSED: u8 = 2;
const GONE: u8 = 3;

impl Waiter {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_waiting(&self, to: u8) -> bool {
        self.state
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends the waiting; whether it was not over before.
    fn end(&self, how: u8) -> bool {
        let ended = self.leave_waiting(how);
        if ended && let Some(waker) = self.waker().take() {
            waker.wake();
        }
        ended
    }
}

/// A place in the queue; leaves it when dropped, and gives the place back if one was granted.
#[derive(Debug)]
pub(crate) struct Queued {
    shared: Arc<Shared>,
    waiter: Arc<Waiter>,
}

impl Queued {
    /// Joins the queue unless it is full.
    pub(crate) fn join(
        shared: &Arc<Shared>,
        class: Class,
        keys: Keys,
        max_waiters: u32,
    ) -> Option<Self> {
        let now = shared.clock.nanos();
        let waiter = Arc::new(Waiter {
            state: AtomicU8::new(WAITING),
            class,
            keys,
            since: now,
            waker: Mutex::new(None),
        });
        {
            let mut waiters = shared.lock_waiters();
            if waiters.len() >= shared.most_waiting(max_waiters) {
                return None;
            }
            if waiters.len() == 0 {
                shared.gate.set_waiters(true);
            }
            waiters.push(Arc::clone(&waiter), shared.gate.load().1);
        }
        let queued = Self {
            shared: Arc::clone(shared),
            waiter,
        };
        // A place may have become free before this waiter could be seen.
        shared.grant_waiters();
        Some(queued)
    }

    /// Ready when the waiting is over, with whether a place was granted: see [`Self::into_permit`].
    pub(crate) fn poll_granted(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut waker = self.waiter.waker();
        match self.waiter.state.load(Ordering::Acquire) {
            WAITING => {}
            state => return Poll::Ready(state == GRANTED),
        }
        match &mut *waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Turns the granted place into a permit.
    pub(crate) fn into_permit(self) -> Permit {
        self.waiter.state.store(GONE, Ordering::Release);
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
            let is_other = |waiter: &Arc<Waiter>| !Arc::ptr_eq(waiter, &self.waiter);
            waiters.hopeful.retain(is_other);
            waiters.others.retain(is_other);
            if !self.shared.is_open() {
                waiters.note_unserved(&self.waiter, now);
            }
            self.shared.note_empty(&mut waiters, now);
        } else if self.waiter.state.load(Ordering::Acquire) == GRANTED {
            self.shared.release(self.waiter.class, self.waiter.keys);
        }
    }
}

impl Shared {
    fn lock_waiters(&self) -> MutexGuard<'_, Waiters> {
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
        let left = self
            .next_step
            .load(Ordering::Relaxed)
            .saturating_sub(self.clock.nanos());
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

    fn note_empty(&self, waiters: &mut Waiters, now: u64) {
        if waiters.len() == 0 {
            waiters.emptied = now;
            self.gate.set_waiters(false);
        }
    }

    /// Hands free places to those who wait.
    #[cold]
    pub(super) fn grant_waiters(&self) {
        loop {
            let mut waiters = self.lock_waiters();
            if waiters.len() == 0 {
                return;
            }
            let now = self.clock.nanos();
            let late = if self.is_open() {
                [const { None }; AT_A_TIME]
            } else {
                waiters.take_late(now)
            };
            // Behind a head that must wait, only a guaranteed share or another key can let somebody in.
            let candidates = if self.has_classes() || self.keys.is_used() {
                waiters.len()
            } else {
                1
            };
            let admitted = waiters.take(now, candidates, |w| self.try_enter(w.class, w.keys, true));
            self.note_empty(&mut waiters, now);
            drop(waiters);
            let is_over = admitted.is_none() && late[AT_A_TIME - 1].is_none();
            for waiter in late.into_iter().flatten() {
                waiter.end(REFUSED);
            }
            if let Some(waiter) = admitted
                && !waiter.end(GRANTED)
            {
                self.leave(waiter.class, waiter.keys);
            }
            if is_over {
                return;
            }
        }
    }
}

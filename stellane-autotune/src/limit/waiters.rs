//! Those who wait for a place, in what order, and who of them is refused.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Waker,
    time::Duration,
};

use super::{Class, keys::Keys};
use crate::clock::saturating_nanos;

/// One request that waits for a place. Who wins the change away from `WAITING` decides: the
/// granter hands the place over, the waiter goes away without one.
#[derive(Debug)]
pub(super) struct Waiter {
    state: AtomicU8,
    pub(super) class: Class,
    pub(super) keys: Keys,
    /// Since when, in nanoseconds.
    since: u64,
    /// How many came before.
    #[cfg(feature = "tokio")]
    number: u64,
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
    /// How many have come.
    #[cfg(feature = "tokio")]
    came: u64,
}

/// A long wait, as a part of `max_wait`.
const LONG: u32 = 20;
/// While the queue is pressed so many wait with hope, or as many as there are places if that is more: enough that a free
/// place finds somebody.
const LEAST_HOPEFUL: usize = 16;
/// How many are refused at a time, so that nobody holds the lock for long.
pub(super) const AT_A_TIME: usize = 64;

impl Waiters {
    pub(super) fn new(max_wait: Duration) -> Self {
        Self {
            hopeful: VecDeque::new(),
            others: VecDeque::new(),
            long: saturating_nanos(max_wait / LONG),
            pressed_until: 0,
            emptied: 0,
            rested: 0,
            #[cfg(feature = "tokio")]
            came: 0,
        }
    }

    /// The limit has become one: who has waited until now would wait as long as the queue is.
    pub(super) fn press(&mut self, now: u64) {
        self.pressed_until = now.saturating_add(self.pause());
    }

    fn is_pressed(&self, now: u64) -> bool {
        // No longer than that, also when the clock went back.
        now < self.pressed_until && self.pressed_until - now <= self.pause()
    }

    fn pause(&self) -> u64 {
        u64::from(LONG).saturating_mul(self.long)
    }

    pub(super) fn len(&self) -> usize {
        self.hopeful.len() + self.others.len()
    }

    /// Whether whoever comes now waits in vain, most likely. That keeps a pressed queue so, unless it has rested of late:
    /// bursts don't.
    pub(super) fn is_hopeless(&mut self, now: u64, limit: u32) -> bool {
        let hopeless =
            self.is_pressed(now) && self.hopeful.len() >= LEAST_HOPEFUL.max(limit as usize);
        if hopeless && now.saturating_sub(self.rested) >= self.pause() {
            self.press(now);
        }
        hopeless
    }

    pub(super) fn push(&mut self, class: Class, keys: Keys, now: u64, limit: u32) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            state: AtomicU8::new(WAITING),
            class,
            keys,
            since: now,
            #[cfg(feature = "tokio")]
            number: self.came,
            waker: Mutex::new(None),
        });
        #[cfg(feature = "tokio")]
        {
            self.came += 1;
        }
        if self.len() == 0 && now.saturating_sub(self.emptied) >= self.long {
            self.rested = now;
        }
        let line = match self.is_hopeless(now, limit) {
            true => &mut self.others,
            false => &mut self.hopeful,
        };
        line.push_back(Arc::clone(&waiter));
        waiter
    }

    /// How many have come so far.
    #[cfg(feature = "tokio")]
    pub(super) fn came(&self) -> u64 {
        self.came
    }

    /// Forgets one that left.
    pub(super) fn remove(&mut self, waiter: &Arc<Waiter>) {
        let is_other = |other: &Arc<Waiter>| !Arc::ptr_eq(other, waiter);
        self.hopeful.retain(is_other);
        self.others.retain(is_other);
    }

    /// Whether nobody waits any more, from now on.
    pub(super) fn note_empty(&mut self, now: u64) -> bool {
        let is_empty = self.len() == 0;
        if is_empty {
            self.emptied = now;
        }
        is_empty
    }

    /// Somebody left without a place.
    pub(super) fn note_unserved(&mut self, waiter: &Waiter, now: u64) {
        if now.saturating_sub(waiter.since) >= self.long {
            self.pressed_until = now.saturating_add(self.pause());
        }
    }

    /// Takes some who came before so many had come.
    #[cfg(feature = "tokio")]
    pub(super) fn take_first(&mut self, came: u64) -> Vec<Arc<Waiter>> {
        self.take_while(|waiter| waiter.number < came)
    }

    /// Takes from the front of both lines, no more than [`AT_A_TIME`].
    fn take_while(&mut self, is_due: impl Fn(&Waiter) -> bool) -> Vec<Arc<Waiter>> {
        let mut due = Vec::new();
        while due.len() < AT_A_TIME {
            let line = [&mut self.others, &mut self.hopeful]
                .into_iter()
                .find(|line| line.front().is_some_and(|waiter| is_due(waiter)));
            let Some(waiter) = line.and_then(VecDeque::pop_front) else {
                break;
            };
            due.push(waiter);
        }
        due
    }

    /// The wakers of all.
    #[cfg(feature = "tokio")]
    pub(super) fn take_wakers(&self) -> Vec<Waker> {
        let all = self.hopeful.iter().chain(&self.others);
        all.filter_map(|waiter| waiter.waker().take()).collect()
    }

    /// Takes some who have waited too long for a queue that is pressed.
    pub(super) fn take_late(&mut self, now: u64) -> Vec<Arc<Waiter>> {
        let mut late = Vec::new();
        let long = self.long;
        let waited = |waiter: &Waiter| now.saturating_sub(waiter.since);
        let [hopeful, others] = [&mut self.hopeful, &mut self.others];
        let mut first = hopeful.front().into_iter().chain(others.front());
        let is_due = first.any(|w| waited(w) >= 2 * long);
        // Nobody may wait at all, or not for so long.
        if is_due && (long == 0 || self.is_pressed(now)) {
            late = self.take_while(|waiter| waited(waiter) >= long);
            self.press(now);
        }
        late
    }

    /// Takes the first in line whom `admit` lets in, of so many `candidates`.
    pub(super) fn take(
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

pub(super) const WAITING: u8 = 0;
pub(super) const GRANTED: u8 = 1;
pub(super) const REFUSED: u8 = 2;
pub(super) const GONE: u8 = 3;

impl Waiter {
    pub(super) fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }

    /// It has become a permit.
    pub(super) fn go(&self) {
        self.state.store(GONE, Ordering::Release);
    }

    pub(super) fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leave_waiting(&self, to: u8) -> bool {
        self.state
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends the waiting; whether it was not over before.
    pub(super) fn end(&self, how: u8) -> bool {
        let ended = self.leave_waiting(how);
        if ended && let Some(waker) = self.waker().take() {
            waker.wake();
        }
        ended
    }
}

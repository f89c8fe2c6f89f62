//! Those who wait for a place, in what order, and who of them is refused.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Class, keys::Keys, lines::Lines};
use crate::clock::saturating_nanos;

/// One request that waits for a place, or that has been told how its waiting ended.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) class: Class,
    pub(super) keys: Keys,
    /// Since when, in nanoseconds.
    pub(super) since: u64,
    /// How many came before.
    #[cfg(feature = "tokio")]
    number: u64,
    /// Whether a place was granted, once that is decided.
    pub(super) granted: Option<bool>,
    /// To be dropped or woken without the lock: who is behind it may be in this queue too.
    waker: Option<Waker>,
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
/// While the queue is pressed, few wait [with hope](HOPEFUL): the next ones come long before the others have their
/// turn. Who may refuse [early](super::AdaptiveLimitLayer::refuse) need not have them wait in vain: to refuse on arrival
/// costs two thirds of what it costs later.
#[derive(Debug)]
pub(super) struct Waiters {
    lines: Lines<Waiter>,
    /// What a long wait is, in nanoseconds.
    long: u64,
    /// Until when the queue is pressed, in nanoseconds; 0 once somebody came after that.
    pressed_until: u64,
    /// When it became empty.
    emptied: u64,
    /// When somebody came after it had been empty for a long wait.
    rested: u64,
    /// How many have come.
    #[cfg(feature = "tokio")]
    came: u64,
}

/// The line of those who wait with hope.
const HOPEFUL: usize = 0;
/// Who came to a pressed queue that was long enough: served when nobody else waits.
const OTHERS: usize = 1;
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
            lines: Lines::new(),
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

    /// Whether the time decides who is next or late, or when the queue became empty: else it need not be read.
    pub(super) fn asks_for_time(&self) -> bool {
        self.pressed_until > 0 || self.long == 0 || self.len() <= 1
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len(HOPEFUL) + self.lines.len(OTHERS)
    }

    /// Whether whoever comes now waits in vain, most likely. That keeps a pressed queue so, unless it has rested of late:
    /// bursts don't.
    pub(super) fn is_hopeless(&mut self, now: u64, limit: u32) -> bool {
        let hopeless =
            self.is_pressed(now) && self.lines.len(HOPEFUL) >= LEAST_HOPEFUL.max(limit as usize);
        if hopeless && now.saturating_sub(self.rested) >= self.pause() {
            self.press(now);
        }
        hopeless
    }

    /// The slot of one who comes, until that is [left](Self::leave).
    pub(super) fn push(&mut self, class: Class, keys: Keys, now: u64, limit: u32) -> usize {
        if self.len() == 0 && now.saturating_sub(self.emptied) >= self.long {
            self.rested = now;
        }
        if !self.is_pressed(now) {
            self.pressed_until = 0;
        }
        let line = match self.is_hopeless(now, limit) {
            true => OTHERS,
            false => HOPEFUL,
        };
        let waiter = Waiter {
            class,
            keys,
            since: now,
            #[cfg(feature = "tokio")]
            number: self.came,
            granted: None,
            waker: None,
        };
        #[cfg(feature = "tokio")]
        {
            self.came += 1;
        }
        self.lines.push(line, waiter)
    }

    /// Once that is decided, whom a place was granted to, and then it is forgotten. The waker that was known before is handed
    /// out.
    pub(super) fn poll(
        &mut self,
        slot: usize,
        cx: &Context<'_>,
    ) -> (Poll<Option<(Class, Keys)>>, Option<Waker>) {
        let waiter = &mut self.lines[slot];
        let Some(granted) = waiter.granted else {
            let is_known = |known: &Waker| known.will_wake(cx.waker());
            let known = match waiter.waker.as_ref().is_some_and(is_known) {
                true => None,
                false => waiter.waker.replace(cx.waker().clone()),
            };
            return (Poll::Pending, known);
        };
        let of = granted.then_some((waiter.class, waiter.keys));
        self.lines.free(slot);
        (Poll::Ready(of), None)
    }

    /// Forgets one, whether it still waits or not.
    #[cold]
    pub(super) fn leave(&mut self, slot: usize) -> Waiter {
        let waiter = &mut self.lines[slot];
        let left = Waiter {
            waker: waiter.waker.take(),
            ..*waiter
        };
        self.lines.free(slot);
        left
    }

    /// How many have come so far.
    #[cfg(feature = "tokio")]
    pub(super) fn came(&self) -> u64 {
        self.came
    }

    /// Whether nobody waits any more, from now on.
    pub(super) fn note_empty(&mut self, now: u64) -> bool {
        let is_empty = self.len() == 0;
        if is_empty {
            self.emptied = now;
        }
        is_empty
    }

    /// Somebody who had waited since then left without a place.
    pub(super) fn note_unserved(&mut self, since: u64, now: u64) {
        if now.saturating_sub(since) >= self.long {
            self.press(now);
        }
    }

    /// Refuses some who came before so many had come.
    #[cfg(feature = "tokio")]
    pub(super) fn refuse_first(&mut self, came: u64) -> Vec<Ended> {
        self.refuse_while(|waiter| waiter.number < came)
    }

    /// Refuses from the front of both lines, no more than [`AT_A_TIME`].
    fn refuse_while(&mut self, is_due: impl Fn(&Waiter) -> bool) -> Vec<Ended> {
        let mut refused = Vec::new();
        for line in [OTHERS, HOPEFUL] {
            while let Some(slot) = self.lines.end(line, false)
                && refused.len() < AT_A_TIME
                && is_due(&self.lines[slot])
            {
                refused.push(self.end(slot, false));
            }
        }
        refused
    }

    /// Ends the waiting of one.
    fn end(&mut self, slot: usize, granted: bool) -> Ended {
        let waiter = self.lines.take(slot);
        waiter.granted = Some(granted);
        Ended {
            #[cfg(feature = "tokio")]
            since: waiter.since,
            waker: waiter.waker.take(),
        }
    }

    /// The wakers of all.
    #[cfg(feature = "tokio")]
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let lines = &mut self.lines;
        let all: Vec<_> = lines.slots(HOPEFUL).chain(lines.slots(OTHERS)).collect();
        let waker = |slot: usize| lines[slot].waker.take();
        all.into_iter().filter_map(waker).collect()
    }

    /// Whether the oldest have waited too long for a queue that is pressed.
    pub(super) fn are_late(&self, now: u64) -> bool {
        let is_late = |line| {
            let first = self.lines.end(line, false);
            first.is_some_and(|slot| now.saturating_sub(self.lines[slot].since) >= 2 * self.long)
        };
        // Nobody may wait at all, or not for so long.
        (is_late(HOPEFUL) || is_late(OTHERS)) && (self.long == 0 || self.is_pressed(now))
    }

    /// Refuses some of those who have waited for long, as some [are late](Self::are_late).
    #[cold]
    pub(super) fn refuse_late(&mut self, now: u64) -> Vec<Ended> {
        let long = self.long;
        let late = self.refuse_while(|waiter| now.saturating_sub(waiter.since) >= long);
        self.press(now);
        late
    }

    /// Grants a place to the first in line whom `admit` lets in, of so many `candidates`.
    pub(super) fn grant(
        &mut self,
        now: u64,
        candidates: usize,
        admit: impl Fn(&Waiter) -> bool,
    ) -> Option<Ended> {
        let newest_first = self.is_pressed(now);
        let mut left = candidates;
        for line in [HOPEFUL, OTHERS] {
            let mut next = self.lines.end(line, newest_first);
            while let Some(slot) = next
                && left > 0
            {
                if admit(&self.lines[slot]) {
                    return Some(self.end(slot, true));
                }
                left -= 1;
                next = self.lines.beside(slot, newest_first);
            }
        }
        None
    }
}

/// One whose waiting is over, and who is to be told, without the lock.
#[derive(Debug)]
#[must_use = "it sleeps on"]
pub(super) struct Ended {
    #[cfg(feature = "tokio")]
    pub(super) since: u64,
    waker: Option<Waker>,
}

impl Ended {
    pub(super) fn wake(self) {
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

//! What one request holds.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicPtr, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Waker,
};

use super::{
    counts::Counts,
    policy::{self, Owner},
};

/// Up to here a body is neither counted nor kept waiting: its connection's buffer takes as much.
pub(super) const SMALL: u64 = 16 << 10;

/// Who sends nothing for so many looks, two seconds, is not waited for: less may be a packet that was lost.
const SILENT: u32 = 4;
/// So often it is looked, five seconds, until it is known how quickly a client sends.
const PACED: u32 = 10;
/// Who would need longer than so many times that, a minute, is not waited for either.
const PATIENCE: u64 = 12;

pub(super) struct Account {
    pub(super) id: u64,
    owner: Owner,
    /// The length of the body, if it is known.
    length: Option<u64>,
    counts: Arc<Counts>,
    ended: AtomicBool,
    /// All that came; only its body writes it.
    received: AtomicU64,
    /// The length of its last piece.
    piece: AtomicU64,
    /// Whether it is listed and not answered: then its bytes may be counted without a lock,
    eases: AtomicBool,
    /// here, until somebody takes the lock.
    eased: AtomicU64,
    /// Names the waker in `state.handler`.
    handler: AtomicPtr<()>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Bytes of frames that are not followed: they count until it is answered, or until it turns out that it keeps none.
    pub(super) unfollowed: u64,
    /// Bytes of frames that are followed and there.
    pub(super) live: u64,
    /// Whether any was followed since it was last seen to keep none.
    pub(super) follows: bool,
    /// What the whole body held: its handler may have copied it.
    pub(super) whole: Option<u64>,
    pub(super) is_answered: bool,
    pub(super) is_listed: bool,
    /// Where in the list.
    pub(super) place: Option<usize>,
    /// As the budget has it.
    pub(super) counted: u64,
    /// Not read on, with who is to be woken.
    pub(super) waits: Option<Waker>,
    /// For how many looks.
    waited: u32,
    /// It does not wait before it has received so much more.
    pub(super) kept: u64,
    /// Whether it was seen to keep nothing of its latest pieces.
    pub(super) consumes: bool,
    /// How quickly its client sends.
    pub(super) pace: Pace,
    /// Whether it has sent next to nothing for some looks.
    pub(super) starves: bool,
    /// The handler's task.
    pub(super) handler: Option<Waker>,
}

impl State {
    fn held(&self) -> u64 {
        self.unfollowed + self.live.max(self.whole.unwrap_or(0))
    }
}

impl Account {
    /// Of requests that nobody owns each is on its own.
    pub(super) fn new(
        counts: &Arc<Counts>,
        id: u64,
        owner: Option<Owner>,
        length: Option<u64>,
    ) -> Self {
        Self {
            id,
            owner: owner.unwrap_or(Owner::Request(id)),
            length,
            counts: Arc::clone(counts),
            ended: AtomicBool::new(false),
            received: AtomicU64::new(0),
            piece: AtomicU64::new(0),
            eases: AtomicBool::new(false),
            eased: AtomicU64::new(0),
            handler: AtomicPtr::default(),
            state: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_eased() {
            let eased = self.eased.swap(0, SeqCst);
            if state.follows && state.live == 0 {
                // It was seen to keep nothing of what came before.
                state.unfollowed = 0;
            }
            state.follows = false;
            state.counted += eased;
            state.unfollowed += eased;
        }
        state
    }

    fn has_eased(&self) -> bool {
        self.eased.load(SeqCst) > 0
    }

    /// All that has come, with so many bytes that come now.
    #[inline]
    pub(super) fn receive(&self, bytes: u64) -> u64 {
        let received = self.received.load(Relaxed) + bytes;
        self.received.store(received, Relaxed);
        self.piece.store(bytes, Relaxed);
        received
    }

    /// Counts bytes that came, if there is so much left that nothing else need be known of them.
    #[inline]
    pub(super) fn count_at_ease(&self, bytes: u64) -> bool {
        let counts = &self.counts;
        if !self.eases.load(Relaxed) || counts.waiting() > 0 || !counts.is_at_ease() {
            return false;
        }
        counts.count(0, bytes);
        self.eased.fetch_add(bytes, SeqCst);
        if !self.eases.load(SeqCst) {
            self.forget_eased();
        }
        true
    }

    /// It was answered in this moment: whoever sees that last, what came with it or that it is over, takes it back.
    pub(super) fn forget_eased(&self) {
        if self.has_eased() {
            self.change(|state| state.unfollowed = 0);
        }
    }

    /// From now on it is in the list, or answered.
    pub(super) fn set_eases(&self, eases: bool) {
        self.eases.store(eases, SeqCst);
    }

    /// Remembers who is to be woken should it be ended, once it holds something.
    #[inline]
    pub(super) fn handler_waits(&self, waker: &Waker) {
        // One that is there is not freed, so that no other is in its place.
        let known = self.handler.load(Relaxed);
        if known.cast_const() == waker.data() || !self.eases.load(Relaxed) {
            return;
        }
        let before = self.state().handler.replace(waker.clone());
        self.handler.store(waker.data().cast_mut(), Relaxed);
        drop(before);
    }

    /// Changes what it holds; how many bytes have come back by that.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) -> u64 {
        let mut state = self.state();
        change(&mut state);
        if !state.is_listed {
            return 0;
        }
        let held = state.held();
        let before = mem::replace(&mut state.counted, held);
        self.counts.count(before, held);
        before.saturating_sub(held)
    }

    pub(super) fn held(&self) -> u64 {
        self.state().held()
    }

    /// Whether it was ended, to make room for others.
    #[inline]
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Whether bytes are kept for it.
    pub(super) fn goes(&self) -> bool {
        self.state().kept > 0
    }

    /// Keeps so many bytes for it, and no others.
    pub(super) fn keep(&self, bytes: u64) {
        let before = mem::replace(&mut self.state().kept, bytes);
        self.counts.keep(before, bytes);
    }

    /// What its next piece may take: connections read up to twice as much as the last time.
    fn next(&self) -> u64 {
        let next = (2 * self.piece.load(Relaxed)).clamp(SMALL, 512 << 10);
        next.min(self.left().unwrap_or(u64::MAX))
    }

    /// What is still to come, if that is known.
    #[inline]
    pub(super) fn left(&self) -> Option<u64> {
        let received = self.received.load(Relaxed);
        Some(self.length?.saturating_sub(received))
    }

    pub(super) fn waits(&self) -> bool {
        self.state().waits.is_some()
    }

    /// Whether it did not before.
    pub(super) fn begin_to_wait(&self, waker: &Waker) -> bool {
        self.keep(0);
        let mut state = self.state();
        let before = state.waits.replace(waker.clone());
        if before.is_none() {
            state.waited = 0;
        }
        before.is_none()
    }

    /// It reads on, and so many bytes are kept for it; who is to be woken.
    pub(super) fn go_on(&self, kept: u64) -> Option<Waker> {
        let waker = self.state().waits.take()?;
        self.keep(kept);
        self.counts.waits_no_more();
        Some(waker)
    }

    /// It is over; who is to be woken.
    pub(super) fn end(&self) -> impl Iterator<Item = Waker> + use<> {
        self.ended.store(true, Relaxed);
        let reader = self.go_on(0);
        let handler = self.state().handler.take();
        self.handler.store(std::ptr::null_mut(), Relaxed);
        reader.into_iter().chain(handler)
    }

    /// Whether its client sends anything is to be seen at the next look.
    pub(super) fn look(&self) {
        let mut state = self.state();
        let received = self.received.load(Relaxed);
        if state.waits.is_some() {
            // It is we who keep it waiting.
            state.pace = Pace::from(received);
            state.waited = state.waited.saturating_add(1);
        }
        let starves = state.pace.look(received, self.left());
        state.starves = starves;
        drop(state);
        if starves {
            self.keep(0);
        }
    }

    pub(super) fn row(&self) -> policy::Upload {
        use policy::Stage;
        let state = self.state();
        let stage = if self.ended.load(Relaxed) {
            Stage::Leaves
        } else if state.whole.is_some() {
            Stage::Whole
        } else if state.waits.is_some() {
            Stage::Waits
        } else if state.starves {
            Stage::Starves
        } else if state.kept > 0 {
            Stage::Goes
        } else {
            Stage::Reads
        };
        policy::Upload {
            id: self.id,
            owner: self.owner,
            held: state.held(),
            left: self.left(),
            next: self.next(),
            consumes: state.consumes,
            stage,
            waited: state.waited,
        }
    }
}

/// What looks at a body have seen of it.
#[derive(Default)]
pub(super) struct Pace {
    looks: u32,
    /// What had come at the look before, and for how many looks that was all.
    seen: u64,
    silent: u32,
    /// What had come when it was last seen how quickly it comes.
    paced: u64,
    slow: bool,
}

impl Pace {
    fn from(received: u64) -> Self {
        Self {
            seen: received,
            paced: received,
            ..Self::default()
        }
    }

    /// Looks at a body of which so much has come and so much is to come, if that is known; whether its client sends too
    /// little to wait for its end.
    fn look(&mut self, received: u64, left: Option<u64>) -> bool {
        self.silent = match received == self.seen {
            true => self.silent + 1,
            false => 0,
        };
        self.seen = received;
        if self.looks.is_multiple_of(PACED) {
            let came = received - self.paced;
            self.slow = self.looks > 0 && left.is_some_and(|left| came * PATIENCE < left);
            self.paced = received;
        }
        self.looks = self.looks.wrapping_add(1);
        self.silent >= SILENT || self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_waited_for_unless_it_is_silent_or_would_need_more_than_a_minute() {
        const KIB: u64 = 1 << 10;
        for (each, length, last) in [
            // Bytes between two looks, of how many, and at which look it is not waited for any more.
            (0, Some(100), Some(4)),
            (0, None, Some(4)),
            (1, Some(1_000_000), Some(10)),
            // 10 KiB in a second: 600 in a minute.
            (5 * KIB, Some(600 * KIB), None),
            (5 * KIB, Some(700 * KIB), Some(10)),
            // Of unknown length it may be done at any time.
            (1, None, None),
        ] {
            let mut pace = Pace::default();
            let ended = (0..40).find(|look| {
                let received = (1 + look * each).min(length.unwrap_or(u64::MAX));
                pace.look(received, length.map(|length| length - received))
            });
            assert_eq!(ended, last, "{each} {length:?}");
        }
        // It may have waited for long, and then has as much time as any.
        let mut pace = Pace::from(1000);
        let looks = (0..40).take_while(|_| !pace.look(1000, Some(1_000_000)));
        assert_eq!(looks.count(), 3);
        let mut pace = Pace::default();
        for look in 0..100 {
            // Now and then a packet is lost.
            let received = 10_000 * (1 + look / 3);
            assert!(!pace.look(received, Some(100_000)), "{look}");
        }
    }
}

//! What one request holds.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use super::{counts::Counts, policy};

/// Up to here a body is neither counted nor kept waiting: its connection's buffer takes as much.
pub(super) const SMALL: u64 = 16 << 10;

pub(super) struct Account {
    pub(super) id: u64,
    key: u64,
    /// The length of the body, if it is known.
    length: Option<u64>,
    counts: Arc<Counts>,
    ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) received: u64,
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
    /// As the budget has it.
    pub(super) counted: u64,
    /// Not read on, with who is to be woken.
    pub(super) waits: Option<Waker>,
    /// It does not wait before it has received so much more.
    pub(super) kept: u64,
    /// The length of its last piece.
    pub(super) piece: u64,
    /// Whether it was seen to keep nothing of its latest pieces.
    pub(super) consumes: bool,
    /// `received` when somebody looked last, and whether that was the same at the look before.
    pub(super) seen: Option<u64>,
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
    /// Of requests that share no key each is on its own.
    pub(super) fn new(
        counts: &Arc<Counts>,
        id: u64,
        key: Option<u64>,
        length: Option<u64>,
    ) -> Self {
        Self {
            id,
            key: key.unwrap_or(u64::MAX - id),
            length,
            counts: Arc::clone(counts),
            ended: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn next(&self, state: &State) -> u64 {
        let next = (2 * state.piece).clamp(SMALL, 512 << 10);
        next.min(self.left(state).unwrap_or(u64::MAX))
    }

    fn left(&self, state: &State) -> Option<u64> {
        Some(self.length?.saturating_sub(state.received))
    }

    pub(super) fn waits(&self) -> bool {
        self.state().waits.is_some()
    }

    /// Whether it did not before.
    pub(super) fn begin_to_wait(&self, waker: &Waker) -> bool {
        self.keep(0);
        let before = self.state().waits.replace(waker.clone());
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
        reader.into_iter().chain(handler)
    }

    /// Whether its client sends anything is to be seen at the next look.
    pub(super) fn look(&self) {
        let mut state = self.state();
        let received = state.received;
        state.starves = state.seen.replace(received) == Some(received);
        let starves = state.starves;
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
            key: self.key,
            held: state.held(),
            left: self.left(&state),
            next: self.next(&state),
            consumes: state.consumes,
            stage,
        }
    }
}

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{ActionOutcome, TuningAction};

/// The latest actions, and who waits for the next.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    actions: VecDeque<TuningAction>,
    /// What subscribers hear: the actions, and again those whose outcome has become known.
    news: VecDeque<TuningAction>,
    capacity: usize,
    /// How much of the news has left the ring: the position of its first.
    gone: u64,
    wakers: Vec<Waker>,
    closed: bool,
}

impl Log {
    pub(super) fn new(capacity: usize) -> Self {
        let ring = Ring {
            actions: VecDeque::new(),
            news: VecDeque::new(),
            capacity,
            gone: 0,
            wakers: Vec::new(),
            closed: false,
        };
        Self(Arc::new(Mutex::new(ring)))
    }

    pub(super) fn push(&self, action: TuningAction) {
        let mut ring = self.lock();
        if ring.actions.len() == ring.capacity {
            ring.actions.pop_front();
        }
        ring.actions.push_back(action.clone());
        Self::tell(ring, action);
    }

    pub(super) fn resolve(&self, seq: u64, outcome: ActionOutcome) {
        let mut ring = self.lock();
        if let Some(action) = ring
            .actions
            .iter_mut()
            .rev()
            .find(|action| action.seq == seq)
        {
            action.outcome = outcome;
            let action = action.clone();
            Self::tell(ring, action);
        }
    }

    pub(super) fn history(&self) -> Vec<TuningAction> {
        self.lock().actions.iter().cloned().collect()
    }

    pub(super) fn close(&self) {
        let mut ring = self.lock();
        ring.closed = true;
        Self::wake(ring);
    }

    pub(super) fn subscribe(&self) -> Subscription {
        let ring = self.lock();
        let next = ring.gone + ring.news.len() as u64;
        drop(ring);
        Subscription {
            log: self.clone(),
            next,
            missed: 0,
        }
    }

    fn tell(mut ring: MutexGuard<'_, Ring>, action: TuningAction) {
        if ring.news.len() == ring.capacity {
            ring.news.pop_front();
            ring.gone += 1;
        }
        ring.news.push_back(action);
        Self::wake(ring);
    }

    fn wake(mut ring: MutexGuard<'_, Ring>) {
        let wakers = std::mem::take(&mut ring.wakers);
        drop(ring);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every [`TuningAction`] from the subscription on, in order. One whose [outcome](TuningAction::outcome) is pending comes a
/// second time, by the same number, when it is known.
///
/// Nobody waits for a slow subscriber: it loses what has left the history, and can tell by
/// [`Subscription::missed`].
#[derive(Debug, Clone)]
pub struct Subscription {
    log: Log,
    next: u64,
    missed: u64,
}

impl Subscription {
    /// The next action, or `None` when the tuner is gone.
    pub async fn recv(&mut self) -> Option<TuningAction> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next action, if there is one by now.
    pub fn try_recv(&mut self) -> Option<TuningAction> {
        let log = self.log.clone();
        let ring = log.lock();
        self.take(&ring)
    }

    /// As [`Subscription::recv`], for hand-written futures and streams.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<TuningAction>> {
        let log = self.log.clone();
        let mut ring = log.lock();
        match self.take(&ring) {
            None if ring.closed => Poll::Ready(None),
            None => {
                if !ring.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    ring.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
            action => Poll::Ready(action),
        }
    }

    /// How many actions were lost because nobody came for them in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn take(&mut self, ring: &Ring) -> Option<TuningAction> {
        if self.next < ring.gone {
            self.missed += ring.gone - self.next;
            self.next = ring.gone;
        }
        let index = usize::try_from(self.next - ring.gone).ok()?;
        let action = ring.news.get(index)?.clone();
        self.next += 1;
        Some(action)
    }
}

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
};

use crate::{AdaptiveLimit, Class, Permit, limit::wait::Queued};

/// A request on its way to the service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    /// When it came, in seconds.
    pub(super) since: f64,
    pub(super) attempt: u32,
    pub(super) client: usize,
    pub(super) who: Who,
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Who {
    #[default]
    Anybody,
    /// Of a closed loop.
    User(usize),
    /// One of the [`Others`](super::Others).
    Other,
}

/// Those who wait for a place, in the very queue that production has: what a future does there is done here.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    slots: Vec<Option<(Queued, Asking)>>,
    free: Vec<usize>,
    woken: Woken,
}

/// Whose waiting is over.
type Woken = Arc<Mutex<VecDeque<usize>>>;

#[derive(Debug)]
struct Bell {
    slot: usize,
    woken: Woken,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        lock(&self.woken).push_back(self.slot);
    }
}

fn lock(woken: &Woken) -> MutexGuard<'_, VecDeque<usize>> {
    woken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting {
    /// The slot of one who begins to wait.
    pub(super) fn join(&mut self, limit: &AdaptiveLimit, asking: Asking) -> Option<usize> {
        let mut queued = Queued::join(limit.own(), Class::DEFAULT, Default::default(), 0)?;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        let woken = Arc::clone(&self.woken);
        let waker = Waker::from(Arc::new(Bell { slot, woken }));
        if queued.poll_granted(&Context::from_waker(&waker)).is_ready() {
            lock(&self.woken).push_back(slot);
        }
        self.slots[slot] = Some((queued, asking));
        Some(slot)
    }

    /// One whose waiting is over, with a place or without.
    pub(super) fn next(&mut self) -> Option<(Asking, Option<Permit>)> {
        loop {
            let slot = lock(&self.woken).pop_front()?;
            let Some((mut queued, asking)) = self.slots.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.free.push(slot);
            let _ = queued.poll_granted(&Context::from_waker(Waker::noop()));
            return Some((asking, queued.take_permit()));
        }
    }

    /// Ends the waiting of one that came then, unless it is over. All that [`Self::next`] has must have been taken.
    pub(super) fn time_out(&mut self, slot: usize, since: f64) -> Option<Asking> {
        let waiting = self.slots.get_mut(slot)?;
        if waiting
            .as_ref()
            .is_none_or(|(_, asking)| asking.since != since)
        {
            return None;
        }
        let (_, asking) = waiting.take()?;
        self.free.push(slot);
        Some(asking)
    }
}

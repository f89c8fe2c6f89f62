use std::sync::Arc;

use super::{
    Admission, Class, Outcome,
    keys::{Count, Keys},
    shared::{Own, Shared},
};

/// More than a client of health checks has at a time, and no more than one can do harm with.
const EXEMPT_OF_ONE: u32 = 16;

/// A place under an [`AdaptiveLimit`](super::AdaptiveLimit). Dropping it gives the place back; if no outcome was
/// recorded before, the request counts as cancelled and its latency does not count.
#[derive(Debug)]
#[must_use = "dropping a permit gives the place back at once"]
pub struct Permit {
    shared: Arc<Own>,
    admission: Admission,
}

impl Permit {
    #[inline]
    pub(super) fn new(shared: Arc<Own>, class: Class, keys: Keys) -> Self {
        let admission = Admission::new(&shared, class, keys);
        Self { shared, admission }
    }

    /// Of a request that needs no place, as long as its key has few of these.
    pub(super) fn exempt(shared: &Arc<Own>, keys: Keys) -> Option<Self> {
        if shared.keys.get(keys, Count::Exempt) >= EXEMPT_OF_ONE {
            return None;
        }
        shared.keys.add(keys, Count::Exempt);
        Some(Self {
            shared: Arc::clone(shared),
            admission: Admission::exempt(keys),
        })
    }

    /// It keeps a seat of its class as well.
    #[inline]
    pub(super) fn with_seat(mut self, seat: Option<Box<Self>>) -> Self {
        if let Some(seat) = seat {
            self.admission.sit_down(&self.shared, seat);
        }
        self
    }

    pub(super) fn parts(&mut self) -> (&Arc<Shared>, &mut Admission) {
        (self.shared.shared(), &mut self.admission)
    }

    /// Gives the place back while the request waits for its client, until [`retake`](Self::retake). As much as may be
    /// lent at a time is bounded; beyond that the place is kept.
    pub fn lend(&mut self) {
        self.admission.lend(&self.shared);
    }

    /// Takes the place again, at once, also when it is no longer free. Nothing if it was not lent.
    pub fn retake(&mut self) {
        self.admission.retake(&self.shared);
    }

    /// Records the outcome and the time since admission, and keeps the place. Only the first
    /// record counts.
    #[inline]
    pub fn record(&mut self, outcome: Outcome) {
        self.admission.record(&self.shared, outcome);
    }

    /// Records the outcome and gives the place back.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        self.record(outcome);
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        self.admission.leave(&self.shared);
    }
}

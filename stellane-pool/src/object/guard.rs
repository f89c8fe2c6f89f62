use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::{magazine::Slot, shared::Anchor};
use crate::Recycle;

/// A value taken from a [`Pool`](super::Pool); dropping it recycles and returns the value.
///
/// It is owned and may move between threads and live across `await`s; wherever it is dropped, it returns.
/// There is no `Clone` and no way to return it twice.
pub struct Pooled<T: Recycle> {
    inner: Option<Inner<T>>,
}

struct Inner<T: Recycle> {
    slot: Box<Slot<T>>,
    home: Arc<Anchor<T>>,
}

const OUT: &str = "the value is there until the guard is consumed";

impl<T: Recycle> Pooled<T> {
    #[inline]
    pub(super) fn new(slot: Box<Slot<T>>, home: Arc<Anchor<T>>) -> Self {
        Self {
            inner: Some(Inner { slot, home }),
        }
    }

    /// Takes the value out of the pool's care for good.
    pub fn detach(mut self) -> T {
        let Inner { slot, home } = self.inner.take().expect(OUT);
        home.shared.forget();
        slot.value
    }

    /// Returns the value while handles to its memory are still out: it is used again once
    /// [`Recycle::is_free`] says so.
    #[inline]
    pub(crate) fn lend(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.home.shared.give_back(inner.slot, true);
        }
    }
}

impl<T: Recycle> Deref for Pooled<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner.as_ref().expect(OUT).slot.value
    }
}

impl<T: Recycle> DerefMut for Pooled<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner.as_mut().expect(OUT).slot.value
    }
}

impl<T: Recycle> Drop for Pooled<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.home.shared.give_back(inner.slot, false);
        }
    }
}

impl<T: Recycle + fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

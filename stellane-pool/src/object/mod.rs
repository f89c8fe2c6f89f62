//! Pools of objects: [`Pool`], its guard and its numbers.

mod builder;
mod guard;
mod magazine;
mod shared;
mod stats;

use std::{fmt, sync::Arc};

use self::shared::{Anchor, Shared};
pub(crate) use self::stats::Trims;
pub use self::{
    builder::PoolBuilder,
    guard::Pooled,
    stats::{Drops, PoolStats, Trimmed},
};
use crate::Recycle;

/// A pool of values that are expensive to make and cheap to clean.
///
/// Each thread returns to and takes from a magazine of its own; a full magazine hands half of itself to
/// a shared exchange, an empty one is refilled from there, or from another thread's magazine. So values
/// taken on one thread and returned on another still find their way back.
///
/// The clone is a handle to the same pool. When the last handle goes the pool is closed: idle values are
/// dropped, and those still out are dropped when they come back.
///
/// Pooling pays for composites that keep several allocations (a header map, a parser, a large buffer).
/// It does not pay for one small box: a modern allocator already keeps those in thread-local lists.
///
/// ```
/// use stellane_pool::Pool;
///
/// let pool = Pool::builder(|| Vec::<u8>::with_capacity(1024)).build()?;
/// let mut scratch = pool.take();
/// scratch.extend_from_slice(b"dirty");
/// drop(scratch);
/// assert!(pool.take().is_empty(), "cleared on its way back");
/// # Ok::<_, stellane_pool::BuildError>(())
/// ```
pub struct Pool<T: Recycle> {
    handle: Arc<Handle<T>>,
}

/// What all clones of a [`Pool`] share. Values on the way keep [`Shared`] alive, but the pool closes when
/// the last handle goes.
struct Handle<T: Recycle> {
    shared: Arc<Shared<T>>,
    /// One for each magazine, so that threads do not meet in one reference count.
    anchors: Box<[Arc<Anchor<T>>]>,
}

impl<T: Recycle> Pool<T> {
    fn from_shared(shared: Shared<T>) -> Self {
        let shared = Arc::new(shared);
        let anchor = |_| {
            Arc::new(Anchor {
                shared: Arc::clone(&shared),
            })
        };
        let anchors = (0..shared.magazines()).map(anchor).collect();
        Self {
            handle: Arc::new(Handle { shared, anchors }),
        }
    }

    /// Takes an idle value, or makes one.
    #[inline]
    pub fn take(&self) -> Pooled<T> {
        let own = self.handle.shared.own();
        let slot = match self.handle.shared.take_idle(own) {
            Some(slot) => slot,
            None => self.handle.shared.make(),
        };
        Pooled::new(slot, Arc::clone(&self.handle.anchors[own]))
    }

    /// Takes an idle value, if there is one.
    pub fn try_take(&self) -> Option<Pooled<T>> {
        let own = self.handle.shared.own();
        let slot = self.handle.shared.take_idle(own)?;
        Some(Pooled::new(slot, Arc::clone(&self.handle.anchors[own])))
    }

    /// Makes up to `count` values now, so that the first requests do not have to. Stops where the pool or
    /// its budget is full.
    pub fn warm_up(&self, count: usize) {
        let shared = &self.handle.shared;
        for _ in 0..count {
            shared.give_back(shared.make(), false);
        }
    }

    /// Ages what is idle: see [`set_retain_percent`](Self::set_retain_percent).
    pub fn tick(&self) -> Trimmed {
        self.handle.shared.tick()
    }

    /// Drops everything idle now.
    pub fn trim(&self) -> Trimmed {
        self.handle.shared.trim()
    }

    /// The pool's numbers. Each is exact at some instant of the call, not all at the same.
    pub fn stats(&self) -> PoolStats {
        self.handle.shared.stats()
    }

    /// How many values may be idle. Too low and bursts miss; too high and a burst stays in memory for two
    /// ticks. `0` turns pooling off: every take makes, every return drops.
    pub fn set_max_idle(&self, count: usize) {
        self.handle.shared.set_max_idle(count);
    }

    /// How many bytes one idle value may keep. Too low and ordinary values are never kept; too high and
    /// each idle value may be as large as the largest request ever seen.
    pub fn set_max_object_bytes(&self, bytes: usize) {
        self.handle.shared.set_max_object_bytes(bytes);
    }

    /// How much may stay idle over a tick; see [`PoolBuilder::retain_percent`].
    pub fn retain_percent(&self) -> usize {
        self.handle.shared.retain_percent()
    }

    /// How much may stay idle over a tick, in per cent of what was in use at some time since the tick
    /// before. At the default 100 exactly what the last interval needed stays, so an idle value leaves
    /// after two ticks. Lower frees sooner and misses more; `0` frees everything idle at every tick;
    /// above 100 keeps a reserve for bursts for as long as there is traffic.
    pub fn set_retain_percent(&self, percent: usize) {
        self.handle.shared.set_retain_percent(percent);
    }

    /// Closes the pool: idle values are dropped now, those out when they come back. `take` goes on
    /// working, without reuse.
    pub fn close(&self) {
        self.handle.shared.close();
    }

    /// Whether the pool keeps nothing.
    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        self.handle.shared.is_off()
    }

    pub(crate) fn trim_bytes(&self, bytes: usize) -> Trimmed {
        self.handle.shared.trim_bytes(bytes)
    }
}

impl<T: Recycle> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
        }
    }
}

impl<T: Recycle> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Numbers only: idle values never show up in a log.
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<T: Recycle> Drop for Handle<T> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering};

/// A limit in bytes on what the pools sharing it may keep idle together.
///
/// Values in use are not counted: they belong to the requests that hold them. A pool that cannot charge
/// a returning value to the budget frees it, so the sum never passes the limit. The clone is a handle to
/// the same budget.
///
/// ```
/// use stellane_pool::{Budget, Pool};
///
/// let budget = Budget::new(1024);
/// let pool = Pool::builder(|| Vec::<u8>::with_capacity(800)).budget(&budget).build()?;
/// let (one, two) = (pool.take(), pool.take());
/// drop((one, two));
/// assert_eq!(pool.stats().idle, 1, "the second would not fit");
/// assert_eq!(budget.used(), 800);
/// # Ok::<(), stellane_pool::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: AtomicUsize,
    used: Used,
}

/// Apart from what every take of a large value reads.
#[derive(Debug)]
#[repr(align(128))]
struct Used(AtomicUsize);

impl Budget {
    /// A budget of `limit` bytes. Too low and returned values are freed rather than kept; too high and a
    /// burst of large values stays in memory until it has aged.
    pub fn new(limit: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit: AtomicUsize::new(limit),
                used: Used(AtomicUsize::new(0)),
            }),
        }
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit.load(Ordering::Relaxed)
    }

    /// The bytes charged: what is kept idle, and a little that magazines hold in reserve between two
    /// ticks to leave this shared counter alone.
    pub fn used(&self) -> usize {
        self.shared.used.0.load(Ordering::Relaxed)
    }

    /// Changes the limit. A lower one takes effect on what is already kept at each pool's next tick;
    /// [`Pools::set_budget_bytes`](crate::Pools::set_budget_bytes) trims at once.
    pub fn set_limit(&self, limit: usize) {
        self.shared.limit.store(limit, Ordering::Relaxed);
    }

    /// By how many bytes the charge passes the limit, which only a lowered limit can make happen.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit())
    }

    pub(crate) fn try_charge(&self, bytes: usize) -> bool {
        let limit = self.limit();
        self.shared
            .used
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .is_ok()
    }

    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.shared.used.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

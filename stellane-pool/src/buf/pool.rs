use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{
    PooledBuf,
    slab::{CLASSES, Classes, Slab},
};
use crate::{Budget, BuildError, Pool, PoolConfig, PoolStats, Trimmed};

/// A pool of byte buffers of 4 KiB, 16 KiB, 64 KiB, 256 KiB and 1 MiB.
///
/// Larger buffers are made and freed as they come: keeping them would let one upload decide how much
/// memory the process holds. The clone is a handle to the same pool.
///
/// ```
/// use bytes::BufMut;
/// use stellane_pool::{BufPool, PoolConfig};
///
/// let pool = BufPool::new(&PoolConfig::enabled())?;
/// let mut buffer = pool.get(100);
/// buffer.put_slice(b"hello");
/// let bytes = buffer.freeze();
/// assert_eq!(bytes, "hello");
///
/// // When the last clone of the bytes is gone, the memory is used again.
/// drop(bytes);
/// drop(pool.get(100));
/// assert_eq!(pool.stats().hits, 1);
/// # Ok::<(), stellane_pool::BuildError>(())
/// ```
#[derive(Clone)]
pub struct BufPool {
    classes: Arc<Classes>,
}

impl BufPool {
    /// A buffer pool with a budget of its own.
    ///
    /// # Errors
    ///
    /// When a value of `config` is out of range.
    pub fn new(config: &PoolConfig) -> Result<Self, BuildError> {
        config.validate().map_err(BuildError::new)?;
        Ok(Self::with_budget(
            config,
            &Budget::new(config.max_retained_bytes),
        ))
    }

    /// `config` has been validated.
    pub(crate) fn with_budget(config: &PoolConfig, budget: &Budget) -> Self {
        let scrub = config.scrub;
        let class = |size, classes: &Weak<Classes>| {
            let classes = classes.clone();
            Pool::builder(move || Slab::new(size, scrub, classes.clone()))
                .budget(budget)
                .max_idle(if config.enabled {
                    config.response_pool_size
                } else {
                    0
                })
                .max_object_bytes(config.max_buffer_bytes)
                .retain_percent(config.retain_percent)
        };
        let pools = |classes: &Weak<Classes>| CLASSES.map(|size| class(size, classes).finish());
        Self {
            classes: Arc::new_cyclic(pools),
        }
    }

    /// An empty buffer with room for at least `capacity` bytes. It grows when more is written, so a hint
    /// that is too low costs a copy and one too high takes memory others could use.
    #[inline]
    pub fn get(&self, capacity: usize) -> PooledBuf {
        PooledBuf::take(&self.classes, capacity)
    }

    /// The numbers of all classes together.
    pub fn stats(&self) -> PoolStats {
        let mut sum = PoolStats::default();
        for pool in self.classes.iter() {
            sum += pool.stats();
        }
        sum
    }

    /// The numbers of each class, with the size of its buffers in bytes.
    pub fn class_stats(&self) -> impl Iterator<Item = (usize, PoolStats)> + '_ {
        CLASSES
            .into_iter()
            .zip(self.classes.iter().map(Pool::stats))
    }

    /// How many buffers of each class may be idle; see [`Pool::set_max_idle`].
    pub fn set_max_idle(&self, count: usize) {
        self.classes
            .iter()
            .for_each(|pool| pool.set_max_idle(count));
    }

    /// The largest buffers that are kept, in bytes. Too low and bodies allocate; too high and large idle
    /// buffers crowd small ones out of the budget.
    pub fn set_max_buffer_bytes(&self, bytes: usize) {
        self.classes
            .iter()
            .for_each(|pool| pool.set_max_object_bytes(bytes));
    }

    /// See [`Pool::retain_percent`]; all classes have the same.
    pub fn retain_percent(&self) -> usize {
        self.classes[0].retain_percent()
    }

    /// See [`Pool::set_retain_percent`].
    pub fn set_retain_percent(&self, percent: usize) {
        self.classes
            .iter()
            .for_each(|pool| pool.set_retain_percent(percent));
    }

    /// Ages what is idle; see [`Pool::tick`].
    pub fn tick(&self) -> Trimmed {
        self.each(Pool::tick)
    }

    /// Drops everything idle now.
    pub fn trim(&self) -> Trimmed {
        self.each(Pool::trim)
    }

    /// Closes the pool; see [`Pool::close`].
    pub fn close(&self) {
        self.classes.iter().for_each(Pool::close);
    }

    /// Frees idle buffers, the largest first, until `bytes` are freed.
    pub(crate) fn trim_bytes(&self, bytes: usize) -> Trimmed {
        let mut trimmed = Trimmed::default();
        for pool in self.classes.iter().rev() {
            if trimmed.bytes >= bytes {
                break;
            }
            trimmed += pool.trim_bytes(bytes - trimmed.bytes);
        }
        trimmed
    }

    fn each(&self, trim: impl Fn(&Pool<Slab>) -> Trimmed) -> Trimmed {
        let mut sum = Trimmed::default();
        for pool in self.classes.iter() {
            sum += trim(pool);
        }
        sum
    }
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

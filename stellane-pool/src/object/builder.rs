use std::fmt;

use super::{Pool, shared::Shared};
use crate::{Budget, BuildError, ConfigError, Recycle};

/// Builds a [`Pool`].
#[must_use = "a builder does nothing until it builds"]
pub struct PoolBuilder<T: Recycle> {
    make: Box<dyn Fn() -> T + Send + Sync>,
    budget: Budget,
    max_idle: usize,
    max_object_bytes: usize,
    retain_percent: usize,
    magazines: usize,
}

impl<T: Recycle> Pool<T> {
    /// A pool whose values are made by `make`.
    pub fn builder(make: impl Fn() -> T + Send + Sync + 'static) -> PoolBuilder<T> {
        PoolBuilder::new(Box::new(make))
    }
}

impl<T: Recycle> PoolBuilder<T> {
    fn new(make: Box<dyn Fn() -> T + Send + Sync>) -> Self {
        Self {
            make,
            budget: Budget::new(64 << 20),
            max_idle: 1000,
            max_object_bytes: 1 << 20,
            retain_percent: 100,
            magazines: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// The budget that idle values are charged to. Default: 64 MiB of its own.
    pub fn budget(mut self, budget: &Budget) -> Self {
        self.budget = budget.clone();
        self
    }

    /// See [`Pool::set_max_idle`]. Default: 1000.
    pub fn max_idle(mut self, count: usize) -> Self {
        self.max_idle = count;
        self
    }

    /// See [`Pool::set_max_object_bytes`]. Default: 1 MiB.
    pub fn max_object_bytes(mut self, bytes: usize) -> Self {
        self.max_object_bytes = bytes;
        self
    }

    /// See [`Pool::set_retain_percent`]. Default: 100.
    pub fn retain_percent(mut self, percent: usize) -> Self {
        self.retain_percent = percent;
        self
    }

    /// How many magazines there are, each used by as few threads as possible. Too few and threads meet in
    /// one; too many and idle values are spread thin. Rounded up to a
    /// power of two. Default: one for each CPU.
    pub fn magazines(mut self, count: usize) -> Self {
        self.magazines = count;
        self
    }

    /// The pool.
    ///
    /// # Errors
    ///
    /// When there is no magazine, or more than 1024.
    pub fn build(self) -> Result<Pool<T>, BuildError> {
        if !(1..=1024).contains(&self.magazines) {
            let error = ConfigError::new("magazines", self.magazines, "1 to 1024");
            return Err(BuildError::new(vec![error]));
        }
        Ok(self.finish())
    }

    /// The pool of a builder whose `magazines` nobody touched.
    pub(crate) fn finish(self) -> Pool<T> {
        let shared = Shared::new(self.make, self.magazines, self.budget);
        shared.set_max_object_bytes(self.max_object_bytes);
        shared.set_retain_percent(self.retain_percent);
        shared.set_max_idle(self.max_idle);
        Pool::from_shared(shared)
    }
}

impl<T: Recycle> fmt::Debug for PoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("budget", &self.budget)
            .field("max_idle", &self.max_idle)
            .field("max_object_bytes", &self.max_object_bytes)
            .field("retain_percent", &self.retain_percent)
            .field("magazines", &self.magazines)
            .finish_non_exhaustive()
    }
}

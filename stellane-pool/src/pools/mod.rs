//! The bundle of pools a server needs, under one budget.

mod config;
mod stats;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

#[cfg(feature = "http")]
use ::http::{Extensions, HeaderMap};

pub use self::{config::PoolConfig, stats::PoolsStats};
use crate::{
    Budget, BufPool, BuildError, Trimmed,
    object::Trims,
    sync::{AtomicU64, AtomicUsize, Ordering},
};
#[cfg(feature = "http")]
use crate::{Pool, Pooled};

/// Everything a server pools: buffers, and with the feature `http` header maps and extensions, under one
/// [`Budget`].
///
/// The clone is a handle to the same pools.
///
/// ```
/// use stellane_pool::Pools;
///
/// let pools = Pools::builder().enabled(true).build()?;
/// drop(pools.buf().get(1000));
/// drop(pools.buf().get(1000));
/// let stats = pools.stats();
/// assert_eq!((stats.hits, stats.misses, stats.outstanding), (1, 1, 0));
///
/// // Two ticks without traffic, and nothing is kept.
/// pools.tick();
/// pools.tick();
/// assert_eq!(pools.stats().retained_bytes, 0);
/// # Ok::<(), stellane_pool::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Pools {
    shared: Arc<Counted>,
}

/// The pools, behind a count of references of which there may be several. It has a cache line, and the one that is
/// fetched with it, for itself.
#[repr(align(128))]
struct Counted(Arc<Shared>);

impl Deref for Counted {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.0
    }
}

struct Shared {
    buf: BufPool,
    #[cfg(feature = "http")]
    headers: Pool<HeaderMap>,
    #[cfg(feature = "http")]
    extensions: Pool<Extensions>,
    budget: Budget,
    sizes: Mutex<Sizes>,
    clock: Mutex<Clock>,
    max_body_bytes: AtomicUsize,
    trims: Trims,
    bodies: AtomicU64,
    bodies_too_large: AtomicU64,
}

/// When [`Pools::tick_at`] ticks.
struct Clock {
    interval: Duration,
    last: Option<Instant>,
}

struct Sizes {
    enabled: bool,
    request: usize,
    response: usize,
}

impl Pools {
    /// Starts with the default [`PoolConfig`], which reuses nothing: see [`PoolsBuilder::enabled`].
    pub fn builder() -> PoolsBuilder {
        PoolsBuilder::default()
    }

    /// A handle to the same pools whose references are counted apart.
    #[cfg(feature = "http")]
    pub(crate) fn apart(&self) -> Self {
        let shared = Arc::new(Counted(Arc::clone(&self.shared.0)));
        Self { shared }
    }

    /// The buffers.
    pub fn buf(&self) -> &BufPool {
        &self.shared.buf
    }

    /// The budget that all of these pools share. Give it to pools of your own to bound them together.
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// An empty header map, with the room an earlier request made.
    #[cfg(feature = "http")]
    pub fn headers(&self) -> Pooled<HeaderMap> {
        self.shared.headers.take()
    }

    /// Empty extensions, with the room an earlier request made.
    #[cfg(feature = "http")]
    pub fn extensions(&self) -> Pooled<Extensions> {
        self.shared.extensions.take()
    }

    /// The most bytes a collected body may have.
    pub fn max_body_bytes(&self) -> usize {
        self.shared.max_body_bytes.load(Ordering::Relaxed)
    }

    /// The numbers of all pools together.
    pub fn stats(&self) -> PoolsStats {
        let shared = &self.shared;
        #[cfg_attr(not(feature = "http"), expect(unused_mut, reason = "one pool only"))]
        let mut pools = shared.buf.stats();
        #[cfg(feature = "http")]
        {
            pools += shared.headers.stats();
            pools += shared.extensions.stats();
        }
        PoolsStats {
            hits: pools.hits,
            misses: pools.misses,
            steals: pools.steals,
            drops: pools.drops,
            outstanding: pools.outstanding,
            idle: pools.idle,
            // Each pool's share is bounded by the charge, their sum is not.
            retained_bytes: pools.retained_bytes.min(shared.budget.used()),
            budget_bytes: shared.budget.limit(),
            trims: shared.trims.count(),
            last_trim: shared.trims.last(),
            bodies: shared.bodies.load(Ordering::Relaxed),
            bodies_too_large: shared.bodies_too_large.load(Ordering::Relaxed),
        }
    }

    /// Ages what is idle: with the default retain percentage, what no request used over two ticks is
    /// freed. Call it every [`PoolConfig::trim_interval`], or as often as your load changes.
    pub fn tick(&self) -> Trimmed {
        self.shared.trims.time(|| {
            #[cfg_attr(not(feature = "http"), expect(unused_mut, reason = "one pool only"))]
            let mut trimmed = self.shared.buf.tick();
            #[cfg(feature = "http")]
            {
                trimmed += self.shared.headers.tick();
                trimmed += self.shared.extensions.tick();
            }
            trimmed
        })
    }

    /// [`tick`](Self::tick) if [`PoolConfig::trim_interval`] has passed since the last call that ticked;
    /// for a loop that runs more often. The first call only starts the clock.
    pub fn tick_at(&self, now: Instant) -> Option<Trimmed> {
        {
            let mut clock = self.clock();
            let last = *clock.last.get_or_insert(now);
            let interval = clock.interval;
            if interval.is_zero() || now.saturating_duration_since(last) < interval {
                return None;
            }
            clock.last = Some(now);
        }
        Some(self.tick())
    }

    /// Frees everything idle now, for example under memory pressure.
    pub fn trim(&self) -> Trimmed {
        self.shared.trims.time(|| {
            #[cfg_attr(not(feature = "http"), expect(unused_mut, reason = "one pool only"))]
            let mut trimmed = self.shared.buf.trim();
            #[cfg(feature = "http")]
            {
                trimmed += self.shared.headers.trim();
                trimmed += self.shared.extensions.trim();
            }
            trimmed
        })
    }

    /// How often the pools want to be [ticked](Self::tick); zero is never.
    pub fn trim_interval(&self) -> Duration {
        self.clock().interval
    }

    /// See [`PoolConfig::trim_interval`].
    pub fn set_trim_interval(&self, interval: Duration) {
        self.clock().interval = interval;
    }

    /// Changes the budget and frees what is beyond it, the largest buffers first. Too low and requests
    /// allocate; too high and a burst stays in memory until it has aged.
    pub fn set_budget_bytes(&self, bytes: usize) {
        let budget = &self.shared.budget;
        budget.set_limit(bytes);
        if budget.excess() > 0 {
            self.shared.trims.time(|| {
                #[cfg_attr(not(feature = "http"), expect(unused_mut, reason = "one pool only"))]
                let mut trimmed = self.shared.buf.trim_bytes(budget.excess());
                #[cfg(feature = "http")]
                {
                    trimmed += self.shared.headers.trim_bytes(budget.excess());
                    trimmed += self.shared.extensions.trim_bytes(budget.excess());
                }
                trimmed
            });
        }
    }

    /// The share that [`set_retain_percent`](Self::set_retain_percent) sets.
    pub fn retain_percent(&self) -> usize {
        self.shared.buf.retain_percent()
    }

    /// See [`Pool::set_retain_percent`](crate::Pool::set_retain_percent).
    pub fn set_retain_percent(&self, percent: usize) {
        self.shared.buf.set_retain_percent(percent);
        #[cfg(feature = "http")]
        {
            self.shared.headers.set_retain_percent(percent);
            self.shared.extensions.set_retain_percent(percent);
        }
    }

    /// Turns reuse on or off; off frees everything idle.
    pub fn set_enabled(&self, enabled: bool) {
        self.resize(|sizes| sizes.enabled = enabled);
    }

    /// See [`PoolConfig::request_pool_size`].
    pub fn set_request_pool_size(&self, count: usize) {
        self.resize(|sizes| sizes.request = count);
    }

    /// See [`PoolConfig::response_pool_size`].
    pub fn set_response_pool_size(&self, count: usize) {
        self.resize(|sizes| sizes.response = count);
    }

    /// See [`PoolConfig::max_buffer_bytes`].
    pub fn set_max_buffer_bytes(&self, bytes: usize) {
        self.shared.buf.set_max_buffer_bytes(bytes);
    }

    /// See [`PoolConfig::max_body_bytes`].
    pub fn set_max_body_bytes(&self, bytes: usize) {
        self.shared.max_body_bytes.store(bytes, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn count_body(&self, too_large: bool) {
        let shared = &self.shared;
        let counter = if too_large {
            &shared.bodies_too_large
        } else {
            &shared.bodies
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.shared
            .clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, change: impl FnOnce(&mut Sizes)) {
        let mut sizes = self
            .shared
            .sizes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut sizes);
        let of = |size: usize| if sizes.enabled { size } else { 0 };
        self.shared.buf.set_max_idle(of(sizes.response));
        #[cfg(feature = "http")]
        {
            self.shared.headers.set_max_idle(of(sizes.request));
            self.shared.extensions.set_max_idle(of(sizes.request));
        }
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Builds [`Pools`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct PoolsBuilder {
    config: PoolConfig,
    budget: Option<Budget>,
}

impl PoolsBuilder {
    /// Whether anything is reused; see [`PoolConfig::enabled`](field@PoolConfig::enabled). Default: off.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// All settings at once.
    pub fn config(mut self, config: PoolConfig) -> Self {
        self.config = config;
        self
    }

    /// A budget to share with other pools, instead of one of
    /// [`max_retained_bytes`](PoolConfig::max_retained_bytes).
    pub fn budget(mut self, budget: &Budget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// The pools.
    ///
    /// # Errors
    ///
    /// When a value of the configuration is out of range.
    pub fn build(self) -> Result<Pools, BuildError> {
        let config = self.config;
        config.validate().map_err(BuildError::new)?;
        let budget = self
            .budget
            .unwrap_or_else(|| Budget::new(config.max_retained_bytes));
        let shared = Shared {
            buf: BufPool::with_budget(&config, &budget),
            #[cfg(feature = "http")]
            headers: crate::http::pool(HeaderMap::new, &config, &budget),
            #[cfg(feature = "http")]
            extensions: crate::http::pool(Extensions::new, &config, &budget),
            budget,
            sizes: Mutex::new(Sizes {
                enabled: config.enabled,
                request: config.request_pool_size,
                response: config.response_pool_size,
            }),
            clock: Mutex::new(Clock {
                interval: config.trim_interval,
                last: None,
            }),
            max_body_bytes: AtomicUsize::new(config.max_body_bytes),
            trims: Trims::default(),
            bodies: AtomicU64::new(0),
            bodies_too_large: AtomicU64::new(0),
        };
        Ok(Pools {
            shared: Arc::new(Counted(Arc::new(shared))),
        })
    }
}

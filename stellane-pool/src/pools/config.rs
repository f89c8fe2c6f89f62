use std::{ops::RangeInclusive, time::Duration};

use crate::ConfigError;

/// The settings of [`Pools`](super::Pools).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct PoolConfig {
    /// Whether anything is reused. Off, buffers are plain allocations and every return frees. Turn it on for
    /// bodies from 64 KiB on with the system's allocator, or to bound the number of allocations; with
    /// mimalloc it saves no CPU time end to end, and so the default is off.
    pub enabled: bool,
    /// How many header maps, and how many extensions, may be idle. Too low and bursts allocate; too high
    /// and a burst stays in memory for two ticks. Default: 1000.
    pub request_pool_size: usize,
    /// How many buffers of each size class may be idle. Same trade-off. Default: 1000.
    pub response_pool_size: usize,
    /// The most bytes all pools together keep idle. Too low and requests allocate; too high and a burst
    /// of large bodies stays in memory until it has aged. Default: 64 MiB.
    pub max_retained_bytes: usize,
    /// The largest buffer that is kept; at most 1 MiB, the largest class. Default: 1 MiB.
    pub max_buffer_bytes: usize,
    /// How much may stay idle over a tick, in per cent of what was used since the tick before: the
    /// counterpart of Go's `GOGC`. 100 frees what is idle for two ticks, less frees sooner, more keeps a
    /// reserve for bursts. 0 to 10 000; default: 100.
    pub retain_percent: usize,
    /// How often [`Pools::tick`](super::Pools::tick) should be called. Shorter follows the load closer
    /// and misses more; longer keeps memory longer. `0s` is never. Default: 10 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub trim_interval: Duration,
    /// The most bytes of a body collected by `PooledBody`; more is answered 413. Default: 2 MiB.
    pub max_body_bytes: usize,
    /// Overwrite the bytes of a buffer with zeros when it comes back. Nothing can read them through this
    /// crate either way; this keeps them out of core dumps, and out of reach of a bug elsewhere. It costs
    /// one `memset` of what was written. Default: off.
    pub scrub: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            request_pool_size: 1000,
            response_pool_size: 1000,
            max_retained_bytes: 64 << 20,
            max_buffer_bytes: 1 << 20,
            retain_percent: 100,
            trim_interval: Duration::from_secs(10),
            max_body_bytes: 2 << 20,
            scrub: false,
        }
    }
}

impl PoolConfig {
    /// What `retain_percent` may be.
    pub const RETAIN_PERCENT: RangeInclusive<usize> = 0..=10_000;

    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The defaults, with reuse on.
    pub fn enabled() -> Self {
        Self {
            enabled: true,
            ..Self::default()
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// All values that are out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut range = |key, value: usize, max: usize, expected: &str| {
            if value > max {
                errors.push(ConfigError::new(key, value, expected));
            }
        };
        const COUNT: usize = 1 << 20;
        range(
            "request_pool_size",
            self.request_pool_size,
            COUNT,
            "0 to 1048576",
        );
        range(
            "response_pool_size",
            self.response_pool_size,
            COUNT,
            "0 to 1048576",
        );
        range(
            "max_buffer_bytes",
            self.max_buffer_bytes,
            1 << 20,
            "0 to 1048576 (1 MiB)",
        );
        let most = *Self::RETAIN_PERCENT.end();
        range("retain_percent", self.retain_percent, most, "0 to 10000");
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

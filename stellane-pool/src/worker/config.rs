use std::time::Duration;

use crate::ConfigError;

/// Settings of a [`WorkerPool`](super::WorkerPool).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct WorkerPoolConfig {
    /// Threads that are always there. Default: 4.
    pub min_workers: usize,
    /// Threads there may be when the queue grows. More threads than CPUs help only work that blocks.
    /// Default: 1024.
    pub max_workers: usize,
    /// Jobs that may wait; further ones are refused. Too small refuses bursts, too large makes everyone
    /// wait for work whose client has left. Default: 10 000.
    pub queue_size: usize,
    /// How long a thread beyond `min_workers` waits for work before it ends. Default: `10s`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub idle_timeout: Duration,
}

impl Default for WorkerPoolConfig {
    fn default() -> Self {
        Self {
            min_workers: 4,
            max_workers: 1024,
            queue_size: 10_000,
            idle_timeout: Duration::from_secs(10),
        }
    }
}

impl WorkerPoolConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Every value that is out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut check = |ok: bool, key, value: &dyn std::fmt::Debug, expected: String| {
            if !ok {
                errors.push(ConfigError::new(key, format!("{value:?}"), expected));
            }
        };
        let (min, max) = (self.min_workers, self.max_workers);
        check(
            (1..=65_536).contains(&min),
            "min_workers",
            &min,
            "1 to 65536".into(),
        );
        check(
            max >= min && max <= 65_536,
            "max_workers",
            &max,
            format!("`min_workers`, {min}, to 65536"),
        );
        check(
            (1..=10_000_000).contains(&self.queue_size),
            "queue_size",
            &self.queue_size,
            "1 to 10000000".into(),
        );
        let day = Duration::from_secs(86_400);
        check(
            self.idle_timeout <= day,
            "idle_timeout",
            &self.idle_timeout,
            "0s to 1 day".into(),
        );
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

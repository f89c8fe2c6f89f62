use std::{ops::RangeInclusive, time::Duration};

use crate::ConfigError;

/// Settings of a [`WorkerPool`](super::WorkerPool).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct WorkerPoolConfig {
    /// Threads that are always there; with `scale = "load"` no more than there are CPUs when the pool is built.
    /// Default: 4.
    pub min_workers: usize,
    /// Threads there may be. More threads than CPUs help only work that blocks: see `scale`.
    /// Default: 1024.
    pub max_workers: usize,
    /// Jobs that may wait; further ones are refused. Too small refuses bursts, too large makes everyone
    /// wait for work whose client has left. Default: 10 000.
    pub queue_size: usize,
    /// How long a thread beyond `min_workers` waits for work before it ends. Default: `10s`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub idle_timeout: Duration,
    /// Who is served first, and who not at all, when a queue stands. Default: `adaptive-lifo`.
    pub discipline: Discipline,
    /// A queue whose oldest job waits longer than this, or than a job of its class takes, for a whole
    /// `queue_interval` is standing. Too low takes bursts for overload, too high reacts late.
    /// Default: `5ms`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub queue_target: Duration,
    /// See `queue_target`. Default: `100ms`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub queue_interval: Duration,
    /// A job that finds the queue full may wait this long for its turn instead of being refused at once; as
    /// many as `queue_size` more may do so. `0s` refuses at once. Default: `0s`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub full_wait: Duration,
    /// How many workers there are between `min_workers` and `max_workers`. Default: `load`.
    pub scale: Scale,
    /// A worker that is in one poll for longer than this is reported, and another one added in its
    /// place while jobs wait. Too low adds workers for jobs that merely compute. `0s` is never.
    /// Default: `1s`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub blocked_after: Duration,
    /// What happens to accepted jobs when the last handle is dropped. Default: `abort`.
    pub on_drop: OnDrop,
    /// How much the workers give way to other threads when the CPUs are busy, 0 (not at all) to 19;
    /// Linux only. Too low lets them delay the threads that answer, too high starves them on a busy
    /// machine. Default: 19.
    pub nice: u8,
}

/// The order in which waiting jobs are served. Jobs whose deadline has passed or whose caller has left are
/// never run, whatever the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Discipline {
    /// In the order of their arrival. Under overload every job waits as long as the queue is.
    Fifo,
    /// In the order of their arrival; the newest first while the queue stands, and the oldest make room
    /// when it is full.
    #[default]
    AdaptiveLifo,
    /// In the order of their arrival; while the queue stands, jobs that have waited twice
    /// [`queue_target`](WorkerPoolConfig::queue_target) are refused.
    #[cfg_attr(feature = "serde", serde(rename = "codel"))]
    CoDel,
}

/// The [`ScalePolicy`](super::scale::ScalePolicy) of a pool; one's own is given to
/// [`WorkerPoolBuilder::scale_policy`](super::WorkerPoolBuilder::scale_policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Scale {
    /// [`LoadRule`](super::scale::LoadRule): by measured load, up to the number of CPUs. For work that
    /// computes.
    #[default]
    Load,
    /// [`QueueRule`](super::scale::QueueRule): by the length of the queue. For work that blocks.
    Queue,
}

/// What happens to the jobs of a pool nobody holds any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum OnDrop {
    /// Waiting ones are dropped, running ones go on to their next `.await`.
    #[default]
    Abort,
    /// All come to their end.
    Drain,
}

impl Default for WorkerPoolConfig {
    fn default() -> Self {
        Self {
            min_workers: 4,
            max_workers: 1024,
            queue_size: 10_000,
            idle_timeout: Duration::from_secs(10),
            discipline: Discipline::default(),
            queue_target: Duration::from_millis(5),
            queue_interval: Duration::from_millis(100),
            full_wait: Duration::ZERO,
            scale: Scale::default(),
            blocked_after: Duration::from_secs(1),
            on_drop: OnDrop::default(),
            nice: 19,
        }
    }
}

impl WorkerPoolConfig {
    /// What `min_workers` and `max_workers` may be.
    pub const WORKERS: RangeInclusive<usize> = 1..=65_536;
    /// What `queue_size` may be.
    pub const QUEUE_SIZE: RangeInclusive<usize> = 1..=10_000_000;

    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

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
        let (min, max, most) = (self.min_workers, self.max_workers, Self::WORKERS.end());
        check(
            Self::WORKERS.contains(&min),
            "min_workers",
            &min,
            format!("1 to {most}"),
        );
        check(
            max >= min && max <= *most,
            "max_workers",
            &max,
            format!("`min_workers`, {min}, to {most}"),
        );
        check(
            Self::QUEUE_SIZE.contains(&self.queue_size),
            "queue_size",
            &self.queue_size,
            "1 to 10000000".into(),
        );
        let day = Duration::from_secs(86_400);
        for (key, value, least) in [
            ("idle_timeout", self.idle_timeout, Duration::ZERO),
            ("queue_target", self.queue_target, Duration::from_micros(1)),
            (
                "queue_interval",
                self.queue_interval,
                Duration::from_micros(1),
            ),
            ("full_wait", self.full_wait, Duration::ZERO),
            ("blocked_after", self.blocked_after, Duration::ZERO),
        ] {
            let expected = format!("{least:?} to 1 day");
            check(value >= least && value <= day, key, &value, expected);
        }
        check(self.nice <= 19, "nice", &self.nice, "0 to 19".into());
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

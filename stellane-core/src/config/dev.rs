use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, Problem};

/// What helps while developing (section `[dev]`). All of it is off unless it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DevConfig {
    /// Reload open pages when the service restarts, and take over the listening socket that
    /// `stellane dev` keeps open. Also set by `STELLANE_HOT_RELOAD`. Default `false`; `true` in the
    /// profile `development`.
    pub hot_reload: bool,
    /// Offer CPU profiles on the admin address. Also set by `STELLANE_PROFILE_CPU`. Default `false`.
    pub profile_cpu: bool,
    /// Offer heap profiles on the admin address, where the program installed a source for them. Also
    /// set by `STELLANE_PROFILE_MEM`. Default `false`.
    pub profile_mem: bool,
    /// A heap profile samples one allocation in about so many bytes, with the
    /// [`HeapProfiler`](crate::profiling::HeapProfiler) of this crate. Too low slows allocation down, too
    /// high sees only large or frequent allocations. At least 1024. Default 524288 (512 KiB).
    pub heap_sample_bytes: u64,
    /// Record which routes hold a worker too long in one poll. Also set by `STELLANE_PROFILE_BLOCK`.
    /// Default `false`.
    pub profile_block: bool,
    /// The longest a poll may take before the block profile records it. Too low counts ordinary work
    /// and preemption, too high misses what makes other requests wait. At least `1us`. Default `1ms`.
    #[serde(with = "humantime_serde")]
    pub block_threshold: Duration,
    /// Answers say in a header `Server-Timing` where their time went until their head, which browsers draw: to anybody who
    /// asks, so it is not for production. Default `false`.
    pub server_timing: bool,
}

impl Default for DevConfig {
    fn default() -> Self {
        Self {
            hot_reload: false,
            profile_cpu: false,
            profile_mem: false,
            heap_sample_bytes: 512 << 10,
            profile_block: false,
            block_threshold: Duration::from_millis(1),
            server_timing: false,
        }
    }
}

impl DevConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |key, value: String, expected: &str| {
            let message = format!("{value} is out of range: expected {expected}");
            problems.push(Problem::new(Origin::Program, key, message));
        };
        if self.heap_sample_bytes < 1024 {
            let value = self.heap_sample_bytes.to_string();
            wrong("dev.heap_sample_bytes", value, "at least 1024");
        }
        if self.block_threshold < Duration::from_micros(1) {
            let value = format!("{:?}", self.block_threshold);
            wrong("dev.block_threshold", value, "at least 1us");
        }
    }
}

//! The CPUs of this process.

use std::{thread::available_parallelism, time::Duration};

use crate::control_group::cpu_limit;

/// How many it may use. Half a CPU is one to the standard library.
pub(super) fn allowed() -> f64 {
    let whole = available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
    cpu_limit().map_or(whole, |limit| limit.min(whole))
}

/// How long it had one, all its threads together; `None` where the system does not tell.
pub(super) fn time() -> Option<Duration> {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        clock_gettime(ClockId::ProcessCPUTime).try_into().ok()
    }
    #[cfg(not(unix))]
    None
}

//! How many workers there should be.

use std::time::Duration;

/// What a [`ScalePolicy`] knows.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Load {
    /// Since the pool was built.
    pub now: Duration,
    /// Workers there are.
    pub workers: usize,
    /// Of those, workers in a poll.
    pub active: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// How long the oldest of them has waited.
    pub queue_delay: Duration,
    /// Jobs that came since the last call, refused ones included.
    pub arrived: u64,
    /// Jobs that ended since the last call.
    pub finished: u64,
    /// What their runs and those that go on took together since the last call.
    pub busy: Duration,
    /// CPUs the process may use: affinity and the cgroup's quota.
    pub cpus: usize,
    /// The bounds in force.
    pub min: usize,
    /// The bounds in force.
    pub max: usize,
}

/// Decides how many workers there should be; called about every 10 ms while there is work, and at once when
/// jobs pile up. The pool keeps the answer within its bounds, adds workers at once, and lets surplus
/// ones go when they have been idle for [`idle_timeout`](super::WorkerPoolConfig::idle_timeout).
pub trait ScalePolicy: Send + 'static {
    /// The number of workers for this load.
    fn target(&mut self, load: &Load) -> usize;
}

/// More workers while more than twice as many jobs wait as there are workers.
///
/// For work that blocks. For work that computes, more workers than CPUs only take turns.
#[derive(Debug, Default)]
pub struct QueueRule;

impl ScalePolicy for QueueRule {
    fn target(&mut self, load: &Load) -> usize {
        if load.queued > 2 * load.workers {
            load.queued.div_ceil(2)
        } else {
            load.min
        }
    }
}

/// `ceil(rho + sqrt(rho))` workers for a measured load of `rho` busy workers, no more than there are
/// CPUs; at least a quarter more at once when jobs wait longer than 5 ms; one fewer every 10 s at most.
#[derive(Debug, Default)]
pub struct LoadRule {
    window: Window,
    /// Smoothed; Erlang.
    rho: f64,
    /// Smoothed; seconds.
    service: f64,
    target: usize,
    shrinkable: u32,
    last_shrink: Duration,
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    arrived: u64,
    finished: u64,
    busy: Duration,
}

impl LoadRule {
    const WINDOW: Duration = Duration::from_millis(250);
    const SHRINK: Duration = Duration::from_secs(10);
    const DELAY: Duration = Duration::from_millis(5);

    fn measure(&mut self, load: &Load) -> bool {
        self.window.arrived += load.arrived;
        self.window.finished += load.finished;
        self.window.busy += load.busy;
        let span = load.now.saturating_sub(self.window.began);
        if span < Self::WINDOW {
            return false;
        }
        let window = std::mem::take(&mut self.window);
        self.window.began = load.now;
        let busy = window.busy.as_secs_f64();
        if window.finished > 0 {
            let service = busy / window.finished as f64;
            self.service = if self.service == 0.0 {
                service
            } else {
                0.5 * (self.service + service)
            };
        }
        // What came and what ran: the first sees beyond saturation, the second jobs that are not finished.
        let span = span.as_secs_f64();
        let offered = window.arrived as f64 * self.service / span;
        let rho = offered.max(busy / span);
        self.rho = 0.5 * (self.rho + rho);
        true
    }
}

impl ScalePolicy for LoadRule {
    fn target(&mut self, load: &Load) -> usize {
        let ceiling = load.cpus.clamp(load.min, load.max);
        self.target = self.target.clamp(load.min, ceiling);
        let measured = self.measure(load);
        let wanted = ((self.rho + self.rho.sqrt()).ceil() as usize).clamp(load.min, ceiling);
        if load.queue_delay > Self::DELAY && load.active >= load.workers {
            let more = load.workers + (load.workers / 4).max(1);
            self.target = self.target.max(more.min(ceiling));
            self.shrinkable = 0;
        } else if measured && wanted > self.target {
            self.target = wanted;
            self.shrinkable = 0;
        } else if measured && self.rho < 0.7 * (self.target as f64 - 1.0) {
            self.shrinkable += 1;
            if self.shrinkable >= 3
                && load.now.saturating_sub(self.last_shrink) >= Self::SHRINK
                && self.target > wanted
            {
                self.target -= 1;
                self.last_shrink = load.now;
            }
        } else if measured {
            self.shrinkable = 0;
        }
        self.target
    }
}

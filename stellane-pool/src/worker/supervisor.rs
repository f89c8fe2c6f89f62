//! Looks after the workers: how many there are, which are stuck, and what has waited too long.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    Hooks,
    scale::{Load, ScalePolicy},
    shared::{Phase, Shared},
};

/// A worker that is in one poll for longer than
/// [`blocked_after`](super::WorkerPoolConfig::blocked_after).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedWorker {
    /// The name of the job's [`Class`](super::Class), usually its route.
    pub class: Arc<str>,
    /// How long the poll has lasted so far.
    pub since: Duration,
    /// Whether its thread waits (for a lock, a disk, a socket) rather than computes; false where that is
    /// not known.
    pub waits: bool,
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    policy: Box<dyn ScalePolicy>,
    hooks: Hooks,
    /// Zero is never.
    blocked_after: u64,
    /// By slot: when the poll began that was reported last, and whether its thread waited then.
    reported: Vec<(u64, bool)>,
    last: Seen,
    cpus: usize,
    cpus_read: u64,
    quiet_since: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    arrived: u64,
    gone: u64,
    busy: u64,
}

impl Supervisor {
    /// Between two looks while there is work.
    pub(super) const INTERVAL: Duration = Duration::from_millis(10);
    /// A job that waits longer while workers sleep is not going to be found by those that are awake.
    const HELD_UP: Duration = Duration::from_millis(5);
    const CPUS_INTERVAL: u64 = 10_000_000_000;
    const QUIET: u64 = 1_000_000_000;

    pub(super) fn new(
        shared: Arc<Shared>,
        policy: Box<dyn ScalePolicy>,
        hooks: Hooks,
        blocked_after: u64,
        cpus: Option<usize>,
    ) -> Self {
        Self {
            shared,
            policy,
            hooks,
            blocked_after,
            reported: Vec::new(),
            last: Seen::default(),
            cpus: cpus.unwrap_or_else(available_cpus),
            // Given ones never change.
            cpus_read: if cpus.is_some() { u64::MAX } else { 0 },
            quiet_since: 0,
        }
    }

    /// One look; returns how many workers are to be added.
    pub(super) fn look(&mut self, now: u64) -> usize {
        self.shared.sweep(now);
        self.shared.wake_batch.deliver();
        if self.cpus_read != u64::MAX && now >= self.cpus_read + Self::CPUS_INTERVAL {
            self.cpus = available_cpus();
            self.cpus_read = now;
        }
        let (active, stuck) = self.look_at_workers(now);
        let shared = Arc::clone(&self.shared);
        let limits = &shared.limits;
        let (min, max) = (limits.min.load(Relaxed), limits.max.load(Relaxed));
        let workers = limits.workers.load(Relaxed);
        let load = self.load(now, active, workers, min, max);
        let waiting = load.queued > 0;
        if load.queue_delay > Self::HELD_UP {
            shared.idle.wake_another();
        }
        let target = self.policy.target(&load).clamp(min, max);
        // A stuck worker is none.
        let target = target
            .saturating_add(if waiting { stuck } else { 0 })
            .min(max);
        // Those that stand in for stuck ones stay while there is anything to do.
        let kept = limits
            .target
            .load(Relaxed)
            .min(if stuck > 0 { max } else { 0 });
        limits.target.store(target.max(kept), Relaxed);
        if waiting || active > 0 || workers > target.max(min) {
            self.quiet_since = now;
        }
        if self.shared.phase() == Phase::Closed {
            return 0;
        }
        target.saturating_sub(workers)
    }

    /// Nothing has happened for a while and nothing is to be expected.
    pub(super) fn quiet(&self, now: u64) -> bool {
        now.saturating_sub(self.quiet_since) > Self::QUIET && self.shared.queued() == 0
    }

    fn load(&mut self, now: u64, active: usize, workers: usize, min: usize, max: usize) -> Load {
        let shared = &self.shared;
        let (accepted, refused) = shared.arrived();
        let (mut gone, mut busy) = (0, 0);
        for slot in shared.slots().iter() {
            gone += slot.gone.load(Relaxed);
            busy += slot.busy.load(Relaxed);
            let since = slot.polling_since.load(Relaxed);
            if since != 0 {
                busy += now.saturating_sub(since);
            }
        }
        let seen = Seen {
            arrived: accepted + refused,
            gone,
            busy,
        };
        let last = std::mem::replace(&mut self.last, seen);
        Load {
            now: Duration::from_nanos(now),
            workers,
            active,
            queued: shared.queued(),
            queue_delay: Duration::from_nanos(shared.queue_delay(now)),
            arrived: seen.arrived.saturating_sub(last.arrived),
            finished: seen.gone.saturating_sub(last.gone),
            busy: Duration::from_nanos(seen.busy.saturating_sub(last.busy)),
            cpus: self.cpus,
            min,
            max,
        }
    }

    /// How many workers are in a poll, and how many of those stand still in it. Reports each stuck poll once.
    fn look_at_workers(&mut self, now: u64) -> (usize, usize) {
        let slots = self.shared.slots().clone();
        self.reported.resize(slots.len(), (0, false));
        let (mut active, mut stuck) = (0, 0);
        for (slot, reported) in slots.iter().zip(&mut self.reported) {
            let began = slot.polling_since.load(Relaxed);
            active += usize::from(began != 0);
            let since = now.saturating_sub(began);
            if began == 0 || self.blocked_after == 0 || since < self.blocked_after {
                continue;
            }
            if reported.0 != began {
                let class = slot.class.load(Relaxed);
                let waits = thread_waits(slot.thread.load(Relaxed));
                *reported = (began, waits);
                if let Some(class) = self.shared.classes.state(class) {
                    class.blocked.fetch_add(1, Relaxed);
                }
                (self.hooks.on_blocked)(&BlockedWorker {
                    class: self.shared.classes.name(class),
                    since: Duration::from_nanos(since),
                    waits,
                });
            }
            stuck += 1;
        }
        (active, stuck)
    }
}

/// Affinity and the cgroup's quota included.
pub(super) fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether the kernel says that the thread does not want a CPU.
fn thread_waits(id: u32) -> bool {
    if !cfg!(target_os = "linux") || id == 0 {
        return false;
    }
    let Ok(stat) = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")) else {
        return false;
    };
    // The state follows the name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
    matches!(state.and_then(<[u8]>::first), Some(b'S' | b'D'))
}

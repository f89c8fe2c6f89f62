//! The thread that watches the others: it gives the core of one that is stuck in a poll to another.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::{
    core::Core,
    threads::{Shared, Worker},
};

/// After so many looks that found the same poll its thread loses the core.
const LOOKS: u32 = 5;
/// The same for as many looks after that: those that block together wait for one look each.
const ALERT: u32 = 500;
/// After so many looks at idle cores it sleeps until one has work.
const QUIET: u32 = 25;

/// What is known of a core.
struct Watched {
    core: Arc<Core>,
    /// Who has it; `None` while no thread can be started.
    worker: Option<Arc<Worker>>,
    poll: u64,
    /// How many looks have found the same poll.
    looks: u32,
    /// The CPU time of the thread, in nanoseconds, when that was noticed.
    ran: Option<u64>,
}

/// Watches the cores until the engine ends.
pub(super) fn supervise(shared: &Arc<Shared>, workers: Vec<Arc<Worker>>) {
    let watched = |(core, worker): (&Arc<Core>, _)| Watched {
        core: Arc::clone(core),
        worker: Some(worker),
        poll: 0,
        looks: 0,
        ran: None,
    };
    let mut cores: Vec<_> = shared.cores.iter().zip(workers).map(watched).collect();
    let tick = shared.config.hand_off_after / LOOKS;
    let (mut alert, mut quiet) = (0, 0);
    while !shared.is_stopped() {
        if quiet == QUIET && alert == 0 {
            if shared.rest.watch_may_sleep(cores.len()) && !shared.is_stopped() {
                thread::park();
            }
            quiet = 0;
            continue;
        }
        thread::sleep(tick);
        alert = u32::saturating_sub(alert, 1);
        let looks = if alert > 0 { 1 } else { LOOKS };
        for watched in &mut cores {
            if look(shared, watched, looks, tick) {
                alert = ALERT;
            }
        }
        let all_rest = shared.rest.idle() == cores.len();
        quiet = if all_rest { (quiet + 1).min(QUIET) } else { 0 };
    }
}

/// Whether a core went to another thread.
fn look(shared: &Arc<Shared>, watched: &mut Watched, looks: u32, tick: Duration) -> bool {
    let core = &watched.core;
    let Some(worker) = &watched.worker else {
        watched.worker = shared.give(core).ok();
        return false;
    };
    let Some(poll) = worker.mark.running() else {
        watched.poll = 0;
        return false;
    };
    if watched.poll != poll {
        (watched.poll, watched.looks, watched.ran) = (poll, 0, None);
        if looks > 1 {
            // Most are over at the next look: it is early enough to look closely then.
            return false;
        }
    } else {
        watched.looks += 1;
    }
    let now = Thread::at(worker.id());
    let began = *watched.ran.get_or_insert(now.ran);
    if watched.looks < looks {
        return false;
    }
    // A thread that only waits for a CPU holds up nobody that another one would not have to wait for too.
    let worked = Duration::from_nanos(now.ran.saturating_sub(began));
    if now.wants_cpu && worked < tick * looks / 2 {
        return false;
    }
    if !shared.has_room() {
        shared
            .refused
            .fetch_add(u64::from(watched.looks == looks), Relaxed);
        return false;
    }
    // First, since it may end its poll at any time.
    shared.counts.send_modify(|counts| counts.blocked += 1);
    if !worker.mark.take_core(poll) {
        shared.counts.send_modify(|counts| counts.blocked -= 1);
        return false;
    }
    shared.handed_off.fetch_add(1, Relaxed);
    watched.poll = 0;
    watched.worker = shared.give(core).ok();
    true
}

/// What the kernel says of a thread.
struct Thread {
    wants_cpu: bool,
    ran: u64,
}

impl Thread {
    /// Where nothing is said of it, it waits.
    fn at(id: Option<u32>) -> Self {
        let read = |what| {
            let path = id.map(|id| format!("/proc/self/task/{id}/{what}"));
            path.and_then(|path| std::fs::read_to_string(path).ok())
                .unwrap_or_default()
        };
        let (stat, times) = (read("stat"), read("schedstat"));
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
        let ran = times.split(' ').next().and_then(|ran| ran.parse().ok());
        Self {
            // Without its times nobody knows for how long it has had a CPU.
            wants_cpu: matches!(state, Some([b'R', ..])) && ran.is_some(),
            ran: ran.unwrap_or(0),
        }
    }
}

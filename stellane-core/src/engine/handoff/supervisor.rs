//! The thread that watches the others: it gives the core of one that is stuck in a poll to another.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::thread_state::thread_state,
    core::Core,
    threads::{Shared, Worker},
};

/// After so many looks that found the same poll its thread loses the core.
const LOOKS: u32 = 5;
/// The same for as many looks after that: those that block together wait for one look each.
const ALERT: u32 = 500;
/// After so many looks at idle cores it sleeps until one has work.
const QUIET: u32 = 25;

/// Every so often it looks again at those that compute,
const AGAIN: Duration = Duration::from_millis(50);
/// and so many of those looks count.
const LATEST: usize = 5;
/// For so long after that streams of HTTP/2 have tasks of their own.
const LATELY: Duration = Duration::from_secs(60);
/// At the end it looks so often at what is left.
const CLEAR: Duration = Duration::from_millis(10);

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
    /// Whether it is counted that the same poll keeps its core, though it blocks.
    is_refused: bool,
}

/// A thread in a poll whose core went to another.
struct Held {
    worker: Arc<Worker>,
    core: Arc<Core>,
    /// Whether what it polls had left the core before.
    apart: bool,
    /// Its CPU time when it was last looked at, in nanoseconds.
    ran: u64,
}

/// Watches the cores until the engine ends.
pub(super) fn supervise(shared: &Arc<Shared>, workers: Vec<Arc<Worker>>) {
    let watched = |(core, worker): (&Arc<Core>, _)| Watched {
        core: Arc::clone(core),
        worker: Some(worker),
        poll: 0,
        looks: 0,
        ran: None,
        is_refused: false,
    };
    let mut cores: Vec<_> = shared.cores.iter().zip(workers).map(watched).collect();
    let tick = shared.config.hand_off_after / LOOKS;
    let (mut alert, mut quiet) = (0, 0);
    // Those that have lost their cores and compute, as far as it is known.
    let mut held: Vec<Held> = Vec::new();
    let (mut latest, mut said) = ([0; LATEST], 0);
    let mut again = Instant::now();
    // When the last core was handed over, if it is not long ago.
    let mut lately = None::<Instant>;
    while !shared.is_stopped() {
        if quiet == QUIET && alert == 0 && held.is_empty() && said == 0 && shared.apart().is_empty()
        {
            if shared.rest.watch_may_sleep(cores.len()) && !shared.is_stopped() {
                // Woken too late it would only do for longer what it does now.
                match lately {
                    Some(at) => thread::park_timeout(LATELY.saturating_sub(at.elapsed())),
                    None => thread::park(),
                }
            }
            quiet = 0;
            continue;
        }
        thread::sleep(tick);
        alert = u32::saturating_sub(alert, 1);
        let looks = if alert > 0 { 1 } else { LOOKS };
        let mut new = Vec::new();
        for watched in &mut cores {
            let lost = look(shared, watched, looks, tick);
            let Some((worker, now)) = lost else { continue };
            alert = ALERT;
            let core = Arc::clone(&watched.core);
            let (apart, ran) = (false, now.ran);
            let lost = Held {
                worker,
                core,
                apart,
                ran,
            };
            new.push((lost, now));
        }
        new.extend(look_apart(shared, tick));
        if !new.is_empty() {
            lately = Some(Instant::now());
            let computes = |(held, now): (Held, Thread)| {
                (!may_lend(shared, &held, now.wants_cpu)).then_some(held)
            };
            held.extend(new.into_iter().filter_map(computes));
            shared.cores.iter().for_each(|core| core.set_held(true));
        } else if lately.is_some_and(|at| at.elapsed() > LATELY) {
            lately = None;
            shared.cores.iter().for_each(|core| core.set_held(false));
        }
        if again.elapsed() >= AGAIN {
            again = Instant::now();
            let mut computing = 0;
            held.retain_mut(|held| {
                held.worker.mark.is_lost() && {
                    let now = Thread::at(held.worker.id());
                    let before = mem::replace(&mut held.ran, now.ran);
                    held.core.add_computed(now.ran.saturating_sub(before));
                    computing += usize::from(now.wants_cpu);
                    !may_lend(shared, held, now.wants_cpu)
                }
            });
            // Some that compute for a moment together are no queue.
            latest.rotate_right(1);
            latest[0] = computing;
            let least = latest.iter().min().copied().unwrap_or(0);
            if least != said
                && let Some(observer) = &shared.observer
            {
                said = least;
                observer.compute(least as f64 / cores.len() as f64);
            }
        }
        let all_rest = shared.rest.idle() == cores.len();
        quiet = if all_rest { (quiet + 1).min(QUIET) } else { 0 };
    }
    // What is left is dropped where nobody holds what it needs for that.
    let _entered = shared.main.enter();
    while shared
        .cores
        .iter()
        .fold(false, |left, core| core.clear() | left)
    {
        thread::sleep(CLEAR);
    }
}

/// Whether the request that holds this thread is at nothing, and is not in the way of others. One that computes is.
fn may_lend(shared: &Shared, held: &Held, wants_cpu: bool) -> bool {
    // Of those that have left their cores no more than as many do.
    let is_full = || shared.counts.borrow().blocked > shared.config.max_blocked;
    if wants_cpu || (!held.apart && is_full()) {
        return false;
    }
    if let Some(observed) = held.worker.observed.get() {
        observed.waits();
    }
    make_sure(&held.worker);
    true
}

/// What was told of a poll is taken back if that was over before: its thread has looked too early.
fn make_sure(worker: &Worker) {
    if !worker.mark.is_lost()
        && let Some(observed) = worker.observed.get()
    {
        observed.has_gone_on();
    }
}

/// Those in a poll of a task that has left its core, which has just lasted for as long as one may on a core.
fn look_apart(shared: &Shared, tick: Duration) -> Vec<(Held, Thread)> {
    let mut new = Vec::new();
    for apart in shared.apart().iter_mut() {
        apart.looks += 1;
        if apart.looks == LOOKS {
            let worker = Arc::clone(&apart.worker);
            new.push((worker, Arc::clone(&apart.core), apart.poll));
        }
    }
    let held = |(worker, core, poll): (Arc<Worker>, _, _)| {
        // It may be over by now, and the thread have got a core.
        if !worker.mark.take_core(poll) {
            return None;
        }
        if let Some(observed) = worker.observed.get() {
            observed.is_held(tick * LOOKS);
        }
        make_sure(&worker);
        let now = Thread::at(worker.id());
        let (apart, ran) = (true, now.ran);
        Some((
            Held {
                worker,
                core,
                apart,
                ran,
            },
            now,
        ))
    };
    new.into_iter().filter_map(held).collect()
}

/// Who has lost the core, if it went to another thread, and what it does.
fn look(
    shared: &Arc<Shared>,
    watched: &mut Watched,
    looks: u32,
    tick: Duration,
) -> Option<(Arc<Worker>, Thread)> {
    let core = &watched.core;
    let Some(worker) = &watched.worker else {
        watched.worker = shared.give_core(core).ok();
        return None;
    };
    let Some(poll) = worker.mark.running() else {
        watched.poll = 0;
        return None;
    };
    if watched.poll != poll {
        (watched.poll, watched.looks, watched.ran) = (poll, 0, None);
        watched.is_refused = false;
        if looks > 1 {
            // Most are over at the next look: it is early enough to look closely then.
            return None;
        }
    } else {
        watched.looks += 1;
    }
    let now = Thread::at(worker.id());
    let began = *watched.ran.get_or_insert(now.ran);
    if watched.looks < looks {
        return None;
    }
    // A thread that only waits for a CPU holds up nobody that another one would not have to wait for too.
    let worked = Duration::from_nanos(now.ran.saturating_sub(began));
    if now.wants_cpu && worked < tick * looks / 2 {
        return None;
    }
    if !shared.has_room() {
        if !mem::replace(&mut watched.is_refused, true) {
            shared.refused.fetch_add(1, Relaxed);
        }
        return None;
    }
    // First, since it may end its poll at any time.
    shared.counts.send_modify(|counts| counts.blocked += 1);
    if !worker.mark.take_core(poll) {
        shared.counts.send_modify(|counts| counts.blocked -= 1);
        return None;
    }
    shared.handed_off.fetch_add(1, Relaxed);
    if let Some(observed) = worker.observed.get() {
        observed.is_held(tick * looks);
    }
    make_sure(worker);
    watched.poll = 0;
    let before = mem::replace(&mut watched.worker, shared.give_core(core).ok());
    before.map(|worker| (worker, now))
}

/// What the kernel says of a thread.
struct Thread {
    wants_cpu: bool,
    ran: u64,
}

impl Thread {
    /// Where nothing is said of it, it waits.
    fn at(id: Option<u32>) -> Self {
        let times = id.map(|id| format!("/proc/self/task/{id}/schedstat"));
        let times = times.and_then(|path| std::fs::read_to_string(path).ok());
        let ran = times.and_then(|times| times.split(' ').next()?.parse().ok());
        Self {
            // Without its times nobody knows for how long it has had a CPU.
            wants_cpu: id.and_then(thread_state) == Some(b'R') && ran.is_some(),
            ran: ran.unwrap_or(0),
        }
    }
}

//! What handles, jobs and workers share: admission, placement, and the search for work.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
};

use async_task::{Builder, Runnable};
use crossbeam_deque::{Injector, Steal};
use crossbeam_utils::CachePadded;

use super::{
    Job, JobError,
    class::Classes,
    clock::Clock,
    histogram::bump,
    idle::Idle,
    job::{Meta, Stage},
    local::{Local, Run, Slot, current, refuse},
    queue::{Entry, Popped, Queue, Rules},
};

pub(super) type Task = Runnable<Meta>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    rules: Rules,
    full_wait: u64,
    shards: Box<[CachePadded<Shard>]>,
    /// Jobs that were woken by another thread than a worker.
    resumed: Injector<Task>,
    pub(super) idle: Idle,
    /// Jobs that wait, without those whose caller has left.
    queued: CachePadded<AtomicUsize>,
    pub(super) limits: Limits,
    pub(super) classes: Classes,
    slots: Mutex<Vec<Arc<Slot>>>,
    slot_count: AtomicUsize,
    phase: AtomicU8,
    /// Jobs that left their queue other than by beginning, by [`Stage`].
    left: [AtomicU64; 7],
    /// Jobs that were dropped after they had begun.
    pub(super) cancelled: AtomicU64,
    /// Futures dropped by others than workers.
    gone: AtomicU64,
    refused: AtomicU64,
    /// Jobs submitted by jobs.
    nested: AtomicU64,
    /// Wakes the watch; called when jobs pile up and when the first comes after a pause.
    pub(super) watch: Watcher,
}

#[derive(Debug)]
struct Shard {
    queue: Mutex<Queue<Task>>,
    len: AtomicUsize,
    /// Those among them whose caller has left.
    dead: AtomicUsize,
    pushed: AtomicU64,
}

/// The settings that change at run time, and what there is of it.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) min: AtomicUsize,
    pub(super) max: AtomicUsize,
    pub(super) queue: AtomicUsize,
    /// What the policy wants.
    pub(super) target: AtomicUsize,
    pub(super) workers: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct Watcher {
    pub(super) thread: std::sync::OnceLock<std::thread::Thread>,
    /// It sleeps until it is told.
    pub(super) asleep: std::sync::atomic::AtomicBool,
    pub(super) hurry: std::sync::atomic::AtomicBool,
}

impl Watcher {
    /// Wakes it if it sleeps for good, or in any case when there is reason to hurry.
    pub(super) fn tell(&self, hurry: bool) {
        let wake = if hurry {
            !self.hurry.swap(true, SeqCst)
        } else {
            self.asleep.load(Relaxed) && self.asleep.swap(false, SeqCst)
        };
        if wake && let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// How a pool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(super) enum Phase {
    Open,
    /// Nothing comes in, everything there comes to its end.
    Draining,
    Closed,
}

/// How a job is to be run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) class: u16,
    /// By the pool's clock; zero is none.
    pub(super) deadline: u64,
}

impl Shared {
    pub(super) fn new(
        clock: Clock,
        shards: usize,
        rules: Rules,
        full_wait: u64,
        limits: Limits,
    ) -> Self {
        let shard = || {
            CachePadded::new(Shard {
                queue: Mutex::default(),
                len: AtomicUsize::new(0),
                dead: AtomicUsize::new(0),
                pushed: AtomicU64::new(0),
            })
        };
        Self {
            clock,
            rules,
            full_wait,
            shards: (0..shards).map(|_| shard()).collect(),
            resumed: Injector::new(),
            idle: Idle::default(),
            queued: CachePadded::new(AtomicUsize::new(0)),
            limits,
            classes: Classes::default(),
            slots: Mutex::default(),
            slot_count: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Open as u8),
            left: Default::default(),
            cancelled: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            nested: AtomicU64::new(0),
            watch: Watcher::default(),
        }
    }

    // Coming in.

    /// Accepts a future or refuses it at once.
    pub(super) fn submit<F>(self: &Arc<Self>, future: F, options: Options) -> Job<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let now = self.clock.now();
        let deadline = match options.deadline {
            0 => u64::MAX,
            at => at,
        };
        let nested = self.on_worker(|_| ()).is_some();
        let (shard, expires) = match self.admit(now, deadline, options.class, nested) {
            Ok(admitted) => admitted,
            Err(error) => return Job::refused(error),
        };
        let meta = Meta {
            shared: Arc::clone(self),
            queued: now,
            deadline,
            class: options.class,
            shard,
            stage: AtomicU8::new(Stage::Waiting as u8),
        };
        let (task, handle) = Builder::new()
            .metadata(meta)
            .spawn(move |_| Run::new(future), resume);
        self.place(task, shard, expires);
        Job::accepted(handle)
    }

    /// Counts a job as waiting, in which shard, and until when.
    fn admit(
        &self,
        now: u64,
        deadline: u64,
        class: u16,
        nested: bool,
    ) -> Result<(Option<u16>, u64), JobError> {
        if self.phase() != Phase::Open && !nested || self.phase() == Phase::Closed {
            return Err(JobError::Closed);
        }
        if deadline <= now {
            self.left[Stage::Expired as usize].fetch_add(1, Relaxed);
            self.refused.fetch_add(1, Relaxed);
            return Err(JobError::Expired);
        }
        let ahead = self.queued.fetch_add(1, SeqCst);
        if nested {
            self.nested.fetch_add(1, Relaxed);
            // Part of work that was admitted: refusing it could block what makes room.
            return Ok((None, deadline));
        }
        let shard = self.least_loaded();
        let bound = self.limits.queue.load(Relaxed);
        if ahead < bound {
            return Ok((Some(shard), deadline));
        }
        if self.full_wait > 0 && ahead < 2 * bound {
            return Ok((Some(shard), deadline.min(now + self.full_wait)));
        }
        if self.make_room(shard, class) {
            return Ok((Some(shard), deadline));
        }
        self.queued.fetch_sub(1, SeqCst);
        self.left[Stage::Full as usize].fetch_add(1, Relaxed);
        self.refused.fetch_add(1, Relaxed);
        Err(JobError::Overloaded)
    }

    /// The shorter one of two random shards.
    fn least_loaded(&self) -> u16 {
        let n = self.shards.len();
        if n == 1 {
            return 0;
        }
        let random = random();
        let (a, b) = (random % n, (random >> 16) % n);
        let len = |at: usize| self.shards[at].len.load(Relaxed);
        (if len(a) <= len(b) { a } else { b }) as u16
    }

    fn make_room(&self, shard: u16, class: u16) -> bool {
        let shard = &self.shards[usize::from(shard)];
        loop {
            let mut queue = shard.lock();
            let given_up = queue.make_room(class, &self.rules, &self.classes);
            shard.len.store(queue.len(), Relaxed);
            drop(queue);
            let Some(task) = given_up else {
                return false;
            };
            let live = task.metadata().leave(Stage::Full);
            self.discard(task, Stage::Full);
            if live {
                return true;
            }
        }
    }

    fn place(&self, task: Task, shard: Option<u16>, expires: u64) {
        let Some(at) = shard else {
            resume(task);
            return;
        };
        let shard = &self.shards[usize::from(at)];
        let (queued, class) = (task.metadata().queued, task.metadata().class);
        let mut queue = shard.lock();
        bump(&shard.pushed, 1);
        if self.phase() == Phase::Closed {
            drop(queue);
            self.close(task);
            return;
        }
        let entry = Entry {
            item: task,
            queued,
            expires,
        };
        queue.push(class, entry, &self.classes);
        let len = queue.len();
        shard.len.store(len, SeqCst);
        // So that those whose callers have left do not pile up beyond the bound.
        let dead = shard.dead.load(Relaxed);
        let swept = if dead > 64 && dead > len / 2 {
            self.sweep_locked(shard, &mut queue, 0)
        } else {
            Vec::new()
        };
        drop(queue);
        self.give_up(swept);
        self.announce();
    }

    /// Work was published.
    fn announce(&self) {
        self.idle.notify();
        let waiting = self.queued.load(Relaxed);
        let workers = self.limits.workers.load(Relaxed);
        let crowded = waiting > 2 * workers && workers < self.limits.max.load(Relaxed);
        self.watch
            .tell(crowded && self.idle.asleep() == 0 && waiting % 8 == 1);
        self.watch.tell(false);
    }

    // Waiting.

    fn sweep_locked(&self, shard: &Shard, queue: &mut Queue<Task>, now: u64) -> Vec<Task> {
        let swept = queue.sweep(now, |task| task.metadata().is(Stage::Cancelled));
        shard.len.store(queue.len(), Relaxed);
        shard.dead.store(0, Relaxed);
        swept
    }

    /// Drops what has expired, so that its callers learn of it before a worker has time.
    pub(super) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            if shard.len.load(Relaxed) == 0 {
                continue;
            }
            let mut queue = shard.lock();
            if queue.next_expiry() <= now {
                let swept = self.sweep_locked(shard, &mut queue, now);
                drop(queue);
                self.give_up(swept);
            }
        }
    }

    fn give_up(&self, tasks: Vec<Task>) {
        for task in tasks {
            self.expire(task);
        }
    }

    /// Its deadline passed, or it waited for room as long as it may, or its caller left.
    fn expire(&self, task: Task) {
        let meta = task.metadata();
        let overdue = meta.deadline != u64::MAX && meta.deadline <= self.clock.now();
        let why = if overdue { Stage::Expired } else { Stage::Full };
        if !meta.leave(why) {
            self.buried(meta.shard);
        }
        self.discard(task, why);
    }

    /// A job's caller left while it waited in that shard.
    pub(super) fn cancelled_in(&self, shard: Option<u16>) {
        if let Some(shard) = shard {
            self.shards[usize::from(shard)].dead.fetch_add(1, Relaxed);
        }
    }

    fn buried(&self, shard: Option<u16>) {
        if let Some(shard) = shard {
            let dead = &self.shards[usize::from(shard)].dead;
            // The caller may not have counted it yet.
            let _ = dead.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Called once for every job that was counted as waiting.
    pub(super) fn left(&self, stage: Stage) {
        self.queued.fetch_sub(1, SeqCst);
        if stage != Stage::Begun {
            self.left[stage as usize].fetch_add(1, Relaxed);
        }
    }

    /// Drops the future without running it, and tells the caller why.
    fn discard(&self, task: Task, why: Stage) {
        refuse(task, why);
        self.gone.fetch_add(1, Relaxed);
    }

    fn close(&self, task: Task) {
        task.metadata().leave(Stage::Closed);
        self.discard(task, Stage::Closed);
    }

    // Going out.

    /// The next job for a worker. Jobs that have begun come first, but every 61st time a new one does.
    pub(super) fn next(&self, local: &Local, now: u64) -> Option<Task> {
        let tick = local.ticks.get().wrapping_add(1);
        local.ticks.set(tick);
        if tick.is_multiple_of(61)
            && let Some(task) = self.pop(local, now)
        {
            return Some(task);
        }
        local
            .deque
            .pop()
            .or_else(|| self.take_resumed())
            .or_else(|| self.pop(local, now))
            .or_else(|| self.steal(local))
    }

    fn take_resumed(&self) -> Option<Task> {
        while !self.resumed.is_empty() {
            match self.resumed.steal() {
                Steal::Success(task) => return Some(task),
                Steal::Empty => break,
                Steal::Retry => {}
            }
        }
        None
    }

    fn pop(&self, local: &Local, now: u64) -> Option<Task> {
        let n = self.shards.len();
        for offset in 0..n {
            let shard = &self.shards[(local.index + offset) % n];
            while shard.len.load(Relaxed) > 0 {
                let mut queue = shard.lock();
                let popped = queue.pop(now, &self.rules, &self.classes);
                shard.len.store(queue.len(), Relaxed);
                drop(queue);
                match popped {
                    Some(Popped::Run(task)) => return Some(task),
                    Some(Popped::Expired(task)) => self.expire(task),
                    Some(Popped::Waited(task)) => {
                        if !task.metadata().leave(Stage::Waited) {
                            self.buried(task.metadata().shard);
                        }
                        self.discard(task, Stage::Waited);
                    }
                    None => break,
                }
            }
        }
        None
    }

    /// Half of what another worker has to do, the others in random order.
    fn steal(&self, local: &Local) -> Option<Task> {
        let mut others = local.others.borrow_mut();
        if others.len() != self.slot_count.load(SeqCst) {
            others.clone_from(&self.slots());
        }
        let n = others.len();
        let first = local.random() % n.max(1);
        for offset in 0..n {
            let at = (first + offset) % n;
            if at == local.index {
                continue;
            }
            let victim = &others[at].stealer;
            while !victim.is_empty() {
                match victim.steal_batch_and_pop(&local.deque) {
                    Steal::Success(task) => {
                        bump(&local.slot.stolen, 1 + local.deque.len() as u64);
                        return Some(task);
                    }
                    Steal::Empty => break,
                    Steal::Retry => {}
                }
            }
        }
        None
    }

    /// Whether a worker that looks now might find something.
    pub(super) fn has_work(&self) -> bool {
        self.shards.iter().any(|shard| shard.len.load(SeqCst) > 0)
            || !self.resumed.is_empty()
            || self.slots().iter().any(|slot| !slot.stealer.is_empty())
    }

    /// Runs one poll of a job, unless nobody wants it any more. Returns the time after it.
    pub(super) fn run(&self, local: &Local, task: Task, now: u64) -> u64 {
        let meta = task.metadata();
        let slot = &local.slot;
        if !meta.is(Stage::Begun) {
            if meta.deadline <= now {
                self.expire(task);
                return now;
            }
            if !meta.leave(Stage::Begun) {
                self.buried(meta.shard);
                self.discard(task, Stage::Cancelled);
                return now;
            }
            slot.wait.record(now.saturating_sub(meta.queued));
            self.classes.begins(meta.class);
        }
        let class = meta.class;
        slot.class.store(class, Relaxed);
        slot.polling_since.store(now, Relaxed);
        let outcome = local.poll(task, now);
        let ended = self.clock.now();
        slot.polling_since.store(0, Relaxed);
        let ran = ended.saturating_sub(now);
        #[cfg(feature = "sim")]
        let ran = ran
            + if self.clock.is_virtual() {
                super::sim::taken()
            } else {
                0
            };
        bump(&slot.busy, ran);
        self.classes.ran(class, ran);
        if outcome.gone {
            bump(&slot.gone, 1);
            self.classes.ends(class);
        }
        if outcome.ended {
            slot.run.record(outcome.ran_before + ran);
        }
        ended
    }

    // The workers.

    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new worker: one that another has left, or a new one.
    pub(super) fn claim_slot(self: &Arc<Self>) -> Option<Local> {
        let mut slots = self.slots();
        for (index, slot) in slots.iter().enumerate() {
            if let Some(local) = Local::new(Arc::clone(self), index, Arc::clone(slot)) {
                return Some(local);
            }
        }
        let slot = Arc::new(Slot::new());
        slots.push(Arc::clone(&slot));
        self.slot_count.store(slots.len(), SeqCst);
        Local::new(Arc::clone(self), slots.len() - 1, slot)
    }

    fn on_worker<R>(&self, f: impl FnOnce(&Local) -> R) -> Option<R> {
        current(|local| std::ptr::eq(&*local.shared, self).then(|| f(local))).flatten()
    }

    // The end.

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(SeqCst) {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Closed,
        }
    }

    pub(super) fn end(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, SeqCst);
        if phase == Phase::Closed {
            for shard in &self.shards {
                let mut queue = shard.lock();
                let waiting = queue.clear();
                shard.len.store(0, SeqCst);
                drop(queue);
                for task in waiting {
                    self.close(task);
                }
            }
            self.close_resumed();
        }
        self.idle.notify_all();
        self.watch.tell(true);
    }

    pub(super) fn close_resumed(&self) {
        while let Some(task) = self.take_resumed() {
            self.close(task);
        }
    }

    /// Puts back what a worker that ends still had.
    pub(super) fn hand_back(&self, local: &Local) {
        while let Some(task) = local.deque.pop() {
            self.resumed.push(task);
        }
        fence(SeqCst);
        if self.phase() == Phase::Closed {
            self.close_resumed();
        }
        self.announce();
    }

    // Figures.

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    pub(super) fn left_as(&self, stage: Stage) -> u64 {
        self.left[stage as usize].load(Relaxed)
    }

    /// Jobs accepted, and jobs refused.
    pub(super) fn arrived(&self) -> (u64, u64) {
        let pushed = self.shards.iter().map(|shard| shard.pushed.load(Relaxed));
        let accepted = pushed.sum::<u64>() + self.nested.load(Relaxed);
        (accepted, self.refused.load(Relaxed))
    }

    /// Futures that have not been dropped yet.
    pub(super) fn outstanding(&self) -> u64 {
        let gone: u64 = self
            .slots()
            .iter()
            .map(|slot| slot.gone.load(Relaxed))
            .sum();
        self.arrived()
            .0
            .saturating_sub(gone + self.gone.load(Relaxed))
    }

    pub(super) fn queue_delay(&self, now: u64) -> u64 {
        let filled = self
            .shards
            .iter()
            .filter(|shard| shard.len.load(Relaxed) > 0);
        filled
            .map(|shard| shard.lock().delay(now))
            .max()
            .unwrap_or(0)
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Queue<Task>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job was woken, or was submitted by another: it goes to the worker that did it, or to all.
fn resume(task: Task) {
    let shared = Arc::clone(&task.metadata().shared);
    let mut task = Some(task);
    let local = shared.on_worker(|local| {
        if let Some(task) = task.take() {
            local.deque.push(task);
        }
    });
    if local.is_none()
        && let Some(task) = task.take()
    {
        shared.resumed.push(task);
        fence(SeqCst);
        if shared.phase() == Phase::Closed {
            shared.close_resumed();
        }
    }
    shared.announce();
}

/// One of a sequence that is random enough to place jobs.
fn random() -> usize {
    thread_local! {
        static STATE: std::cell::Cell<u32> = const { std::cell::Cell::new(0x9E37_79B9) };
    }
    let next = |state: &std::cell::Cell<u32>| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        state.set(x);
        x as usize
    };
    STATE.try_with(next).unwrap_or(0)
}

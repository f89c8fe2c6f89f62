//! What handles, jobs and workers share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU8, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};

use async_task::Runnable;
use crossbeam_deque::{Injector, Steal, Worker};
use crossbeam_utils::CachePadded;

use super::{
    class::Classes,
    clock::Clock,
    context::{WorkerContext, WorkerSlot, current, refuse},
    idle::Idle,
    job::{Meta, Stage},
    queue::{Entry, Queue, Rules},
    spin_wait::SpinWaits,
    supervisor::available_cpus,
    threads::Starter,
    wake_batch::WakeBatch,
};

pub(super) type Task = Runnable<Meta>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    /// Told by who waits for a job.
    pub(super) on_wait: Option<fn()>,
    pub(super) rules: Rules,
    pub(super) full_wait: u64,
    pub(super) shards: Box<[CachePadded<Shard>]>,
    /// Jobs that were woken by another thread than a worker.
    pub(super) resumed: Injector<Task>,
    pub(super) idle: Idle,
    /// Jobs that came in; those who submit write it.
    pub(super) accepted: CachePadded<AtomicU64>,
    /// Of those, jobs that no longer wait; workers write it, for some tiny ones together.
    pub(super) departed: CachePadded<AtomicU64>,
    pub(super) limits: Limits,
    pub(super) classes: Classes,
    pub(super) slots: Mutex<Vec<Arc<WorkerSlot>>>,
    pub(super) slot_count: AtomicUsize,
    pub(super) phase: AtomicU8,
    /// Jobs that left their queue other than by beginning, by [`Stage`].
    pub(super) left: [AtomicU64; 7],
    /// Jobs that were dropped after they had begun.
    pub(super) cancelled: AtomicU64,
    /// Futures dropped by others than workers.
    pub(super) gone: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) spins: SpinWaits,
    pub(super) wake_batch: WakeBatch,
    /// Wakes the supervisor; called when jobs pile up and when the first comes after a pause.
    pub(super) supervisor: SupervisorHandle,
    pub(super) starter: Starter,
}

/// Jobs come in without a lock, and are sorted in by whoever takes the lock next.
#[derive(Debug)]
pub(super) struct Shard {
    inbox: Injector<Task>,
    /// No job in the inbox came before.
    inbox_since: AtomicU64,
    /// When a worker took from here last or, since, the first job came.
    last_turn: AtomicU64,
    queue: Mutex<Queue<Task>>,
    /// Of the queue.
    len: AtomicUsize,
    /// When the oldest job in the queue came; `u64::MAX` without any.
    oldest: AtomicU64,
    /// Nothing expires before.
    next_expiry: AtomicU64,
    /// Jobs whose caller has left.
    pub(super) dead: AtomicUsize,
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
pub(super) struct SupervisorHandle {
    pub(super) thread: std::sync::OnceLock<std::thread::Thread>,
    /// It sleeps until it is told.
    pub(super) asleep: std::sync::atomic::AtomicBool,
    pub(super) hurry: std::sync::atomic::AtomicBool,
}

impl SupervisorHandle {
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
                inbox: Injector::new(),
                inbox_since: AtomicU64::new(0),
                last_turn: AtomicU64::new(0),
                queue: Mutex::default(),
                len: AtomicUsize::new(0),
                oldest: AtomicU64::new(u64::MAX),
                next_expiry: AtomicU64::new(u64::MAX),
                dead: AtomicUsize::new(0),
            })
        };
        // In virtual time a look would never find anything.
        let spins = SpinWaits::new(!clock.is_virtual() && available_cpus() > 1);
        let wake_batch = WakeBatch::new(!clock.is_virtual() && available_cpus() == 1);
        Self {
            on_wait: None,
            clock,
            spins,
            wake_batch,
            rules,
            full_wait,
            shards: (0..shards).map(|_| shard()).collect(),
            resumed: Injector::new(),
            idle: Idle::default(),
            accepted: CachePadded::default(),
            departed: CachePadded::default(),
            limits,
            classes: Classes::default(),
            slots: Mutex::default(),
            slot_count: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Open as u8),
            left: Default::default(),
            cancelled: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            supervisor: SupervisorHandle::default(),
            starter: Starter::default(),
        }
    }

    // Waiting.

    pub(super) fn sweep_locked(
        &self,
        shard: &Shard,
        queue: &mut Queue<Task>,
        now: u64,
    ) -> Vec<Task> {
        let (swept, next_expiry) = queue.sweep(now, |task| task.metadata().is(Stage::Cancelled));
        shard.next_expiry.fetch_min(next_expiry, Relaxed);
        shard.tell(queue);
        shard.dead.store(0, Relaxed);
        swept
    }

    /// Drops what has expired, so that its callers learn of it before a worker has time.
    pub(super) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            if shard.next_expiry.load(Relaxed) > now {
                continue;
            }
            // Before the look: who pushes tells of it afterwards.
            shard.next_expiry.store(u64::MAX, SeqCst);
            let mut queue = shard.lock(now, &self.classes);
            let swept = self.sweep_locked(shard, &mut queue, now);
            drop(queue);
            self.give_up(swept);
        }
    }

    pub(super) fn give_up(&self, tasks: Vec<Task>) {
        for task in tasks {
            self.expire(task);
        }
    }

    /// Its deadline passed, or it waited for room as long as it may, or its caller left.
    pub(super) fn expire(&self, task: Task) {
        let meta = task.metadata();
        let why = meta.late;
        if !meta.leave(why) {
            self.buried(meta.shard);
        }
        self.discard(task, why);
    }

    /// A job's caller left while it waited in that shard.
    pub(super) fn cancelled_in(&self, shard: Option<u8>) {
        if let Some(shard) = shard {
            self.shards[usize::from(shard)].dead.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn buried(&self, shard: Option<u8>) {
        if let Some(shard) = shard {
            let dead = &self.shards[usize::from(shard)].dead;
            // The caller may not have counted it yet.
            let _ = dead.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Called once for every job that was counted as waiting and does not begin.
    pub(super) fn left(&self, stage: Stage) {
        self.left[stage as usize].fetch_add(1, Relaxed);
        self.departed.fetch_add(1, SeqCst);
    }

    /// Drops the future without running it, and tells the caller why.
    pub(super) fn discard(&self, task: Task, why: Stage) {
        refuse(task, why);
        self.gone.fetch_add(1, Relaxed);
    }

    pub(super) fn close(&self, task: Task) {
        task.metadata().leave(Stage::Closed);
        self.discard(task, Stage::Closed);
    }

    // The workers.

    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Arc<WorkerSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new worker: one that another has left, or a new one.
    pub(super) fn claim_slot(self: &Arc<Self>) -> Option<WorkerContext> {
        let mut slots = self.slots();
        for (index, slot) in slots.iter().enumerate() {
            if let Some(local) = WorkerContext::new(Arc::clone(self), index, Arc::clone(slot)) {
                return Some(local);
            }
        }
        let slot = Arc::new(WorkerSlot::new());
        slots.push(Arc::clone(&slot));
        self.slot_count.store(slots.len(), SeqCst);
        WorkerContext::new(Arc::clone(self), slots.len() - 1, slot)
    }

    pub(super) fn on_worker<R>(&self, f: impl FnOnce(&WorkerContext) -> R) -> Option<R> {
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
        self.starter.disarm();
        if phase == Phase::Closed {
            for shard in &self.shards {
                self.close_shard(shard);
            }
            self.close_resumed();
        }
        self.idle.notify_all();
        self.supervisor.tell(true);
    }

    pub(super) fn close_shard(&self, shard: &Shard) {
        let mut queue = shard.lock(self.clock.now(), &self.classes);
        let waiting = queue.clear();
        shard.tell(&queue);
        drop(queue);
        for task in waiting {
            self.close(task);
        }
    }

    pub(super) fn close_resumed(&self) {
        while let Some(task) = self.take_resumed() {
            self.close(task);
        }
    }

    /// Puts back what a worker that ends still had.
    pub(super) fn hand_back(&self, local: &WorkerContext) {
        while let Some(task) = local.deque.pop() {
            self.resumed.push(task);
        }
        fence(SeqCst);
        if self.phase() == Phase::Closed {
            self.close_resumed();
        }
        self.announce(self.resumed.len());
    }

    // Figures.

    /// Jobs that wait, without those whose caller has left.
    pub(super) fn queued(&self) -> usize {
        // In this order: those that leave meanwhile are still counted.
        let left: u64 = self.left.iter().map(|left| left.load(SeqCst)).sum();
        let refused = self.refused.load(SeqCst);
        let slots = self.slots();
        let begun: u64 = slots.iter().map(|slot| slot.begun.load(SeqCst)).sum();
        let gone = begun + left.saturating_sub(refused);
        self.accepted.load(SeqCst).saturating_sub(gone) as usize
    }

    /// The same in haste: some tiny jobs may have begun already.
    pub(super) fn waiting(&self) -> usize {
        let departed = self.departed.load(Relaxed);
        self.accepted.load(Relaxed).saturating_sub(departed) as usize
    }

    pub(super) fn left_as(&self, stage: Stage) -> u64 {
        self.left[stage as usize].load(Relaxed)
    }

    /// Jobs accepted, and jobs refused.
    pub(super) fn arrived(&self) -> (u64, u64) {
        (self.accepted.load(SeqCst), self.refused.load(SeqCst))
    }

    /// Futures that have not been dropped yet.
    pub(super) fn outstanding(&self) -> u64 {
        let slots = self.slots().clone();
        let gone: u64 = slots.iter().map(|slot| slot.gone.load(SeqCst)).sum();
        let gone = gone + self.gone.load(SeqCst);
        self.arrived().0.saturating_sub(gone)
    }

    pub(super) fn queue_delay(&self, now: u64) -> u64 {
        let oldest = self.shards.iter().map(|shard| shard.oldest());
        oldest.min().map_or(0, |oldest| now.saturating_sub(oldest))
    }
}

impl Shard {
    /// A new job. Whoever has put it there makes sure that the pool has not been closed meanwhile.
    pub(super) fn push(&self, task: Task) {
        let expires = task.metadata().expires;
        self.inbox.push(task);
        if expires != u64::MAX {
            self.next_expiry.fetch_min(expires, SeqCst);
        }
    }

    /// Whether nothing waits here. Who is told so by others than the one with the lock sees what that one took into
    /// its deque before; ordered with what follows by the fence in `notify`.
    pub(super) fn is_empty(&self) -> bool {
        // In this order: jobs on their way from one to the other are seen in both.
        self.inbox.is_empty() && self.len.load(Acquire) == 0
    }

    pub(super) fn len(&self) -> usize {
        self.inbox.len() + self.len.load(Relaxed)
    }

    /// When the oldest job came; `u64::MAX` without any.
    pub(super) fn oldest(&self) -> u64 {
        match self.oldest.load(Relaxed) {
            u64::MAX if !self.inbox.is_empty() => self.inbox_since.load(Relaxed),
            oldest => oldest,
        }
    }

    /// When a job comes that comes now. Reading the clock costs as much as all the rest of it: very short jobs that
    /// come in between two turns of the workers may as well have come together.
    /// `now` is the time where it is known.
    pub(super) fn arrival(&self, now: Option<u64>, clock: &Clock, short: bool) -> u64 {
        let now = || now.unwrap_or_else(|| clock.now());
        if self.inbox.is_empty() {
            let now = now();
            self.inbox_since.store(now, Relaxed);
            self.last_turn.store(now, Relaxed);
            now
        } else if short {
            self.last_turn.load(Relaxed)
        } else {
            now()
        }
    }

    /// Tells those who have no lock; to be called with it.
    pub(super) fn tell(&self, queue: &Queue<Task>) {
        self.oldest.store(queue.oldest(), Relaxed);
        self.len.store(queue.len(), Release);
    }

    /// The queue with all that has come. Who changes it calls [`tell`](Self::tell).
    pub(super) fn lock(&self, now: u64, classes: &Classes) -> MutexGuard<'_, Queue<Task>> {
        let mut queue = self.plain_lock();
        self.sort(&mut queue, now, classes);
        queue
    }

    /// Sorts in what has come.
    pub(super) fn sort(&self, queue: &mut Queue<Task>, now: u64, classes: &Classes) {
        let new = self.inbox.len();
        if new == 0 {
            return;
        }
        // Before it leaves the inbox: see `is_empty`.
        self.len.store(queue.len() + new, Release);
        self.inbox_since.fetch_max(now, Relaxed);
        self.last_turn.fetch_max(now, Relaxed);
        let mut sorted = 0;
        while sorted < new {
            match self.inbox.steal() {
                Steal::Success(task) => {
                    let meta = task.metadata();
                    let (class, queued, expires) = (meta.class, meta.queued, meta.expires);
                    let entry = Entry {
                        item: task,
                        queued,
                        expires,
                    };
                    queue.push(class, entry, classes);
                    sorted += 1;
                }
                Steal::Retry => {}
                Steal::Empty => break,
            }
        }
        self.tell(queue);
    }

    /// How many are in the inbox.
    pub(super) fn unsorted(&self) -> usize {
        self.inbox.len()
    }

    /// Takes some from the inbox as they came, the first to be run; with the lock and an empty queue only.
    pub(super) fn take_unsorted(&self, deque: &Worker<Task>, n: usize, now: u64) -> Option<Task> {
        // Seen in the queue until they are in the deque: see `is_empty`.
        self.len.store(n, Release);
        self.last_turn.fetch_max(now, Relaxed);
        let first = loop {
            match self.inbox.steal_batch_with_limit_and_pop(deque, n) {
                Steal::Success(task) => break Some(task),
                Steal::Empty => break None,
                Steal::Retry => {}
            }
        };
        self.len.store(0, Release);
        if let Some(first) = &first {
            // Those that are left came after it.
            let came = first.metadata().queued;
            self.inbox_since.fetch_max(came, Relaxed);
        }
        first
    }

    pub(super) fn plain_lock(&self) -> MutexGuard<'_, Queue<Task>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What handles, jobs and workers share, and the search for work.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU8, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
        fence,
    },
};

use async_task::Runnable;
use crossbeam_deque::{Injector, Steal};
use crossbeam_utils::CachePadded;

use super::{
    class::Classes,
    clock::Clock,
    histogram::bump,
    idle::Idle,
    job::{Meta, Stage},
    local::{Local, Slot, current, refuse},
    queue::{Popped, Queue, Rules},
};

pub(super) type Task = Runnable<Meta>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) rules: Rules,
    pub(super) full_wait: u64,
    pub(super) shards: Box<[CachePadded<Shard>]>,
    /// Jobs that were woken by another thread than a worker.
    pub(super) resumed: Injector<Task>,
    pub(super) idle: Idle,
    /// Jobs that wait, without those whose caller has left.
    pub(super) queued: CachePadded<AtomicUsize>,
    pub(super) limits: Limits,
    pub(super) classes: Classes,
    pub(super) slots: Mutex<Vec<Arc<Slot>>>,
    pub(super) slot_count: AtomicUsize,
    pub(super) phase: AtomicU8,
    /// Jobs that left their queue other than by beginning, by [`Stage`].
    pub(super) left: [AtomicU64; 7],
    /// Jobs that were dropped after they had begun.
    pub(super) cancelled: AtomicU64,
    /// Futures dropped by others than workers.
    pub(super) gone: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Jobs submitted by jobs.
    pub(super) nested: AtomicU64,
    /// Wakes the watch; called when jobs pile up and when the first comes after a pause.
    pub(super) watch: Watcher,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) queue: Mutex<Queue<Task>>,
    pub(super) len: AtomicUsize,
    /// Those among them whose caller has left.
    pub(super) dead: AtomicUsize,
    pub(super) pushed: AtomicU64,
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

    // Waiting.

    pub(super) fn sweep_locked(
        &self,
        shard: &Shard,
        queue: &mut Queue<Task>,
        now: u64,
    ) -> Vec<Task> {
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

    pub(super) fn give_up(&self, tasks: Vec<Task>) {
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
    pub(super) fn discard(&self, task: Task, why: Stage) {
        refuse(task, why);
        self.gone.fetch_add(1, Relaxed);
    }

    pub(super) fn close(&self, task: Task) {
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

    pub(super) fn on_worker<R>(&self, f: impl FnOnce(&Local) -> R) -> Option<R> {
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue<Task>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

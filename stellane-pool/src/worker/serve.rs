//! How jobs go out: the search for work, and the run of what was found.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crossbeam_deque::Steal;

use super::{
    histogram::bump,
    job::Stage,
    local::Local,
    queue::{Popped, Queue},
    shared::{Shared, Task},
};

impl Shared {
    /// The next job for a worker. What it has in hand comes first, but every 61st time a new one does, and as
    /// often another worker's: what that one took in hand must not wait for the end of a long poll while
    /// new jobs keep all others busy.
    pub(super) fn next(&self, local: &Local, now: u64) -> Option<Task> {
        let tick = local.ticks.get().wrapping_add(1);
        local.ticks.set(tick);
        let turn = match tick % 61 {
            0 => self.pop(local, now),
            30 => self.steal(local),
            _ => None,
        };
        if turn.is_some() {
            return turn;
        }
        local
            .deque
            .pop()
            .or_else(|| self.take_resumed())
            .or_else(|| self.pop(local, now))
            .or_else(|| self.steal(local))
    }

    pub(super) fn take_resumed(&self) -> Option<Task> {
        while !self.resumed.is_empty() {
            match self.resumed.steal() {
                Steal::Success(task) => return Some(task),
                Steal::Empty => break,
                Steal::Retry => {}
            }
        }
        None
    }

    /// A job from the shard whose oldest has waited longest: so all of them together keep an order, and see the same
    /// delay, which tells overload from a burst.
    fn pop(&self, local: &Local, now: u64) -> Option<Task> {
        loop {
            let filled = self
                .shards
                .iter()
                .filter(|shard| shard.len.load(Relaxed) > 0);
            let shard = filled.min_by_key(|shard| shard.oldest.load(Relaxed))?;
            let mut queue = shard.lock();
            let (first, given_up) = self.take(local, &mut queue, now);
            shard.tell(&queue);
            drop(queue);
            match given_up {
                Some(Popped::Expired(task)) => self.expire(task),
                Some(Popped::Waited(task)) => {
                    if !task.metadata().leave(Stage::Waited) {
                        self.buried(task.metadata().shard);
                    }
                    self.discard(task, Stage::Waited);
                }
                Some(Popped::Run(_)) | None => {}
            }
            if first.is_some() {
                return first;
            }
        }
    }

    /// The job that is next; if it is short, a few more go into the worker's deque, where others steal them. The
    /// second is one that is not to be run.
    fn take(
        &self,
        local: &Local,
        queue: &mut Queue<Task>,
        now: u64,
    ) -> (Option<Task>, Option<Popped<Task>>) {
        let first = match queue.pop(now, &self.rules, &self.classes) {
            Some(Popped::Run(task)) => task,
            other => return (None, other),
        };
        for _ in 0..self.handful(local, first.metadata().class, queue) {
            match queue.pop(now, &self.rules, &self.classes) {
                Some(Popped::Run(task)) => local.deque.push(task),
                None => break,
                other => return (Some(first), other),
            }
        }
        (Some(first), None)
    }

    /// How many more jobs a worker takes while it has the lock: no more than it does within some 30 µs, of one class
    /// only, so that neither order nor shares suffer, and half of what there is, so that the others find some.
    fn handful(&self, local: &Local, class: u16, queue: &Queue<Task>) -> usize {
        const TIME: u64 = 30_000;
        const MOST: u64 = 15;
        let run = self.classes.mean_run(usize::from(class));
        // Zero is not known yet.
        if run == 0 || !local.deque.is_empty() || !queue.holds_only(class) {
            return 0;
        }
        (queue.len() / 2).min((TIME / run).min(MOST) as usize)
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
                let before = local.deque.len();
                match victim.steal_batch_and_pop(&local.deque) {
                    Steal::Success(task) => {
                        let more = local.deque.len().saturating_sub(before);
                        bump(&local.slot.stolen, 1 + more as u64);
                        return Some(task);
                    }
                    Steal::Empty => break,
                    Steal::Retry => {}
                }
            }
        }
        None
    }

    /// Whether there is work within the calling worker's sight; cheaper than `has_work`, and a hint only.
    pub(super) fn something_waits(&self, local: &Local) -> bool {
        !local.deque.is_empty()
            || self.shards.iter().any(|shard| shard.len.load(Relaxed) > 0)
            || !self.resumed.is_empty()
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
}

//! How jobs go out: the search for work, and the run of what was found.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crossbeam_deque::Steal;

use super::{
    context::{Outcome, WorkerContext},
    histogram::bump,
    job::Stage,
    queue::{Popped, Queue},
    shared::{Shard, Shared, Task},
    wake_batch::WakeBatch,
};

impl Shared {
    /// The next job for a worker. What it has in hand comes first, but every 61st time a new one does, and as
    /// often another worker's: what that one took in hand must not wait for the end of a long poll while
    /// new jobs keep all others busy.
    pub(super) fn next(&self, local: &WorkerContext) -> Option<Task> {
        let tick = local.ticks.get().wrapping_add(1);
        local.ticks.set(tick);
        let turn = match tick % 61 {
            0 => self.pop(local),
            30 => self.steal(local),
            _ => None,
        };
        if turn.is_some() {
            return turn;
        }
        if let Some(task) = local.deque.pop() {
            return Some(task);
        }
        self.rest(local);
        self.take_resumed()
            .or_else(|| self.pop(local))
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
    /// delay, which tells overload from a burst. Where they differ by little, each worker has one of its own: whose
    /// jobs it runs, and whom it wakes, is then at hand.
    fn pop(&self, local: &WorkerContext) -> Option<Task> {
        const LITTLE: u64 = 100_000;
        let now = local.now.get();
        loop {
            let filled = self.shards.iter().enumerate();
            let filled = filled.filter(|(_, shard)| !shard.is_empty());
            let (_, shard) = filled.min_by_key(|(at, shard)| {
                let own = *at == local.index % self.shards.len();
                shard.oldest().saturating_add(if own { 0 } else { LITTLE })
            })?;
            let mut queue = shard.plain_lock();
            if let Some(task) = self.take_unsorted(local, shard, &mut queue, now) {
                return Some(task);
            }
            shard.sort(&mut queue, now, &self.classes);
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

    /// As `take`, without sorting: with one class of short jobs, and as long as the queue does not stand, they run as
    /// they come.
    fn take_unsorted(
        &self,
        local: &WorkerContext,
        shard: &Shard,
        queue: &mut Queue<Task>,
        now: u64,
    ) -> Option<Task> {
        const CLASS: u16 = 0;
        const SHORT: u64 = 30_000;
        let short = (1..=SHORT).contains(&self.classes.mean_run(usize::from(CLASS)));
        let waiting = shard.unsorted();
        if waiting == 0
            || !short
            || !self.classes.single()
            || !queue.calm(CLASS, shard.oldest(), now, &self.rules, &self.classes)
        {
            return None;
        }
        shard.take_unsorted(&local.deque, 1 + self.handful(local, CLASS, waiting), now)
    }

    /// The job that is next; if it is short, a few more go into the worker's deque, where others steal them. The
    /// second is one that is not to be run.
    fn take(
        &self,
        local: &WorkerContext,
        queue: &mut Queue<Task>,
        now: u64,
    ) -> (Option<Task>, Option<Popped<Task>>) {
        let first = match queue.pop(now, &self.rules, &self.classes) {
            Some(Popped::Run(task)) => task,
            other => return (None, other),
        };
        let class = first.metadata().class;
        let more = if queue.holds_only(class) {
            self.handful(local, class, queue.len())
        } else {
            0
        };
        for _ in 0..more {
            match queue.pop(now, &self.rules, &self.classes) {
                Some(Popped::Run(task)) => local.deque.push(task),
                None => break,
                other => return (Some(first), other),
            }
        }
        (Some(first), None)
    }

    /// How many more jobs a worker takes while it has the lock: no more than it does within some 30 µs, of one class
    /// only, so that neither order nor shares suffer, and half of what waits, so that the others find some.
    fn handful(&self, local: &WorkerContext, class: u16, waiting: usize) -> usize {
        const TIME: u64 = 30_000;
        const MOST: u64 = 15;
        let run = self.classes.mean_run(usize::from(class));
        // Zero is not known yet.
        if run == 0 || !local.deque.is_empty() {
            return 0;
        }
        if self.wake_batch.enabled() {
            // The others have no CPU, and what is done in one go saves turns.
            return waiting.min((WakeBatch::TIME / run) as usize);
        }
        (waiting / 2).min((TIME / run).min(MOST) as usize)
    }

    /// Whether results may wait for such a job's.
    fn is_short(&self, class: u16) -> bool {
        (1..=WakeBatch::TIME / 4).contains(&self.classes.mean_run(usize::from(class)))
    }

    /// Half of what another worker has to do, the others in random order.
    fn steal(&self, local: &WorkerContext) -> Option<Task> {
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
    pub(super) fn something_waits(&self, local: &WorkerContext) -> bool {
        !local.deque.is_empty()
            || self.shards.iter().any(|shard| !shard.is_empty())
            || !self.resumed.is_empty()
    }

    /// Whether a worker that looks now might find something.
    pub(super) fn has_work(&self) -> bool {
        self.shards.iter().any(|shard| !shard.is_empty())
            || !self.resumed.is_empty()
            || self.slots().iter().any(|slot| !slot.stealer.is_empty())
    }

    /// Runs one poll of a job, unless nobody wants it any more.
    pub(super) fn run(&self, local: &WorkerContext, task: Task) {
        let meta = task.metadata();
        let slot = &local.slot;
        let class = meta.class;
        if meta.expires != u64::MAX || class != slot.class.load(Relaxed) {
            self.settle(local);
        }
        let now = local.now.get();
        if !meta.is(Stage::Begun) {
            if meta.expires <= now {
                self.expire(task);
                return;
            }
            if !meta.begin(slot) {
                self.buried(meta.shard);
                self.discard(task, Stage::Cancelled);
                return;
            }
            local.untold.set(local.untold.get() + 1);
            if !self.may_wait(local, class) || !self.roomy() {
                self.tell(local);
            }
            slot.wait.record(now.saturating_sub(meta.queued));
            self.classes.begins(class);
        }
        if local.unsettled.get() == 0 {
            slot.class.store(class, Relaxed);
            slot.polling_since.store(now, Relaxed);
        }
        if !self.is_short(class) {
            self.wake_batch.deliver();
        }
        let outcome = local.poll(task, now);
        if outcome.gone {
            bump(&slot.gone, 1);
            self.classes.ends(class);
        }
        local.unsettled.set(local.unsettled.get() + 1);
        if !outcome.ended || outcome.ran_before > 0 || !self.may_wait(local, class) {
            self.account(local, outcome);
        }
    }

    /// Whether the clock need not be read after each job: they are shorter than that takes, or little longer, and the
    /// next is at hand.
    fn may_wait(&self, local: &WorkerContext, class: u16) -> bool {
        const TINY: u64 = 1_000;
        const MOST: u64 = 16;
        (1..=TINY).contains(&self.classes.mean_run(usize::from(class)))
            && local.unsettled.get() < MOST
            && !local.deque.is_empty()
            && !self.clock.is_virtual()
    }

    /// Whether those who submit may learn late that some jobs of a handful no longer wait: together less than a
    /// sixteenth of what may.
    fn roomy(&self) -> bool {
        let limits = &self.limits;
        limits.queue.load(Relaxed) >= 256 * limits.workers.load(Relaxed)
    }

    /// Those that have begun no longer wait.
    fn tell(&self, local: &WorkerContext) {
        let begun = local.untold.take();
        if begun > 0 {
            self.departed.fetch_add(begun, SeqCst);
        }
    }

    /// Nothing is left in hand, or a pause is to come: ends what was put off.
    pub(super) fn rest(&self, local: &WorkerContext) {
        self.settle(local);
        self.wake_batch.deliver();
    }

    /// Accounts for the polls since the clock was read last, if there are any.
    fn settle(&self, local: &WorkerContext) {
        if local.unsettled.get() > 0 {
            let ended = Outcome {
                ended: true,
                ..Outcome::default()
            };
            self.account(local, ended);
        }
    }

    /// `last` is what came of the last of them; the others have ended.
    fn account(&self, local: &WorkerContext, last: Outcome) {
        let slot = &local.slot;
        let polls = local.unsettled.replace(0);
        let class = slot.class.load(Relaxed);
        let ended = self.clock.now();
        let ran = ended.saturating_sub(local.now.replace(ended));
        slot.polling_since.store(0, Relaxed);
        self.tell(local);
        #[cfg(feature = "sim")]
        let ran = ran
            + if self.clock.is_virtual() {
                super::sim::taken()
            } else {
                0
            };
        bump(&slot.busy, ran);
        // If they took longer than such jobs do, one of them did.
        let each = (ran / polls).min(2 * self.classes.mean_run(usize::from(class)));
        let others = polls - 1;
        for _ in 0..others {
            slot.run.record(each);
        }
        if last.ended {
            slot.run.record(last.ran_before + ran - others * each);
        }
        self.classes
            .ran(class, polls, ran, self.wake_batch.enabled());
    }
}

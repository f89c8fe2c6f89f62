//! Admission and placement: how jobs come in, and how they come back when they are woken.

use std::{
    cell::Cell,
    future::Future,
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
};

use async_task::Builder;

use super::{
    Job,
    context::Run,
    job::{Meta, Stage},
    origin::Origin,
    shared::{Phase, Shard, Shared, Task},
    spin_wait::SHORT,
};

/// How a job is to be run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) class: u16,
    /// By the pool's clock; `u64::MAX` is none.
    pub(super) deadline: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            class: 0,
            deadline: u64::MAX,
        }
    }
}

impl Shared {
    /// Accepts a future or refuses it at once.
    pub(super) fn submit<F>(self: &Arc<Self>, future: F, options: Options) -> Job<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.starter.waits() && !self.starter.start(self) {
            return Job::refused(self.refuse(Stage::Full));
        }
        let nested = self.on_worker(|_| ()).is_some();
        let (shard, queued, expires) = match self.admit(options, nested) {
            Ok(admitted) => admitted,
            Err(why) => return Job::refused(why),
        };
        let meta = Meta {
            origin: Origin::here(self),
            queued,
            expires,
            late: if expires < options.deadline {
                Stage::Full
            } else {
                Stage::Expired
            },
            class: options.class,
            shard,
            stage: AtomicU8::new(Stage::Waiting as u8),
        };
        let (task, handle) = Builder::new()
            .metadata(meta)
            .spawn(move |_| Run::new(future), resume);
        let soon = self.place(task, shard);
        let spins = if soon { self.spins.grant() } else { 0 };
        Job::accepted(handle, spins, self.wake_batch.enabled())
    }

    /// Counts a job as waiting: in which shard, since when, and until when.
    fn admit(&self, options: Options, nested: bool) -> Result<(Option<u8>, u64, u64), Stage> {
        let Options { class, deadline } = options;
        if self.phase() != Phase::Open && !nested || self.phase() == Phase::Closed {
            return Err(Stage::Closed);
        }
        let now = (deadline != u64::MAX).then(|| self.clock.now());
        if now.is_some_and(|now| deadline <= now) {
            return Err(self.refuse(Stage::Expired));
        }
        let accepted = self.accepted.fetch_add(1, SeqCst);
        if nested {
            // Part of work that was admitted: refusing it could block what makes room.
            return Ok((None, now.unwrap_or_else(|| self.clock.now()), deadline));
        }
        let at = self.home();
        let shard = &self.shards[usize::from(at)];
        let bound = self.limits.queue.load(Relaxed);
        let ahead = accepted.saturating_sub(self.departed.load(SeqCst)) as usize;
        if ahead < bound {
            let queued = shard.arrival(now, &self.clock, now.is_none() && self.short(class));
            return Ok((Some(at), queued, deadline));
        }
        let now = shard.arrival(now, &self.clock, false);
        if self.full_wait > 0 && ahead < 2 * bound {
            return Ok((Some(at), now, deadline.min(now + self.full_wait)));
        }
        if self.make_room(shard, class, now) {
            return Ok((Some(at), now, deadline));
        }
        self.accepted.fetch_sub(1, SeqCst);
        Err(self.refuse(Stage::Full))
    }

    /// Counts a job that was not let in.
    fn refuse(&self, why: Stage) -> Stage {
        self.left[why as usize].fetch_add(1, Relaxed);
        self.refused.fetch_add(1, Relaxed);
        why
    }

    /// Where the calling thread's jobs go: to one shard for as long as no other is much shorter. So those of one thread
    /// meet one worker, mostly; to and fro costs both more than a queue that is longer than another.
    fn home(&self) -> u8 {
        const LOOK: u32 = 8;
        thread_local! {
            static HOME: Cell<(u32, u8)> = const { Cell::new((0, u8::MAX)) };
        }
        let n = self.shards.len();
        if n == 1 {
            return 0;
        }
        let (left, home) = HOME.try_with(Cell::get).unwrap_or((0, u8::MAX));
        let home = usize::from(home);
        let len = |at: usize| self.shards[at].len();
        let chosen = if left > 0 && home < n {
            (left - 1, home)
        } else {
            let random = random();
            let (other, another) = (random % n, (random >> 16) % n);
            let stays = home < n && len(home) <= 2 * len(other) + 16;
            let shorter = if len(other) <= len(another) {
                other
            } else {
                another
            };
            (LOOK - 1, if stays { home } else { shorter })
        };
        let chosen = (chosen.0, chosen.1 as u8);
        let _ = HOME.try_with(|home| home.set(chosen));
        chosen.1
    }

    fn make_room(&self, shard: &Shard, class: u16, now: u64) -> bool {
        loop {
            let mut queue = shard.lock(now, &self.classes);
            let given_up = queue.make_room(class, &self.rules, &self.classes);
            shard.tell(&queue);
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

    /// Puts it where the workers find it. Returns whether one is looking, and will be done with it in no time.
    fn place(&self, task: Task, shard: Option<u8>) -> bool {
        let Some(at) = shard else {
            resume(task);
            return false;
        };
        let shard = &self.shards[usize::from(at)];
        let (queued, class) = (task.metadata().queued, task.metadata().class);
        let ahead = shard.len();
        shard.push(task);
        // So that those whose callers have left do not pile up beyond the bound.
        let dead = shard.dead.load(Relaxed);
        if dead > 64 && dead > shard.len() / 2 {
            let mut queue = shard.lock(queued, &self.classes);
            let swept = self.sweep_locked(shard, &mut queue, 0);
            drop(queue);
            self.give_up(swept);
        }
        // Read before the announcement, which may make a sleeper one that looks.
        let soon = ahead == 0 && self.short(class) && self.idle.searching() > 0;
        self.announce(ahead + 1);
        if self.phase() == Phase::Closed {
            self.close_shard(shard);
        }
        soon
    }

    /// Whether such jobs are known to be very short.
    fn short(&self, class: u16) -> bool {
        (1..=SHORT).contains(&self.classes.mean_run(usize::from(class)))
    }

    /// Work was published, in a place where so much of it waits.
    pub(super) fn announce(&self, there: usize) {
        const HANDFUL: usize = 16;
        self.idle.notify();
        if self.idle.asleep() > 0 {
            // Who was woken has no CPU yet, or cannot keep up.
            if there > HANDFUL * self.idle.searching() {
                self.idle.wake_another();
            }
        } else if there % 8 == 1 {
            let workers = self.limits.workers.load(Relaxed);
            let more = workers < self.limits.max.load(Relaxed);
            self.supervisor.tell(more && self.waiting() > 2 * workers);
        }
        self.supervisor.tell(false);
    }
}

/// A job was woken, or was submitted by another: it goes to the worker that did it, or to all.
fn resume(task: Task) {
    let shared = Arc::clone(&task.metadata().origin.shared);
    let mut task = Some(task);
    let there = shared.on_worker(|local| {
        if let Some(task) = task.take() {
            local.deque.push(task);
        }
        local.deque.len()
    });
    if let Some(task) = task.take() {
        shared.resumed.push(task);
        fence(SeqCst);
        if shared.phase() == Phase::Closed {
            shared.close_resumed();
        }
    }
    shared.announce(there.unwrap_or_else(|| shared.resumed.len()));
}

/// One of a sequence that is random enough to place jobs.
fn random() -> usize {
    thread_local! {
        static STATE: Cell<u32> = const { Cell::new(0x9E37_79B9) };
    }
    let next = |state: &Cell<u32>| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        state.set(x);
        x as usize
    };
    STATE.try_with(next).unwrap_or(0)
}

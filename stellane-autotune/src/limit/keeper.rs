//! Those who wait in a queue have one timer together, on each thread where somebody waits: a timer of each would cost most
//! of what waiting does. Threads have their own, since another may be held by what it runs.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    shared::Shared,
    thread_number,
    waiters::{AT_A_TIME, Ended},
};

/// So often within the time that somebody may wait it is noted who has come: who does not come first waits longer by
/// such a part at most.
const LOOKS: u32 = 32;
/// No pause between looks is shorter or longer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// Ends the waiting of those whose time is over, and takes the steps of a limit that rises by the time alone.
struct Keeper {
    shared: Weak<Shared>,
    /// The bit of its thread.
    thread: u64,
    /// How many had come at that time.
    marks: VecDeque<(Instant, u64)>,
    /// Whether it has looked once: what a runtime drops before that is not to be begun anew.
    has_looked: bool,
}

impl Shared {
    /// Has this thread look after those who wait.
    #[inline]
    pub(super) fn keep(self: &Arc<Self>) {
        let thread = 1 << thread_number::current();
        if self.keepers.load(Ordering::Relaxed) & thread == 0 {
            self.begin_to_keep(thread);
        }
    }

    #[cold]
    fn begin_to_keep(self: &Arc<Self>, thread: u64) {
        // It panics here where the runtime has no timers.
        let timer = Box::pin(sleep(Duration::ZERO));
        if self.keepers.fetch_or(thread, Ordering::AcqRel) & thread == 0 {
            let keeper = Keeper {
                shared: Arc::downgrade(self),
                thread,
                marks: VecDeque::new(),
                has_looked: false,
            };
            drop(tokio::spawn(keeper.run(timer)));
        }
    }
}

impl Keeper {
    async fn run(mut self, mut timer: Pin<Box<Sleep>>) {
        while let Some(pause) = self.look() {
            timer.as_mut().reset(Instant::now() + pause);
            timer.as_mut().await;
        }
    }

    /// How long until the next look; none if nobody waits.
    fn look(&mut self) -> Option<Duration> {
        let shared = self.shared.upgrade()?;
        self.has_looked = true;
        shared.step();
        let wait = shared.may_wait().unwrap_or_default();
        let now = Instant::now();
        let left = |mark: &(Instant, u64)| wait.saturating_sub(now.duration_since(mark.0));
        let mut came = 0;
        while let Some(mark) = self.marks.front().filter(|mark| left(mark).is_zero()) {
            came = mark.1;
            self.marks.pop_front();
        }
        shared.end_first(came);
        let waiters = shared.lock_waiters();
        let came = waiters.came();
        let is_new = self.marks.back().is_none_or(|mark| mark.1 != came);
        if waiters.len() == 0 && !is_new {
            // With the lock: who comes next finds nobody.
            shared.keepers.fetch_and(!self.thread, Ordering::AcqRel);
            self.thread = 0;
            return None;
        }
        drop(waiters);
        if is_new {
            self.marks.push_back((now, came));
        }
        let pause = (wait / LOOKS).clamp(PAUSE.0, PAUSE.1);
        let due = self.marks.front().map_or(pause, left);
        Some(pause.min(shared.next_step()).min(due))
    }
}

/// Its runtime ends, and others may not.
impl Drop for Keeper {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade().filter(|_| self.thread != 0) else {
            return;
        };
        shared.keepers.fetch_and(!self.thread, Ordering::AcqRel);
        if self.has_looked {
            let wakers = shared.lock_waiters().take_wakers();
            wakers.into_iter().for_each(std::task::Waker::wake);
        }
    }
}

impl Shared {
    /// Refuses those who came before so many had come.
    fn end_first(&self, came: u64) {
        let now = self.clock.nanos();
        loop {
            let mut waiters = self.lock_waiters();
            let due = waiters.refuse_first(came);
            if !self.is_open() {
                due.iter()
                    .for_each(|ended| waiters.note_unserved(ended.since, now));
            }
            self.note_empty(&mut waiters, now);
            drop(waiters);
            let is_over = due.len() < AT_A_TIME;
            due.into_iter().for_each(Ended::wake);
            if is_over {
                return;
            }
        }
    }
}

//! The threads and their queue.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_task::Runnable;

/// What the threads share. Jobs hold it too, to put themselves back into the queue when woken.
#[derive(Debug)]
pub(super) struct Threads {
    state: Mutex<State>,
    /// Told of a job that came, of a change of settings and of the end.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Runnable>,
    total: usize,
    idle: usize,
    started: u64,
    settings: Settings,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) queue: usize,
    pub(super) idle_timeout: Duration,
}

/// A moment of the threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Census {
    pub(super) total: usize,
    pub(super) idle: usize,
    pub(super) queued: usize,
    pub(super) settings: Settings,
}

impl Threads {
    pub(super) fn start(settings: Settings) -> io::Result<Arc<Self>> {
        let threads = Arc::new(Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                total: 0,
                idle: 0,
                started: 0,
                settings,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        for _ in 0..settings.min {
            if let Err(error) = threads.add(&mut threads.lock()) {
                threads.close();
                return Err(error);
            }
        }
        Ok(threads)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let threads = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("stellane-worker-{}", state.started))
            .spawn(move || threads.work())?;
        state.total += 1;
        state.started += 1;
        Ok(())
    }

    /// Whether a new job may wait.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        !state.closed && state.queue.len() < state.settings.queue
    }

    /// Queues a job, and adds a thread when the seed's rule says so: more than twice as many jobs wait
    /// as there are threads.
    pub(super) fn push(self: &Arc<Self>, job: Runnable) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            // Dropping it wakes whoever waits for it, with an error.
            drop(job);
            return;
        }
        state.queue.push_back(job);
        let crowded = state.idle == 0 && state.queue.len() > 2 * state.total;
        if crowded && state.total < state.settings.max {
            // Without another thread the job only waits longer.
            let _ = self.add(&mut state);
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn census(&self) -> Census {
        let state = self.lock();
        Census {
            total: state.total,
            idle: state.idle,
            queued: state.queue.len(),
            settings: state.settings,
        }
    }

    /// Changes the settings; threads beyond the new maximum end when they are idle.
    pub(super) fn set(self: &Arc<Self>, change: impl FnOnce(&mut Settings)) {
        let mut state = self.lock();
        change(&mut state.settings);
        let settings = &mut state.settings;
        settings.min = settings.min.max(1);
        settings.max = settings.max.max(settings.min);
        while state.total < state.settings.min && !state.closed {
            if self.add(&mut state).is_err() {
                break;
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the threads when they have finished what they are running; what waits is dropped.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.queue)
        };
        self.changed.notify_all();
        // Without the lock: dropping a job runs its destructors, which may call back.
        drop(dropped);
    }

    fn work(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // Panics are caught inside of the job.
                job.run();
                state = self.lock();
                continue;
            }
            let Settings {
                min,
                max,
                idle_timeout,
                ..
            } = state.settings;
            if state.closed || state.total > max {
                break;
            }
            state.idle += 1;
            let (woken, timeout) = self
                .changed
                .wait_timeout(state, idle_timeout)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() && state.total > min {
                break;
            }
        }
        state.total -= 1;
    }
}

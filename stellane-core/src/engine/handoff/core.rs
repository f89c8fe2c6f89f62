//! A core: a queue of tasks, and the sockets and timers beside it. Whichever thread has it may be changed.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_task::{Runnable, ScheduleInfo, WithInfo};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{apart, marks::Rest};
use crate::{connection::spawn::Spawner, engine::CoreMetrics};

/// A runtime that waits for sockets and timers, and runs the accept loops; connections are no tasks of it.
#[derive(Debug)]
pub(super) struct Reactor(Option<Runtime>);

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Core {
    reactor: Mutex<Option<Arc<Reactor>>>,
    handle: Handle,
    queue: Mutex<Queue>,
    /// Whether a thread was held lately.
    held: AtomicBool,
    /// How many live here.
    tasks: AtomicUsize,
    /// For how long tasks were polled, in nanoseconds, without what was not over when the core went to another thread.
    worked: AtomicU64,
    /// CPU time of those that lost the core in a poll, in nanoseconds; counted by who watches.
    computed: AtomicU64,
    /// How often there was nothing to do.
    parks: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Runnable>,
    /// Of the thread that waits in the reactor since there was nothing here.
    waiting: Option<Waker>,
    closed: bool,
}

impl Reactor {
    /// Runs what waits on sockets and timers meanwhile.
    pub(super) fn block_on<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.as_ref().map(|runtime| runtime.block_on(future))
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Core {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            reactor: Mutex::new(Some(Arc::new(Reactor(Some(runtime))))),
            queue: Mutex::default(),
            held: AtomicBool::new(false),
            tasks: AtomicUsize::new(0),
            worked: AtomicU64::new(0),
            computed: AtomicU64::new(0),
            parks: AtomicU64::new(0),
        })
    }

    /// `None` once the core is closed.
    pub(super) fn reactor(&self) -> Option<Arc<Reactor>> {
        self.reactor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Says whether a thread of any core was held lately.
    pub(super) fn set_held(&self, held: bool) {
        self.held.store(held, Relaxed);
    }

    /// How long its threads have worked, those that have lost it too.
    pub(super) fn worked(&self) -> Duration {
        let computed = self.computed.load(Relaxed);
        Duration::from_nanos(self.worked.load(Relaxed).wrapping_add(computed))
    }

    pub(super) fn metrics(&self) -> CoreMetrics {
        CoreMetrics {
            cpu: None,
            tasks: self.tasks.load(Relaxed),
            busy: self.worked(),
            parks: self.parks.load(Relaxed),
        }
    }

    /// How many tasks wait for their turn.
    #[cfg(feature = "preset")]
    pub(super) fn queued(&self) -> usize {
        self.queue().tasks.len()
    }

    /// Only the thread that has the core counts.
    pub(super) fn add_work(&self, time: Duration) {
        add(&self.worked, nanos(time));
    }

    /// Only that thread.
    pub(super) fn add_park(&self) {
        add(&self.parks, 1);
    }

    /// CPU time of a thread that has lost the core, in nanoseconds: only who watches counts.
    pub(super) fn add_computed(&self, nanos: u64) {
        add(&self.computed, nanos);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is to be polled. Nothing is dropped here, whatever becomes of the core: who wakes a task may hold what that
    /// task needs for its end.
    pub(super) fn schedule(&self, task: Runnable) {
        let mut queue = self.queue();
        queue.tasks.push_back(task);
        // A thread that polls looks here when it is done, and so does who gets the core after it: only one that waits
        // has to be woken.
        let waiting = queue.waiting.take();
        drop(queue);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// The next task, and whether there are more.
    pub(super) fn next(&self) -> Option<(Runnable, bool)> {
        let mut queue = self.queue();
        let task = queue.tasks.pop_front()?;
        Some((task, !queue.tasks.is_empty()))
    }

    /// Whether the thread was waiting: it comes to look for work.
    pub(super) fn wake(&self) -> bool {
        let waiting = self.queue().waiting.take();
        waiting.map(Waker::wake).is_some()
    }

    /// Until something may be in the queue; whether it had to wait for that.
    pub(super) fn work<'a>(&'a self, rest: &'a Rest) -> Work<'a> {
        Work {
            core: self,
            rest,
            waits: false,
        }
    }

    /// From now on no thread polls its tasks: they are to be [cleared](Self::clear) until there are none.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        let waiting = queue.waiting.take();
        drop(queue);
        let mut reactor = self.reactor.lock().unwrap_or_else(PoisonError::into_inner);
        let reactor = reactor.take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        // Its end wakes who waits for a socket of it.
        drop(reactor);
    }

    /// Drops what would be polled; whether there are tasks all the same.
    pub(super) fn clear(&self) -> bool {
        // One at a time: what is dropped may wake others.
        while let Some((task, _)) = self.next() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        }
        self.tasks.load(SeqCst) > 0
    }
}

/// For counters that have one writer.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Spawns tasks on a core.
#[derive(Debug)]
pub(super) struct CoreSpawner(pub(super) Arc<Core>);

impl Spawner for CoreSpawner {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let core = Arc::clone(&self.0);
        core.tasks.fetch_add(1, SeqCst);
        let counted = Counted {
            task,
            core: Arc::clone(&core),
        };
        // Who is woken while it runs gets here on the thread that has run it.
        let schedule = move |task, info: ScheduleInfo| {
            let task = match info.woken_while_running {
                true => apart::unless_it_leaves(task),
                false => Some(task),
            };
            if let Some(task) = task {
                core.schedule(task);
            }
        };
        let (runnable, task) = async_task::spawn(counted, WithInfo(schedule));
        task.detach();
        runnable.schedule();
    }

    #[cfg(feature = "http2")]
    fn are_held(&self) -> bool {
        self.0.held.load(Relaxed)
    }
}

/// A task of a core, which knows how many it has.
struct Counted {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    core: Arc<Core>,
}

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.task.as_mut().poll(cx)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.core.tasks.fetch_sub(1, SeqCst);
    }
}

/// The future of [`Core::work`].
pub(super) struct Work<'a> {
    core: &'a Core,
    rest: &'a Rest,
    waits: bool,
}

/// How a wait for work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    No,
    Yes,
    /// And who watches is to be woken.
    AndWatchSleeps,
}

impl Future for Work<'_> {
    type Output = Waited;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Waited> {
        let mut queue = self.core.queue();
        let woken = match self.waits {
            false => !queue.tasks.is_empty() || queue.closed,
            // Who put something in took it.
            true => queue.waiting.is_none(),
        };
        if !woken {
            queue.waiting = Some(cx.waker().clone());
            drop(queue);
            if !self.waits {
                self.waits = true;
                self.rest.core_rests();
            }
            return Poll::Pending;
        }
        drop(queue);
        if !self.waits {
            return Poll::Ready(Waited::No);
        }
        self.waits = false;
        Poll::Ready(match self.rest.core_works() {
            false => Waited::Yes,
            true => Waited::AndWatchSleeps,
        })
    }
}

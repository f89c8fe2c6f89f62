//! A core: a queue of tasks, and the sockets and timers beside it. Whichever thread has it may be changed.

use std::{
    collections::VecDeque,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_task::Runnable;
use tokio::runtime::{Builder, Handle, Runtime};

use super::marks::Rest;
use crate::connection::spawn::Spawner;

/// A runtime that waits for sockets and timers, and runs the accept loops; connections are no tasks of it.
#[derive(Debug)]
pub(super) struct Reactor(Option<Runtime>);

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Core {
    reactor: Mutex<Option<Arc<Reactor>>>,
    handle: Handle,
    queue: Mutex<Queue>,
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

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is to be polled.
    fn schedule(&self, task: Runnable) {
        let mut queue = self.queue();
        if queue.closed {
            drop(queue);
            return end(task);
        }
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

    /// Ends all that is left here. What is to be polled later is dropped then.
    pub(super) fn close(&self) {
        let closed = Queue {
            closed: true,
            ..Queue::default()
        };
        let left = mem::replace(&mut *self.queue(), closed);
        left.tasks.into_iter().for_each(end);
        let mut reactor = self.reactor.lock().unwrap_or_else(PoisonError::into_inner);
        let reactor = reactor.take();
        if let Some(waiting) = left.waiting {
            waiting.wake();
        }
        // Its end wakes who waits for a socket of it.
        drop(reactor);
    }
}

/// Drops a task and its future.
fn end(task: Runnable) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
}

/// Spawns tasks on a core.
#[derive(Debug)]
pub(super) struct CoreSpawner(pub(super) Arc<Core>);

impl Spawner for CoreSpawner {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let core = Arc::clone(&self.0);
        let (runnable, task) = async_task::spawn(task, move |task| core.schedule(task));
        task.detach();
        runnable.schedule();
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

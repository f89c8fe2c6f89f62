//! What belongs to one worker.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU32, AtomicU64},
    },
    task::{Context, Poll},
};

use crossbeam_deque::{Stealer, Worker};
use pin_project_lite::pin_project;

use super::{
    JobError,
    histogram::{Recorder, bump},
    job::Stage,
    shared::{Shared, Task},
};

/// A worker as the others see it. A worker that ends leaves it to the next one.
#[derive(Debug)]
pub(super) struct WorkerSlot {
    pub(super) stealer: Stealer<Task>,
    /// Taken by the worker while there is one.
    pub(super) deque: Mutex<Option<Worker<Task>>>,
    /// When its poll began; zero outside of one.
    pub(super) polling_since: AtomicU64,
    /// Whose poll that is.
    pub(super) class: AtomicU16,
    /// For the supervisor: the kernel's id of the thread.
    pub(super) thread: AtomicU32,
    // Written by the worker alone.
    pub(super) wait: Recorder,
    pub(super) run: Recorder,
    /// Nanoseconds in polls that have ended.
    pub(super) busy: AtomicU64,
    pub(super) begun: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) panics: AtomicU64,
    /// Futures that are gone, for whatever reason.
    pub(super) gone: AtomicU64,
    pub(super) stolen: AtomicU64,
}

impl WorkerSlot {
    pub(super) fn new() -> Self {
        let deque = Worker::new_fifo();
        Self {
            stealer: deque.stealer(),
            deque: Mutex::new(Some(deque)),
            polling_since: AtomicU64::new(0),
            class: AtomicU16::new(0),
            thread: AtomicU32::new(0),
            wait: Recorder::default(),
            run: Recorder::default(),
            busy: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            stolen: AtomicU64::new(0),
        }
    }
}

/// A worker as it sees itself.
pub(super) struct WorkerContext {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<WorkerSlot>,
    pub(super) index: usize,
    pub(super) deque: Worker<Task>,
    /// All slots, as of when there were as many.
    pub(super) others: RefCell<Vec<Arc<WorkerSlot>>>,
    pub(super) ticks: Cell<u32>,
    /// As the clock was read last.
    pub(super) now: Cell<u64>,
    /// Polls since then.
    pub(super) unsettled: Cell<u64>,
    /// Jobs that have begun, of which those who submit have not been told.
    pub(super) untold: Cell<u64>,
    /// It counts as one that looks for work.
    searching: Cell<bool>,
    random: Cell<u32>,
    /// What came of the poll that runs.
    outcome: Cell<Outcome>,
    poll_began: Cell<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    pub(super) ended: bool,
    /// Nanoseconds of its polls before the last.
    pub(super) ran_before: u64,
    /// The future has been dropped.
    pub(super) gone: bool,
}

thread_local! {
    /// Set while a job is ended instead of being run.
    static REFUSED: Cell<Option<Stage>> = const { Cell::new(None) };
    static LOCAL: RefCell<Option<Rc<WorkerContext>>> = const { RefCell::new(None) };
}

/// Ends a job without polling its future.
pub(super) fn refuse(task: Task, why: Stage) {
    // It may happen in the middle of another job's poll.
    let outcome = current(|local| local.outcome.get());
    REFUSED.set(Some(why));
    task.run();
    REFUSED.set(None);
    current(|local| outcome.map(|outcome| local.outcome.set(outcome)));
}

/// The worker that the calling thread is; none on other threads.
pub(super) fn current<R>(f: impl FnOnce(&WorkerContext) -> R) -> Option<R> {
    LOCAL
        .try_with(|local| local.borrow().as_deref().map(f))
        .ok()
        .flatten()
}

impl WorkerContext {
    pub(super) fn new(shared: Arc<Shared>, index: usize, slot: Arc<WorkerSlot>) -> Option<Self> {
        let deque = slot.deque.lock().ok()?.take()?;
        Some(Self {
            shared,
            slot,
            index,
            deque,
            others: RefCell::default(),
            ticks: Cell::new(0),
            now: Cell::new(0),
            unsettled: Cell::new(0),
            untold: Cell::new(0),
            searching: Cell::new(false),
            random: Cell::new(index as u32 + 1),
            outcome: Cell::default(),
            poll_began: Cell::new(0),
        })
    }

    /// Makes the calling thread this worker while `f` runs.
    pub(super) fn enter<R>(self: &Rc<Self>, f: impl FnOnce() -> R) -> R {
        let before = LOCAL.replace(Some(Rc::clone(self)));
        let result = f();
        LOCAL.set(before);
        result
    }

    /// Leaves the deque to the next worker.
    pub(super) fn give_back(self: Rc<Self>) {
        let slot = Arc::clone(&self.slot);
        if let Ok(local) = Rc::try_unwrap(self)
            && let Ok(mut deque) = slot.deque.lock()
        {
            *deque = Some(local.deque);
        }
    }

    /// It has nothing to do, or will have in a moment.
    pub(super) fn search(&self) {
        if !self.searching.replace(true) {
            self.shared.idle.search();
        }
    }

    /// It has work, or ends.
    pub(super) fn found(&self) {
        if self.searching.replace(false) {
            self.shared.idle.found(|| self.shared.has_work());
        }
    }

    pub(super) fn random(&self) -> usize {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.set(x);
        x as usize
    }

    /// Runs a job's poll.
    pub(super) fn poll(&self, task: Task, began: u64) -> Outcome {
        self.poll_began.set(began);
        self.outcome.set(Outcome::default());
        task.run();
        self.outcome.get()
    }

    fn note(&self, change: impl FnOnce(&mut Outcome)) {
        let mut outcome = self.outcome.get();
        change(&mut outcome);
        self.outcome.set(outcome);
    }
}

pin_project! {
    /// A job's future with what every poll needs. Tells the worker what came of it.
    pub(super) struct Run<F> {
        // Taken out where its destructor's panic can be caught.
        #[pin]
        future: Option<F>,
        ran: u64,
    }

    impl<F> PinnedDrop for Run<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _ = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
            current(|local| local.note(|outcome| outcome.gone = true));
        }
    }
}

impl<F> Run<F> {
    pub(super) fn new(future: F) -> Self {
        Self {
            future: Some(future),
            ran: 0,
        }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Result<F::Output, JobError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(why) = REFUSED.take() {
            return Poll::Ready(Err(why.error()));
        }
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll(cx)));
        let (completed, result) = match polled {
            Ok(Poll::Pending) => {
                let ran = current(|local| {
                    let began = local.poll_began.get();
                    local.shared.clock.now().saturating_sub(began)
                });
                *this.ran += ran.unwrap_or(0);
                return Poll::Pending;
            }
            Ok(Poll::Ready(output)) => (true, Ok(output)),
            Err(payload) => {
                let error = JobError::panicked(&*payload);
                // A payload may panic when dropped, like anything else.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                (false, Err(error))
            }
        };
        let ran_before = *this.ran;
        // Here and not later, for the sake of what follows.
        let _ = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
        current(|local| {
            // Before the caller is woken, who may look at the counts.
            let slot = &local.slot;
            bump(
                if completed {
                    &slot.completed
                } else {
                    &slot.panics
                },
                1,
            );
            local.note(|outcome| {
                outcome.ended = true;
                outcome.ran_before = ran_before;
            });
            // And before the caller is woken: its next job then wakes no other worker, since this one is about to
            // look. Only the caller's waker runs in between, or the result's destructor if the caller has left;
            // if that takes long, the supervisor wakes another worker.
            if !local.shared.something_waits(local) {
                local.search();
            }
        });
        Poll::Ready(result)
    }
}

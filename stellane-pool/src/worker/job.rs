use std::{
    any::Any,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
};

use super::{
    context::WorkerSlot,
    histogram::bump,
    origin::Origin,
    spin_wait::{poll_again, spin},
    wake_batch::later,
};

/// What the pool knows of a job, beside its future. Small, as all of a job is: thousands may wait, and each crosses
/// from one CPU to the other and back.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) origin: Arc<Origin>,
    pub(super) queued: u64,
    /// When it is no longer to be run; `u64::MAX` is never.
    pub(super) expires: u64,
    /// What has happened to it then: its deadline, or it has waited for room as long as it may.
    pub(super) late: Stage,
    pub(super) class: u16,
    /// The shard it waits in; none for jobs that jobs submit.
    pub(super) shard: Option<u8>,
    pub(super) stage: AtomicU8,
}

/// A job leaves its queue once: it begins, or one of the others happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Waiting,
    Begun,
    Cancelled,
    Expired,
    Waited,
    Full,
    Closed,
}

impl Stage {
    /// What the caller is told.
    pub(super) const fn error(self) -> JobError {
        match self {
            Self::Expired => JobError::Expired,
            Self::Waited => JobError::Shed,
            Self::Full => JobError::Overloaded,
            Self::Waiting | Self::Begun | Self::Cancelled | Self::Closed => JobError::Closed,
        }
    }
}

impl Meta {
    /// Takes the job out of the waiting ones, not to be run; only the first to try does.
    pub(super) fn leave(&self, to: Stage) -> bool {
        let left = self.change(to);
        if left {
            self.origin.shared.left(to);
        }
        left
    }

    /// Takes the job out of the waiting ones, to be run by that worker; only the first to try does.
    pub(super) fn begin(&self, slot: &WorkerSlot) -> bool {
        let begins = self.change(Stage::Begun);
        if begins {
            bump(&slot.begun, 1);
        }
        begins
    }

    fn change(&self, to: Stage) -> bool {
        let waiting = Stage::Waiting as u8;
        self.stage
            .compare_exchange(waiting, to as u8, AcqRel, Acquire)
            .is_ok()
    }

    pub(super) fn is(&self, stage: Stage) -> bool {
        self.stage.load(Acquire) == stage as u8
    }
}

/// The result of work on a [`WorkerPool`](super::WorkerPool). Dropping it cancels the work: at once if it
/// waits, at its next `.await` if it runs.
#[must_use = "dropping a job cancels it"]
pub struct Job<T>(State<T>);

enum State<T> {
    Accepted {
        task: async_task::Task<Result<T, JobError>, Meta>,
        /// How often it looks for the result before it has itself woken.
        spins: u8,
        /// Its caller is woken together with others.
        together: bool,
    },
    Refused(Stage),
    Done,
}

impl<T> Job<T> {
    pub(super) const fn accepted(
        task: async_task::Task<Result<T, JobError>, Meta>,
        spins: u8,
        together: bool,
    ) -> Self {
        Self(State::Accepted {
            task,
            spins,
            together,
        })
    }

    pub(super) const fn refused(why: Stage) -> Self {
        Self(State::Refused(why))
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.0 {
            State::Accepted {
                task,
                spins,
                together,
            } => {
                if *spins > 0 && !spin(|| task.is_finished()) {
                    *spins -= 1;
                    if *spins > 0 {
                        poll_again(cx);
                        return Poll::Pending;
                    }
                    task.metadata().origin.shared.spins.failed();
                }
                let polled = if *together {
                    let shared = &task.metadata().origin.shared;
                    shared.wake_batch.deliver();
                    let later = later(shared, cx.waker());
                    Pin::new(&mut *task).poll(&mut Context::from_waker(&later))
                } else {
                    Pin::new(&mut *task).poll(cx)
                };
                let Poll::Ready(result) = polled else {
                    if let Some(on_wait) = task.metadata().origin.shared.on_wait {
                        on_wait();
                    }
                    return Poll::Pending;
                };
                result
            }
            State::Refused(why) => Err(why.error()),
            State::Done => return Poll::Pending,
        };
        self.0 = State::Done;
        Poll::Ready(result)
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if let State::Accepted { task, .. } = &self.0 {
            let meta = task.metadata();
            if meta.leave(Stage::Cancelled) {
                meta.origin.shared.cancelled_in(meta.shard);
            } else if meta.is(Stage::Begun) && !task.is_finished() {
                meta.origin.shared.cancelled.fetch_add(1, Relaxed);
            }
        }
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// Why a job has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// As many jobs as may wait do so already: try again later.
    Overloaded,
    /// It had waited too long while the queue stood: try again later.
    Shed,
    /// Its deadline passed before it began.
    Expired,
    /// The job panicked; the text is the panic's.
    Panicked(String),
    /// The pool was shut down before the job had finished.
    Closed,
}

impl JobError {
    pub(super) fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&'static str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self::Panicked(text.unwrap_or_else(|| "no message".to_owned()))
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overloaded => f.write_str("the queue of the worker pool is full"),
            Self::Shed => f.write_str("the job waited too long for a worker"),
            Self::Expired => f.write_str("the deadline of the job passed before it began"),
            Self::Panicked(text) => write!(f, "the job panicked: {text}"),
            Self::Closed => f.write_str("the worker pool was shut down"),
        }
    }
}

impl std::error::Error for JobError {}

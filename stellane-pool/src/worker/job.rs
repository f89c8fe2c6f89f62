use std::{
    any::Any,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use super::pool::Counts;

/// The result of work on a [`WorkerPool`](super::WorkerPool). Dropping it cancels the work: at once if it
/// waits, at its next `.await` if it runs.
#[must_use = "dropping a job cancels it"]
pub struct Job<T> {
    state: State<T>,
    counts: Arc<Counts>,
}

enum State<T> {
    Running(async_task::FallibleTask<Result<T, JobError>>),
    Refused,
    Done,
}

impl<T> Job<T> {
    pub(super) fn running(
        task: async_task::Task<Result<T, JobError>>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            state: State::Running(task.fallible()),
            counts,
        }
    }

    pub(super) fn refused(counts: Arc<Counts>) -> Self {
        counts.shed.fetch_add(1, Relaxed);
        Self {
            state: State::Refused,
            counts,
        }
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            State::Running(task) => {
                ready!(Pin::new(task).poll(cx)).unwrap_or(Err(JobError::Closed))
            }
            State::Refused => Err(JobError::Overloaded),
            State::Done => return Poll::Pending,
        };
        self.state = State::Done;
        Poll::Ready(result)
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if let State::Running(task) = &self.state
            && !task.is_finished()
        {
            self.counts.cancelled.fetch_add(1, Relaxed);
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
            Self::Panicked(text) => write!(f, "the job panicked: {text}"),
            Self::Closed => f.write_str("the worker pool was shut down"),
        }
    }
}

impl std::error::Error for JobError {}

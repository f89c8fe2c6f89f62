//! Work that may hang for ever, such as reading a file of a mount that is gone.

use std::{io, sync::mpsc, thread};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A thread of its own for such work. Nobody waits for it: a runtime waits at its end for the threads that it lends
/// for blocking work, and the process with it.
#[derive(Debug)]
pub(crate) struct DetachedThread {
    jobs: mpsc::Sender<Job>,
}

impl DetachedThread {
    /// It ends when this is dropped and its work is done.
    pub(crate) fn spawn(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs })
    }

    /// What comes of the work; `None` if it panicked. Hangs if the work does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        let job = move || drop(done.send(work()));
        self.jobs.send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

//! Streams that are answered at once, in the turn of their connection.
//!
//! hyper gives each stream a task of its own. Most are done at their first poll, and there a task costs more than the
//! answer: it is allocated, queued, and wakes the connection, which then writes one answer and not all. So the
//! connection polls the streams that it has begun once itself, and only those that have to wait get a task.
//!
//! # Order and fairness
//!
//! Streams are polled in the order in which they began, each once: one that waits holds up none behind it, and the panic
//! of one is not the end of another. In one turn a connection polls no more than it had begun before it writes their
//! answers, so at most `max_concurrent_streams`; those that begin while it writes are for its next turn, when other
//! connections of the thread have had theirs.
//!
//! Where many workers share a runtime, tasks that wait are taken over by workers that have nothing to do. What that is
//! worth against the tasks that are saved was measured with one worker only, so beyond [`MOST_WORKERS`] each stream gets
//! a task as before.

use std::{
    cell::RefCell,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Context,
};

use hyper::rt::Executor;
use tokio::runtime::Handle;

use crate::connection::protocol::scope::scoped;

/// On runtimes with more worker threads than this each stream has a task from the beginning.
const MOST_WORKERS: usize = 2;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Where the connection that this thread polls puts the streams that it begins.
    static BEGUN: RefCell<Option<Vec<Stream>>> = const { RefCell::new(None) };
}

/// Takes the streams that hyper begins: for the connection that is being polled, or to a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExecutor;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        if BEGUN.with_borrow(Option::is_some) {
            let stream: Stream = Box::pin(stream);
            BEGUN.with_borrow_mut(|begun| begun.get_or_insert_default().push(stream));
        } else {
            tokio::spawn(scoped(stream));
        }
    }
}

/// The streams of one connection that have begun and were not polled yet.
pub(crate) struct BegunStreams {
    streams: Vec<Stream>,
    /// Whether the connection polls them.
    here: bool,
}

impl BegunStreams {
    /// For a connection on the runtime of the caller.
    pub(crate) fn new() -> Self {
        let runtime = Handle::try_current();
        Self {
            streams: Vec::new(),
            here: runtime.is_ok_and(|runtime| runtime.metrics().num_workers() <= MOST_WORKERS),
        }
    }

    /// Runs `poll`, which polls the connection, and gathers the streams that it begins.
    pub(crate) fn gather<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        if !self.here {
            return poll();
        }
        let _outer = Outer(BEGUN.replace(Some(mem::take(&mut self.streams))));
        let polled = poll();
        self.streams = BEGUN.take().unwrap_or_default();
        polled
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Polls each once; those that have to wait get a task.
    pub(crate) fn run(&mut self, cx: &mut Context<'_>) {
        for mut stream in self.streams.drain(..) {
            // As in a task of its own: a panic, also one of what it drops, is the end of this stream only.
            let polled = catch_unwind(AssertUnwindSafe(|| {
                let waits = stream.as_mut().poll(cx).is_pending();
                waits.then_some(stream)
            }));
            if let Ok(Some(stream)) = polled {
                tokio::spawn(scoped(stream));
            }
        }
    }
}

/// The streams of a connection whose handler polls another one: an outer one gets back what is its own, also after a
/// panic.
struct Outer(Option<Vec<Stream>>);

impl Drop for Outer {
    fn drop(&mut self) {
        // Dropped outside of the borrow, since what streams hold may do anything.
        drop(BEGUN.replace(self.0.take()));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        task::Waker,
    };

    use tokio::task::yield_now;

    use super::*;

    type Log = Arc<Mutex<Vec<String>>>;

    fn note(log: &Log, event: String) {
        log.lock().expect("no panic under it").push(event);
    }

    fn taken(log: &Log) -> Vec<String> {
        mem::take(&mut log.lock().expect("no panic under it"))
    }

    /// A stream that notes each poll, and is done with the one after so many.
    async fn stream(log: Log, name: &'static str, waits: u32) {
        for poll in 0..waits {
            note(&log, format!("{name} {poll}"));
            yield_now().await;
        }
        note(&log, format!("{name} done"));
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[tokio::test]
    async fn streams_are_polled_once_in_their_order_and_those_that_wait_go_on_in_tasks() {
        let log = Log::default();
        let mut begun = BegunStreams::new();
        begun.gather(|| {
            for (name, waits) in [("a", 0), ("b", 2), ("c", 0)] {
                StreamExecutor.execute(stream(Arc::clone(&log), name, waits));
            }
        });
        assert!(taken(&log).is_empty(), "none is polled while others begin");
        begun.run(&mut context());
        assert_eq!(taken(&log), ["a done", "b 0", "c done"]);
        assert!(begun.is_empty());
        while !log.lock().expect("no panic").contains(&"b done".to_owned()) {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_no_other() {
        let log = Log::default();
        let mut begun = BegunStreams::new();
        begun.gather(|| {
            StreamExecutor.execute(async { panic!("on purpose") });
            StreamExecutor.execute(stream(Arc::clone(&log), "next", 0));
        });
        begun.run(&mut context());
        assert_eq!(taken(&log), ["next done"]);
    }

    #[tokio::test]
    async fn a_connection_polled_within_another_leaves_the_streams_of_the_outer_one_alone() {
        let log = Log::default();
        let (mut outer, mut inner) = (BegunStreams::new(), BegunStreams::new());
        outer.gather(|| {
            StreamExecutor.execute(stream(Arc::clone(&log), "outer", 0));
            inner.gather(|| StreamExecutor.execute(stream(Arc::clone(&log), "inner", 0)));
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                BegunStreams::new().gather(|| panic!("on purpose"));
            }));
            assert!(panicked.is_err());
            StreamExecutor.execute(stream(Arc::clone(&log), "outer too", 0));
        });
        inner.run(&mut context());
        outer.run(&mut context());
        assert_eq!(taken(&log), ["inner done", "outer done", "outer too done"]);
        assert!(BEGUN.with_borrow(Option::is_none));
    }

    #[test]
    fn on_a_runtime_with_many_workers_each_stream_has_a_task() {
        for (workers, here) in [(1, true), (2, true), (3, false), (16, false)] {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                .build()
                .expect("a runtime");
            let _entered = runtime.enter();
            let mut begun = BegunStreams::new();
            begun.gather(|| StreamExecutor.execute(async {}));
            assert_eq!(!begun.is_empty(), here, "{workers} workers");
        }
    }
}

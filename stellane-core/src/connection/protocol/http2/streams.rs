//! Streams that are answered at once, in the turn of their connection, and what becomes of the others.
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
//!
//! # Streams that wait for their client
//!
//! hyper polls neither a body nor an answer that waits for the client. Whoever polls a stream sees it wait, by what its
//! bodies note in the same turn, and tells the connection's [`Ledger`]; that has the stream ended when its client is too
//! slow. To end it is to drop it: h2 then resets it.

use std::{
    cell::{Cell, RefCell},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use crate::connection::{
    incoming::{self, Received},
    policy::stream_rates::Slow,
    protocol::http2::{ledger::Ledger, scoped::scoped},
};

/// On runtimes with more worker threads than this each stream has a task from the beginning.
const MOST_WORKERS: usize = 2;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// The connection that this thread polls, or one of its streams.
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
    /// What the bodies of the stream that this thread polls have noted.
    static NOTES: Cell<Notes> = const { Cell::new(Notes::NOTHING) };
}

/// What is polled, and what it begins.
struct Turn {
    ledger: Arc<Ledger>,
    begins: Begins,
    begun: Vec<Stream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// The connection begins streams, to be polled by itself,
    Streams,
    /// or in tasks of their own.
    Tasks,
    /// A stream begins to be another protocol's.
    Tunnels,
}

/// What becomes of a stream in one poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Notes {
    answer: Option<AnswerNote>,
    /// It is polled for the last time.
    ends: Option<Slow>,
}

/// What hyper got when it asked for a piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerNote {
    Nothing,
    Piece { bytes: u64, held: u64 },
}

impl Notes {
    const NOTHING: Self = Self {
        answer: None,
        ends: None,
    };

    fn change(change: impl FnOnce(&mut Self)) {
        let mut notes = NOTES.get();
        change(&mut notes);
        NOTES.set(notes);
    }
}

/// hyper asked for a piece of an answer, and there is none.
pub(crate) fn note_no_piece() {
    Notes::change(|notes| notes.answer = Some(AnswerNote::Nothing));
}

/// hyper got a piece of an answer, of which so much is held altogether.
pub(crate) fn note_piece(bytes: usize, held: usize) {
    let (bytes, held) = (bytes as u64, held as u64);
    Notes::change(|notes| notes.answer = Some(AnswerNote::Piece { bytes, held }));
}

/// Whether the stream is polled for the last time, and its answer is to say that its body came too slowly.
pub(crate) fn is_slow_body() -> bool {
    NOTES.get().ends == Some(Slow::Body)
}

/// Takes the streams that hyper begins: for the connection that is being polled, or to a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExecutor;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        TURN.with_borrow_mut(|turn| match turn {
            None => drop(tokio::spawn(scoped(stream))),
            Some(turn) => match turn.begins {
                Begins::Streams => turn.begun.push(Box::pin(stream)),
                Begins::Tasks => {
                    let ledger = Arc::clone(&turn.ledger);
                    tokio::spawn(scoped(Watched::new(stream, ledger, Seen::default())));
                }
                Begins::Tunnels => {
                    let open = OpenTunnel::new(Arc::clone(&turn.ledger));
                    tokio::spawn(scoped(async move {
                        stream.await;
                        drop(open);
                    }));
                }
            },
        });
    }
}

/// The streams of one connection that have begun and were not polled yet.
pub(crate) struct BegunStreams {
    /// `None` while it is polled.
    turn: Option<Turn>,
    begins: Begins,
}

impl BegunStreams {
    /// For a connection on the runtime of the caller.
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        let runtime = Handle::try_current();
        let here = runtime.is_ok_and(|runtime| runtime.metrics().num_workers() <= MOST_WORKERS);
        let begins = if here { Begins::Streams } else { Begins::Tasks };
        Self {
            turn: Some(Turn::new(ledger, begins)),
            begins,
        }
    }

    /// Runs `poll`, which polls the connection, and gathers the streams that it begins.
    pub(crate) fn gather<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        self.within(self.begins, poll)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turn.as_ref().is_none_or(|turn| turn.begun.is_empty())
    }

    /// Polls each once; those that have to wait get a task.
    pub(crate) fn run(&mut self, cx: &mut Context<'_>) {
        let Some(turn) = &mut self.turn else {
            return;
        };
        let mut streams = mem::take(&mut turn.begun);
        let ledger = Arc::clone(&turn.ledger);
        self.within(Begins::Tunnels, || {
            for mut stream in streams.drain(..) {
                // As in a task of its own: a panic, also one of what it drops, is the end of this stream only.
                let polled = catch_unwind(AssertUnwindSafe(|| {
                    let (polled, seen) = Seen::by(|| stream.as_mut().poll(cx), None);
                    polled.is_pending().then_some((stream, seen))
                }));
                if let Ok(Some((stream, seen))) = polled {
                    tokio::spawn(scoped(Watched::new(stream, Arc::clone(&ledger), seen)));
                }
            }
        });
        if let Some(turn) = &mut self.turn {
            // Nothing is begun meanwhile: it is used again.
            turn.begun = streams;
        }
    }

    fn within<T>(&mut self, begins: Begins, poll: impl FnOnce() -> T) -> T {
        let turn = self.turn.take().map(|turn| Turn { begins, ..turn });
        let _outer = Outer(TURN.replace(turn));
        let polled = poll();
        self.turn = TURN.take();
        polled
    }
}

impl Turn {
    fn new(ledger: Arc<Ledger>, begins: Begins) -> Self {
        Self {
            ledger,
            begins,
            begun: Vec::new(),
        }
    }
}

/// The turn of a connection whose handler polls another one: the outer one gets back what is its own, also after a
/// panic.
struct Outer(Option<Turn>);

impl Drop for Outer {
    fn drop(&mut self) {
        // Dropped outside of the borrow, since what streams hold may do anything.
        drop(TURN.replace(self.0.take()));
    }
}

/// What was seen of a stream in its last poll.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    notes: Notes,
    received: Received,
}

impl Seen {
    /// Polls a stream, for the last time if it `ends`.
    fn by<T>(poll: impl FnOnce() -> T, ends: Option<Slow>) -> (T, Self) {
        let notes = Notes {
            ends,
            ..Notes::NOTHING
        };
        let outer = NOTES.replace(notes);
        let (polled, received) = incoming::observe(poll);
        let notes = NOTES.replace(outer);
        (polled, Self { notes, received })
    }
}

pin_project! {
    /// A stream that has to wait, in a task of its own.
    struct Watched<F> {
        #[pin]
        stream: F,
        watch: StreamWatch,
    }
}

/// What its ledger is told of a stream.
struct StreamWatch {
    ledger: Arc<Ledger>,
    /// Of the stream in there.
    number: Option<u64>,
    answered: bool,
    /// What was seen before.
    seen: Seen,
}

impl<F> Watched<F> {
    fn new(stream: F, ledger: Arc<Ledger>, seen: Seen) -> Self {
        Self {
            stream,
            watch: StreamWatch {
                ledger,
                number: None,
                answered: false,
                seen,
            },
        }
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let ends = this.watch.end();
        let turn = Turn::new(Arc::clone(&this.watch.ledger), Begins::Tunnels);
        let outer = Outer(TURN.replace(Some(turn)));
        let (polled, seen) = Seen::by(|| this.stream.poll(cx), ends);
        drop(outer);
        if polled.is_ready() || ends.is_some() {
            return Poll::Ready(());
        }
        this.watch.note(seen, cx);
        Poll::Pending
    }
}

impl StreamWatch {
    fn end(&self) -> Option<Slow> {
        self.number.and_then(|number| self.ledger.end_of(number))
    }

    /// Tells what was seen of a stream that waits.
    fn note(&mut self, mut seen: Seen, cx: &Context<'_>) {
        let before = mem::take(&mut self.seen);
        // A piece that waits is not asked for again.
        seen.notes.answer = seen.notes.answer.or(before.notes.answer);
        self.answered |= seen.notes.answer.is_some();
        // Who is answered may go on sending for as long as it likes, as calls do in both directions.
        let starved = seen.received.starved && !self.answered;
        let (answer, received) = (seen.notes.answer, seen.received.bytes);
        if self.number.is_none() && !starved && !matches!(answer, Some(AnswerNote::Piece { .. })) {
            return;
        }
        self.ledger.note(&mut self.number, cx.waker(), |debts| {
            debts.body(starved, received);
            match answer {
                None => {}
                Some(AnswerNote::Nothing) => debts.took(),
                Some(AnswerNote::Piece { bytes, held }) => debts.gave(bytes, held),
            }
        });
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.ledger.forget(number);
        }
    }
}

/// A stream that is another protocol's now: its connection is not idle.
struct OpenTunnel(Arc<Ledger>);

impl OpenTunnel {
    fn new(ledger: Arc<Ledger>) -> Self {
        ledger.open();
        Self(ledger)
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.close();
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
    use crate::connection::table::record::Record;

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

    fn begun_streams() -> BegunStreams {
        let record = Record::new(1, 0, None, false, 0, 0);
        BegunStreams::new(Arc::new(Ledger::new(Arc::new(record))))
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[tokio::test]
    async fn streams_are_polled_once_in_their_order_and_those_that_wait_go_on_in_tasks() {
        let log = Log::default();
        let mut begun = begun_streams();
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
        let mut begun = begun_streams();
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
        let (mut outer, mut inner) = (begun_streams(), begun_streams());
        outer.gather(|| {
            StreamExecutor.execute(stream(Arc::clone(&log), "outer", 0));
            inner.gather(|| StreamExecutor.execute(stream(Arc::clone(&log), "inner", 0)));
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                begun_streams().gather(|| panic!("on purpose"));
            }));
            assert!(panicked.is_err());
            StreamExecutor.execute(stream(Arc::clone(&log), "outer too", 0));
        });
        inner.run(&mut context());
        outer.run(&mut context());
        assert_eq!(taken(&log), ["inner done", "outer done", "outer too done"]);
        assert!(TURN.with_borrow(Option::is_none));
    }

    #[test]
    fn on_a_runtime_with_many_workers_each_stream_has_a_task() {
        for (workers, here) in [(1, true), (2, true), (3, false), (16, false)] {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                .build()
                .expect("a runtime");
            let _entered = runtime.enter();
            let mut begun = begun_streams();
            begun.gather(|| StreamExecutor.execute(async {}));
            assert_eq!(!begun.is_empty(), here, "{workers} workers");
        }
    }
}

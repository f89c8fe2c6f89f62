//! Streams that are answered at once, in the turn of their connection, and what becomes of the others.
//!
//! hyper gives each stream a task of its own. Most are done at their first poll, and there a task costs more than the
//! answer: it is allocated, queued, and wakes the connection, which then writes one answer and not all. So the
//! connection polls the streams that it has begun once itself, and only those that have to wait get a task. It does so
//! when hyper has begun all that the client has asked for: what hyper does next is to write their answers.
//!
//! # Order and fairness
//!
//! Streams are polled in the order in which they began, each once: one that waits holds up none behind it, and the panic
//! of one is not the end of another. In one turn a connection polls no more than it had begun before it writes their
//! answers, so at most `max_concurrent_streams`; those that begin while it writes are for its next turn, when other
//! connections of the thread have had theirs.
//!
//! One that holds its thread in that poll holds up those behind it, and the connection. Where an engine sees such handlers,
//! each stream has a task from the beginning for a minute after the last of them.
//!
//! Where many workers share a runtime, tasks that wait are taken over by workers that have nothing to do. What that is
//! worth against the tasks that are saved was measured with one worker only, so beyond [few](spawn::are_few_threads) each
//! stream gets a task as before.
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
    task::{Context, Poll, Waker},
};

use crate::connection::{
    incoming::{self, Received},
    policy::stream_rates::Slow,
    protocol::http2::{
        ledger::{InTurn, Ledger, TurnWaker},
        scoped::scoped,
    },
    spawn::{self, spawn},
};
use hyper::rt::Executor;
use pin_project_lite::pin_project;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// The connection that this thread polls, or one of its streams.
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
    /// What the bodies of the stream that this thread polls have noted.
    static NOTES: Cell<Notes> = const { Cell::new(Notes::NOTHING) };
}

/// What is polled.
enum Turn {
    Connection(Box<Begun>),
    Stream(Arc<Ledger>),
}

/// What a connection begins.
struct Begun {
    ledger: Arc<Ledger>,
    /// Whether it polls its streams itself: on a runtime of few threads, unless handlers hold them.
    here: bool,
    few_threads: bool,
    streams: Vec<Stream>,
    /// How many there were, as far as it is known what the client has asked for.
    count: u64,
}

impl Begun {
    /// Whether it is the last that the client has asked for.
    fn add(&mut self, stream: Stream) -> bool {
        self.streams.push(stream);
        self.count += 1;
        self.count == self.ledger.asked()
    }
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
        if is_here() {
            // Boxed before it is moved anywhere: it is large.
            let stream = Box::pin(stream);
            if begin(stream) {
                run();
            }
            return;
        }
        TURN.with_borrow(|turn| match turn {
            Some(Turn::Connection(begun)) => {
                let ledger = Arc::clone(&begun.ledger);
                spawn(scoped(Watched::new(stream, ledger, Seen::default())));
            }
            // What a stream begins is to carry another protocol.
            Some(Turn::Stream(ledger)) => {
                let open = OpenTunnel::new(Arc::clone(ledger));
                spawn(scoped(async move {
                    stream.await;
                    drop(open);
                }));
            }
            None => {
                spawn(scoped(stream));
            }
        });
    }
}

/// Whether what is polled is a connection that polls its streams itself.
fn is_here() -> bool {
    TURN.with_borrow(|turn| matches!(turn, Some(Turn::Connection(begun)) if begun.here))
}

/// Whether it is the last that the client of the connection has asked for.
fn begin(stream: Stream) -> bool {
    TURN.with_borrow_mut(|turn| match turn {
        Some(Turn::Connection(begun)) => begun.add(stream),
        _ => false,
    })
}

/// The streams of one connection that have begun and were not polled yet.
pub(crate) struct BegunStreams {
    /// `None` while it is polled.
    turn: Option<Turn>,
    ledger: Arc<Ledger>,
    /// Of the task, and for what the task polls.
    wakers: Option<(Waker, Waker)>,
}

impl BegunStreams {
    /// For a connection on the runtime of the caller.
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        let begun = Begun {
            ledger: Arc::clone(&ledger),
            here: false,
            few_threads: spawn::are_few_threads(),
            streams: Vec::new(),
            count: 0,
        };
        Self {
            turn: Some(Turn::Connection(Box::new(begun))),
            ledger,
            wakers: None,
        }
    }

    fn waker(&mut self, task: &Waker) -> &Waker {
        let known = self.wakers.take();
        let known = known.filter(|(known, _)| known.will_wake(task));
        let wakers = known.unwrap_or_else(|| {
            let ours = TurnWaker::new(task.clone(), Arc::clone(&self.ledger));
            (task.clone(), Arc::new(ours).into())
        });
        &self.wakers.insert(wakers).1
    }

    /// Polls the connection, and in its course once each of the streams that it begins. What it begins without the client
    /// having asked for it, as far as is known here, is polled after it, and it again, which writes their answers.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if let Some(Turn::Connection(begun)) = &mut self.turn {
            begun.here = begun.few_threads && !spawn::are_held();
        }
        let _outer = Outer(TURN.replace(self.turn.take()));
        let cx = &mut Context::from_waker(self.waker(cx.waker()));
        let mut polled = connection(cx);
        if polled.is_pending() && are_begun() {
            run();
            polled = connection(cx);
            if are_begun() {
                // They have begun since: others have their turn before them.
                cx.waker().wake_by_ref();
            }
        }
        self.turn = TURN.take();
        if let Some(Turn::Connection(begun)) = &mut self.turn {
            // What was asked for and has not begun was refused, or is not whole.
            begun.count = self.ledger.asked();
        }
        polled
    }
}

/// Polls each once of those that the connection has begun; those that have to wait get a task. The connection has to be
/// polled after that.
fn run() {
    let Some(Turn::Connection(mut begun)) = TURN.take() else {
        return;
    };
    TURN.set(Some(Turn::Stream(Arc::clone(&begun.ledger))));
    let in_turn = InTurn::of(&begun.ledger);
    // Nobody is woken: those that wait are polled by their tasks at once.
    let cx = &mut Context::from_waker(Waker::noop());
    for mut stream in begun.streams.drain(..) {
        // As in a task of its own: a panic, also one of what it drops, is the end of this stream only.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let (polled, seen) = Seen::by(|| stream.as_mut().poll(cx), None);
            polled.is_pending().then_some((stream, seen))
        }));
        if let Ok(Some((stream, seen))) = polled {
            spawn(scoped(Watched::new(
                stream,
                Arc::clone(&begun.ledger),
                seen,
            )));
        }
    }
    drop(in_turn);
    TURN.set(Some(Turn::Connection(begun)));
}

/// Whether the connection that is polled has begun streams.
fn are_begun() -> bool {
    TURN.with_borrow(|turn| match turn {
        Some(Turn::Connection(begun)) => !begun.streams.is_empty(),
        _ => false,
    })
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
        let turn = Turn::Stream(Arc::clone(&this.watch.ledger));
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
        sync::{
            Arc, Mutex,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
        task::{Wake, Waker},
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
        let (log, mut turns) = (Log::default(), 0);
        let polled = begun_streams().poll(&mut context(), |_| {
            turns += 1;
            if turns == 1 {
                for (name, waits) in [("a", 0), ("b", 2), ("c", 0)] {
                    StreamExecutor.execute(stream(Arc::clone(&log), name, waits));
                }
                assert!(taken(&log).is_empty(), "none is polled while others begin");
            }
            Poll::<()>::Pending
        });
        assert_eq!((polled, turns), (Poll::Pending, 2));
        assert_eq!(taken(&log), ["a done", "b 0", "c done"]);
        while !log.lock().expect("no panic").contains(&"b done".to_owned()) {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn streams_are_polled_when_all_that_was_asked_for_have_begun_and_wake_nobody() {
        #[derive(Default)]
        struct Woken(AtomicU32);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let (log, woken) = (Log::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut begun = begun_streams();
        let ledger = Arc::clone(&begun.ledger);
        // One more is asked for than begins in the first turn.
        for (asked, names, polls) in [(3, &["a", "b"][..], 2), (2, &["c", "d"], 1)] {
            let mut turns = 0;
            (0..asked).for_each(|_| ledger.ask());
            let _: Poll<()> = begun.poll(&mut Context::from_waker(&waker), |cx| {
                turns += 1;
                for name in names.iter().filter(|_| turns == 1) {
                    assert!(taken(&log).is_empty(), "none before all have begun");
                    let (log, connection) = (Arc::clone(&log), cx.waker().clone());
                    StreamExecutor.execute(async move {
                        connection.wake();
                        stream(log, name, 0).await;
                    });
                }
                Poll::Pending
            });
            let done: Vec<_> = names.iter().map(|name| format!("{name} done")).collect();
            assert_eq!((taken(&log), turns), (done, polls));
        }
        assert_eq!(woken.0.load(Relaxed), 0, "it was polled after them");
        let _: Poll<()> = begun.poll(&mut Context::from_waker(&waker), |cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(woken.0.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_no_other() {
        let (log, mut begin) = (Log::default(), true);
        let _: Poll<()> = begun_streams().poll(&mut context(), |_| {
            if mem::take(&mut begin) {
                StreamExecutor.execute(async { panic!("on purpose") });
                StreamExecutor.execute(stream(Arc::clone(&log), "next", 0));
            }
            Poll::Pending
        });
        assert_eq!(taken(&log), ["next done"]);
    }

    #[tokio::test]
    async fn a_connection_polled_within_another_leaves_the_streams_of_the_outer_one_alone() {
        let (log, mut begin) = (Log::default(), true);
        let _: Poll<()> = begun_streams().poll(&mut context(), |_| {
            if !mem::take(&mut begin) {
                return Poll::Pending;
            }
            StreamExecutor.execute(stream(Arc::clone(&log), "outer", 0));
            let mut begin = true;
            let _: Poll<()> = begun_streams().poll(&mut context(), |_| {
                if mem::take(&mut begin) {
                    StreamExecutor.execute(stream(Arc::clone(&log), "inner", 0));
                }
                Poll::Pending
            });
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _: Poll<()> = begun_streams().poll(&mut context(), |_| panic!("on purpose"));
            }));
            assert!(panicked.is_err());
            StreamExecutor.execute(stream(Arc::clone(&log), "outer too", 0));
            Poll::Pending
        });
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
            let mut turns = 0;
            let _: Poll<()> = begun_streams().poll(&mut context(), |_| {
                turns += 1;
                if turns == 1 {
                    StreamExecutor.execute(async {});
                }
                Poll::Pending
            });
            assert_eq!(turns == 2, here, "{workers} workers");
        }
    }
}

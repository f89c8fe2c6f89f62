//! What a connection and its streams know of each other.

use std::{
    cell::Cell,
    collections::HashMap,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};

use crate::connection::{
    policy::stream_rates::{Slow, StreamDebts, StreamRates},
    table::{budget::Budget, record::Record},
};

/// How much room a client has that says nothing of it.
const USUAL_WINDOW: u64 = 65_535;

/// One for each connection. Streams write it, on any thread; the connection reads it.
#[derive(Debug)]
pub(crate) struct Ledger {
    record: Arc<Record>,
    /// Streams whose heads the client has sent, or begun to.
    asked: AtomicU64,
    /// Pieces of answers that the service has made.
    pieces: AtomicU64,
    /// Bytes of `DATA` that were written.
    written: AtomicU64,
    /// Bytes of them.
    made: AtomicU64,
    /// How much the client takes of them all, from the beginning on, and how much of each stream at its beginning.
    window: AtomicU64,
    stream_window: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// The streams that wait for their client, or did, by numbers of ours.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    streams: HashMap<u64, Stream>,
    /// Bytes written when they were looked at last.
    written: u64,
}

#[derive(Debug)]
struct Stream {
    debts: StreamDebts,
    ends: Option<Slow>,
    task: Waker,
}

impl Ledger {
    pub(crate) fn new(record: Arc<Record>) -> Self {
        Self {
            record,
            asked: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            written: AtomicU64::new(0),
            made: AtomicU64::new(0),
            window: AtomicU64::new(USUAL_WINDOW),
            stream_window: AtomicU64::new(USUAL_WINDOW),
            waiting: Mutex::default(),
        }
    }

    /// How long a drain waits for the streams.
    pub(crate) fn budget(&self) -> Budget {
        self.record.budget()
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// The client asks for another stream. Only the connection writes.
    pub(crate) fn ask(&self) {
        self.asked.store(self.asked() + 1, Relaxed);
    }

    pub(crate) fn pieces(&self) -> u64 {
        self.pieces.load(Relaxed)
    }

    /// Of so many bytes. Whether the client takes them, and all before them, without having to make room.
    pub(crate) fn count_piece(&self, bytes: u64) -> bool {
        self.pieces.fetch_add(1, Relaxed);
        let made = self.made.fetch_add(bytes, Relaxed) + bytes;
        made <= self.window.load(Relaxed)
    }

    /// The client has made so much room for all streams. Only the connection writes.
    pub(crate) fn widen(&self, bytes: u64) {
        let window = self.window.load(Relaxed).saturating_add(bytes);
        self.window.store(window, Relaxed);
    }

    /// Only the connection writes.
    pub(crate) fn wrote(&self, bytes: u64) {
        let written = self.written.load(Relaxed) + bytes;
        self.written.store(written, Relaxed);
    }

    /// How much room a stream has at its beginning.
    pub(crate) fn stream_window(&self) -> u64 {
        self.stream_window.load(Relaxed)
    }

    pub(crate) fn set_stream_window(&self, bytes: u64) {
        self.stream_window.store(bytes, Relaxed);
    }

    /// Whether that is less than the protocol gives by itself.
    pub(crate) fn is_narrow(&self) -> bool {
        self.stream_window() < USUAL_WINDOW
    }

    /// Something of a stream is not sent yet.
    pub(crate) fn open(&self) {
        self.record.answers().wait_begins();
    }

    pub(crate) fn close(&self) {
        if self.record.answers().wait_ends() == 0 && !is_in_turn(self) {
            // The connection's task may have sent the last frame already, and would not look again.
            self.record.owner().wake();
        }
    }

    /// Notes what a stream that waits has come to; one that has no number gets one, if its client is waited for.
    pub(crate) fn note(
        &self,
        number: &mut Option<u64>,
        task: &Waker,
        note: impl FnOnce(&mut StreamDebts),
    ) {
        let mut waiting = self.lock();
        let known = number.and_then(|number| waiting.streams.get_mut(&number));
        if let Some(stream) = known {
            note(&mut stream.debts);
            return;
        }
        let mut debts = StreamDebts::default();
        note(&mut debts);
        if debts.waits() {
            waiting.last += 1;
            *number = Some(waiting.last);
            let stream = Stream {
                debts,
                ends: None,
                task: task.clone(),
            };
            let last = waiting.last;
            waiting.streams.insert(last, stream);
            self.record.answers().stream_waits();
        }
    }

    /// A stream is over.
    pub(crate) fn forget(&self, number: u64) {
        if self.lock().streams.remove(&number).is_some() {
            self.record.answers().stream_is_over();
        }
    }

    /// Whether a stream is to end, and why.
    pub(crate) fn end_of(&self, number: u64) -> Option<Slow> {
        self.lock().streams.get(&number)?.ends
    }

    /// Looks at all streams that wait for their client, and ends those whose client owes more than `grace`.
    pub(crate) fn judge(&self, rates: &StreamRates, elapsed: u64, grace: u64) {
        let mut waiting = self.lock();
        let all = self.written.load(Relaxed);
        let written = all - std::mem::replace(&mut waiting.written, all);
        for stream in waiting.streams.values_mut() {
            let slow = rates.judge(&mut stream.debts, elapsed, written, grace);
            stream.ends = stream.ends.or(slow);
        }
        let streams = waiting.streams.iter();
        let streams = streams.map(|(number, stream)| (*number, &stream.debts));
        for number in rates.surplus(streams, grace) {
            if let Some(stream) = waiting.streams.get_mut(&number) {
                stream.ends = Some(Slow::Read);
            }
        }
        let ends = waiting.streams.values().filter(|s| s.ends.is_some());
        let tasks: Vec<_> = ends.map(|stream| stream.task.clone()).collect();
        drop(waiting);
        tasks.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// Whose streams this thread polls in the turn of their connection.
    static IN_TURN: Cell<*const Ledger> = const { Cell::new(ptr::null()) };
}

/// While it lives this thread polls streams of one connection, which it polls itself after them: nobody need wake it.
pub(crate) struct InTurn {
    outer: *const Ledger,
}

impl InTurn {
    pub(crate) fn of(ledger: &Ledger) -> Self {
        let outer = IN_TURN.replace(ledger);
        Self { outer }
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        IN_TURN.set(self.outer);
    }
}

fn is_in_turn(ledger: &Ledger) -> bool {
    ptr::eq(IN_TURN.get(), ledger)
}

/// Wakes the task of a connection, but not from within its own turn.
pub(crate) struct TurnWaker {
    task: Waker,
    ledger: Arc<Ledger>,
}

impl TurnWaker {
    pub(crate) fn new(task: Waker, ledger: Arc<Ledger>) -> Self {
        Self { task, ledger }
    }
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !is_in_turn(&self.ledger) {
            self.task.wake_by_ref();
        }
    }
}

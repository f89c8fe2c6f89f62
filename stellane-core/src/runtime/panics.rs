//! What panics say, without anybody waiting for who reads it.
//!
//! std's own panic hook writes to stderr and waits for it: where that is a pipe that nobody reads, each panic of a handler
//! holds a thread of the runtime for ever. While a runtime has served, a hook of ours stands in its place: a panic becomes
//! a record with its route, written by a thread of its own.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    io::Write,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{Dispatch, Level, Span, dispatcher};

use crate::{catch_faults, logging};

/// The thread that writes.
const WRITER: &str = "stellane-panics";
/// So many records wait for the writer; what is more is left out and counted.
const MOST_WAITING: usize = 64;
/// So many are written each second.
const MOST_EACH_SECOND: u32 = 100;
/// How long a thread that panics waits for its record to be written: the process may be about to end. Once that was too
/// short, nobody waits until a record has been written again.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same within a task, which need not wait for long: the end of the service waits for its record, see [`flush`].
const PATIENCE_OF_TASKS: Duration = Duration::from_millis(100);

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

/// Replaces std's own hook for panics, for the process and for good, where handlers run: see [`is_ours`]. One that the
/// program has installed stays, and has to take care itself that it never waits.
pub(super) fn never_wait() {
    // Two at once would take each other's for the program's.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _alone = lock(&INSTALLING);
    let present = panic::take_hook();
    // What is there when none is set is std's.
    let std = panic::take_hook();
    panic::set_hook(match is_same(&present, &std) {
        true => Box::new(RECORDS.hook(std)),
        false => present,
    });
}

/// Waits for what tasks have left to be written, before the process ends: a backtrace takes its time.
pub(super) fn flush() {
    RECORDS.flush(PATIENCE);
}

/// Whether two hooks are one function: std makes its own from nothing each time, so that only the type tells. Should that
/// ever be made in two places of std, the hook in force is left alone.
fn is_same(one: &Hook, other: &Hook) -> bool {
    std::ptr::eq(&raw const **one, &raw const **other)
}

/// Tasks, the threads of the worker pool, and the thread that ends the process. On others std's hook has its say, and with
/// it what catches the output of a test.
fn is_ours() -> bool {
    let is_named = |name: &str| name == "main" || name.starts_with("stellane-");
    tokio::task::try_id().is_some() || thread::current().name().is_some_and(is_named)
}

static RECORDS: Records = Records::new();

/// Those that wait to be written: into whatever log there is, which may wait for somebody, or on stderr if there is none.
struct Records {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<Record>,
    /// Whether there is a thread that writes; it ends when nothing waits.
    is_writing: bool,
    taken: u64,
    written: u64,
    /// Whether somebody has waited in vain since the last one was written.
    is_stuck: bool,
    left_out: u64,
    second: Option<Instant>,
    in_second: u32,
}

struct Record {
    thread: String,
    message: String,
    location: String,
    route: Option<Arc<str>>,
    backtrace: Backtrace,
    span: Span,
    dispatch: Dispatch,
    /// It is not of a task, which ends neither its thread nor the process.
    may_be_the_last: bool,
}

impl Records {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                is_writing: false,
                taken: 0,
                written: 0,
                is_stuck: false,
                left_out: 0,
                second: None,
                in_second: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn hook(&'static self, std: Hook) -> impl Fn(&PanicHookInfo<'_>) + Sync + Send + 'static {
        move |info| {
            if !is_ours() {
                return std(info);
            }
            catch_faults::told();
            // A log that panics can't be told so.
            if thread::current().name() != Some(WRITER) && self.has_room() {
                self.add(Record::new(info));
            }
        }
    }

    /// Whether one more may be written; what may not is counted.
    fn has_room(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let is_new = |second| now.duration_since(second) >= Duration::from_secs(1);
        if state.second.is_none_or(is_new) {
            (state.second, state.in_second) = (Some(now), 0);
        }
        let has_room = state.waiting.len() < MOST_WAITING && state.in_second < MOST_EACH_SECOND;
        match has_room {
            true => state.in_second += 1,
            false => state.left_out += 1,
        }
        has_room
    }

    /// Has it written, and waits for that unless it takes long.
    fn add(&'static self, record: Record) {
        let patience = match record.may_be_the_last {
            true => PATIENCE,
            false => PATIENCE_OF_TASKS,
        };
        let mut state = self.state();
        state.waiting.push_back(record);
        state.taken += 1;
        let number = state.taken;
        if !state.is_writing {
            let writer = thread::Builder::new().name(WRITER.to_owned());
            state.is_writing = writer.spawn(|| self.write()).is_ok();
        }
        let unwritten =
            |state: &mut State| state.written < number && state.is_writing && !state.is_stuck;
        let waited = self.changed.wait_timeout_while(state, patience, unwritten);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            state.is_stuck = true;
        }
    }

    /// Waits for all that was taken so far to be written, unless it takes that long.
    fn flush(&self, patience: Duration) {
        let state = self.state();
        let number = state.taken;
        let unwritten = |state: &mut State| state.written < number && state.is_writing;
        drop(self.changed.wait_timeout_while(state, patience, unwritten));
    }

    /// Writes what waits.
    fn write(&self) {
        let mut state = self.state();
        while let Some(record) = state.waiting.pop_front() {
            let left_out = std::mem::take(&mut state.left_out);
            drop(state);
            let _ = panic::catch_unwind(AssertUnwindSafe(|| record.write(left_out)));
            state = self.state();
            state.written += 1;
            state.is_stuck = false;
            self.changed.notify_all();
        }
        state.is_writing = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Record {
    fn new(info: &PanicHookInfo<'_>) -> Self {
        let thread = thread::current();
        Self {
            thread: thread.name().unwrap_or("<unnamed>").to_owned(),
            message: catch_faults::message(info.payload()).to_owned(),
            location: info.location().map(ToString::to_string).unwrap_or_default(),
            route: stellane_metrics::current_route(),
            // Only if `RUST_BACKTRACE` asks for it.
            backtrace: Backtrace::capture(),
            span: Span::current(),
            dispatch: dispatcher::get_default(Clone::clone),
            may_be_the_last: tokio::task::try_id().is_none() || cfg!(panic = "abort"),
        }
    }

    /// Into the log; on stderr if that does not want it.
    fn write(self, left_out: u64) {
        let Self {
            thread,
            message,
            location,
            route,
            backtrace,
            span,
            dispatch,
            may_be_the_last,
        } = self;
        let has_backtrace = backtrace.status() == BacktraceStatus::Captured;
        let backtrace = has_backtrace.then_some(backtrace);
        let logged = dispatcher::with_default(&dispatch, || {
            let _entered = span.enter();
            let wanted = tracing::enabled!(target: "stellane::panic", Level::ERROR);
            if wanted {
                tracing::error!(
                    target: "stellane::panic",
                    thread,
                    location,
                    route = route.as_deref(),
                    left_out = (left_out > 0).then_some(left_out),
                    backtrace = backtrace.as_ref().map(tracing::field::display),
                    "panicked: {message}"
                );
            }
            wanted
        });
        if logged {
            if may_be_the_last {
                logging::flush();
            }
            return;
        }
        let route = route.as_ref().map(|route| format!(", route {route}"));
        let route = route.unwrap_or_default();
        let mut text = format!("\nthread '{thread}' panicked at {location}{route}:\n{message}\n");
        if let Some(backtrace) = backtrace {
            text += &format!("stack backtrace:\n{backtrace}\n");
        }
        if left_out > 0 {
            text += &format!("{left_out} records of panics before it are left out\n");
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::{Layer, Registry, layer::Context, prelude::*};

    use super::*;

    /// A log that takes longer for a line than a task waits.
    struct Slow(Arc<AtomicUsize>);

    impl Layer<Registry> for Slow {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, Registry>) {
            thread::sleep(2 * PATIENCE_OF_TASKS);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_end_waits_for_what_tasks_have_left_to_be_written() {
        let written = Arc::<AtomicUsize>::default();
        let log = Dispatch::new(Registry::default().with(Slow(Arc::clone(&written))));
        let records: &'static Records = Box::leak(Box::new(Records::new()));
        for number in 1..=3 {
            records.add(Record {
                thread: String::new(),
                message: format!("number {number}"),
                location: String::new(),
                route: None,
                backtrace: Backtrace::disabled(),
                span: Span::none(),
                dispatch: log.clone(),
                may_be_the_last: false,
            });
        }
        records.flush(Duration::from_secs(600));
        assert_eq!(written.load(Ordering::Relaxed), 3);
    }
}

//! A waker that remembers where it was last asked for.

use std::{
    backtrace::Backtrace,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

/// Whoever returns `Pending` has cloned the waker, or woken by it, within its poll, and so below the await in question.
#[derive(Debug, Default)]
pub(super) struct Spy {
    /// Only then: later it is the runtime that wakes.
    polling: AtomicBool,
    last: Mutex<Option<Backtrace>>,
}

impl Spy {
    pub(super) fn poll<F: Future>(
        self: &Arc<Self>,
        future: Pin<&mut F>,
        cx: &Context<'_>,
    ) -> Poll<F::Output> {
        // A new one for each poll, so that whoever has the one before clones this.
        let waker = SpyWaker::new(Arc::clone(self), cx.waker().clone());
        self.polling.store(true, Relaxed);
        let polled = future.poll(&mut Context::from_waker(&waker));
        self.polling.store(false, Relaxed);
        polled
    }

    fn look(&self) {
        if self.polling.load(Relaxed) {
            let trace = Backtrace::force_capture();
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(trace);
        }
    }

    /// From the await outward, up to where the future was polled from.
    pub(super) fn calls(&self) -> Vec<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .map_or_else(Vec::new, |trace| calls(&trace.to_string()))
    }
}

/// Those of a trace, without what is not of the program under test. A frame is a line `12: name`, and `at file:line:column`
/// in the next where that is known.
fn calls(trace: &str) -> Vec<String> {
    let mut frames: Vec<String> = Vec::new();
    for line in trace.lines().map(str::trim) {
        match (line.strip_prefix("at "), frames.last_mut()) {
            (Some(place), Some(frame)) => *frame = format!("{frame} at {place}"),
            _ => frames.push(
                line.split_once(": ")
                    .map_or(line, |(_, name)| name)
                    .to_owned(),
            ),
        }
    }
    let of_others = |frame: &String| {
        const PLACES: [&str; 2] = [" at /rustc/", "/registry/src/"];
        const NAMES: [&str; 6] = [
            "core::",
            "std::",
            "alloc::",
            "tokio::",
            "stellane_core::cancel_points::",
            "__",
        ];
        let name = frame.trim_start_matches('<');
        PLACES.iter().any(|place| frame.contains(place))
            || NAMES.iter().any(|crate_| name.starts_with(crate_))
    };
    let within = frames
        .iter()
        .position(|frame| frame.contains("Spy::look"))
        .map_or(0, |look| look + 1);
    let polled = |frame: &&String| !frame.contains("Spy::poll");
    frames[within..]
        .iter()
        .take_while(polled)
        .filter(|frame| !of_others(frame))
        .cloned()
        .collect()
}

struct SpyWaker {
    spy: Arc<Spy>,
    inner: Waker,
}

impl SpyWaker {
    /// `std::task::Wake` does not tell when its waker is cloned.
    const TABLE: RawWakerVTable =
        RawWakerVTable::new(Self::clone, Self::wake, Self::wake_by_ref, Self::release);

    #[allow(clippy::new_ret_no_self)]
    fn new(spy: Arc<Spy>, inner: Waker) -> Waker {
        let this = Arc::into_raw(Arc::new(Self { spy, inner }));
        // SAFETY: the functions of the table treat the pointer as that `Arc`, which may be sent and shared; each waker has one
        // of its references.
        unsafe { Waker::from_raw(RawWaker::new(this.cast(), &Self::TABLE)) }
    }

    unsafe fn clone(this: *const ()) -> RawWaker {
        let this = this.cast::<Self>();
        // SAFETY: the pointer is of `Arc::into_raw`, and the waker that is cloned has a reference.
        unsafe {
            (*this).spy.look();
            Arc::increment_strong_count(this);
        }
        RawWaker::new(this.cast(), &Self::TABLE)
    }

    unsafe fn wake(this: *const ()) {
        // SAFETY: as above; the reference is taken from the waker.
        let this = unsafe { Arc::from_raw(this.cast::<Self>()) };
        this.spy.look();
        this.inner.wake_by_ref();
    }

    unsafe fn wake_by_ref(this: *const ()) {
        // SAFETY: as above; the waker keeps its reference.
        let this = unsafe { &*this.cast::<Self>() };
        this.spy.look();
        this.inner.wake_by_ref();
    }

    unsafe fn release(this: *const ()) {
        // SAFETY: as above; the reference is taken from the waker.
        drop(unsafe { Arc::from_raw(this.cast::<Self>()) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// For Miri: each way of the table, and every reference given back.
    #[test]
    fn clones_wake_and_keep_nothing() {
        let (count, spy) = (Arc::new(Count::default()), Arc::new(Spy::default()));
        let mut kept = None;
        let polled = std::pin::pin!(std::future::poll_fn(|cx| {
            kept = Some(cx.waker().clone());
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let outer = Waker::from(Arc::clone(&count));
        assert!(spy.poll(polled, &Context::from_waker(&outer)).is_pending());
        let kept = kept.expect("it was polled");
        std::thread::spawn(move || {
            let other = kept.clone();
            kept.wake();
            drop(other);
        })
        .join()
        .expect("it does not panic");
        drop(outer);
        assert_eq!(count.0.load(Relaxed), 2);
        assert_eq!((Arc::strong_count(&count), Arc::strong_count(&spy)), (1, 1));
    }

    #[test]
    fn calls_are_those_of_the_program() {
        let trace = "   0: stellane_core::cancel_points::spy::Spy::look\n             at /src/cancel_points/spy.rs:1:2\n   \
                     1: tokio::sync::mutex::lock\n   2: app::insert::{{closure}}\n             at ./src/main.rs:3:4\n   \
                     3: axum::handler\n             at /home/me/.cargo/registry/src/axum/handler.rs:5:6\n   \
                     4: <core::pin::Pin<P> as core::future::Future>::poll\n             at /rustc/x/library/core/src/future.rs:7:8\n   \
                     5: app::outer\n   6: stellane_core::cancel_points::spy::Spy::poll\n   7: app::main\n";
        let found = [
            "app::insert::{{closure}} at ./src/main.rs:3:4",
            "app::outer",
        ];
        assert_eq!(calls(trace), found);
    }
}

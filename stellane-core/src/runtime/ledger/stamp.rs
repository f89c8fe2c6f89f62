//! A waker that says when it woke.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
    },
    task::{Wake, Waker},
};

use stellane_metrics::embed::Ticks;

/// When the request was first woken since its last poll, and whom to wake.
///
/// The handler gets the waker of this instead of that of its task. It lies with what is kept for the request, and who
/// waits counts a reference: nothing is allocated.
pub(super) struct Stamp {
    ticks: Ticks,
    /// A reading of the clock, or [`ASLEEP`].
    ///
    /// Every wake changes it, also one that comes second: the poll that takes it must see what the wake was for.
    woken: AtomicU64,
    /// Held for a few instructions, by one that waits or one that wakes it.
    task: Mutex<Option<Waker>>,
}

const ASLEEP: u64 = u64::MAX;

impl Stamp {
    pub(super) fn new(ticks: Ticks) -> Arc<Self> {
        Arc::new(Self {
            ticks,
            woken: AtomicU64::new(ASLEEP),
            task: Mutex::new(None),
        })
    }

    /// When it was woken since this was asked last.
    pub(super) fn take(&self) -> Option<u64> {
        let woken = self.woken.swap(ASLEEP, AcqRel);
        (woken != ASLEEP).then_some(woken)
    }

    /// Whether it was woken since that was taken.
    #[inline]
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Acquire) != ASLEEP
    }

    /// The request waits. A wake that came before it could be heard is passed on.
    pub(super) fn hear(&self, waker: &Waker) {
        let mut task = self.task();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let old = task.replace(waker.clone());
            drop(task);
            // What a waker does when it is dropped is its own.
            drop(old);
        } else {
            drop(task);
        }
        if self.is_woken() {
            waker.wake_by_ref();
        }
    }

    /// For the next request, if nobody holds a waker of this one but who lends it. The task is let go.
    pub(super) fn is_free(self: &Arc<Self>) -> bool {
        drop(self.task().take());
        Arc::strong_count(self) == 2
    }

    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.fetch_min(self.ticks.now(), AcqRel);
        let task = self.task().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stamp").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::mpsc,
        task::{Context, Poll},
    };

    use stellane_metrics::HttpMetrics;

    use super::*;

    /// Wakes come while the request is polled, before and after it says that it waits.
    #[test]
    fn wakes_of_other_threads_are_not_lost() {
        let ticks = HttpMetrics::builder().build().expect("valid").ticks();
        let stamp = Stamp::new(ticks);
        let (tell, told) = mpsc::channel::<Waker>();
        let waking = std::thread::spawn(move || told.into_iter().for_each(Waker::wake));
        let lent = Waker::from(Arc::clone(&stamp));
        let mut left = 20_000;
        let waits = poll_fn(|cx| {
            stamp.take();
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            let within = Context::from_waker(&lent);
            // Twice, the second time by whoever is later.
            for _ in 0..2 {
                tell.send(within.waker().clone()).expect("is there");
            }
            stamp.hear(cx.waker());
            Poll::Pending
        });
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(waits);
        drop(tell);
        waking.join().expect("no panic");
        drop(lent);
        assert_eq!(Arc::strong_count(&stamp), 1);
    }
}

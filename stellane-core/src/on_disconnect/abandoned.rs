//! What goes on without its client.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::After;

/// Counts the handlers that go on without their clients, and waits for them; a cheap handle.
#[derive(Clone)]
pub struct Abandoned(Arc<Inner>);

struct Inner {
    most: usize,
    running: AtomicUsize,
    /// Notified when one ends.
    ended: Notify,
    stop: CancellationToken,
    ends: [AtomicU64; End::ALL.len()],
}

/// How one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    TimedOut,
    Stopped,
    Panicked,
    Refused,
}

impl End {
    const ALL: [Self; 5] = [
        Self::Finished,
        Self::TimedOut,
        Self::Stopped,
        Self::Panicked,
        Self::Refused,
    ];
}

/// What [`Abandoned`] has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AbandonedStats {
    /// Handlers that go on without their clients now.
    pub running: u64,
    /// Those that came to their end.
    pub finished_total: u64,
    /// Those that were dropped when their time was over.
    pub timed_out_total: u64,
    /// Those that were dropped since the drain did not wait longer, or the runtime ended.
    pub stopped_total: u64,
    /// Those that panicked.
    pub panicked_total: u64,
    /// Those that were dropped at once, since too many ran, or there was no runtime.
    pub refused_total: u64,
}

impl AbandonedStats {
    /// How many ended since then, of those that were let go on.
    #[cfg(feature = "connection")]
    pub(crate) fn ended_since(&self, before: &Self) -> u64 {
        let ended = |stats: &Self| {
            let on_its_own = stats.finished_total + stats.panicked_total;
            on_its_own + stats.timed_out_total + stats.stopped_total
        };
        ended(self) - ended(before)
    }
}

impl Abandoned {
    /// So many at most at a time; those beyond are cancelled.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner {
            most,
            running: AtomicUsize::new(0),
            ended: Notify::new(),
            stop: CancellationToken::new(),
            ends: Default::default(),
        }))
    }

    /// The counts so far.
    #[must_use]
    pub fn stats(&self) -> AbandonedStats {
        let of = |end: End| self.0.ends[end as usize].load(Relaxed);
        AbandonedStats {
            running: self.running() as u64,
            finished_total: of(End::Finished),
            timed_out_total: of(End::TimedOut),
            stopped_total: of(End::Stopped),
            panicked_total: of(End::Panicked),
            refused_total: of(End::Refused),
        }
    }

    /// Waits until none goes on, no longer than that, and drops those that are left; whether there were none. To be called
    /// when the server has ended: a connection that ends later may leave another one, which is dropped.
    pub async fn drain(&self, timeout: Duration) -> bool {
        let in_time = tokio::time::timeout(timeout, self.none_runs())
            .await
            .is_ok();
        self.0.stop.cancel();
        self.none_runs().await;
        in_time
    }

    pub(crate) fn running(&self) -> usize {
        self.0.running.load(Relaxed)
    }

    pub(crate) async fn none_runs(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.running() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Lets `future`, which was polled and waits, go on in a task of this runtime, until its time is over or `stopped`
    /// resolves.
    pub(crate) fn adopt(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
        after: &After,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) {
        if let Some(client) = &after.client {
            client.0.cancel();
        }
        let running = Running::of(&self.0);
        let (true, Ok(runtime)) = (running.is_allowed(), Handle::try_current()) else {
            return running.ended(End::Refused);
        };
        let within = after.within;
        let stop = self.0.stop.clone();
        let task = async move {
            tokio::select! {
                biased;
                () = future => running.ended(End::Finished),
                () = tokio::time::sleep(within) => running.ended(End::TimedOut),
                () = stop.cancelled() => running.ended(End::Stopped),
                () = stopped => running.ended(End::Stopped),
            }
        };
        // A runtime that is ending drops it at once.
        runtime.spawn(task.in_current_span());
    }
}

impl Default for Abandoned {
    /// At most 1024.
    fn default() -> Self {
        Self::new(1024)
    }
}

impl fmt::Debug for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Abandoned").field(&self.stats()).finish()
    }
}

/// One that goes on. It says how it ended, also when its task is dropped or panics.
struct Running {
    inner: Arc<Inner>,
    end: End,
    before: usize,
}

impl Running {
    fn of(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            end: End::Stopped,
            before: inner.running.fetch_add(1, Relaxed),
        }
    }

    fn ended(mut self, end: End) {
        self.end = end;
    }

    fn is_allowed(&self) -> bool {
        self.before < self.inner.most && !self.inner.stop.is_cancelled()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let end = match self.end {
            End::Stopped if std::thread::panicking() => End::Panicked,
            end => end,
        };
        self.inner.ends[end as usize].fetch_add(1, Relaxed);
        self.inner.running.fetch_sub(1, Relaxed);
        self.inner.ended.notify_waiters();
    }
}

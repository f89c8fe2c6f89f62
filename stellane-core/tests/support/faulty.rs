//! A transport that does what it likes, from a seed.

#[path = "random.rs"]
mod random;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

pub(crate) use random::Random;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    time::{Sleep, sleep},
};

impl Random {
    pub(crate) fn millis(&mut self, n: usize) -> Duration {
        Duration::from_millis(self.below(n) as u64)
    }
}

/// What a simulation had to bear, to prove that the faults were not idle.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) short: u64,
    pub(crate) pending: u64,
    pub(crate) resets: u64,
}

/// The server's end of a connection: it reads and writes less than it could, makes wait for nothing, and
/// fails.
pub(crate) struct Faulty {
    inner: DuplexStream,
    random: Random,
    faults: Arc<Mutex<Faults>>,
    /// One in so many calls has to wait; 0 for none.
    waits: usize,
    /// How many bytes go through at once, at most.
    at_once: usize,
    /// How many bytes go through before it is reset.
    left: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Faulty {
    /// One of many kinds of bad transport; `left` is how many bytes go through before it is reset.
    pub(crate) fn new(
        inner: DuplexStream,
        seed: u64,
        left: usize,
        faults: &Arc<Mutex<Faults>>,
    ) -> Self {
        let mut random = Random::new(seed);
        Self {
            inner,
            faults: Arc::clone(faults),
            waits: [0, 3, 10, 50][random.below(4)],
            at_once: [1 << 20, 1000, 100][random.below(3)],
            left,
            pause: None,
            random,
        }
    }

    /// How many bytes may go through now, of so many.
    fn poll_fate(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        } else if self.waits > 0 && self.random.below(self.waits) == 0 {
            self.faults().pending += 1;
            if self.random.below(4) > 0 {
                // A storm: woken at once, for nothing.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut pause = Box::pin(sleep(self.random.millis(400)));
            if pause.as_mut().poll(cx).is_pending() {
                self.pause = Some(pause);
                return Poll::Pending;
            }
        }
        if self.left == 0 {
            self.faults().resets += 1;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let n = 1 + self.random.below(self.at_once);
        if n < wanted {
            self.faults().short += 1;
        }
        Poll::Ready(Ok(n.min(wanted).min(self.left)))
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().expect("no panic")
    }
}

impl AsyncRead for Faulty {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let n = std::task::ready!(this.poll_fate(cx, buffer.remaining()))?;
        let mut piece = vec![0; n];
        let mut piece = ReadBuf::new(&mut piece);
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
        this.left -= piece.filled().len();
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = std::task::ready!(this.poll_fate(cx, buffer.len()))?;
        let n = std::task::ready!(Pin::new(&mut this.inner).poll_write(cx, &buffer[..n]))?;
        this.left -= n;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.poll_fate(cx, 0))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Runs one simulation after the other, each in a runtime with a clock of its own, and says which one failed.
pub(crate) fn simulate_all<T>(count: u64, simulate: impl AsyncFn(u64) -> T) -> Vec<T> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let seeds = match number("STELLANE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STELLANE_SIMULATIONS").unwrap_or(count),
    };
    seeds
        .map(|seed| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let simulated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(simulate(seed))
            }));
            simulated.unwrap_or_else(|panic| {
                eprintln!("STELLANE_SEED={seed} shows it again");
                std::panic::resume_unwind(panic);
            })
        })
        .collect()
}

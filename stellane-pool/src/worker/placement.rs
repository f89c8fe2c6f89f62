use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

/// Where the calls of a [`WorkerPoolLayer`](super::WorkerPoolLayer) run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placed {
    /// Where they are called.
    Inline,
    /// On the pool.
    Pool,
}

/// A route with a [threshold](super::WorkerPoolLayer::threshold) has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// The name of the layer's class.
    pub class: Arc<str>,
    /// Where its calls run from now on.
    pub to: Placed,
    /// The longest poll of the call that decided it.
    pub poll: Duration,
}

/// Decides for one route whether its calls are worth moving. A call is as long as its longest poll: that is
/// what others have to wait for.
pub(super) struct Placement {
    class: Arc<str>,
    threshold: Duration,
    pooled: AtomicBool,
    /// The share of calls above the threshold, smoothed; in units of 1/65536.
    slow: AtomicU32,
    /// Calls below a quarter of the threshold, in a row.
    short: AtomicU32,
    on_move: Box<dyn Fn(&Moved) + Send + Sync>,
}

impl Placement {
    /// One call in eight.
    const TOO_MANY: u32 = 65_536 / 8;
    /// Calls that show a route to be short again: moving to and fro helps nobody.
    const ENOUGH: u32 = 1000;

    pub(super) fn new(
        class: Arc<str>,
        threshold: Duration,
        on_move: Box<dyn Fn(&Moved) + Send + Sync>,
    ) -> Self {
        Self {
            class,
            threshold,
            pooled: AtomicBool::new(false),
            slow: AtomicU32::new(0),
            short: AtomicU32::new(0),
            on_move,
        }
    }

    pub(super) fn placed(&self) -> Placed {
        if self.pooled.load(Relaxed) {
            Placed::Pool
        } else {
            Placed::Inline
        }
    }

    /// A call has ended whose longest poll took so long.
    pub(super) fn record(&self, poll: Duration) {
        if self.pooled.load(Relaxed) {
            if poll >= self.threshold / 4 {
                self.short.store(0, Relaxed);
            } else if self.short.fetch_add(1, Relaxed) + 1 == Self::ENOUGH {
                self.slow.store(0, Relaxed);
                self.move_to(false, poll);
            }
            return;
        }
        let slow = self.slow.load(Relaxed);
        if poll < self.threshold {
            // Most calls are short, of a route that has always been.
            if slow > 0 {
                self.slow.store(slow - slow.div_ceil(64), Relaxed);
            }
            return;
        }
        // A call that takes ten times as long as it may counts for ten.
        let times = (poll.as_nanos() / self.threshold.as_nanos().max(1)).min(64) as u32;
        let slow = (slow + times * (65_536 - slow) / 64).min(65_536);
        self.slow.store(slow, Relaxed);
        if slow > Self::TOO_MANY {
            self.short.store(0, Relaxed);
            self.move_to(true, poll);
        }
    }

    fn move_to(&self, pooled: bool, poll: Duration) {
        if self.pooled.swap(pooled, Relaxed) != pooled {
            (self.on_move)(&Moved {
                class: Arc::clone(&self.class),
                to: self.placed(),
                poll,
            });
        }
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("threshold", &self.threshold)
            .field("placed", &self.placed())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// A call whose polls are measured.
    #[derive(Debug)]
    pub(super) struct Measured<F> {
        #[pin]
        future: F,
        longest: Duration,
        placement: Option<Arc<Placement>>,
    }
}

impl<F> Measured<F> {
    /// `begun` is how long it took to make the future.
    pub(super) const fn new(future: F, begun: Duration, placement: Option<Arc<Placement>>) -> Self {
        Self {
            future,
            longest: begun,
            placement,
        }
    }
}

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(placement) = this.placement else {
            return this.future.poll(cx);
        };
        let began = Instant::now();
        let polled = this.future.poll(cx);
        *this.longest = began.elapsed().max(*this.longest);
        if polled.is_ready() {
            placement.record(*this.longest);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_route_moves_when_it_is_slow_and_back_when_it_has_long_been_short() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&said);
        let placement = Placement::new(
            "/report".into(),
            Duration::from_micros(200),
            Box::new(move |moved| log.lock().expect("not poisoned").push(moved.to)),
        );
        let micros = |n| placement.record(Duration::from_micros(n));
        for call in 0..10_000 {
            micros(if call % 20 == 0 { 250 } else { 10 });
        }
        assert_eq!(placement.placed(), Placed::Inline, "one in twenty is slow");
        (0..20).for_each(|_| micros(250));
        assert_eq!(placement.placed(), Placed::Pool);
        (0..10_000).for_each(|_| micros(100));
        assert_eq!(placement.placed(), Placed::Pool, "not short enough");
        (0..1000).for_each(|_| micros(10));
        assert_eq!(placement.placed(), Placed::Inline);
        micros(20_000);
        assert_eq!(placement.placed(), Placed::Pool, "at once");
        assert_eq!(
            *said.lock().expect("not poisoned"),
            [Placed::Pool, Placed::Inline, Placed::Pool]
        );
    }
}

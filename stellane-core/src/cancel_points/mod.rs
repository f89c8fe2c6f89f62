//! [`CancelPoints`]: a test that drops a future at each of its awaits, and checks what it leaves behind.
//!
//! A client that leaves, a timeout, a `select!`: each drops a future where it stands. What stood between two writes then has
//! done one of them. Such a fault is hard to find by hand, since most awaits are ready at once and nobody ever leaves just
//! there. For any program on tokio, in any test; nothing else of this crate is needed:
//!
//! ```toml
//! [dev-dependencies]
//! stellane-core = { version = "0.1", default-features = false, features = ["cancel-points"] }
//! ```
//!
//! ```
//! use std::sync::Arc;
//!
//! use stellane_core::cancel_points::{CancelPoints, Points};
//! use tokio::sync::Mutex;
//!
//! #[derive(Default)]
//! struct Orders {
//!     orders: Mutex<Vec<u32>>,
//!     items: Mutex<Vec<(u32, &'static str)>>,
//! }
//!
//! impl Orders {
//!     async fn place(&self, id: u32) {
//!         self.orders.lock().await.push(id);
//!         self.items.lock().await.push((id, "a book"));
//!     }
//!
//!     async fn check(&self) -> Result<(), &'static str> {
//!         let (orders, items) = (self.orders.lock().await.len(), self.items.lock().await.len());
//!         if orders == items { Ok(()) } else { Err("an order without items") }
//!     }
//! }
//!
//! let report = CancelPoints::at(Points::Operations).run(async || {
//!     let orders = Arc::new(Orders::default());
//!     let future = { let orders = Arc::clone(&orders); async move { orders.place(7).await } };
//!     (future, async move || orders.check().await)
//! });
//! // Dropped before the first lock, all is well; dropped between the two, it is not.
//! assert_eq!((report.points, report.failures.len()), (2, 1));
//! assert_eq!(report.failures[0].message, "an order without items");
//! ```
//!
//! A test calls [`assert`](CancelPoints::assert), which fails with the point, what the check says, and the line of the await:
//!
//! ```text
//! 1 of 2 points: cancelled at point 2: an order without items
//!     in orders::Orders::place::{async_fn#0} at ./src/orders.rs:16:26
//! ```
//!
//! # Limits
//!
//! - It is as deterministic as the future: `tokio::select!` without `biased` takes its order at random.
//! - What knows nothing of tokio's budget (channels of other crates, fakes) has no point unless it really waits: wrap it in
//!   [`tokio::task::coop::cooperative`].
//! - Time is paused: a wait for time is over at once. What waits for another process takes real time, and a timeout around it
//!   is over at once, too: see [`real_time`](CancelPoints::real_time).
//! - What has begun on a thread by `spawn_blocking` runs on when its handle is dropped. So it does in production.
//! - The body of a request that is there at once is one point; give it in pieces to have more.

mod polls;
mod spy;

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
};

use self::{polls::Reached, spy::Spy};

/// Where a future is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Points {
    /// Wherever it really waits.
    Waits,
    /// Between any two of its operations on what tokio has (locks, channels, sockets, timers, tasks, and what is wrapped in
    /// [`cooperative`](tokio::task::coop::cooperative)), also where all of them are ready at once.
    Operations,
}

/// What was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// How many points the future has; at each of them it was dropped once.
    pub points: usize,
    /// Those whose check failed.
    pub failures: Vec<Failure>,
    /// Whether it has more points than [`CancelPoints::most`], at which it was not dropped.
    pub cut: bool,
}

/// A point whose check failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Counted from 1. One more than there are points if the future was not dropped at all.
    pub point: usize,
    /// What the check says.
    pub message: String,
    /// The calls that lead to the await, the innermost first, without those of the standard library and of crates from a
    /// registry. Files and lines are in it where the program has debug information.
    pub at: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cancelled at point {}: {}", self.point, self.message)?;
        self.at.iter().try_for_each(|at| write!(f, "\n    in {at}"))
    }
}

/// Drops a future at each of its points: see the [module](self).
///
/// ```
/// use stellane_core::cancel_points::{CancelPoints, Points};
///
/// let report = CancelPoints::at(Points::Operations).run(async || {
///     let future = tokio::time::sleep(std::time::Duration::from_secs(1));
///     (future, async || Ok::<_, &str>(()))
/// });
/// assert!(report.failures.is_empty());
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct CancelPoints {
    points: Points,
    most: usize,
    real_time: bool,
}

impl CancelPoints {
    /// Drops it there.
    pub const fn at(points: Points) -> Self {
        Self {
            points,
            most: 1000,
            real_time: false,
        }
    }

    /// At how many points it is dropped at most. Default: 1000. Each costs a run up to it.
    pub const fn most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// Time is not paused: for what waits for another process, such as a database. A future that waits for ever is then
    /// waited for, for ever.
    pub const fn real_time(mut self) -> Self {
        self.real_time = true;
        self
    }

    /// Runs `scene` again and again, each time in a runtime of its own with one thread. It makes a future and a check. The
    /// future is dropped at its first, its second, … its last point, and in the last run not at all; what it has spawned runs
    /// until it waits; then the check says what is wrong. A future that waits for what never comes has its last point there.
    ///
    /// # Panics
    /// If there can be no runtime, or where `scene`, the future or the check panics.
    pub fn run<Scene, F, C, E>(&self, mut scene: Scene) -> Report
    where
        Scene: AsyncFnMut() -> (F, C),
        F: Future,
        C: AsyncFnOnce() -> Result<(), E>,
        E: fmt::Display,
    {
        let mut report = Report {
            points: 0,
            failures: Vec::new(),
            cut: false,
        };
        loop {
            let point = report.points + 1;
            report.cut = point > self.most;
            if report.cut {
                return report;
            }
            let spy = Arc::new(Spy::default());
            let (reached, checked) = self.runtime().block_on(async {
                let (future, check) = scene().await;
                let reached = self.poll(pin!(future), point, &spy).await;
                polls::settle().await;
                (reached, check().await)
            });
            if reached == Reached::Nothing && self.points == Points::Waits {
                return report; // it was dropped there before
            }
            if let Err(error) = checked {
                let not_cancelled = match reached {
                    Reached::End => " (it was not cancelled)",
                    Reached::Point | Reached::Nothing => "",
                };
                report.failures.push(Failure {
                    point,
                    message: format!("{error}{not_cancelled}"),
                    at: spy.calls(),
                });
            }
            if reached != Reached::End {
                report.points = point;
            }
            if reached != Reached::Point {
                return report;
            }
        }
    }

    /// As [`run`](Self::run), for a test.
    ///
    /// # Panics
    /// If a check failed, with the first point where it did; if there is no point at all, since such a test would prove
    /// nothing; if there are more than [`most`](Self::most).
    #[track_caller]
    pub fn assert<Scene, F, C, E>(&self, scene: Scene)
    where
        Scene: AsyncFnMut() -> (F, C),
        F: Future,
        C: AsyncFnOnce() -> Result<(), E>,
        E: fmt::Display,
    {
        let report = self.run(scene);
        if let Some(first) = report.failures.first() {
            panic!(
                "{} of {} points: {first}",
                report.failures.len(),
                report.points
            );
        }
        assert!(
            !report.cut,
            "more than {} points: see `CancelPoints::most`",
            self.most
        );
        assert!(
            report.points > 0,
            "the future has no point where it can be cancelled ({:?}), so that nothing was tested",
            self.points
        );
    }

    fn runtime(&self) -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(!self.real_time)
            // What was begun on a thread before is done when something later is.
            .max_blocking_threads(1)
            .build()
            .expect("a runtime of tokio")
    }

    /// Drops the future at that point.
    async fn poll<F: Future>(&self, future: Pin<&mut F>, point: usize, spy: &Arc<Spy>) -> Reached {
        let polled = async {
            match self.points {
                Points::Waits => polls::until_wait(future, point, spy).await,
                Points::Operations => polls::until_operation(future, point, spy).await,
            }
        };
        if self.real_time {
            return polled.await;
        }
        polls::or_nothing_happens(polled).await
    }
}

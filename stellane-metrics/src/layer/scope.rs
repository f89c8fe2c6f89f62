//! The request that this thread is polling, so that an inner layer can name its route.

use std::{
    cell::Cell,
    fmt, ptr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use crate::requests::{PollCell, Recording, Table};

/// What inner layers told about the request being polled.
struct Scope {
    table: Cell<Option<&'static Table>>,
    route: Cell<u32>,
    /// Whose request what is in [`REQUEST_BYTES`] counts.
    counts_for: Cell<Option<&'static Table>>,
    /// Where this thread says what it polls, and of which table that is.
    polls: Cell<(Option<&'static Table>, &'static PollCell)>,
}

/// Until a thread polls for the first time, and while its thread-locals are torn down. Nobody looks here.
static NOWHERE: PollCell = PollCell::new();

impl Scope {
    #[inline]
    fn polls_of(&self, table: &'static Table) -> &'static PollCell {
        match self.polls.get() {
            (Some(known), cell) if ptr::eq(known, table) => cell,
            _ => {
                let cell = table.poll_cell();
                self.polls.set((Some(table), cell));
                cell
            }
        }
    }

    /// The counter that an inner [`RequestBytesLayer`](crate::RequestBytesLayer) left for the request of this table that just ran.
    #[inline]
    fn take_counter(&self, table: &'static Table) -> Option<Arc<AtomicU64>> {
        self.counts_for.get().filter(|of| ptr::eq(*of, table))?;
        self.counts_for.set(None);
        REQUEST_BYTES.try_with(Cell::take).ok().flatten()
    }
}

thread_local! {
    static SCOPE: Scope = const {
        Scope {
            table: Cell::new(None),
            route: Cell::new(0),
            counts_for: Cell::new(None),
            polls: Cell::new((None, &NOWHERE)),
        }
    };
    /// The counter of a streamed request body. Apart, since what has to be dropped costs a look at every access.
    static REQUEST_BYTES: Cell<Option<Arc<AtomicU64>>> = const { Cell::new(None) };
}

/// Sets the route of the request that is being called or polled on this thread, for the innermost [`MetricsLayer`](crate::MetricsLayer) around.
///
/// Takes the template, never the path. The last call wins. Outside of a `MetricsLayer` it does nothing: in
/// particular in a task or thread that the handler started. Allocates the first time a template is seen only.
///
/// ```
/// stellane_metrics::label_route("/users/{id}");
/// ```
#[inline]
pub fn label_route(template: &str) {
    let _ = SCOPE.try_with(|scope| {
        if let Some(table) = scope.table.get() {
            let route = table.route_id(template);
            scope.route.set(route);
            scope.polls_of(table).name(route);
        }
    });
}

/// The route that [`label_route`] gave the request that is being called or polled on this thread.
///
/// `None` before it is named, and outside of a [`MetricsLayer`](crate::MetricsLayer).
#[must_use]
pub fn current_route() -> Option<&'static str> {
    SCOPE
        .try_with(|scope| scope.table.get()?.template(scope.route.get()))
        .ok()
        .flatten()
}

/// Hands the counter of a streamed request body to the request being called or polled.
pub(super) fn count_request_bytes() -> Option<Arc<AtomicU64>> {
    SCOPE
        .try_with(|scope| {
            let table = scope.table.get()?;
            let counter = Arc::new(AtomicU64::new(0));
            let left = Some(Arc::clone(&counter));
            REQUEST_BYTES.try_with(|bytes| bytes.set(left)).ok()?;
            scope.counts_for.set(Some(table));
            Some(counter)
        })
        .ok()
        .flatten()
}

/// The request that is being called or polled on a thread, to be taken along to another: for pools that run it there.
///
/// ```
/// use stellane_metrics::RequestScope;
///
/// # fn main() {
/// if let Some(scope) = RequestScope::current() {
///     std::thread::scope(|threads| {
///         threads.spawn(|| scope.run(&mut || stellane_metrics::label_route("/report")));
///     });
///     // The route that was named there counts here.
///     scope.hand_back();
/// }
/// # }
/// ```
///
/// What is not taken along: how long a poll takes there ([`HttpMetrics::running_polls`](crate::HttpMetrics::running_polls)
/// is about the threads that serve), and the size of a request body that a
/// [`RequestBytesLayer`](crate::RequestBytesLayer) behind the pool counts: put that layer before it.
pub struct RequestScope {
    table: &'static Table,
    route: AtomicU32,
}

impl RequestScope {
    /// That of this thread, inside of a [`MetricsLayer`](crate::MetricsLayer).
    #[must_use]
    pub fn current() -> Option<Self> {
        SCOPE
            .try_with(|scope| {
                let table = scope.table.get()?;
                let route = AtomicU32::new(scope.route.get());
                Some(Self { table, route })
            })
            .ok()
            .flatten()
    }

    /// Runs `inside` as if it ran on the thread that this was taken from: [`label_route`] names the route of the request,
    /// [`current_route`] tells it.
    pub fn run(&self, inside: &mut dyn FnMut()) {
        let outer = SCOPE.try_with(|scope| {
            let route = self.route.load(Relaxed);
            (
                scope.table.replace(Some(self.table)),
                scope.route.replace(route),
            )
        });
        let _inside = outer.ok().map(|outer| InScope { scope: self, outer });
        inside();
    }

    /// Back on the first thread: the route that was named meanwhile is that of the request.
    pub fn hand_back(&self) {
        let _ = SCOPE.try_with(|scope| match scope.table.get() {
            Some(table) if ptr::eq(table, self.table) => scope.route.set(self.route.load(Relaxed)),
            _ => {}
        });
    }
}

impl fmt::Debug for RequestScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScope")
            .field("route", &self.table.template(self.route.load(Relaxed)))
            .finish_non_exhaustive()
    }
}

/// Puts back what was there, also after a panic.
struct InScope<'a> {
    scope: &'a RequestScope,
    outer: (Option<&'static Table>, u32),
}

impl Drop for InScope<'_> {
    fn drop(&mut self) {
        let (table, route) = self.outer;
        let _ = SCOPE.try_with(|scope| {
            scope.table.set(table);
            self.scope.route.store(scope.route.replace(route), Relaxed);
            drop(scope.take_counter(self.scope.table));
        });
    }
}

/// Makes the request of `recording` the current one until [`Entered::leave`]. If what runs between panics instead,
/// so says the record. No closure: that would move a request, or a response, once more.
#[inline]
pub(crate) fn enter(recording: &mut Recording) -> Entered<'_> {
    let (table, route) = (recording.table(), recording.route);
    let (outer, poll) = SCOPE
        .try_with(|scope| {
            let poll = scope.polls_of(table);
            poll.begin(route);
            let outer = (scope.table.replace(Some(table)), scope.route.replace(route));
            (outer, poll)
        })
        .unwrap_or(((None, 0), &NOWHERE));
    Entered {
        recording,
        outer,
        poll,
    }
}

/// While it lives, what runs on this thread belongs to a [`Recording`]; made by [`Recording::enter`].
///
/// Dropped instead of [left](Self::leave), as by a panic, it says that what ran has panicked.
#[must_use = "a drop instead of `leave` counts as a panic"]
pub struct Entered<'a> {
    recording: &'a mut Recording,
    outer: (Option<&'static Table>, u32),
    poll: &'static PollCell,
}

impl Entered<'_> {
    /// What ran has returned.
    #[inline]
    pub fn leave(mut self) {
        self.restore();
        std::mem::forget(self);
    }

    #[inline]
    fn restore(&mut self) {
        let (outer, route) = self.outer;
        match outer {
            Some(outer) if ptr::eq(outer, self.recording.table()) => self.poll.end_within(route),
            _ => self.poll.end(),
        }
        let _ = SCOPE.try_with(|scope| {
            scope.table.set(outer);
            self.recording.route = scope.route.replace(route);
            // Not by `call` alone: behind a queue, or in a router of axum, the inner service is called by a poll.
            if let Some(counter) = scope.take_counter(self.recording.table()) {
                self.recording.count_request(counter);
            }
        });
    }
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entered").field(&self.recording).finish()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.restore();
        self.recording.panicked();
    }
}

/// As [`enter`] for the body, which names no route.
#[inline]
pub(super) fn watch(recording: &mut Recording) -> Watched<'_> {
    Watched(recording)
}

pub(super) struct Watched<'a>(&'a mut Recording);

impl Watched<'_> {
    #[inline]
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.panicked();
    }
}

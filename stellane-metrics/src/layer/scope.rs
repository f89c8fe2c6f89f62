//! The request that this thread is polling, so that an inner layer can name its route.

use std::{
    cell::Cell,
    fmt, ptr,
    sync::{Arc, atomic::AtomicU64},
};

use crate::http_metrics::{PollCell, Recording, Table};

/// What inner layers told about the request being polled.
struct Scope {
    table: Cell<Option<&'static Table>>,
    route: Cell<u32>,
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
}

thread_local! {
    static SCOPE: Scope = const {
        Scope { table: Cell::new(None), route: Cell::new(0), polls: Cell::new((None, &NOWHERE)) }
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

/// Hands the counter of a streamed request body to the request being called.
pub(super) fn count_request_bytes() -> Option<Arc<AtomicU64>> {
    SCOPE
        .try_with(|scope| {
            scope.table.get()?;
            let counter = Arc::new(AtomicU64::new(0));
            let left = Some(Arc::clone(&counter));
            REQUEST_BYTES.try_with(|bytes| bytes.set(left)).ok()?;
            Some(counter)
        })
        .ok()
        .flatten()
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

    /// As [`leave`](Self::leave), after the `call` of a service: takes the counter that a
    /// [`RequestBody`](crate::RequestBody) made there for a body that does not say its size.
    #[inline]
    pub fn leave_call(mut self) {
        self.restore();
        self.recording.count_request(take_request_bytes());
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

/// The counter that an inner [`RequestBytesLayer`](crate::RequestBytesLayer) left for the request that was just called.
#[inline]
fn take_request_bytes() -> Option<Arc<AtomicU64>> {
    REQUEST_BYTES.try_with(Cell::take).ok().flatten()
}

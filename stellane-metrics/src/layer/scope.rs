//! The request that this thread is polling, so that an inner layer can name its route.

use std::{
    cell::Cell,
    fmt,
    mem::ManuallyDrop,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use crate::requests::{Handle, Recording, Table, UNMATCHED};

/// The table of the request being polled. Never dropped where it is, since a thread-local that has to be costs a look at
/// every access, and may be gone: who puts it there takes it back.
type Current = Option<ManuallyDrop<Arc<Handle>>>;

/// What inner layers told about the request being polled.
struct Scope {
    table: Cell<Current>,
    route: Cell<u32>,
    /// The table of the request that what is in [`REQUEST_BYTES`] counts for. Only compared.
    counts_for: Cell<*const Table>,
}

impl Scope {
    /// What `look` finds in the table.
    #[inline]
    fn look<T>(&self, look: impl FnOnce(&Arc<Handle>) -> T) -> Option<T> {
        let table = self.table.take()?;
        let found = look(&table);
        self.table.set(Some(table));
        Some(found)
    }

    /// Whether an inner [`RequestBytesLayer`](crate::RequestBytesLayer) left a counter for the request of this table.
    #[inline]
    fn has_counter(&self, table: &Handle) -> bool {
        ptr::eq(self.counts_for.get(), &**table)
    }

    /// That counter.
    #[cold]
    fn take_counter(&self) -> Option<Arc<AtomicU64>> {
        self.counts_for.set(ptr::null());
        REQUEST_BYTES.try_with(Cell::take).ok().flatten()
    }
}

thread_local! {
    static SCOPE: Scope = const {
        Scope {
            table: Cell::new(None),
            route: Cell::new(0),
            counts_for: Cell::new(ptr::null()),
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
    SCOPE.with(|scope| {
        scope.look(|table| scope.route.set(table.name_poll(template)));
    });
}

/// The route that [`label_route`] gave the request that is being called or polled on this thread.
///
/// `None` before it is named, and outside of a [`MetricsLayer`](crate::MetricsLayer).
#[must_use]
pub fn current_route() -> Option<Arc<str>> {
    SCOPE
        .with(|scope| scope.look(|table| table.template(scope.route.get()).cloned()))
        .flatten()
}

/// Whether the request that is being called or polled on this thread has a route.
#[inline]
#[must_use]
pub fn is_labelled() -> bool {
    SCOPE.with(|scope| scope.route.get() != UNMATCHED)
}

/// Hands the counter of a streamed request body to the request being called or polled.
pub(super) fn count_request_bytes() -> Option<Arc<AtomicU64>> {
    SCOPE.with(|scope| {
        let table = scope.look(|table| ptr::from_ref::<Table>(table))?;
        let counter = Arc::new(AtomicU64::new(0));
        let left = Some(Arc::clone(&counter));
        REQUEST_BYTES.try_with(|bytes| bytes.set(left)).ok()?;
        scope.counts_for.set(table);
        Some(counter)
    })
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
    table: Arc<Handle>,
    route: AtomicU32,
}

impl RequestScope {
    /// That of this thread, inside of a [`MetricsLayer`](crate::MetricsLayer).
    #[must_use]
    pub fn current() -> Option<Self> {
        SCOPE.with(|scope| {
            let table = scope.look(Arc::clone)?;
            let route = AtomicU32::new(scope.route.get());
            Some(Self { table, route })
        })
    }

    /// Runs `inside` as if it ran on the thread that this was taken from: [`label_route`] names the route of the request,
    /// [`current_route`] tells it.
    pub fn run(&self, inside: &mut dyn FnMut()) {
        let outer = SCOPE.with(|scope| {
            let table = ManuallyDrop::new(Arc::clone(&self.table));
            let route = self.route.load(Relaxed);
            (scope.table.replace(Some(table)), scope.route.replace(route))
        });
        let _inside = InScope { scope: self, outer };
        inside();
    }

    /// Back on the first thread: the route that was named meanwhile is that of the request.
    pub fn hand_back(&self) {
        SCOPE.with(|scope| {
            if scope.look(|table| table.is_of(&self.table)) == Some(true) {
                scope.route.set(self.route.load(Relaxed));
            }
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
    outer: (Current, u32),
}

impl Drop for InScope<'_> {
    fn drop(&mut self) {
        let (table, route) = (self.outer.0.take(), self.outer.1);
        SCOPE.with(|scope| {
            drop(scope.table.replace(table).map(ManuallyDrop::into_inner));
            self.scope.route.store(scope.route.replace(route), Relaxed);
            if scope.has_counter(&self.scope.table) {
                drop(scope.take_counter());
            }
        });
    }
}

/// Makes the request of `recording` the current one until [`Entered::leave`]. If what runs between panics instead,
/// so says the record. No closure: that would move a request, or a response, once more.
#[inline(always)]
pub(crate) fn enter(recording: &mut Recording) -> Entered<'_> {
    let route = recording.route;
    let table = recording.table.take();
    if let Some(table) = &table {
        table.poll_cell().begin(recording.method, route);
    }
    let table = table.map(ManuallyDrop::new);
    let outer = SCOPE.with(|scope| (scope.table.replace(table), scope.route.replace(route)));
    Entered { recording, outer }
}

/// While it lives, what runs on this thread belongs to a [`Recording`]; made by [`Recording::enter`].
///
/// Dropped instead of [left](Self::leave), as by a panic, it says that what ran has panicked.
#[must_use = "a drop instead of `leave` counts as a panic"]
pub struct Entered<'a> {
    recording: &'a mut Recording,
    outer: (Current, u32),
}

impl Entered<'_> {
    /// What ran has returned.
    #[inline(always)]
    pub fn leave(mut self) {
        self.restore();
        std::mem::forget(self);
    }

    #[inline(always)]
    fn restore(&mut self) {
        let (outer, route) = (self.outer.0.take(), self.outer.1);
        SCOPE.with(|scope| {
            self.recording.route = scope.route.replace(route);
            let within = outer.as_ref().map(|outer| ptr::from_ref::<Table>(outer));
            let Some(table) = scope.table.replace(outer).map(ManuallyDrop::into_inner) else {
                return;
            };
            if within.is_some_and(|within| ptr::eq(within, &**table)) {
                table.poll_cell().end_within(self.recording.method, route);
            } else {
                table.poll_cell().end();
            }
            // Not by `call` alone: behind a queue, or in a router of axum, the inner service is called by a poll.
            if scope.has_counter(&table)
                && let Some(counter) = scope.take_counter()
            {
                self.recording.count_request(counter);
            }
            self.recording.table = Some(table);
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

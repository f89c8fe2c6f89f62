//! The request that this thread is polling, so that an inner layer can name its route.

use std::{
    cell::Cell,
    sync::{Arc, atomic::AtomicU64},
};

use crate::http_metrics::{Table, guard::Guard};

/// What inner layers told about the request being polled.
struct Scope {
    table: Cell<Option<&'static Table>>,
    route: Cell<u32>,
    request_bytes: Cell<Option<Arc<AtomicU64>>>,
}

thread_local! {
    static SCOPE: Scope = const {
        Scope { table: Cell::new(None), route: Cell::new(0), request_bytes: Cell::new(None) }
    };
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
            scope.route.set(table.route_id(template));
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
            scope.request_bytes.set(Some(Arc::clone(&counter)));
            Some(counter)
        })
        .ok()
        .flatten()
}

/// Makes the request of `guard` the current one until [`Entered::leave`]. If what runs between panics instead,
/// so says the guard. No closure: that would move a request, or a response, once more.
#[inline]
pub(super) fn enter(guard: &mut Guard) -> Entered<'_> {
    let outer = SCOPE
        .try_with(|scope| {
            (
                scope.table.replace(Some(guard.table())),
                scope.route.replace(guard.route),
            )
        })
        .unwrap_or_default();
    Entered { guard, outer }
}

pub(super) struct Entered<'a> {
    guard: &'a mut Guard,
    outer: (Option<&'static Table>, u32),
}

impl Entered<'_> {
    #[inline]
    pub(super) fn leave(mut self) {
        self.restore();
        std::mem::forget(self);
    }

    #[inline]
    fn restore(&mut self) {
        let _ = SCOPE.try_with(|scope| {
            scope.table.set(self.outer.0);
            self.guard.route = scope.route.replace(self.outer.1);
        });
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.restore();
        self.guard.panicked();
    }
}

/// As [`enter`] for the body, which names no route.
#[inline]
pub(super) fn watch(guard: &mut Guard) -> Watched<'_> {
    Watched(guard)
}

pub(super) struct Watched<'a>(&'a mut Guard);

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
pub(super) fn take_request_bytes() -> Option<Arc<AtomicU64>> {
    SCOPE
        .try_with(|scope| scope.request_bytes.take())
        .ok()
        .flatten()
}

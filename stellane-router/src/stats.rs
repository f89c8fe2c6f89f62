//! What a router and a route layer count.

use std::sync::atomic::{AtomicU64, Ordering};

/// The state of a [`Router`](crate::Router) at one moment.
///
/// Requests that a handler answered are not counted: that would be one count shared by all cores.
/// A layer around the router has them, by route: [`Body::route`](crate::Body::route) names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouterStats {
    /// Routes in the table.
    pub routes: u64,
    /// What the table takes of memory, in bytes, handlers not counted.
    pub table_bytes: u64,
    /// How often the table was replaced.
    pub swaps: u64,
    /// 400: a `%` in the path that begins no escape.
    pub bad_paths: u64,
    /// 404 of the router itself.
    pub not_found: u64,
    /// Requests that matched nothing and went to a fallback.
    pub fallbacks: u64,
    /// 405: the path exists, with other methods.
    pub not_allowed: u64,
    /// 501: a method that is neither standard nor one of the table's.
    pub not_implemented: u64,
    /// 308 to the path with or without its last slash.
    pub redirects: u64,
    /// `OPTIONS` answered with `Allow`.
    pub options: u64,
}

/// The state of a [`RouteLayer`](crate::RouteLayer) at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteLayerStats {
    /// Routes in the table.
    pub routes: u64,
    /// What the table takes of memory, in bytes.
    pub table_bytes: u64,
    /// How often the table was replaced.
    pub swaps: u64,
    /// Requests that passed on without a match.
    pub unmatched: u64,
}

/// Counts what happens seldom; a request that a handler answers touches none of them.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Apart from what every request reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) swaps: Count,
    pub(crate) bad_paths: Count,
    pub(crate) not_found: Count,
    pub(crate) fallbacks: Count,
    pub(crate) not_allowed: Count,
    pub(crate) not_implemented: Count,
    pub(crate) redirects: Count,
    pub(crate) options: Count,
}

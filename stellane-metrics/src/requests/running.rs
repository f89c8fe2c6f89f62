//! What each thread polls now, for whoever watches from another thread.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::labels::RouteId;

/// A poll that has begun and not ended. See [`HttpMetrics::running_polls`](crate::HttpMetrics::running_polls).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunningPoll {
    /// Tells the threads apart.
    pub thread: usize,
    /// Tells the polls of a thread apart.
    pub serial: u32,
    /// The method of the request; `_OTHER` for what a client has made up.
    pub method: &'static str,
    /// The route, once it is named.
    pub route: Option<Arc<str>>,
}

/// The poll of one thread: written by that thread only, by a store at its begin and one at its end. The method in the
/// upper eight bits, the route in the next; in the lower half a number that is odd while something is polled.
#[derive(Debug)]
pub(crate) struct PollCell(AtomicU64);

impl PollCell {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn begin(&self, method: u8, route: RouteId) {
        let next = self.serial().wrapping_add(1) | 1;
        self.0.store(all(next, method, route), Relaxed);
    }

    #[inline]
    pub(crate) fn name(&self, route: RouteId) {
        let all_but_route = self.0.load(Relaxed) & !(u64::from(ROUTE) << 32);
        self.0
            .store(all_but_route | u64::from(route) << 32, Relaxed);
    }

    #[inline]
    pub(crate) fn end(&self) {
        // What it makes of the route when the number begins anew, nobody reads.
        let both = self.0.load(Relaxed).wrapping_add(1);
        self.0.store(both, Relaxed);
    }

    /// One within another has ended, which is of this route. It is counted anew: it has got somewhere.
    #[cold]
    pub(crate) fn end_within(&self, method: u8, route: RouteId) {
        self.begin(method, route);
    }

    /// The number, the method and the route, while something is polled.
    pub(super) fn read(&self) -> Option<(u32, u8, RouteId)> {
        let all = self.0.load(Relaxed);
        let (serial, method, route) = (all as u32, (all >> 56) as u8, (all >> 32) as u32 & ROUTE);
        (serial % 2 == 1).then_some((serial, method, route))
    }

    #[inline]
    fn serial(&self) -> u32 {
        self.0.load(Relaxed) as u32
    }
}

/// Of the upper half; there are no more routes than that.
const ROUTE: u32 = (1 << 24) - 1;

#[inline]
fn all(serial: u32, method: u8, route: RouteId) -> u64 {
    u64::from(method) << 56 | u64::from(route) << 32 | u64::from(serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_poll_has_a_number_of_its_own_and_the_route_that_was_named_last() {
        let cell = PollCell(AtomicU64::new(u64::from(u32::MAX) - 1));
        let mut seen = Vec::new();
        for _ in 0..3 {
            assert_eq!(cell.read(), None);
            cell.begin(3, 0);
            seen.extend(cell.read());
            cell.name(7);
            let named = cell.read().map(|(_, method, route)| (method, route));
            assert_eq!(named, Some((3, 7)));
            cell.begin(255, 9);
            seen.extend(cell.read());
            cell.end_within(3, 7);
            seen.extend(cell.read());
            cell.end();
        }
        assert_eq!(cell.read(), None);
        let what: Vec<_> = seen
            .iter()
            .map(|(_, method, route)| (*method, *route))
            .collect();
        assert_eq!(what, [(3, 0), (255, 9), (3, 7)].repeat(3));
        seen.sort_unstable();
        seen.dedup_by_key(|(serial, ..)| *serial);
        assert_eq!(seen.len(), 9, "no number twice");
    }
}

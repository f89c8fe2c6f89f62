//! What each thread polls now, for whoever watches from another thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::registry::RouteId;

/// A poll that has begun and not ended. See [`HttpMetrics::running_polls`](crate::HttpMetrics::running_polls).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunningPoll {
    /// Tells the threads apart.
    pub thread: usize,
    /// Tells the polls of a thread apart.
    pub serial: u32,
    /// The route, once it is named.
    pub route: Option<&'static str>,
}

/// The poll of one thread: written by that thread only, by a store at its begin and one at its end. The route in the
/// upper half; in the lower half a number that is odd while something is polled.
#[derive(Debug, Default)]
pub(super) struct PollCell(AtomicU64);

/// Whether a poll begins within another one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    within: bool,
    route: RouteId,
}

impl PollCell {
    #[inline]
    pub(super) fn begin(&self, route: RouteId) -> Before {
        let (serial, outer) = self.parts();
        self.set(serial.wrapping_add(1) | 1, route);
        Before {
            within: is_polling(serial),
            route: outer,
        }
    }

    #[inline]
    pub(super) fn name(&self, route: RouteId) {
        self.set(self.parts().0, route);
    }

    #[inline]
    pub(super) fn end(&self, before: Before) {
        // The outer one is counted anew: it has got somewhere.
        let step = 1 + u32::from(before.within);
        self.set(self.parts().0.wrapping_add(step), before.route);
    }

    /// The number and the route, while something is polled.
    pub(super) fn read(&self) -> Option<(u32, RouteId)> {
        Some(self.parts()).filter(|(serial, _)| is_polling(*serial))
    }

    #[inline]
    fn parts(&self) -> (u32, RouteId) {
        let both = self.0.load(Relaxed);
        (both as u32, (both >> 32) as u32)
    }

    #[inline]
    fn set(&self, serial: u32, route: RouteId) {
        self.0
            .store(u64::from(route) << 32 | u64::from(serial), Relaxed);
    }
}

#[inline]
fn is_polling(serial: u32) -> bool {
    serial % 2 == 1
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
            let outer = cell.begin(0);
            seen.extend(cell.read());
            cell.name(7);
            assert_eq!(cell.read().map(|(_, route)| route), Some(7));
            let inner = cell.begin(9);
            seen.extend(cell.read());
            cell.end(inner);
            seen.extend(cell.read());
            cell.end(outer);
        }
        assert_eq!(cell.read(), None);
        let routes: Vec<_> = seen.iter().map(|(_, route)| *route).collect();
        assert_eq!(routes, [0, 9, 7, 0, 9, 7, 0, 9, 7]);
        seen.sort_unstable();
        seen.dedup_by_key(|(serial, _)| *serial);
        assert_eq!(seen.len(), 9, "no number twice");
    }
}

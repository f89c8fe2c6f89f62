//! How long a connection is idle before it is parked: as configured, and longer while those that are parked come
//! back at once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// So many times the wait is doubled.
const MOST_DOUBLINGS: u32 = 4;
/// More returns in a second than this are dear: taking a connection apart and putting it together again costs some
/// 15 µs, so these cost about one per cent of a core.
const DEAR: u64 = 500;
/// How long the wait stays as it is before it is halved, in milliseconds.
const CALM: u64 = 10_000;

#[derive(Debug, Default)]
pub(crate) struct ParkDelay {
    doublings: AtomicU32,
    /// Connections that came back so soon that a longer wait would have kept them, since the last look.
    returned: AtomicU64,
    /// When that was, and when the wait has changed last.
    looked: AtomicU64,
    changed: AtomicU64,
}

impl ParkDelay {
    /// What the configured wait has become, in milliseconds.
    pub(crate) fn wait(&self, configured: u64) -> u64 {
        configured.saturating_mul(1 << self.doublings.load(Relaxed))
    }

    /// A connection comes back that was parked, after so much idle time.
    pub(crate) fn came_back(&self, idle: u64, configured: u64) {
        if idle < configured.saturating_mul(1 << MOST_DOUBLINGS) {
            self.returned.fetch_add(1, Relaxed);
        }
    }

    /// Decides anew. For one caller at a time.
    pub(crate) fn look(&self, now: u64) {
        let elapsed = now.saturating_sub(self.looked.swap(now, Relaxed));
        let returned = self.returned.swap(0, Relaxed);
        let doublings = self.doublings.load(Relaxed);
        let next = if returned * 1000 > DEAR * elapsed {
            // At once: with ten thousand connections, half a second of it is dear enough.
            MOST_DOUBLINGS
        } else if now.saturating_sub(self.changed.load(Relaxed)) >= CALM {
            doublings.saturating_sub(1)
        } else {
            return;
        };
        self.changed.store(now, Relaxed);
        self.doublings.store(next, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_while_connections_come_back_at_once_and_is_halved_in_calm() {
        let delay = ParkDelay::default();
        let wait = |now, returns, idle| {
            (0..returns).for_each(|_| delay.came_back(idle, 1000));
            delay.look(now);
            delay.wait(1000)
        };
        for (now, returns, idle, expected) in [
            (100, 50, 2000, 1000),
            // Fewer would not have come back sooner with any wait.
            (200, 1000, 16_000, 1000),
            (300, 51, 2000, 16_000),
            (400, 0, 0, 16_000),
            (10_299, 0, 0, 16_000),
            (10_300, 0, 0, 8000),
            (20_300, 0, 0, 4000),
            (40_300, 0, 0, 2000),
            (50_300, 0, 0, 1000),
        ] {
            assert_eq!(wait(now, returns, idle), expected, "at {now}");
        }
    }
}

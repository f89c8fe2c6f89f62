//! The time of a manager: coarse, and free to read.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// How often deadlines are looked at: every timeout is exact to this.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Milliseconds since the manager was built, as of the latest sweep: free to read, exact to a sweep.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    now: AtomicU64,
    wall: WallClock,
}

/// The time of day as of the latest sweep.
#[derive(Debug, Default)]
struct WallClock {
    millis: AtomicU64,
    was_set_back: AtomicBool,
}

impl WallClock {
    fn look(&self, millis: u64) {
        if millis < self.millis.swap(millis, Relaxed) {
            self.was_set_back.store(true, Relaxed);
        }
    }
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            now: AtomicU64::new(0),
            wall: WallClock::default(),
        }
    }

    /// Whether the time of day was set back while this manager looked. hyper's dates stand still then.
    pub(crate) fn was_set_back(&self) -> bool {
        self.wall.was_set_back.load(Relaxed)
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// Moves it on to what it is now.
    pub(crate) fn tick(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        self.wall.look(wall.map_or(0, millis));
        self.now.fetch_max(millis(self.elapsed()), Relaxed);
        self.now()
    }

    /// The exact time since the manager was built, which takes a moment to find out.
    pub(crate) fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// What a setting is on the clock.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment on the clock, kept in hundredths of a second: half the size of milliseconds and enough for a year, so that
/// the record of a connection fits in 128 bytes.
#[derive(Debug, Default)]
pub(crate) struct Moment(AtomicU32);

impl Moment {
    pub(crate) fn at(millis: u64) -> Self {
        Self(AtomicU32::new(hundredths(millis)))
    }

    pub(crate) fn set(&self, millis: u64) {
        self.0.store(hundredths(millis), Relaxed);
    }

    /// Sets it to a moment that is not the first, which stands for none.
    pub(crate) fn set_some(&self, millis: u64) {
        self.0.store(hundredths(millis).max(1), Relaxed);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    pub(crate) fn millis(&self) -> u64 {
        u64::from(self.0.load(Relaxed)) * 10
    }
}

fn hundredths(millis: u64) -> u32 {
    u32::try_from(millis / 10).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_still_between_two_ticks() {
        let clock = Clock::new();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now(), 0);
        assert_eq!(clock.tick(), 250);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(clock.now(), 250);
    }

    #[test]
    fn a_time_of_day_that_was_set_back_is_remembered() {
        let clock = Clock::new();
        for (wall, set_back) in [
            (1000, false),
            (1000, false),
            (2000, false),
            (1999, true),
            (9000, true),
        ] {
            clock.wall.look(wall);
            assert_eq!(clock.was_set_back(), set_back, "at {wall}");
        }
    }

    #[test]
    fn a_moment_is_exact_to_a_hundredth_and_lasts_for_a_year() {
        const YEAR: u64 = 365 * 86_400_000;
        for (set, got) in [(0, 0), (9, 0), (10, 10), (1234, 1230), (YEAR, YEAR)] {
            assert_eq!(Moment::at(set).millis(), got, "{set}");
        }
        let moment = Moment::default();
        assert!(!moment.is_some());
        moment.set_some(0);
        assert!(moment.is_some());
    }
}

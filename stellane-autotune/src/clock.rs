use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Where a limiter or a tuner takes the time from.
///
/// Times are durations since the clock was made, so that a recorded run can be replayed.
/// A clock that jumps, in either direction, stops nothing: a limit begins its window anew, and a
/// tuner decides nothing until some steady ticks have passed.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System(Instant),
    #[cfg(feature = "quanta")]
    Counter(quanta::Clock, u64),
    Manual(Arc<AtomicU64>),
    #[cfg(feature = "tokio")]
    Tokio(tokio::time::Instant),
}

impl Clock {
    /// The operating system's monotonic clock. The default.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// The processor's time-stamp counter where it can be trusted, else as [`Clock::system`]. Reading it costs a third
    /// as much; making the first one of a process takes some milliseconds, to find out its rate.
    #[cfg(feature = "quanta")]
    #[must_use]
    pub fn counter() -> Self {
        let clock = quanta::Clock::new();
        let origin = clock.raw();
        Self(Source::Counter(clock, origin))
    }

    /// tokio's clock, which tests can pause. Slower to read than [`Clock::system`].
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn tokio() -> Self {
        Self(Source::Tokio(tokio::time::Instant::now()))
    }

    /// Time since this clock was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        match &self.0 {
            Source::System(origin) => saturating_nanos(origin.elapsed()),
            #[cfg(feature = "quanta")]
            Source::Counter(clock, origin) => clock.delta_as_nanos(*origin, clock.raw()),
            Source::Manual(now) => now.load(Ordering::Relaxed),
            #[cfg(feature = "tokio")]
            Source::Tokio(origin) => saturating_nanos(origin.elapsed()),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// A [`Clock`] that only moves when told to.
///
/// ```
/// use std::time::Duration;
/// use stellane_autotune::ManualClock;
///
/// let time = ManualClock::default();
/// let clock = time.clock();
/// time.advance(Duration::from_millis(5));
/// assert_eq!(clock.now(), Duration::from_millis(5));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that reads this one.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(Arc::clone(&self.0)))
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(saturating_nanos(by), Ordering::Relaxed);
    }

    /// Sets the time, also backwards: to test what a clock jump does.
    pub fn set(&self, now: Duration) {
        self.0.store(saturating_nanos(now), Ordering::Relaxed);
    }
}

pub(crate) fn saturating_nanos(duration: Duration) -> u64 {
    // Without the 128 bits of `as_nanos`: this is on the hot path.
    let nanos = duration.as_secs().saturating_mul(1_000_000_000);
    nanos.saturating_add(u64::from(duration.subsec_nanos()))
}

/// A small seeded generator (splitmix64): the same seed gives the same run on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `low..high`.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        low + unit * (high - low)
    }
}

pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(all(test, feature = "quanta"))]
mod tests {
    use super::*;

    #[test]
    fn a_counter_keeps_the_pace_of_the_system() {
        let (system, counter) = (Clock::system(), Clock::counter());
        let began = system.now();
        while system.now() < began + Duration::from_millis(20) {}
        let counted = counter.now();
        let passed = system.now();
        assert!(counted >= Duration::from_millis(19) && counted <= passed * 101 / 100);
    }
}

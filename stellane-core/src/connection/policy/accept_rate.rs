//! How many connections are accepted in a second.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A token bucket as one number: the moment by which all that was taken is paid for. A token is a connection to accept;
/// times are since the manager was built.
#[derive(Debug)]
pub(crate) struct AcceptRate {
    /// Of one token; 0 for no limit.
    nanos: AtomicU64,
    paid_by: AtomicU64,
}

/// How much may be taken at once after a pause: what the rate gives in this time.
const BURST: u64 = 100_000_000;

impl AcceptRate {
    /// So many tokens for each second; 0 for no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        let rate = Self {
            nanos: AtomicU64::new(0),
            paid_by: AtomicU64::new(0),
        };
        rate.set(per_second);
        rate
    }

    pub(crate) fn set(&self, per_second: u32) {
        let nanos = 1_000_000_000_u64.checked_div(per_second.into());
        self.nanos.store(nanos.unwrap_or(0), Relaxed);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.nanos.load(Relaxed) > 0
    }

    /// How long it is until there is a token, if there is none. Takes none: that is for [`take`](Self::take), once it is
    /// used.
    pub(crate) fn pause(&self, now: Duration) -> Option<Duration> {
        let nanos = self.nanos.load(Relaxed);
        let ahead = self.paid_by.load(Relaxed).saturating_sub(in_nanos(now));
        let room = BURST.max(nanos) - nanos;
        (nanos > 0 && ahead > room).then(|| Duration::from_nanos(ahead - room))
    }

    pub(crate) fn take(&self, now: Duration) {
        let nanos = self.nanos.load(Relaxed);
        if nanos > 0 {
            let now = in_nanos(now);
            let _ = self
                .paid_by
                .fetch_update(Relaxed, Relaxed, |paid| Some(paid.max(now) + nanos));
        }
    }
}

fn in_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_over_time_and_a_pause_saves_up_a_tenth_of_a_second() {
        let rate = AcceptRate::new(100);
        let begin = Duration::from_secs(60);
        let (mut now, mut at_once) = (begin, 0);
        for _ in 0..510 {
            while let Some(pause) = rate.pause(now) {
                now += pause;
            }
            rate.take(now);
            at_once += u32::from(now == begin);
        }
        assert_eq!(at_once, 10);
        let seconds = (now - begin).as_secs_f64();
        assert!((4.9..=5.1).contains(&seconds), "{seconds}");

        rate.set(0);
        for _ in 0..1000 {
            assert_eq!(rate.pause(now), None);
            rate.take(now);
        }
    }
}

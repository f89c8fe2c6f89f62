use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// A token bucket as one number: the moment by which all that was taken is paid for.
#[derive(Debug)]
pub(crate) struct AcceptRate {
    /// Of one token; 0 for no limit.
    nanos: AtomicU64,
    paid_by: AtomicU64,
    epoch: Instant,
}

/// How much may be taken at once after a pause: what the rate gives in this time.
const BURST: u64 = 100_000_000;

impl AcceptRate {
    /// So many tokens for each second; 0 for no limit. Takes its time from tokio.
    pub(crate) fn new(per_second: u32) -> Self {
        let pace = Self {
            nanos: AtomicU64::new(0),
            paid_by: AtomicU64::new(0),
            epoch: Instant::now(),
        };
        pace.set(per_second);
        pace
    }

    pub(crate) fn set(&self, per_second: u32) {
        let nanos = 1_000_000_000_u64.checked_div(per_second.into());
        self.nanos.store(nanos.unwrap_or(0), Relaxed);
    }

    /// Waits until there is a token. Takes none: that is for [`take`](Self::take), once it is used.
    pub(crate) async fn wait(&self) {
        loop {
            let nanos = self.nanos.load(Relaxed);
            if nanos == 0 {
                return;
            }
            let ahead = self.paid_by.load(Relaxed).saturating_sub(self.now());
            let room = BURST.max(nanos) - nanos;
            if ahead <= room {
                return;
            }
            tokio::time::sleep(Duration::from_nanos(ahead - room)).await;
        }
    }

    pub(crate) fn take(&self) {
        let nanos = self.nanos.load(Relaxed);
        if nanos > 0 {
            let now = self.now();
            let _ = self
                .paid_by
                .fetch_update(Relaxed, Relaxed, |paid| Some(paid.max(now) + nanos));
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_over_time_and_a_pause_saves_up_a_tenth_of_a_second() {
        let pace = AcceptRate::new(100);
        tokio::time::advance(Duration::from_secs(60)).await;
        let begin = Instant::now();
        let mut at_once = 0;
        for _ in 0..510 {
            pace.wait().await;
            pace.take();
            at_once += u32::from(begin.elapsed().is_zero());
        }
        assert_eq!(at_once, 10);
        let seconds = begin.elapsed().as_secs_f64();
        assert!((4.9..=5.1).contains(&seconds), "{seconds}");

        pace.set(0);
        let begin = Instant::now();
        for _ in 0..1000 {
            pace.wait().await;
            pace.take();
        }
        assert!(begin.elapsed().is_zero());
    }
}

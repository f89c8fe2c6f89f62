//! Whether the runtimes that serve get anywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::Handle;

/// For how long the runtime that is worst off has done nothing, in milliseconds; a cheap handle.
#[derive(Debug, Clone, Default)]
pub(in crate::runtime) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(in crate::runtime) fn longest_still(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }
}

/// While no handler runs, it asks at one of so many ticks.
const ONE_OF: u32 = 5;

/// Asks the runtimes again and again for a sign of life: a task that is spawned from outside.
///
/// That also helps. When a worker of tokio's that was alone takes a task that holds it, the others sleep on, and nobody
/// waits for sockets and timers any more; whatever is spawned from outside wakes another worker, which then does.
#[derive(Debug)]
pub(super) struct Pulses {
    runtimes: Vec<Pulse>,
    ticks: u32,
    progress: Progress,
}

#[derive(Debug)]
struct Pulse {
    runtime: Handle,
    asked: u64,
    answered: Arc<AtomicU64>,
    still: Duration,
}

impl Pulses {
    pub(super) fn new(runtimes: Vec<Handle>, progress: Progress) -> Self {
        let pulse = |runtime| Pulse {
            runtime,
            asked: 0,
            answered: Arc::default(),
            still: Duration::ZERO,
        };
        Self {
            runtimes: runtimes.into_iter().map(pulse).collect(),
            ticks: 0,
            progress,
        }
    }

    /// Called every so often. It counts its own calls and no time, so that a machine that stood still is not taken for a
    /// runtime that does. Where no handler runs just now there is nobody to help, and it asks less often.
    pub(super) fn tick(&mut self, tick: Duration, runs: bool) {
        self.ticks = self.ticks.wrapping_add(1);
        let asks = runs || self.ticks.is_multiple_of(ONE_OF);
        for pulse in &mut self.runtimes {
            if pulse.answered.load(Relaxed) < pulse.asked {
                pulse.still += tick;
                continue;
            }
            pulse.still = Duration::ZERO;
            if !asks {
                continue;
            }
            pulse.asked += 1;
            let (answered, asked) = (Arc::clone(&pulse.answered), pulse.asked);
            pulse
                .runtime
                .spawn(async move { answered.store(asked, Relaxed) });
        }
        let longest = self.runtimes.iter().map(|pulse| pulse.still).max();
        let millis = longest.unwrap_or_default().as_millis();
        self.progress
            .0
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_stands_still_until_it_answers() {
        let progress = Progress::default();
        let mut pulses = Pulses::new(vec![Handle::current()], progress.clone());
        let second = Duration::from_secs(1);
        for round in 0..2 {
            pulses.tick(second, true);
            assert_eq!(progress.longest_still(), Duration::ZERO, "asked just now");
            for n in 1..4 {
                pulses.tick(second, true);
                assert_eq!(progress.longest_still(), second * n, "{round}");
            }
            // Its turn.
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn while_no_handler_runs_it_is_asked_less_often_and_soon_all_the_same() {
        let progress = Progress::default();
        let mut pulses = Pulses::new(vec![Handle::current()], progress.clone());
        for (runs, asked) in [(false, 4), (true, 20)] {
            let before = pulses.runtimes[0].asked;
            for _ in 0..20 {
                pulses.tick(Duration::from_secs(1), runs);
                tokio::task::yield_now().await;
            }
            assert_eq!(pulses.runtimes[0].asked - before, asked);
        }
        // Nobody answers.
        for _ in 0..2 * ONE_OF {
            pulses.tick(Duration::from_secs(1), false);
        }
        assert!(progress.longest_still() >= Duration::from_secs(u64::from(ONE_OF)));
    }
}

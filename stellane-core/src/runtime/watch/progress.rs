//! Whether the runtimes that serve get anywhere.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often a runtime shows that it has threads for its tasks.
const BEAT: Duration = Duration::from_millis(250);

/// The beats of the runtimes; a cheap handle.
#[derive(Debug, Clone, Default)]
pub(in crate::runtime) struct Progress(Arc<Mutex<Vec<Pulse>>>);

#[derive(Debug, Default)]
struct Pulse {
    beats: Arc<AtomicU64>,
    /// The number of them that was seen last, and for how long it has been the same.
    seen: u64,
    still: Duration,
}

impl Progress {
    /// Spawn it on the runtime that is to be watched; when it is dropped that is no longer.
    pub(in crate::runtime) fn beat(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let beats = Arc::new(AtomicU64::new(0));
        self.pulses().push(Pulse {
            beats: Arc::clone(&beats),
            ..Pulse::default()
        });
        async move {
            loop {
                tokio::time::sleep(BEAT).await;
                beats.fetch_add(1, Relaxed);
            }
        }
    }

    /// Called by the watching thread every so often, so that a machine that stood still is not taken for a runtime
    /// that does.
    pub(super) fn tick(&self, tick: Duration) {
        let mut pulses = self.pulses();
        pulses.retain(|pulse| Arc::strong_count(&pulse.beats) > 1);
        for pulse in &mut *pulses {
            let beats = pulse.beats.load(Relaxed);
            pulse.still = match beats == pulse.seen {
                true => pulse.still + tick,
                false => Duration::ZERO,
            };
            pulse.seen = beats;
        }
    }

    /// For how long the runtime that is worst off has done nothing.
    pub(in crate::runtime) fn longest_still(&self) -> Duration {
        let pulses = self.pulses();
        let still = pulses.iter().map(|pulse| pulse.still);
        still.max().unwrap_or_default()
    }

    fn pulses(&self) -> MutexGuard<'_, Vec<Pulse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_does_not_beat_stands_still_until_it_does_or_is_gone() {
        let progress = Progress::default();
        let second = Duration::from_secs(1);
        progress.tick(second);
        assert_eq!(progress.longest_still(), Duration::ZERO, "none is watched");
        let (beating, _other) = (tokio::spawn(progress.beat()), tokio::spawn(progress.beat()));
        tokio::time::sleep(second).await;
        progress.tick(second);
        assert_eq!(progress.longest_still(), Duration::ZERO);
        for n in 1..4 {
            progress.tick(second);
            assert_eq!(progress.longest_still(), second * n);
        }
        tokio::time::sleep(second).await;
        progress.tick(second);
        assert_eq!(progress.longest_still(), Duration::ZERO);
        beating.abort();
        let _ = beating.await;
        progress.tick(second);
        assert_eq!(progress.pulses().len(), 1, "one is gone");
    }
}

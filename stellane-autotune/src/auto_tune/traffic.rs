use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

use crate::{
    Clock, Latencies, Outcome, ResponseHead, Signal,
    limit::{BUCKETS, Shard, thread_number},
    names,
};

/// What an [`AutoTuneLayer`](super::AutoTuneLayer) has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TrafficStats {
    /// Requests whose answer has not been sent to its end.
    pub in_flight: u64,
    /// Requests that were answered; neither refused nor failed.
    pub answered: u64,
    /// Answers that say that there is too much to do: 503, 504, and the gRPC statuses 4 and 14.
    pub refused: u64,
    /// Other answers of 500 and above, and errors of the service.
    pub failed: u64,
}

/// The counts behind it, each thread's apart: nobody writes where another does.
#[derive(Debug)]
pub(super) struct Traffic {
    clock: Clock,
    recorders: Box<[Recorder]>,
}

/// A request may begin on one thread and end on another, so that only the sums mean something.
#[derive(Debug)]
struct Recorder {
    latencies: Shard,
    in_flight: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Traffic {
    pub(super) fn new(clock: Clock) -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        let recorder = || Recorder {
            latencies: Shard::new(),
            in_flight: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        // The last one is for all threads that have no number.
        let recorders = (0..=(2 * threads).min(thread_number::NUMBERS)).map(|_| recorder());
        Self {
            clock,
            recorders: recorders.collect(),
        }
    }

    pub(super) fn stats(&self) -> TrafficStats {
        let sum = |of: fn(&Recorder) -> &AtomicU64| {
            let counts = self.recorders.iter().map(|r| of(r).load(Ordering::Relaxed));
            counts.fold(0, u64::wrapping_add)
        };
        TrafficStats {
            in_flight: sum(|r| &r.in_flight),
            answered: sum(|r| &r.answered),
            refused: sum(|r| &r.refused),
            failed: sum(|r| &r.failed),
        }
    }

    pub(super) fn signals(self: &Arc<Self>) -> Vec<Signal> {
        // A service may rightly do nothing, or nothing wrong, for as long as it likes.
        let rate = |name, of: fn(TrafficStats) -> u64| {
            let traffic = Arc::clone(self);
            Signal::counter(name, move || Some(of(traffic.stats()) as f64))
                .stuck_after(0)
                .unit("/s")
        };
        let in_flight = Arc::clone(self);
        vec![
            rate(names::THROUGHPUT, |stats| stats.answered),
            rate(names::SHED_RATE, |stats| stats.refused),
            rate(names::ERROR_RATE, |stats| stats.failed),
            Signal::new(names::IN_FLIGHT, move || {
                Some(in_flight.stats().in_flight as f64)
            }),
            self.latency(names::LATENCY_P50, 0.5),
            self.latency(names::LATENCY_P99, 0.99),
        ]
    }

    /// Of the answers since it was read before; missing when there were none.
    fn latency(self: &Arc<Self>, name: &str, q: f64) -> Signal {
        let traffic = Arc::clone(self);
        let before = Mutex::new(Box::new([0; BUCKETS]));
        Signal::new(name, move || {
            let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
            let mut now = Box::new([0; BUCKETS]);
            for recorder in &traffic.recorders {
                recorder.latencies.add_to(&mut now);
            }
            let mut latencies = Latencies::default();
            let count = latencies.set_difference(&now, &before);
            *before = now;
            (count > 0).then(|| latencies.quantile(q))
        })
        .unit("s")
    }

    /// The recorder of this thread, and whether no other thread writes to it.
    fn recorder(&self) -> (&Recorder, bool) {
        let (thread, shared) = (thread_number::current(), self.recorders.len() - 1);
        (&self.recorders[thread.min(shared)], thread < shared)
    }
}

/// A request on its way; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Passage {
    traffic: Arc<Traffic>,
    began: u64,
}

impl Passage {
    pub(super) fn begin(traffic: &Arc<Traffic>) -> Self {
        let (recorder, exclusive) = traffic.recorder();
        thread_number::add(&recorder.in_flight, exclusive);
        Self {
            began: traffic.clock.nanos(),
            traffic: Arc::clone(traffic),
        }
    }

    /// The head of its answer is there.
    pub(super) fn answer(&self, head: ResponseHead<'_>) {
        let (recorder, exclusive) = self.traffic.recorder();
        match head.default_outcome() {
            Outcome::Overload => thread_number::add(&recorder.refused, exclusive),
            Outcome::Ignore if head.status.is_server_error() => {
                thread_number::add(&recorder.failed, exclusive);
            }
            _ => {
                let latency = self.traffic.clock.nanos().saturating_sub(self.began);
                thread_number::add(&recorder.answered, exclusive);
                recorder.latencies.record(latency, exclusive);
            }
        }
    }

    /// The service has returned an error.
    pub(super) fn fail(&self) {
        let (recorder, exclusive) = self.traffic.recorder();
        thread_number::add(&recorder.failed, exclusive);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let (recorder, exclusive) = self.traffic.recorder();
        thread_number::change(&recorder.in_flight, u64::MAX, exclusive);
    }
}

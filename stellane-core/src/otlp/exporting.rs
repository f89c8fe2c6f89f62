//! The thread that sends.

use std::{
    future::pending,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::ExportMetricsServiceResponse,
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use opentelemetry_sdk::trace::SpanData;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    client::{Failure, send},
    counts::{Counts, Flush, Walk},
    metrics::{Collector, scope},
    settings::{Settings, Target},
    spans::{Waiting, complete},
};

/// Between two tries, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So often a message of spans is tried, while others wait.
const MOST_TRIES: u32 = 5;

/// What sends one signal, and what it is asked.
pub(super) struct Exporting {
    target: Target,
    asked: mpsc::UnboundedReceiver<Flush>,
    counts: Arc<Counts>,
    /// Of the messages that nobody has had since.
    failures: u32,
}

impl Exporting {
    pub(super) fn new(
        target: Target,
        asked: mpsc::UnboundedReceiver<Flush>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            target,
            asked,
            counts,
            failures: 0,
        }
    }

    /// Sends the totals again and again, until nobody has a handle any more.
    pub(super) async fn metrics(
        mut self,
        mut collector: Collector,
        walk: Arc<Mutex<Option<Walk>>>,
        interval: Duration,
    ) {
        let mut pause = interval;
        let mut is_over = false;
        while !is_over {
            let flush = tokio::select! {
                flush = self.asked.recv() => {
                    is_over = flush.is_none();
                    flush
                }
                () = sleep(pause) => None,
            };
            let collected = {
                let walk = walk.lock().unwrap_or_else(PoisonError::into_inner);
                walk.as_ref().map(|walk| collector.collect(walk))
            };
            let mut sent = Ok(());
            if let Some(collected) = collected {
                let answer = send(&self.target, &collected.request).await;
                let answer: Result<ExportMetricsServiceResponse, _> = answer;
                sent = self.told(answer.map(|answer| {
                    collector.sent(collected);
                    let refused = answer.partial_success;
                    refused.map_or(0, |refused| refused.rejected_data_points)
                }));
            }
            pause = match &sent {
                Ok(()) => interval,
                // What was not sent is part of what is next.
                Err(failure) => self.pause(failure).min(interval),
            };
            if let Some(flush) = flush {
                let _ = flush.send(sent.is_ok());
            }
        }
    }

    /// Sends the spans that come, until nobody has a handle any more.
    pub(super) async fn traces(mut self, settings: Settings, waiting: Arc<Waiting>) {
        let mut is_over = false;
        while !is_over {
            // What it is asked is asked about all that has come.
            let mut flush = None;
            let mut until = None;
            loop {
                is_over = waiting.is_over();
                let count = waiting.len();
                if is_over || count >= waiting.batch {
                    break;
                }
                if count > 0 && until.is_none() {
                    until = Some(Instant::now() + settings.delay);
                }
                let gathered = async {
                    match until {
                        Some(until) => sleep_until(until).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = waiting.given() => {}
                    asked = self.asked.recv() => {
                        is_over = asked.is_none();
                        flush = asked;
                        break;
                    }
                    () = gathered => break,
                }
            }
            let mut is_well = true;
            loop {
                let batch = waiting.take();
                if batch.is_empty() {
                    break;
                }
                is_well &= self.spans(&settings, batch, &mut flush).await;
                // One that is full left others behind.
                if flush.is_none() && !is_over {
                    break;
                }
            }
            if let Some(flush) = flush {
                let _ = flush.send(is_well);
            }
        }
    }

    /// Sends these, a few times if need be: whether they have arrived. Whoever asks meanwhile is told of the next try.
    async fn spans(
        &mut self,
        settings: &Settings,
        spans: Vec<SpanData>,
        flush: &mut Option<Flush>,
    ) -> bool {
        let count = spans.len() as u64;
        let request = message(settings, spans);
        for try_no in 1.. {
            let answer = send(&self.target, &request).await;
            let answer: Result<ExportTraceServiceResponse, _> = answer;
            let sent = self.told(answer.map(|answer| {
                let refused = answer.partial_success;
                refused.map_or(0, |refused| refused.rejected_spans)
            }));
            let Err(failure) = sent else { return true };
            // Who ends waits for nobody who is away.
            if !failure.is_passing || try_no >= MOST_TRIES || self.asked.is_closed() {
                break;
            }
            if let Some(flush) = flush.take() {
                let _ = flush.send(false);
            }
            tokio::select! {
                () = sleep(self.pause(&failure)) => {}
                Some(asked) = self.asked.recv() => *flush = Some(asked),
            }
        }
        self.counts.spans_lost.fetch_add(count, Relaxed);
        false
    }

    /// Counts what has come of a message, and says so when that changes.
    fn told(&mut self, answer: Result<i64, Failure>) -> Result<(), Failure> {
        let counts = self.counts.of(self.target.signal);
        let (signal, place) = (self.target.signal.as_str(), self.target.place());
        match answer {
            Ok(rejected) => {
                counts.well.fetch_add(1, Relaxed);
                if let Some(rejected) = u64::try_from(rejected).ok().filter(|n| *n > 0) {
                    let before = self.counts.rejected.fetch_add(rejected, Relaxed);
                    if before == 0 {
                        tracing::warn!("the collector {place} has not taken all of the {signal}");
                    }
                }
                if self.failures > 0 {
                    let failures = self.failures;
                    tracing::info!(
                        "the collector {place} takes {signal} again, after {failures} failures"
                    );
                }
                self.failures = 0;
                Ok(())
            }
            Err(failure) => {
                counts.failed.fetch_add(1, Relaxed);
                if self.failures == 0 {
                    let why = &failure.why;
                    tracing::warn!(
                        "{signal} can't be sent to the collector {place}: {why}; it is tried on, and counted"
                    );
                }
                self.failures = self.failures.saturating_add(1);
                Err(failure)
            }
        }
    }

    /// Longer each time, and not the same for all replicas.
    fn pause(&self, failure: &Failure) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(5);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        let share = RandomState::new().hash_one(()) % 1000;
        let pause = pause.mul_f64(0.5 + share as f64 / 1000.0);
        // Who asks to be asked at once, again and again, gets no more than that.
        failure
            .after
            .map_or(pause, |after| after.max(FIRST_PAUSE / 2))
    }
}

fn message(settings: &Settings, mut spans: Vec<SpanData>) -> ExportTraceServiceRequest {
    spans.iter_mut().for_each(complete);
    let spans = ScopeSpans {
        scope: Some(scope()),
        spans: spans.into_iter().map(Span::from).collect(),
        ..ScopeSpans::default()
    };
    let all = ResourceSpans {
        resource: Some(Resource {
            attributes: settings.resource.clone(),
            ..Resource::default()
        }),
        scope_spans: vec![spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![all],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_asks_to_be_asked_at_once_is_not_asked_without_a_pause() {
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::new(variables).expect("valid").expect("is on");
        let (_ask, asked) = mpsc::unbounded_channel();
        let exporting = Exporting::new(settings.metrics.expect("is on"), asked, Arc::default());
        let pause = |after| {
            exporting.pause(&Failure {
                why: String::new(),
                is_passing: true,
                after,
            })
        };
        for (after, least, most) in [
            (None, FIRST_PAUSE / 2, FIRST_PAUSE * 2),
            (Some(Duration::ZERO), FIRST_PAUSE / 2, FIRST_PAUSE / 2),
            (Some(FIRST_PAUSE * 7), FIRST_PAUSE * 7, FIRST_PAUSE * 7),
        ] {
            let pause = pause(after);
            assert!((least..=most).contains(&pause), "{after:?}: {pause:?}");
        }
    }
}

//! The metrics of a runtime, sent to a collector.

use std::time::Duration;

use stellane_metrics::Metric;

use super::Components;
use crate::otlp::{self, Otlp};

/// The end of the process waits for its last numbers no longer than that.
const LAST: Duration = Duration::from_millis(500);

/// To the one that the program brings, else where the environment says.
pub(super) fn start(own: Option<Otlp>, components: &Components) -> Option<Otlp> {
    let otlp = match own {
        Some(own) => own,
        None => match otlp::of_process() {
            Ok(of_process) => of_process?.clone(),
            Err(error) => {
                tracing::warn!("no telemetry is sent: {error}");
                return None;
            }
        },
    };
    let prometheus = components.prometheus.clone();
    if !otlp.send_metrics(move |sink| prometheus.walk(sink)) {
        // Those of another runtime in the same process.
        return None;
    }
    let metrics = &components.runtime_metrics;
    let exports = Metric::counter(
        "stellane_otlp_exports_total",
        "Messages to the collector, by signal and by whether they have arrived.",
    );
    let counted = otlp.clone();
    // With the components of another runtime they are there already.
    let _ = metrics.add(exports, move |values| {
        let stats = counted.stats();
        for (signal, outcome, count) in [
            ("metrics", "sent", stats.metrics_sent),
            ("metrics", "failed", stats.metrics_failed),
            ("traces", "sent", stats.traces_sent),
            ("traces", "failed", stats.traces_failed),
        ] {
            values.labelled(&[("signal", signal), ("outcome", outcome)], count as f64);
        }
    });
    let lost = Metric::counter(
        "stellane_otlp_spans_lost_total",
        "Spans that found no room, or were given up because the collector was away.",
    );
    let counted = otlp.clone();
    let _ = metrics.add(lost, move |values| {
        values.set(counted.stats().spans_lost as f64);
    });
    Some(otlp)
}

/// What is left is sent, as far as the collector takes it at once.
pub(super) async fn end(otlp: &Otlp) {
    let _ = otlp.flush(LAST).await;
    otlp.forget_metrics();
}

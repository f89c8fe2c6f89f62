//! The request series, offered to a sink.

use super::{
    HttpMetrics,
    labels::METHODS,
    layout::{Layout, SIZE_BOUNDS},
};
use crate::catalogue as names;
use crate::sink::{HistogramValue, Sink};

impl HttpMetrics {
    pub(crate) fn export(&self, sink: &mut dyn Sink) {
        let table = &*self.table;
        let bounds = self.config().duration_buckets.bounds();
        let mut exemplars = vec![None; bounds.len() + 1];
        type Pick = fn(Layout) -> usize;
        for (metric, at, bounds, unit) in [
            (&names::REQUEST_DURATION, Layout::full as Pick, bounds, 1e9),
            (&names::HEAD_DURATION, Layout::head, bounds, 1e9),
            (&names::REQUEST_BODY, Layout::request, &SIZE_BOUNDS[..], 1.0),
            (
                &names::RESPONSE_BODY,
                Layout::response,
                &SIZE_BOUNDS[..],
                1.0,
            ),
        ] {
            sink.start(metric);
            table.each_series(|key, cells, layout| {
                let at = at(layout);
                let mut value = HistogramValue {
                    bounds,
                    buckets: &cells[at..=at + bounds.len()],
                    sum: cells[at + bounds.len() + 1] as f64 / unit,
                    exemplars: &[],
                };
                if value.buckets.iter().all(|n| *n == 0) {
                    return;
                }
                let Some(key) = key else {
                    let labels = [
                        ("http_request_method", "_OTHER"),
                        ("http_route", "__overflow__"),
                    ];
                    return sink.histogram(metric, &labels, &value);
                };
                let status = key.status.to_string();
                let error = key.error_type();
                let mut labels = [("", ""); 7];
                let mut len = 0;
                let mut push = |name, value| {
                    labels[len] = (name, value);
                    len += 1;
                };
                push("http_request_method", key.method());
                push("http_route", table.route(key.route));
                if key.status > 0 {
                    push("http_response_status_code", status.as_str());
                }
                push("network_protocol_version", key.version());
                push("url_scheme", key.scheme());
                if let Some(error) = &error {
                    push("error_type", error);
                }
                if let Some(grpc) = key.grpc() {
                    push("rpc_response_status_code", grpc);
                }
                if metric.name == names::REQUEST_DURATION.name {
                    table.exemplars.of(key.pack(), &mut exemplars);
                    value.exemplars = &exemplars;
                }
                sink.histogram(metric, &labels[..len], &value);
            });
        }

        sink.start(&names::ACTIVE_REQUESTS);
        for (method, active) in METHODS.iter().zip(table.active()) {
            sink.gauge(
                &names::ACTIVE_REQUESTS,
                &[("http_request_method", method)],
                active as f64,
            );
        }

        let totals = table.totals();
        for (metric, value) in [
            (&names::REQUESTS_CANCELLED, totals.cancelled),
            (&names::OVERFLOW, totals.overflow),
        ] {
            sink.start(metric);
            sink.counter(metric, &[], value);
        }
        sink.start(&names::SERIES);
        sink.gauge(&names::SERIES, &[], table.series_count() as f64);
    }
}

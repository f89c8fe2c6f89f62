//! Our tables as OTLP's messages.

use std::{
    collections::HashMap,
    mem,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric as Message,
        NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data,
        number_data_point::Value,
    },
    resource::v1::Resource,
};
use stellane_metrics::{
    Kind, Metric,
    embed::{HistogramValue, Labels, Sink},
};

use super::settings::attribute;

/// What OpenTelemetry calls what has a name of its own there, its unit, and whether it goes up and down by itself.
const NAMES: [(&str, &str, &str, bool); 8] = [
    (
        "http_server_request_duration_seconds",
        "http.server.request.duration",
        "s",
        false,
    ),
    (
        "http_server_request_body_size_bytes",
        "http.server.request.body.size",
        "By",
        false,
    ),
    (
        "http_server_response_body_size_bytes",
        "http.server.response.body.size",
        "By",
        false,
    ),
    (
        "http_server_active_requests",
        "http.server.active_requests",
        "{request}",
        true,
    ),
    ("process_cpu_seconds_total", "process.cpu.time", "s", false),
    (
        "process_resident_memory_bytes",
        "process.memory.usage",
        "By",
        true,
    ),
    (
        "process_open_fds",
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        true,
    ),
    ("process_threads", "process.thread.count", "{thread}", true),
];

/// So are their labels; others are the same.
const LABELS: [(&str, &str); 7] = [
    ("http_request_method", "http.request.method"),
    ("http_route", "http.route"),
    ("http_response_status_code", "http.response.status_code"),
    ("network_protocol_version", "network.protocol.version"),
    ("url_scheme", "url.scheme"),
    ("error_type", "error.type"),
    ("rpc_response_status_code", "rpc.response.status_code"),
];

/// Ours have the same words behind `stellane.`; the end of a name is its unit. A collector makes of them what the scrape has.
fn renamed(metric: &Metric) -> (String, &str, bool) {
    if let Some((_, name, unit, is_sum)) = NAMES.iter().find(|(of, ..)| *of == metric.name) {
        return ((*name).to_owned(), unit, *is_sum);
    }
    let name = metric.family();
    let name = metric
        .unit_suffix()
        .and_then(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let spaces = ["stellane", "tokio", "process"].into_iter();
    let mut below = spaces.filter_map(|space| {
        let rest = name.strip_prefix(space)?.strip_prefix('_')?;
        Some(format!("{space}.{rest}"))
    });
    let name = below.next().unwrap_or_else(|| name.to_owned());
    (name, metric.unit(), false)
}

fn attributes(labels: Labels<'_>) -> Vec<KeyValue> {
    let mut all: Vec<KeyValue> = Vec::with_capacity(labels.len());
    for (name, value) in labels {
        let renamed = LABELS.iter().find(|(of, _)| of == name);
        let key = renamed.map_or(*name, |(_, key)| key);
        if all.iter().any(|one| one.key == key) {
            continue;
        }
        let number = || {
            let is_number = key == "http.response.status_code";
            is_number.then(|| value.parse().ok()).flatten()
        };
        let value = number().map_or_else(
            || any_value::Value::StringValue((*value).to_owned()),
            any_value::Value::IntValue,
        );
        all.push(attribute(key, value));
    }
    all
}

pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "stellane".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// What a series has counted, by its metric and labels.
type Totals = HashMap<String, Total>;

#[derive(Debug, Clone, PartialEq)]
enum Total {
    Whole(u64),
    Other(f64),
    Histogram(Vec<u64>, f64),
}

/// What one export says, and what the next is counted from.
pub(super) struct Collector {
    is_delta: bool,
    resource: Resource,
    /// When counting began, or up to when all was sent.
    since: SystemTime,
    sent: Totals,
}

/// What is sent now, and becomes what [was sent](Collector::sent) if that is well.
pub(super) struct Collected {
    pub(super) request: ExportMetricsServiceRequest,
    totals: Totals,
    at: SystemTime,
}

impl Collector {
    pub(super) fn new(is_delta: bool, resource: Vec<KeyValue>) -> Self {
        Self {
            is_delta,
            resource: Resource {
                attributes: resource,
                ..Resource::default()
            },
            since: SystemTime::now(),
            sent: Totals::new(),
        }
    }

    pub(super) fn collect(&self, walk: &dyn Fn(&mut dyn Sink)) -> Collected {
        let at = SystemTime::now();
        let mut messages = Messages {
            collector: self,
            at: nanos(at),
            metrics: Vec::new(),
            totals: Totals::new(),
        };
        walk(&mut messages);
        let Messages {
            mut metrics,
            totals,
            ..
        } = messages;
        metrics.retain(|metric| !is_empty(metric));
        let scope_metrics = ScopeMetrics {
            scope: Some(scope()),
            metrics,
            ..ScopeMetrics::default()
        };
        let all = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        };
        Collected {
            request: ExportMetricsServiceRequest {
                resource_metrics: vec![all],
            },
            totals,
            at,
        }
    }

    /// The collector has it.
    pub(super) fn sent(&mut self, collected: Collected) {
        if self.is_delta {
            (self.sent, self.since) = (collected.totals, collected.at);
        }
    }
}

fn is_empty(metric: &Message) -> bool {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.is_empty(),
        Some(Data::Sum(sum)) => sum.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => histogram.data_points.is_empty(),
        _ => true,
    }
}

struct Messages<'a> {
    collector: &'a Collector,
    at: u64,
    metrics: Vec<Message>,
    totals: Totals,
}

impl Messages<'_> {
    /// What was not sent yet of a total.
    fn unsent(&mut self, metric: &Metric, labels: Labels<'_>, total: Total) -> Option<Total> {
        if !self.collector.is_delta {
            return Some(total);
        }
        let mut key = metric.name.to_owned();
        for (name, value) in labels {
            key.extend(["\0", name, "\0", value]);
        }
        let sent = self.collector.sent.get(&key);
        let new = match (&total, sent) {
            (Total::Whole(now), Some(Total::Whole(sent))) => {
                Total::Whole(now.saturating_sub(*sent))
            }
            (Total::Other(now), Some(Total::Other(sent))) => Total::Other((now - sent).max(0.0)),
            (Total::Histogram(now, sum), Some(Total::Histogram(sent, sent_sum))) => {
                let new = now.iter().zip(sent);
                let new = new.map(|(now, sent)| now.saturating_sub(*sent)).collect();
                Total::Histogram(new, (sum - sent_sum).max(0.0))
            }
            (total, _) => total.clone(),
        };
        self.totals.insert(key, total);
        let is_something = match &new {
            Total::Whole(n) => *n > 0,
            Total::Other(n) => *n > 0.0,
            Total::Histogram(buckets, _) => buckets.iter().any(|n| *n > 0),
        };
        is_something.then_some(new)
    }

    fn start_ns(&self) -> u64 {
        nanos(self.collector.since)
    }

    fn number(&mut self, labels: Labels<'_>, value: Value) {
        let mut point = NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.start_ns(),
            time_unix_nano: self.at,
            value: Some(value),
            ..NumberDataPoint::default()
        };
        match self.metrics.last_mut().and_then(|last| last.data.as_mut()) {
            Some(Data::Gauge(gauge)) => {
                point.start_time_unix_nano = 0;
                gauge.data_points.push(point);
            }
            Some(Data::Sum(sum)) => sum.data_points.push(point),
            _ => {}
        }
    }
}

impl Sink for Messages<'_> {
    fn start(&mut self, metric: &Metric) {
        let temporality = match self.collector.is_delta {
            true => AggregationTemporality::Delta,
            false => AggregationTemporality::Cumulative,
        };
        let (name, unit, is_sum) = renamed(metric);
        let data = match metric.kind {
            Kind::Counter => Data::Sum(Sum {
                aggregation_temporality: temporality.into(),
                is_monotonic: true,
                data_points: Vec::new(),
            }),
            // It has no difference that would be worth telling.
            Kind::Gauge if is_sum => Data::Sum(Sum {
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: false,
                data_points: Vec::new(),
            }),
            Kind::Histogram => Data::Histogram(Histogram {
                aggregation_temporality: temporality.into(),
                data_points: Vec::new(),
            }),
            _ => Data::Gauge(Gauge::default()),
        };
        self.metrics.push(Message {
            name,
            description: metric.help.to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Message::default()
        });
    }

    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, total: u64) {
        if let Some(Total::Whole(new)) = self.unsent(metric, labels, Total::Whole(total)) {
            self.number(labels, Value::AsInt(i64::try_from(new).unwrap_or(i64::MAX)));
        }
    }

    fn gauge(&mut self, metric: &Metric, labels: Labels<'_>, value: f64) {
        if metric.kind == Kind::Gauge {
            return self.number(labels, Value::AsDouble(value));
        }
        if let Some(Total::Other(new)) = self.unsent(metric, labels, Total::Other(value)) {
            self.number(labels, Value::AsDouble(new));
        }
    }

    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, value: &HistogramValue<'_>) {
        let total = Total::Histogram(value.buckets.to_vec(), value.sum);
        let Some(Total::Histogram(mut buckets, sum)) = self.unsent(metric, labels, total) else {
            return;
        };
        let start = self.start_ns();
        let is_new = |exemplar: &&stellane_metrics::Exemplar| nanos(exemplar.at) >= start;
        let exemplars = value.exemplars.iter().flatten().filter(is_new);
        let exemplars = exemplars.map(|exemplar| Exemplar {
            time_unix_nano: nanos(exemplar.at),
            span_id: exemplar.span_id.to_be_bytes().to_vec(),
            trace_id: exemplar.trace_id.to_be_bytes().to_vec(),
            value: Some(exemplar::Value::AsDouble(exemplar.value)),
            ..Exemplar::default()
        });
        let point = HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: start,
            time_unix_nano: self.at,
            count: buckets.iter().sum(),
            sum: Some(sum),
            bucket_counts: mem::take(&mut buckets),
            explicit_bounds: value.bounds.to_vec(),
            exemplars: exemplars.collect(),
            ..HistogramDataPoint::default()
        };
        let last = self.metrics.last_mut().and_then(|last| last.data.as_mut());
        if let Some(Data::Histogram(histogram)) = last {
            histogram.data_points.push(point);
        }
    }
}

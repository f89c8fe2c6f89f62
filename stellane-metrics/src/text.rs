//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

use crate::{
    catalogue::{Kind, Metric},
    sink::{HistogramValue, Labels, Sink},
};

#[derive(Default)]
pub(crate) struct TextSink {
    out: String,
    /// A metric whose header is written with its first sample: one without samples is left out.
    pending: Option<Metric>,
}

impl TextSink {
    pub(crate) fn into_string(self) -> String {
        self.out
    }

    fn header(&mut self) {
        if let Some(metric) = self.pending.take() {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = writeln!(
                self.out,
                "# HELP {name} {}\n# TYPE {name} {kind}",
                metric.help,
                name = metric.name
            );
        }
    }

    fn line(&mut self, name: &str, suffix: &str, labels: Labels<'_>, le: Option<f64>, value: f64) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        let mut separator = '{';
        for (label, value) in labels {
            self.out.push(separator);
            separator = ',';
            self.out.push_str(label);
            self.out.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if let Some(le) = le {
            self.out.push(separator);
            separator = ',';
            let _ = if le.is_finite() {
                write!(self.out, "le=\"{le}\"")
            } else {
                self.out.write_str("le=\"+Inf\"")
            };
        }
        if separator == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

impl Sink for TextSink {
    fn start(&mut self, metric: &Metric) {
        self.pending = Some(*metric);
    }

    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, total: u64) {
        self.gauge(metric, labels, total as f64);
    }

    fn gauge(&mut self, metric: &Metric, labels: Labels<'_>, value: f64) {
        self.header();
        self.line(metric.name, "", labels, None, value);
    }

    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, value: &HistogramValue<'_>) {
        self.header();
        let mut cumulative = 0;
        let bounds = value.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, n) in bounds.zip(value.buckets) {
            cumulative += n;
            self.line(
                metric.name,
                "_bucket",
                labels,
                Some(bound),
                cumulative as f64,
            );
        }
        self.line(metric.name, "_sum", labels, None, value.sum);
        self.line(metric.name, "_count", labels, None, cumulative as f64);
    }
}

//! The text formats of Prometheus: 0.0.4, and OpenMetrics 1.0.

use std::{borrow::Cow, collections::HashSet, fmt::Write, time::UNIX_EPOCH};

use crate::{
    Exemplar,
    catalogue::{Kind, Metric},
    sink::{HistogramValue, Labels, Sink},
};

/// So many bytes of it at most, whole characters of them.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut ends = (0..=most.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Which text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    #[default]
    Plain,
    /// OpenMetrics.
    Open,
}

#[derive(Default)]
pub(crate) struct TextSink {
    out: String,
    format: Format,
    /// A metric whose header is written with its first sample: one without samples is left out.
    pending: Option<Metric>,
    /// The names of samples that are taken: whoever comes later by one of them is left out.
    taken: HashSet<String>,
    /// Names that are no counter's: in OpenMetrics the `_total` of a counter is no part of its name.
    plain: HashSet<String>,
    /// Of the metric that is being written.
    name: String,
    is_left_out: bool,
    /// What tells its samples from each other, beside their labels.
    #[cfg(feature = "prometheus")]
    bound_label: Option<&'static str>,
    series: HashSet<String>,
}

impl TextSink {
    /// OpenMetrics, with what else there is by these names.
    #[cfg(feature = "prometheus")]
    pub(crate) fn open(plain: HashSet<String>) -> Self {
        Self {
            format: Format::Open,
            plain,
            ..Self::default()
        }
    }

    pub(crate) fn into_string(mut self) -> String {
        if self.format == Format::Open {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// Begins a family, unless one of its names is taken: whether it does.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: Option<&str>) -> bool {
        self.series.clear();
        let is_open = self.format == Format::Open;
        let mut family = name;
        let mut kind = kind;
        self.name = name.to_owned();
        if is_open && kind == "counter" {
            family = name.strip_suffix("_total").unwrap_or(name);
            if self.plain.contains(family) && family != name {
                // Another metric has that name: then it is one whose name is the whole.
                (family, kind) = (name, "unknown");
            } else {
                self.name = format!("{family}_total");
            }
        } else if is_open && kind == "untyped" {
            kind = "unknown";
        }
        #[cfg(feature = "prometheus")]
        {
            self.bound_label = match kind {
                "histogram" => Some("le"),
                "summary" => Some("quantile"),
                _ => None,
            };
        }
        let suffixes: &[&str] = match kind {
            "counter" if is_open => &["", "_total", "_created"],
            "histogram" => &["", "_bucket", "_sum", "_count", "_created"],
            "summary" => &["", "_sum", "_count", "_created"],
            _ => &[""],
        };
        let mut names = suffixes.iter().map(|suffix| format!("{family}{suffix}"));
        let is_taken = names.any(|name| self.taken.contains(&name));
        self.is_left_out = is_taken || !is_metric_name(family);
        if self.is_left_out {
            return false;
        }
        let names = suffixes.iter().map(|suffix| format!("{family}{suffix}"));
        self.taken.extend(names);
        let mut units = ["seconds", "bytes", "ratio"].into_iter();
        let unit = units.find(|unit| {
            let rest = family.strip_suffix(unit);
            rest.is_some_and(|rest| rest.ends_with('_'))
        });
        if let Some(help) = help {
            let help = escaped(help, is_open);
            let _ = writeln!(self.out, "# HELP {family} {help}");
        }
        let _ = writeln!(self.out, "# TYPE {family} {kind}");
        if let Some(unit) = unit.filter(|_| is_open) {
            let _ = writeln!(self.out, "# UNIT {family} {unit}");
        }
        true
    }

    fn header(&mut self) {
        if let Some(metric) = self.pending.take() {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            self.family(metric.name, kind, Some(metric.help));
        }
    }

    /// A sample of the family that was begun last; `suffix` and the bound of a bucket are those of a histogram.
    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<f64>, value: f64) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        let mut separator = '{';
        for (label, value) in distinct(labels) {
            let _ = write!(self.out, "{separator}{label}=\"{}\"", escaped(value, true));
            separator = ',';
        }
        if let Some(le) = le {
            let _ = write!(self.out, "{separator}le=\"{}\"", self.bound(le));
            separator = ',';
        }
        if separator == ',' {
            self.out.push('}');
        }
        let _ = write!(self.out, " {}", number(value));
    }

    fn bound(&self, le: f64) -> String {
        match self.format {
            _ if !le.is_finite() => "+Inf".to_owned(),
            Format::Plain => le.to_string(),
            // A number that is whole says so.
            Format::Open => format!("{le:?}"),
        }
    }

    fn end(&mut self, exemplar: Option<&Exemplar>) {
        if let Some(exemplar) = exemplar.filter(|_| self.format == Format::Open) {
            let Exemplar {
                value,
                trace_id,
                span_id,
                at,
            } = exemplar;
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let _ = write!(
                self.out,
                " # {{trace_id=\"{trace_id:032x}\",span_id=\"{span_id:016x}\"}} {} {:.3}",
                number(*value),
                at.as_secs_f64()
            );
        }
        self.out.push('\n');
    }

    /// Whether a series of the family is the first of its labels.
    fn is_first(&mut self, labels: Labels<'_>) -> bool {
        let all = distinct(labels);
        let mut all: Vec<_> = all
            .map(|(name, value)| format!("{name}\0{value}"))
            .collect();
        all.sort_unstable();
        self.series.insert(all.join("\0\0"))
    }

    /// What another writer has written, family by family: what is taken already, and what can't be read, is left out.
    #[cfg(feature = "prometheus")]
    pub(crate) fn append(&mut self, text: &str) {
        let (mut help, mut is_in) = (None, false);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest.split_once(' ');
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
                let help = help.take().filter(|(of, _)| *of == name);
                let help = help.map(|(_, help)| unescaped(help));
                is_in = self.family(name, kind, help.as_deref());
            } else if is_in && let Some(sample) = Sample::read(line) {
                self.sample(&sample);
            }
        }
    }

    #[cfg(feature = "prometheus")]
    fn sample(&mut self, sample: &Sample<'_>) {
        let mut suffix = sample.name.strip_prefix(&*self.name).unwrap_or_default();
        let mut labels: Vec<(&str, &str)> = Vec::new();
        let mut bound = None;
        for (name, value) in &sample.labels {
            match self.bound_label {
                Some(label) if label == *name => bound = value.parse().ok(),
                _ => labels.push((name, value)),
            }
        }
        // A name that ends so already is not given the end twice: here it is.
        let is_summary = self.bound_label == Some("quantile");
        if self.bound_label.is_some() && suffix.is_empty() && !(is_summary && bound.is_some()) {
            let ends = ["_bucket", "_sum", "_count"].into_iter();
            let mut ends = ends.filter(|end| sample.name.ends_with(end));
            suffix = ends.next().unwrap_or_default();
        }
        let suffix = suffix.to_owned();
        let is_bound = suffix == "_bucket" || suffix.is_empty();
        let bound = bound.filter(|_| is_bound).map(|bound| self.bound(bound));
        if let (Some(label), Some(bound)) = (self.bound_label, &bound) {
            labels.push((label, bound));
        }
        let Ok(value) = sample.value.parse() else {
            return;
        };
        let with_suffix: Vec<_> = [("__stellane_suffix", &*suffix)]
            .into_iter()
            .chain(labels.iter().copied())
            .collect();
        if self.is_first(&with_suffix) {
            self.line(&suffix, &labels, None, value);
            self.end(None);
        }
    }
}

/// A line of the format, without its comments.
#[cfg(feature = "prometheus")]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
}

#[cfg(feature = "prometheus")]
impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                rest = rest.strip_prefix(',').unwrap_or(rest);
                let (label, value) = rest.split_once("=\"")?;
                let mut is_escaped = false;
                let end = value.find(|c| {
                    let is_end = c == '"' && !is_escaped;
                    is_escaped = c == '\\' && !is_escaped;
                    is_end
                })?;
                labels.push((label, unescaped(&value[..end])));
                rest = &value[end + 1..];
            }
            rest = &rest[1..];
        }
        let value = rest.split_whitespace().next()?;
        Some(Self {
            name,
            labels,
            value,
        })
    }
}

#[cfg(feature = "prometheus")]
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        plain.push(match c {
            '\\' => match rest.next() {
                Some('n') => '\n',
                Some(c) => c,
                None => '\\',
            },
            c => c,
        });
    }
    plain
}

fn escaped(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' if quotes => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// As they may be called. What a program names twice is named once.
fn distinct<'a>(labels: Labels<'a>) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
    let named = labels.iter().enumerate();
    named.filter_map(move |(at, (name, value))| {
        let name = label_name(name);
        let mut before = labels[..at].iter();
        let is_new = !before.any(|(other, _)| label_name(other) == name);
        is_new.then_some((name, *value))
    })
}

/// Letters, digits, `_` and `:`, no digit first.
pub(crate) fn is_metric_name(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let starts = !name.starts_with(|c: char| c.is_ascii_digit());
    !name.is_empty() && starts && name.chars().all(is_good)
}

/// What a program calls a label, as far as it may: letters, digits and `_`, no digit first.
fn label_name(name: &str) -> Cow<'_, str> {
    let is_good = |(at, c): (usize, char)| {
        c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
    };
    if !name.is_empty() && name.chars().enumerate().all(is_good) {
        return Cow::Borrowed(name);
    }
    let chars = name.chars().enumerate();
    let good: String = chars
        .map(|(at, c)| if is_good((at, c)) { c } else { '_' })
        .collect();
    Cow::Owned(if good.is_empty() {
        "_".to_owned()
    } else {
        good
    })
}

fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

impl Sink for TextSink {
    fn start(&mut self, metric: &Metric) {
        self.pending = Some(*metric);
    }

    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, total: u64) {
        self.gauge(metric, labels, total as f64);
    }

    fn gauge(&mut self, _: &Metric, labels: Labels<'_>, value: f64) {
        self.header();
        if !self.is_left_out && self.is_first(labels) {
            self.line("", labels, None, value);
            self.end(None);
        }
    }

    fn histogram(&mut self, _: &Metric, labels: Labels<'_>, value: &HistogramValue<'_>) {
        self.header();
        if self.is_left_out {
            return;
        }
        let mut cumulative = 0;
        let bounds = value.bounds.iter().copied().chain([f64::INFINITY]);
        for (bucket, (bound, n)) in bounds.zip(value.buckets).enumerate() {
            cumulative += n;
            self.line("_bucket", labels, Some(bound), cumulative as f64);
            let exemplar = value.exemplars.get(bucket);
            self.end(exemplar.and_then(Option::as_ref));
        }
        self.line("_sum", labels, None, value.sum);
        self.end(None);
        self.line("_count", labels, None, cumulative as f64);
        self.end(None);
    }
}

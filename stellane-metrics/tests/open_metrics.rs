//! The scrape stays valid whatever a program names, in both formats; OpenMetrics leads from a figure to a trace.
#![cfg(all(feature = "prometheus", feature = "tracing"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use stellane_metrics::{
    HttpMetrics, Metric, Prometheus, RuntimeMetrics, TraceContext,
    embed::{Known, Spans},
    metrics, prometheus,
};
use tower::ServiceExt;
use tracing_subscriber::layer::SubscriberExt;

const OPEN: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

/// What a scraper with these headers is answered: the type, the encoding, the text.
async fn scrape(scrape: &Prometheus, accept: &str, encoding: &str) -> (String, String, String) {
    let request = Request::get("/metrics")
        .header("accept", accept)
        .header("accept-encoding", encoding);
    let response = scrape
        .clone()
        .oneshot(request.body(()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["vary"], "accept, accept-encoding");
    let header = |response: &Response<_>, name: &str| {
        let value = response.headers().get(name);
        value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    let (kind, encoded) = (
        header(&response, "content-type"),
        header(&response, "content-encoding"),
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = match &*encoded {
        "gzip" => {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&*bytes)
                .read_to_string(&mut text)
                .unwrap();
            assert!(
                bytes.len() * 4 < text.len(),
                "{} of {}",
                bytes.len(),
                text.len()
            );
            text
        }
        _ => String::from_utf8(bytes.to_vec()).unwrap(),
    };
    (kind, encoded, text)
}

/// A request with this parent, to its end.
fn request(http: &HttpMetrics, spans: &Spans, parent: &str) -> Option<TraceContext> {
    let mut request = Request::get("/").body(String::new()).unwrap();
    request
        .headers_mut()
        .insert("traceparent", parent.parse().unwrap());
    let asked = spans.ask(request.headers());
    let (_, span) = spans.begin(asked?, &mut request, |_| Known::default());
    let mut recording = http.begin(&request);
    recording.head(&Response::new(String::new()));
    let span = span?;
    span.tell(&recording, None);
    Some(span.context())
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test]
async fn a_bucket_leads_to_the_trace_of_a_request_that_was_recorded() {
    let _listens = tracing::subscriber::set_default(
        tracing_subscriber::registry()
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::sink)),
    );
    let http = HttpMetrics::builder().build().unwrap();
    let runtime = RuntimeMetrics::builder().http(&http).build().unwrap();
    let all = prometheus().runtime(&runtime).build().unwrap();
    let spans = Spans::new(0.0);
    assert_eq!(
        request(&http, &spans, &format!("00-{TRACE}-b7ad6b7169203331-00")),
        None
    );
    let (_, _, before) = scrape(&all, OPEN, "").await;
    assert!(!before.contains(" # {"), "{before}");
    let context = request(&http, &spans, &format!("00-{TRACE}-b7ad6b7169203331-01")).unwrap();
    let (kind, encoded, text) = scrape(&all, OPEN, "gzip").await;
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(encoded, "gzip");
    let exemplar = format!(
        "# {{trace_id=\"{TRACE}\",span_id=\"{:016x}\"}} 0.0",
        context.span_id
    );
    assert_eq!(text.matches(&exemplar).count(), 1, "{text}");
    let line = text.lines().find(|line| line.contains(&exemplar)).unwrap();
    assert!(
        line.starts_with("http_server_request_duration_seconds_bucket{"),
        "{line}"
    );
    valid(&text, true);
    let (kind, encoded, text) = scrape(&all, "*/*", "identity").await;
    assert_eq!(
        (&*kind, &*encoded),
        ("text/plain; version=0.0.4; charset=utf-8", "")
    );
    assert!(!text.contains(TRACE), "plain text has none");
    valid(&text, false);
}

/// xorshift; the seed is printed by whoever fails.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn of(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len())]
    }
}

const NAMES: &[&str] = &[
    "jobs",
    "jobs_total",
    "jobs_created",
    "jobs_bucket",
    "jobs_sum",
    "jobs_count",
    "jobs.total",
    "jobs total",
    "jobs_seconds",
    "jobs_seconds_total",
    "jobs_bytes",
    "",
    "_",
    "1x",
    "é",
    "a\nb",
    "a\"b",
    "\\",
    "# EOF",
    "x{y=\"z\"}",
    "http_server_request_duration_seconds",
    "http_server_request_duration_seconds_count",
    "http.server.request.duration.seconds",
    "stellane_uptime_seconds",
    "stellane_connections_closed",
    "stellane_connections_closed_total",
    "le",
    "job_info",
    ":a",
    "total",
];
const LABELS: &[&str] = &[
    "a", "b", "a.b", "a_b", "le", "quantile", "", "1", "__name__", "é", "\n", "\"", "\\", "=",
    "trace_id",
];
const VALUES: &[&str] = &[
    "",
    "x",
    "1",
    "0.5",
    "+Inf",
    "\"",
    "\\",
    "\\\"",
    "\n",
    "\\n",
    "}",
    ",",
    "é\u{202e}",
    "# EOF",
];
const NUMBERS: &[f64] = &[
    0.0,
    -1.5,
    1e300,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    3.0,
];

#[tokio::test]
async fn a_scrape_is_valid_whatever_a_program_names() {
    for seed in 1..=300 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let http = HttpMetrics::builder().build().unwrap();
        let mut recording = http.begin(&Request::new(String::new()));
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        let entered = recording.enter();
        stellane_metrics::label_route(random.of(VALUES));
        entered.leave();
        recording.head(&response);
        let runtime = RuntimeMetrics::builder().http(&http).build().unwrap();
        let mut all = prometheus().runtime(&runtime);
        if random.below(4) == 0 {
            all = all.global_label(random.of(LABELS), random.of(VALUES));
        }
        let all = all.build().unwrap();
        for _ in 0..random.below(12) {
            let (name, help) = (random.of(NAMES), random.of(VALUES));
            let metric = match random.below(2) {
                0 => Metric::counter(name, help),
                _ => Metric::gauge(name, help),
            };
            let series: Vec<_> = (0..random.below(4))
                .map(|_| {
                    let labels: Vec<_> = (0..random.below(4))
                        .map(|_| (random.of(LABELS), random.of(VALUES)))
                        .collect();
                    let number = match random.below(2) {
                        0 if name.contains("total") => 7.0,
                        _ => NUMBERS[random.below(NUMBERS.len())],
                    };
                    (labels, number)
                })
                .collect();
            // Some are refused.
            let _ = runtime.add(metric, move |values| {
                for (labels, number) in &series {
                    values.labelled(labels, *number);
                }
            });
        }
        metrics::with_local_recorder(&all.recorder(), || {
            for _ in 0..random.below(12) {
                let name = random.of(NAMES);
                let labels: Vec<_> = (0..random.below(4))
                    .map(|_| metrics::Label::new(random.of(LABELS), random.of(VALUES)))
                    .collect();
                let help = random.of(VALUES);
                match random.below(3) {
                    0 => {
                        metrics::describe_counter!(name, help);
                        metrics::counter!(name, labels).increment(1);
                    }
                    1 => {
                        metrics::describe_gauge!(name, help);
                        metrics::gauge!(name, labels).set(NUMBERS[random.below(NUMBERS.len())]);
                    }
                    _ => {
                        metrics::describe_histogram!(name, help);
                        metrics::histogram!(name, labels).record(0.3);
                    }
                }
            }
        });
        for (is_open, text) in [(false, all.render()), (true, all.render_open_metrics())] {
            let checked = std::panic::catch_unwind(|| valid(&text, is_open));
            assert!(checked.is_ok(), "seed {seed}, open {is_open}:\n{text}");
            assert!(
                text.contains("\nstellane_uptime_seconds "),
                "ours are there: seed {seed}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_program_names_is_there_in_both_formats() {
    let runtime = RuntimeMetrics::builder().build().unwrap();
    let all = prometheus().runtime(&runtime).build().unwrap();
    runtime
        .add(Metric::counter("mails_total", "Sent."), |values| {
            values.set(3.0)
        })
        .unwrap();
    runtime
        .add(Metric::counter("odd", "Without an end."), |values| {
            values.set(4.0)
        })
        .unwrap();
    metrics::with_local_recorder(&all.recorder(), || {
        metrics::describe_gauge!("jobs", "That \"wait\".");
        metrics::gauge!("jobs").set(2.0);
        metrics::counter!("jobs_total", "kind" => "a").increment(5);
        metrics::histogram!("work_seconds", "kind" => "a").record(0.5);
    });
    let plain = all.render();
    let open = all.render_open_metrics();
    for (text, lines) in [
        (
            &plain,
            &[
                "# TYPE mails_total counter\nmails_total 3\n",
                "# TYPE odd counter\nodd 4\n",
                "# HELP jobs That \"wait\".\n# TYPE jobs gauge\njobs 2\n",
                "# TYPE jobs_total counter\njobs_total{kind=\"a\"} 5\n",
                "work_seconds_bucket{kind=\"a\",le=\"1\"} 1\n",
                "work_seconds_count{kind=\"a\"} 1\n",
            ][..],
        ),
        (
            &open,
            &[
                "# TYPE mails counter\nmails_total 3\n",
                "# TYPE odd counter\nodd_total 4\n",
                "# HELP jobs That \\\"wait\\\".\n# TYPE jobs gauge\njobs 2\n",
                // Two families can't have one name.
                "# TYPE jobs_total unknown\njobs_total{kind=\"a\"} 5\n",
                "# TYPE work_seconds histogram\n# UNIT work_seconds seconds\n",
                "work_seconds_bucket{kind=\"a\",le=\"1.0\"} 1\n",
                "work_seconds_count{kind=\"a\"} 1\n",
            ],
        ),
    ] {
        for line in lines {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
    valid(&plain, false);
    valid(&open, true);
}

type Labels = BTreeMap<String, String>;

/// Refuses what the formats do not allow.
fn valid(text: &str, is_open: bool) {
    let body = match is_open {
        true => text.strip_suffix("# EOF\n").expect("ends"),
        false => text,
    };
    let mut families = BTreeSet::new();
    let mut samples: BTreeMap<String, String> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in body.lines() {
        assert!(!line.is_empty() && line != "# EOF");
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').unwrap();
            let (name, rest) = rest.split_once(' ').unwrap();
            name_of_metric(name);
            match word {
                "HELP" => drop(unescape(rest, is_open)),
                "TYPE" => {
                    assert!(families.insert(name.to_owned()), "{name} comes twice");
                    (family, kind) = (name.to_owned(), rest.to_owned());
                    let kinds = [
                        "counter",
                        "gauge",
                        "histogram",
                        "summary",
                        "unknown",
                        "untyped",
                    ];
                    assert!(kinds.contains(&rest), "{line}");
                }
                "UNIT" => assert!(is_open && name == family && name.ends_with(&format!("_{rest}"))),
                other => panic!("{other}"),
            }
            continue;
        }
        let (sample, exemplar) = line
            .split_once(" # {")
            .map_or((line, None), |(a, b)| (a, Some(b)));
        let (name, labels, value) = read(sample);
        let suffixes: &[&str] = match (&*kind, is_open) {
            ("counter", true) => &["_total"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            ("summary", _) => &["", "_sum", "_count"],
            _ => &[""],
        };
        let suffix = name
            .strip_prefix(&*family)
            .unwrap_or_else(|| panic!("{name} in {family}"));
        assert!(suffixes.contains(&suffix), "{name} is no {kind} {family}");
        let of = samples
            .entry(name.clone())
            .or_insert_with(|| family.clone());
        assert_eq!(*of, family, "{name} is in two families");
        assert!(
            series.insert((name.clone(), labels.clone())),
            "{line} comes twice"
        );
        if kind == "histogram" {
            let mut others = labels.clone();
            let bound = others.remove("le");
            let bound = bound.map(|bound| bound.replace("+Inf", "inf").parse().unwrap());
            match suffix {
                "_bucket" => buckets
                    .entry(others)
                    .or_default()
                    .push((bound.unwrap(), value)),
                "_count" => {
                    let buckets = buckets.remove(&others).unwrap();
                    assert!(
                        buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                        "{line}"
                    );
                    assert_eq!(buckets.last(), Some(&(f64::INFINITY, value)), "{line}");
                }
                _ => assert!(bound.is_none()),
            }
        }
        if let Some(exemplar) = exemplar {
            assert!(is_open && suffix == "_bucket", "{line}");
            let (labels, rest) = exemplar.split_once("} ").unwrap();
            assert!(labels.len() <= 128);
            let mut numbers = rest.split(' ').map(|number| number.parse::<f64>().unwrap());
            let (value, at) = (numbers.next().unwrap(), numbers.next().unwrap());
            assert!(
                value >= 0.0 && at > 1e9 && numbers.next().is_none(),
                "{line}"
            );
        }
    }
    assert!(buckets.is_empty());
    // No name of a family is that of another's sample.
    for (sample, of) in &samples {
        assert!(
            of == sample || !families.contains(sample),
            "{sample} of {of}"
        );
    }
}

fn name_of_metric(name: &str) {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    assert!(
        !name.is_empty()
            && name.chars().all(good)
            && !name.starts_with(|c: char| c.is_ascii_digit()),
        "{name:?}"
    );
}

fn read(sample: &str) -> (String, Labels, f64) {
    let end = sample.find(['{', ' ']).unwrap();
    let (name, mut rest) = sample.split_at(end);
    name_of_metric(name);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap();
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(
                !label.is_empty()
                    && label.chars().all(good)
                    && !label.starts_with(|c: char| c.is_ascii_digit()),
                "{label:?} in {sample}"
            );
            let mut is_escaped = false;
            let end = value.find(|c| {
                let is_end = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_end
            });
            let end = end.unwrap();
            let plain = unescape(&value[..end], true);
            assert!(
                labels.insert(label.to_owned(), plain).is_none(),
                "{label} twice in {sample}"
            );
            rest = &value[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("{sample}"));
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{sample}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{sample}"));
    (name.to_owned(), labels, value)
}

fn unescape(text: &str, quotes: bool) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if quotes => '"',
                other => panic!("\\{other:?} in {text}"),
            },
            '"' if quotes => panic!("a quote in {text}"),
            c => c,
        });
    }
    plain
}

//! The page of the guide about metrics is the code: what a preset with everything exports, each with its type, its unit,
//! its labels and its meaning.
//!
//! `STELLANE_WRITE_CATALOGUE=1 cargo test -p stellane-core --all-features --test catalogue` writes
//! `src/guide/metrics.md` anew.
#![cfg(all(feature = "full", feature = "otlp"))]

#[path = "support/looks.rs"]
mod looks;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Write,
    fs,
    path::Path,
};

use http::{Request, Response};
use looks::holds_soon;
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig,
    config::Loader,
    connection::CloseReason,
    engine_selector::EngineSelector,
    metrics::{
        Kind, Metric, catalogue,
        embed::{HistogramValue, Labels, Sink},
    },
    otlp::Otlp,
    prepared::Prepared,
};
use tower::{Layer, ServiceExt, service_fn};

const PAGE: &str = include_str!("../src/guide/metrics.md");

/// What a value of these is worth waking somebody for, or looking at.
const ALERTS: &[(&str, &str)] = &[
    (
        "http_server_request_duration_seconds",
        "the share of `error_type` 5xx above the budget (burn rate); the 99th percentile above what is promised",
    ),
    (
        "stellane_http_requests_cancelled_total",
        "a rate that rises: clients give up before they are answered",
    ),
    (
        "stellane_requests_shed_total",
        "any for ten minutes: there is more to do than there are places",
    ),
    (
        "stellane_limit_class_shed_total",
        "any of a class that must not be refused",
    ),
    (
        "stellane_requests_hopeless_total",
        "a rate that rises: callers' deadlines are shorter than the service is slow",
    ),
    ("stellane_requests_out_of_memory_total", "any"),
    ("stellane_handler_panics_total", "any"),
    ("stellane_handler_errors_total", "a rate that rises"),
    (
        "stellane_held_threads",
        "above 0 for a minute: a handler blocks",
    ),
    ("stellane_background_restarts_total", "any"),
    ("stellane_accept_errors_total", "any: open files are short"),
    ("process_open_fds", "above 80 % of `process_max_fds`"),
    ("stellane_pressure", "above 0.8 for five minutes"),
    (
        "process_resident_memory_bytes",
        "above 90 % of `stellane_cgroup_memory_limit_bytes`",
    ),
    (
        "tokio_busy_ratio",
        "above 0.9 for ten minutes: the CPU is full",
    ),
    (
        "stellane_worker_queue_depth",
        "near `stellane_worker_queue_size`",
    ),
    (
        "stellane_worker_blocked_total",
        "any: a job holds its worker",
    ),
    ("stellane_ready", "0 for longer than a deploy takes"),
    ("stellane_dependency_up", "0 for five minutes"),
    (
        "stellane_metrics_overflow_total",
        "any: there are more routes than `metrics.max_routes`",
    ),
    (
        "stellane_log_lines_lost_total",
        "any: what reads the log is too slow",
    ),
    (
        "stellane_access_log_lines_lost_total",
        "any: what reads the log is too slow",
    ),
    (
        "stellane_config_reload_failures_total",
        "any: the file is wrong, and the old configuration in force",
    ),
    (
        "stellane_otlp_exports_total",
        "`outcome=\"failed\"` for ten minutes: the collector is away",
    ),
    (
        "stellane_otlp_spans_lost_total",
        "any: the queue is too short, or the collector too slow",
    ),
    (
        "stellane_uptime_seconds",
        "set back often: it is started again and again",
    ),
];

/// Labels of what has no series here: each is there only where the section, the route or the platform has one.
const MORE_LABELS: &[(&str, &[&str])] = &[
    (
        "http_server_request_duration_seconds",
        &["error_type", "rpc_response_status_code"],
    ),
    (
        "http_server_request_body_size_bytes",
        &["error_type", "rpc_response_status_code"],
    ),
    (
        "http_server_response_body_size_bytes",
        &["error_type", "rpc_response_status_code"],
    ),
    (
        "stellane_http_response_head_duration_seconds",
        &["error_type", "rpc_response_status_code"],
    ),
    ("stellane_limit_class_share", &["class"]),
    ("stellane_limit_class_requests", &["class"]),
    ("stellane_limit_class_shed_total", &["class"]),
    ("stellane_limit_class_would_shed_total", &["class"]),
    ("stellane_held_threads", &["http_route"]),
    ("stellane_thread_holds_total", &["http_route"]),
    ("stellane_thread_held_seconds_total", &["http_route"]),
    ("stellane_background_restarts_total", &["task"]),
    ("stellane_connections_closed_total", &["reason"]),
    ("stellane_requests_shed_total", &["reason"]),
    ("stellane_tuning_actions_total", &["parameter"]),
    ("stellane_tuner_knob", &["knob"]),
    ("stellane_tuner_signal", &["signal"]),
    ("stellane_dependency_up", &["dependency"]),
    ("stellane_dependency_check_failures_total", &["dependency"]),
    ("stellane_rate_limit_asked_total", &["limit"]),
    ("stellane_rate_limit_without_store_total", &["limit"]),
];

/// Labels whose values are the program's own, a protocol's, or depend on the machine. Those of all others are told.
const FREE_LABELS: &[&str] = &[
    "class",
    "dependency",
    "error_type",
    "http_request_method",
    "http_response_status_code",
    "http_route",
    "knob",
    "limit",
    "network_protocol_version",
    "parameter",
    "rpc_response_status_code",
    "signal",
    "task",
    "url_scheme",
    "version",
];

#[derive(Default)]
struct Seen {
    metrics: BTreeMap<&'static str, Metric>,
    labels: BTreeMap<&'static str, Vec<String>>,
    /// By metric and label.
    values: BTreeMap<(&'static str, String), BTreeSet<String>>,
}

impl Seen {
    fn series(&mut self, metric: &Metric, labels: Labels<'_>) {
        let all = self.labels.entry(metric.name).or_default();
        for (name, value) in labels {
            if !all.iter().any(|one| one == name) {
                all.push((*name).to_owned());
            }
            if !value.is_empty() && !FREE_LABELS.contains(name) {
                let values = self.values.entry((metric.name, (*name).to_owned()));
                values.or_default().insert((*value).to_owned());
            }
        }
    }
}

impl Sink for Seen {
    fn start(&mut self, metric: &Metric) {
        self.metrics.insert(metric.name, *metric);
    }
    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, _: u64) {
        self.series(metric, labels);
    }
    fn gauge(&mut self, metric: &Metric, labels: Labels<'_>, _: f64) {
        self.series(metric, labels);
    }
    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, _: &HistogramValue<'_>) {
        self.series(metric, labels);
    }
}

/// A preset with all that exports something.
async fn everything() -> Components {
    let text = r#"
        [server]
        admin_address = "127.0.0.1:0"
        [access_log]
        enabled = true
        output = "stderr"
        [rate_limit.all]
        rules = ["1000/s"]
    "#;
    // One that is followed.
    let path = std::env::temp_dir().join(format!("stellane-catalogue-{}.toml", std::process::id()));
    fs::write(&path, text).expect("writes");
    let config = Loader::new().file(&path).load();
    let config: RuntimeConfig = config.expect("valid");
    let nobody = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")];
    let nobody = nobody.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let otlp = Otlp::from_vars(nobody).expect("valid").expect("on");
    let service = service_fn(async |_: Request<RequestBody>| {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let runtime = Runtime::builder()
        .config(config.clone())
        .otlp(otlp)
        .service(service)
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let selector = EngineSelector::builder().build().expect("a selector");
    components.export_selector(&selector).expect("the first");
    let prepared = Prepared::new();
    components.export_prepared(&prepared).expect("the first");
    let layered = components.layer(&config.server).layer(service_fn(
        async |_: Request<RequestBody<String>>| {
            stellane_core::metrics::label_route("/");
            Ok::<_, Infallible>(Response::new("hello".to_owned()))
        },
    ));
    let answer = layered.oneshot(Request::new("body".to_owned())).await;
    drop(answer.expect("answered"));
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    tokio::spawn(bound.serve());
    // What is added while it serves.
    let is_there = || {
        let mut seen = Seen::default();
        components.prometheus.walk(&mut seen);
        seen.metrics.contains_key("stellane_config_reloads_total")
    };
    assert!(
        holds_soon(async || is_there()).await,
        "the file is followed"
    );
    let _ = fs::remove_file(&path);
    components
}

#[tokio::test]
async fn the_page_has_every_metric_with_what_it_is() {
    let components = everything().await;
    let mut seen = Seen::default();
    for metric in catalogue() {
        seen.start(metric);
    }
    components.prometheus.walk(&mut seen);
    // What did not happen yet has no series.
    let closed = CloseReason::ALL.iter().map(|reason| reason.as_str());
    let snapshot = components.runtime_metrics.snapshot();
    let shed = snapshot.shed_total.keys().map(AsRef::as_ref);
    for (name, reasons) in [
        ("stellane_connections_closed_total", closed.collect()),
        ("stellane_requests_shed_total", shed.collect::<Vec<_>>()),
    ] {
        for reason in reasons {
            let metric = seen.metrics[name];
            seen.series(&metric, &[("reason", reason)]);
        }
    }
    let page = page(&mut seen);
    if std::env::var_os("STELLANE_WRITE_CATALOGUE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/metrics.md");
        fs::write(path, &page).expect("writes");
        return;
    }
    assert_eq!(
        page, PAGE,
        "write it anew: STELLANE_WRITE_CATALOGUE=1 cargo test -p stellane-core --all-features --test catalogue"
    );
}

fn page(seen: &mut Seen) -> String {
    for (name, labels) in MORE_LABELS {
        let metric = seen.metrics.get(name).copied().expect(name);
        let labels: Vec<_> = labels.iter().map(|label| (*label, "")).collect();
        seen.series(&metric, &labels);
    }
    for (name, _) in ALERTS {
        assert!(
            seen.metrics.contains_key(name),
            "an alert for {name}, which there is not"
        );
    }
    let mut page = String::from(
        "# The metrics\n\n\
         All that a [`Runtime`](crate::Runtime) exports, on `/metrics` of the admin address and by [`otlp`](crate::otlp): a test makes \
         this page from the code. What the program records by the macros of the `metrics` facade is beside it, if it\n\
         [asks for that](crate::runtime::RuntimeBuilder::install_recorder). A metric without a series is left out of the scrape; in \
         OpenMetrics a counter's family has no `_total`.\n\n\
         By OTLP `stellane_x_y_total` is `stellane.x_y`, without the unit at its end; those of HTTP and of the process have \
         OpenTelemetry's names.\n\n\
         | metric | type | unit | labels | meaning | look, or wake somebody, when |\n\
         |---|---|---|---|---|---|\n",
    );
    for (name, metric) in &seen.metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            other => panic!("{other:?}"),
        };
        let unit = match metric.unit() {
            "s" => "seconds",
            "By" => "bytes",
            "1" => "0 to 1",
            _ => "",
        };
        let labels = seen.labels.get(name).into_iter().flatten();
        let labels = labels.map(|label| format!("`{label}`")).collect::<Vec<_>>();
        let alert = ALERTS.iter().find(|(of, _)| of == name);
        let alert = alert.map_or("", |(_, idea)| idea);
        let _ = writeln!(
            page,
            "| `{name}` | {kind} | {unit} | {} | {} | {alert} |",
            labels.join(", "),
            metric.help
        );
    }
    page.push_str(
        "\n# The values of labels\n\n\
         `http_route` is `_UNMATCHED` where no route was found, and where the request was answered before it came to the router: by a rate,\n\
         say. `limit` is a section of `[rate_limit]`, `class` one of `[limit.classes]`. Those that are neither yours nor a protocol's:\n\n\
         | metric | label | values |\n\
         |---|---|---|\n",
    );
    for ((name, label), values) in &seen.values {
        let values = values.iter().map(|value| format!("`{value}`"));
        let values = values.collect::<Vec<_>>().join(", ");
        let _ = writeln!(page, "| `{name}` | `{label}` | {values} |");
    }
    page
}

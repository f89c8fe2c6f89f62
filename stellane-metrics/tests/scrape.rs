//! The scrape is valid, and everything the dashboard and the alert rules name is in it.

#![cfg(all(feature = "admin", feature = "prometheus"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_metrics::{
    BuildError, Dependency, HttpMetrics, Kind, Metric, MetricsLayer, Prometheus, Readiness,
    RuntimeMetrics, catalogue, metrics, prometheus,
};
use tower::{Layer, Service, service_fn};

/// A scrape of a server in which every component reports something.
async fn busy() -> Prometheus {
    let http = HttpMetrics::builder().build().unwrap();
    let mut app = MetricsLayer::new(&http)
        .route_from_request(|request: &Request<Full<Bytes>>| Some(request.uri().path()))
        .layer(service_fn(|request: Request<Full<Bytes>>| async move {
            let mut response = Response::new(Full::<Bytes>::from("hello"));
            if request.uri().path() == "/fails" {
                *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            }
            Ok::<_, Infallible>(response)
        }));
    for path in ["/", "/fails", "/quote%22", "/back\\slash"] {
        let mut request = Request::new(Full::default());
        if let Ok(uri) = path.parse() {
            *request.uri_mut() = uri;
        }
        app.call(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
    }
    drop(app.call(Request::new(Full::default())));
    let runtime = RuntimeMetrics::builder()
        .http(&http)
        .tokio(&tokio::runtime::Handle::current())
        .source(|snapshot| {
            snapshot.shed_total.insert("limit".into(), 1);
            snapshot.tuning_actions_total.insert("a\"b\\c\nd".into(), 1);
            snapshot.connections_closed_total.insert("idle".into(), 1);
            snapshot.threads_held.insert("/slow".into(), 1);
            snapshot.thread_holds_total.insert("/slow".into(), 2);
            let seconds = &mut snapshot.thread_held_seconds_total;
            seconds.insert("/slow".into(), 0.5);
            let restarts = &mut snapshot.background_restarts_total;
            restarts.insert("outbox".into(), 1);
            snapshot.cgroup_memory_limit = 1 << 30;
            snapshot.cgroup_cpu_limit = 1.5;
        })
        .build()
        .unwrap();
    let readiness = Readiness::new();
    for _ in 0..2 {
        readiness.dependency(Dependency::degraded("db")).failed();
    }
    let scrape = prometheus()
        .runtime(&runtime)
        .readiness(&readiness)
        .build()
        .unwrap();
    metrics::with_local_recorder(&scrape.recorder(), || {
        metrics::describe_histogram!("app_work_seconds", "Work of the application.");
        metrics::histogram!("app_work_seconds", "kind" => "x").record(0.1);
    });
    scrape
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Parses the text format, refusing what Prometheus would and some things it would not.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty(), "{name} has no help");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let family = Family {
                kind: kind.to_owned(),
                ..Family::default()
            };
            assert!(
                families.insert(name.to_owned(), family).is_none(),
                "{name} comes twice"
            );
            current = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("no number in {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        assert!(
            name.chars().all(valid) && !name.starts_with(char::is_numeric),
            "{name}"
        );
        let labels = parse_labels(labels.strip_suffix('}').unwrap());
        assert!(
            seen.insert((name.to_owned(), labels.clone())),
            "{series} comes twice"
        );
        let family = families.get_mut(&current).unwrap();
        let suffix = name
            .strip_prefix(&*current)
            .unwrap_or_else(|| panic!("{name} in {current}"));
        let histogram = ["_bucket", "_sum", "_count"].contains(&suffix);
        assert_eq!(
            histogram,
            family.kind == "histogram",
            "{name}: {}",
            family.kind
        );
        family.samples.push((suffix.to_owned(), labels, value));
    }
    families
}

fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().expect("the quote is closed") {
                (end, '"') => break end,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("unknown escape \\{c}"),
                },
                (_, c) => value.push(c),
            }
        };
        assert!(
            labels.insert(name.to_owned(), value).is_none(),
            "{name} comes twice"
        );
        text = rest[end + 1..].trim_start_matches(',');
    }
    labels
}

#[tokio::test]
async fn the_scrape_parses_strictly_and_its_histograms_add_up() {
    let families = parse(&busy().await.render());
    for (name, family) in families
        .iter()
        .filter(|(_, family)| family.kind == "histogram")
    {
        let mut series: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (suffix, labels, value) in &family.samples {
            let mut labels = labels.clone();
            let le = labels.remove("le");
            series
                .entry(labels)
                .or_default()
                .push((suffix.as_str(), le, *value));
        }
        for (labels, samples) in series {
            let mut last = (f64::NEG_INFINITY, 0.0);
            for (_, le, value) in samples.iter().filter(|sample| sample.0 == "_bucket") {
                let le: f64 = le.as_ref().unwrap().parse().unwrap();
                assert!(le > last.0 && *value >= last.1, "{name}{labels:?}");
                last = (le, *value);
            }
            let count = samples
                .iter()
                .find(|sample| sample.0 == "_count")
                .unwrap()
                .2;
            assert_eq!(last, (f64::INFINITY, count), "{name}{labels:?}");
            assert!(
                samples.iter().any(|sample| sample.0 == "_sum"),
                "{name}{labels:?}"
            );
        }
    }
    let tuned = &families["stellane_tuning_actions_total"].samples[0];
    assert_eq!(
        tuned.1["parameter"], "a\"b\\c\nd",
        "labels survive their escaping"
    );
}

#[tokio::test]
async fn the_scrape_is_the_catalogue() {
    let families = parse(&busy().await.render());
    for metric in catalogue() {
        let family = families
            .get(metric.name)
            .unwrap_or_else(|| panic!("{} is missing", metric.name));
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            _ => "histogram",
        };
        assert_eq!(family.kind, kind, "{}", metric.name);
        assert_eq!(
            metric.kind == Kind::Counter,
            metric.name.ends_with("_total"),
            "{}",
            metric.name
        );
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("grafana")
        .join(name)
}

/// Every expression of the dashboard.
fn dashboard_expressions() -> Vec<String> {
    fn walk(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                found.extend(map.get("expr").and_then(|e| e.as_str()).map(str::to_owned));
                map.values().for_each(|value| walk(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let json = fs::read_to_string(file("stellane.json")).unwrap();
    let mut found = Vec::new();
    walk(&serde_json::from_str(&json).unwrap(), &mut found);
    assert!(found.len() > 30, "{} expressions", found.len());
    found
}

#[test]
fn a_name_that_is_taken_or_no_name_is_refused() {
    let runtime = RuntimeMetrics::builder().build().unwrap();
    let add = |name| runtime.add(Metric::counter(name, "Orders."), |values| values.set(1.0));
    add("orders_total").unwrap();
    let own = catalogue()[0].name;
    for taken in ["orders_total", own] {
        let refused = add(taken).unwrap_err();
        assert!(matches!(refused, BuildError::MetricTwice(name) if name == taken));
    }
    for none in ["", "9_lives", "two words", "a-b"] {
        let refused = add(none).unwrap_err();
        assert!(matches!(refused, BuildError::MetricName(name) if name == none));
    }
}

#[tokio::test]
async fn every_metric_of_the_dashboard_and_the_alerts_is_in_a_scrape() {
    let families = parse(&busy().await.render());
    let alerts = fs::read_to_string(file("alerts.yml")).unwrap();
    let mut named = BTreeSet::new();
    for text in dashboard_expressions().iter().chain([&alerts]) {
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let ours = ["http_server_", "stellane_", "tokio_", "process_"];
            if ours.iter().any(|prefix| word.starts_with(prefix)) {
                named.insert(word.to_owned());
            }
        }
    }
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let family = base
            .and_then(|base| families.get(base))
            .or_else(|| families.get(&*name));
        assert!(
            family.is_some_and(|family| !family.samples.is_empty()),
            "{name} is not scraped"
        );
    }
}

/// Runs a tool of Prometheus, if there is one.
fn promtool(args: &[&str], input: &str) -> Option<String> {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {text}");
    Some(text.into_owned())
}

#[tokio::test]
async fn promtool_accepts_the_scrape_and_the_rules_where_it_is_installed() {
    let Some(complaints) = promtool(&["check", "metrics"], &busy().await.render()) else {
        return println!("promtool is not installed");
    };
    // The name of the application's own histogram has no help: not ours to give.
    let ours: Vec<_> = complaints
        .lines()
        .filter(|line| !line.contains("app_work"))
        .collect();
    assert_eq!(ours, [""; 0], "promtool complains");
    promtool(
        &["check", "rules", file("alerts.yml").to_str().unwrap()],
        "",
    );
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs prometheus, takes up to 30 s"]
async fn a_prometheus_server_scrapes_it_and_understands_every_expression() {
    let scrape = busy().await;
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let target_port = target.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in target.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let text = scrape.render();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{text}",
                text.len()
            );
        }
    });
    let directory =
        std::env::temp_dir().join(format!("stellane-prometheus-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let alerts = file("alerts.yml");
    fs::write(
        directory.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{alerts:?}]\n\
             scrape_configs: [{{job_name: stellane, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]}}]\n"
        ),
    )
    .unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let _prometheus = Running(
        Command::new("prometheus")
            .current_dir(&directory)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let url = format!("http://127.0.0.1:{port}");
    let ask = |expression: &str| {
        let output = Command::new("promtool")
            .args(["query", "instant", &url, expression])
            .output();
        let output = output.unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let is_up = || ask("count_over_time(up[1m]) > 3").1.contains("=>");
    let up = (0..60).any(|_| {
        thread::sleep(Duration::from_millis(500));
        is_up()
    });
    assert!(
        up && ask("up").1.contains("=> 1 @"),
        "never scraped: {:?}",
        ask("up")
    );
    let query = |expression: &str| {
        let (ok, answer) = ask(expression);
        assert!(ok, "{expression} is refused: {answer}");
        answer
    };
    assert!(query("scrape_samples_scraped").contains("=>"));
    for expression in dashboard_expressions() {
        let expression = expression
            .replace("$__rate_interval", "4s")
            .replace("$job", "stellane")
            .replace("$instance", ".*")
            .replace("$slo", "99.9");
        let answer = query(&expression);
        // An event has a value only when it happens.
        let is_event = expression.contains("> 0") || expression.contains("unless");
        assert!(answer.contains("=>") || is_event, "{expression} is empty");
    }
    assert!(!query("ALERTS").contains("alertname=\"StellaneNotReady\""));
    fs::remove_dir_all(&directory).unwrap();
}

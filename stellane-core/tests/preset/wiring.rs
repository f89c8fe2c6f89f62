//! The preset's adapters: each number and each knob is that of the component whose name it has.

use std::{collections::BTreeMap, pin::pin, sync::mpsc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use stellane_core::{
    BoxError, Components, RequestBody, RuntimeConfig,
    autotune::{AlgorithmKind, Key, names},
    config::Loader,
    pool::{Job, JobError},
    router::Router,
};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn, util::MapRequest};

use crate::looks::holds_soon;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// One place under the limit.
fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.max_body_bytes = 10;
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max_wait = Duration::from_secs(3600);
    config
}

/// What the path asks for.
async fn app(request: Request<RequestBody<Body>>) -> Result<Response<String>, BoxError> {
    match request.uri().path() {
        "/error" => Err("as asked".into()),
        "/panic" => panic!("as asked"),
        "/hang" => std::future::pending().await,
        _ => {
            let read = request.into_body().collect().await?.to_bytes();
            Ok(Response::new(format!("read {}", read.len())))
        }
    }
}

/// Through the whole preset; the status.
async fn send(components: &Components, config: &RuntimeConfig, request: Request<Body>) -> u16 {
    let service = components.layer(&config.server).layer(service_fn(app));
    let answer = service.oneshot(request).await.expect("is always answered");
    let status = answer.status();
    let _ = answer.into_body().collect().await;
    status.as_u16()
}

fn request(path: &str) -> Request<Body> {
    let body = Full::default().map_err(Into::into).boxed_unsync();
    Request::get(path).body(body).expect("a request")
}

/// A body that says how long it is, or not.
fn upload(bytes: usize, says_so: bool) -> Request<Body> {
    let whole = Bytes::from(vec![b'x'; bytes]);
    let body = match says_so {
        true => Full::new(whole).map_err(Into::into).boxed_unsync(),
        false => {
            let frames = whole
                .chunks(1)
                .map(|byte| Ok(Frame::data(Bytes::copy_from_slice(byte))));
            let frames: Vec<Result<_, BoxError>> = frames.collect();
            StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
        }
    };
    Request::post("/").body(body).expect("a request")
}

/// The series of a metric that are not zero, by their labels.
fn exported(components: &Components, metric: &str) -> BTreeMap<String, f64> {
    components.runtime_metrics.collect();
    let text = components.prometheus.render();
    let series = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(metric)?.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then_some((labels, value))
    });
    series
        .map(|(labels, value)| (labels.to_owned(), value.parse().expect("a number")))
        .filter(|(_, value)| *value != 0.0)
        .collect()
}

/// The status of a request that waits in the queue of the limit first.
async fn behind_the_queue(
    components: &Components,
    config: &RuntimeConfig,
    request: Request<Body>,
) -> u16 {
    let place = components.limit.try_acquire().expect("the only one");
    let mut waiting = pin!(send(components, config, request));
    begin(&mut waiting).await;
    assert_eq!(components.limit.stats().waiting, 1);
    drop(place);
    waiting.await
}

/// Goes as far as it can at once, which is not to its end.
async fn begin(request: impl Future<Output = u16>) {
    let polled = tokio::time::timeout(Duration::ZERO, request).await;
    assert!(polled.is_err(), "{polled:?}");
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_not_a_byte_larger() {
    let config = config();
    let components = Components::new(&config).expect("valid");
    for says_so in [true, false] {
        for (bytes, status) in [(9, 200), (10, 200), (11, 413)] {
            let direct = send(&components, &config, upload(bytes, says_so)).await;
            assert_eq!(direct, status, "{bytes} bytes, {says_so}");
            let queued = behind_the_queue(&components, &config, upload(bytes, says_so)).await;
            assert_eq!(queued, status, "{bytes} bytes, {says_so}, from the queue");
        }
    }
}

#[tokio::test]
async fn errors_and_panics_of_the_service_are_500_and_counted_on_both_ways() {
    let config = config();
    let components = Components::new(&config).expect("valid");
    let counts = || {
        let stats = components.faults.stats();
        let all = |metric| {
            exported(&components, metric)
                .get("")
                .copied()
                .unwrap_or_default()
        };
        let exported = (
            all("stellane_handler_panics_total"),
            all("stellane_handler_errors_total"),
        );
        assert_eq!(exported, (stats.panics as f64, stats.errors as f64));
        (stats.panics, stats.errors)
    };
    let error = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
    assert_eq!(send(&components, &config, request("/error")).await, error);
    assert_eq!(counts(), (0, 1));
    assert_eq!(send(&components, &config, request("/panic")).await, error);
    assert_eq!(counts(), (1, 1));
    let queued = behind_the_queue(&components, &config, request("/error")).await;
    assert_eq!((queued, counts()), (error, (1, 2)));
    let queued = behind_the_queue(&components, &config, request("/panic")).await;
    assert_eq!((queued, counts()), (error, (2, 2)));
}

#[tokio::test]
async fn an_answer_whose_client_does_not_ask_for_more_lends_its_place() {
    let mut config = config();
    config.limit.max_wait = Duration::ZERO;
    let components = Components::new(&config).expect("valid");
    let stream = async |_: Request<RequestBody<Body>>| {
        let frame = || Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"a frame")));
        let frames = futures_util::stream::iter([frame(), frame(), frame()]);
        Ok::<_, BoxError>(Response::new(StreamBody::new(frames)))
    };
    let service = components.layer(&config.server).layer(service_fn(stream));
    let answer = service.oneshot(request("/")).await.expect("is answered");
    let mut body = answer.into_body();
    let other = async || send(&components, &config, request("/")).await;
    assert_eq!(other().await, 503, "it has the only place");
    // From here on it waits for its client.
    body.frame().await.expect("a frame").expect("is whole");
    assert!(
        holds_soon(async || other().await == 200).await,
        "is never lent"
    );
    assert_eq!(components.limit.stats().lent, 1);
    // And takes the place back by asking for the next.
    body.frame().await.expect("a frame").expect("is whole");
    assert_eq!(components.limit.stats().lent, 0);
}

#[tokio::test]
async fn whose_a_request_is_may_be_said_in_its_extensions() {
    let mut config = config();
    config.limit.initial = 8;
    config.limit.max_wait = Duration::ZERO;
    let components = Components::new(&config).expect("valid");
    let of = |path: &str, name: &str| {
        let mut request = request(path);
        request.extensions_mut().insert(Key::of(name));
        send(&components, &config, request)
    };
    let mut held: Vec<_> = (0..6).map(|_| Box::pin(of("/hang", "a"))).collect();
    for one in &mut held {
        begin(one).await;
    }
    assert_eq!(of("/", "b").await, 200);
    assert_eq!(of("/", "a").await, 503, "the last quarter is for others");
    assert_eq!(of("/", "b").await, 200);
}

/// What it can't read is a bad request, as for the extractors of axum.
async fn extractor(request: Request<RequestBody<Body>>) -> Result<Response<String>, BoxError> {
    let mut response = Response::new(String::new());
    if request.into_body().collect().await.is_err() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_told_as_that_and_not_as_a_bad_request() {
    let config = config();
    let components = Components::new(&config).expect("valid");
    for (bytes, says_so, status) in [(10, false, 200), (11, true, 413), (11, false, 413)] {
        let fused = components
            .layer(&config.server)
            .layer(service_fn(extractor));
        let upload = || {
            let mut request = upload(bytes, says_so);
            let host = HeaderValue::from_static("localhost");
            request.headers_mut().insert(header::HOST, host);
            request
        };
        let fused = fused.oneshot(upload()).await;
        assert_eq!(fused.expect("is answered").status(), status, "{bytes}");
        let layers = components.layers(&config.server);
        let layers = layers.layer(service_fn(extractor));
        let layers = layers.oneshot(upload()).await;
        assert_eq!(layers.expect("is answered").status(), status, "{bytes}");
    }
}

#[tokio::test]
async fn a_router_within_layers_of_others_tells_its_route() {
    let config = config();
    let components = Components::new(&config).expect("valid");
    let router = Router::builder().get("/users/{id}", async || "a user");
    let router = router.build().expect("valid");
    let within = MapRequest::new(router, |request: Request<RequestBody<Body>>| request);
    let service = components.layer(&config.server).layer(within);
    let answer = service.oneshot(request("/users/7")).await;
    let answer = answer.expect("is answered");
    answer.into_body().collect().await.expect("is whole");
    let routes = components.metrics.routes();
    let named: Vec<_> = routes
        .iter()
        .filter(|route| route.requests > 0)
        .map(|route| &*route.route)
        .collect();
    assert_eq!(named, ["/users/{id}"]);
}

fn shed(components: &Components) -> BTreeMap<String, f64> {
    exported(components, "stellane_requests_shed_total")
}

fn only(reason: &str) -> BTreeMap<String, f64> {
    BTreeMap::from([(format!("{{reason=\"{reason}\"}}"), 1.0)])
}

#[tokio::test]
async fn a_request_that_the_limit_sheds_is_told_by_its_reason() {
    let full = |change: fn(&mut RuntimeConfig)| {
        let config = config().with(change);
        let components = Components::new(&config).expect("valid");
        let place = components.limit.try_acquire().expect("the only one");
        (config, components, place)
    };

    let (config, components, _place) = full(|config| config.limit.max_wait = Duration::ZERO);
    assert_eq!(send(&components, &config, request("/")).await, 503);
    assert_eq!(shed(&components), only("limit"));

    let wait = |config: &mut RuntimeConfig| config.limit.max_wait = Duration::from_millis(1);
    let (config, components, _place) = full(wait);
    assert_eq!(send(&components, &config, request("/")).await, 503);
    assert_eq!(shed(&components), only("wait_timeout"));

    let (config, components, _place) = full(|config| config.limit.max_waiters = 1);
    let mut waiting = pin!(send(&components, &config, request("/")));
    begin(&mut waiting).await;
    assert_eq!(send(&components, &config, request("/")).await, 503);
    assert_eq!(shed(&components), only("queue_full"));

    let (config, components, _place) = full(|_| {});
    let mut late = request("/");
    let header = late.headers_mut();
    header.insert("x-request-timeout-ms", "1".parse().expect("a value"));
    assert_eq!(send(&components, &config, late).await, 503);
    assert_eq!(shed(&components), only("deadline"));

    let config =
        self::config().with(|config| config.overload.default_timeout = Duration::from_millis(1));
    let components = Components::new(&config).expect("valid");
    assert_eq!(send(&components, &config, request("/hang")).await, 504);
    assert_eq!(shed(&components), only("timed_out"));

    let text = "[limit]\nalgorithm = \"fixed\"\ninitial = 8\nmax_wait = \"0s\"\n\
                [limit.classes.gpu]\nlimit = 1\npaths = [\"/hang\"]\n";
    let config = Loader::new().text("app.toml", text).load().expect("loads");
    let components = Components::new(&config).expect("valid");
    let mut hanging = pin!(send(&components, &config, request("/hang")));
    begin(&mut hanging).await;
    assert_eq!(send(&components, &config, request("/hang")).await, 503);
    assert_eq!(shed(&components), only("class_full"));
}

/// One worker, which a job has until what is returned is dropped.
async fn busy() -> (Components, mpsc::Sender<()>, Job<()>) {
    let mut config = config();
    (config.workers.min_workers, config.workers.max_workers) = (1, 1);
    config.workers.queue_size = 1;
    let components = Components::new(&config).expect("valid");
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let job = components.workers.spawn_blocking(move || {
        let _ = begun.send(());
        let _ = held.recv();
    });
    begins.await.expect("begins");
    (components, release, job)
}

#[tokio::test]
async fn a_job_that_the_workers_shed_is_told_by_its_reason() {
    let (components, release, _job) = busy().await;
    let _waiting = components.workers.spawn_blocking(|| ());
    let refused = components.workers.spawn_blocking(|| ()).await;
    assert_eq!(refused, Err(JobError::Overloaded));
    assert_eq!(shed(&components), only("workers_full"));
    drop(release);

    let (components, release, _job) = busy().await;
    let late = components.workers.job().timeout(Duration::ZERO);
    assert_eq!(late.spawn_blocking(|| ()).await, Err(JobError::Expired));
    assert_eq!(shed(&components), only("workers_deadline"));
    drop(release);
}

#[tokio::test]
async fn each_knob_of_the_tuner_turns_what_its_name_says() {
    let mut config = config();
    config.limit.max = 100;
    (config.workers.min_workers, config.workers.max_workers) = (1, 10);
    config.workers.queue_size = 100;
    config.pool.retain_percent = 50;
    config.connection.idle_timeout = Duration::from_secs(100);
    let components = Components::new(&config).expect("valid");
    let Components {
        workers,
        pools,
        connections,
        limit,
        tuner,
        ..
    } = &components;
    let values = || {
        BTreeMap::from([
            ("workers.min", workers.stats().min_workers as f64),
            ("workers.max", workers.stats().max_workers as f64),
            ("workers.queue", workers.stats().queue_size as f64),
            ("pool.retain_percent", pools.retain_percent() as f64),
            (
                "connection.idle_timeout",
                connections.config().idle_timeout.as_secs_f64(),
            ),
            ("limit.max", f64::from(limit.stats().max)),
        ])
    };
    let shown = || -> BTreeMap<_, _> {
        tuner.tick(Duration::from_secs(1));
        let knobs = tuner.stats().knobs.into_iter();
        knobs
            .map(|knob| (knob.name, knob.value.expect("was read")))
            .collect()
    };
    let named = |values: BTreeMap<&str, f64>| -> BTreeMap<String, f64> {
        values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    };
    let before = values();
    assert_eq!(shown(), named(before.clone()));

    workers.set_max_workers(11);
    workers.set_min_workers(2);
    workers.set_queue_size(200);
    pools.set_retain_percent(75);
    connections.set_idle_timeout(Duration::from_secs(50));
    limit.set_max(300);
    let changed = values();
    for (name, value) in &before {
        assert_ne!(changed[name], *value, "{name}");
    }
    assert_eq!(shown(), named(changed));

    // It turns all of them.
    tuner.restore();
    assert_eq!(values(), before);
}

#[tokio::test]
async fn the_signals_of_the_tuner_say_what_their_names_say() {
    let mut config = config();
    (config.workers.min_workers, config.workers.max_workers) = (2, 2);
    let components = Components::new(&config).expect("valid");
    let (release, held) = mpsc::channel::<()>();
    let job = components.workers.spawn_blocking(move || held.recv());
    while (
        components.workers.stats().active,
        components.workers.stats().idle,
    ) != (1, 1)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let cpu_time = || components.runtime_metrics.snapshot().cpu_time.as_secs_f64();
    components.tuner.tick(Duration::from_secs(1));
    let before = cpu_time();
    while components.runtime_metrics.collect().cpu_time.as_secs_f64() < before + 0.05 {}
    components.tuner.tick(Duration::from_secs(2));
    let used = cpu_time() - before;

    let signals = components.tuner.stats().signals;
    let value = |name: &str| {
        let signal = signals.iter().find(|signal| signal.name == name);
        signal.and_then(|signal| signal.value).expect("is good")
    };
    assert_eq!(value(names::WORKER_UTILIZATION), 0.5);
    assert_eq!(value(names::WORKERS_BUSY), 0.5);
    assert_eq!(value(names::QUEUE_DEPTH), 0.0);
    assert_eq!(value(names::LIMIT), 1.0);
    // Of all CPUs together, in the second between the ticks.
    let snapshot = components.runtime_metrics.snapshot();
    let cpus = match snapshot.cgroup_cpu_limit {
        0.0 => std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64),
        limit => limit,
    };
    assert!((value(names::CPU) - used / cpus).abs() < 1e-9);
    drop(release);
    let _ = job.await;
}

#[tokio::test]
async fn the_rates_of_the_tuner_count_what_their_names_say() {
    let mut config = config();
    config.limit.max_wait = Duration::ZERO;
    (config.workers.min_workers, config.workers.max_workers) = (1, 1);
    config.workers.queue_size = 1;
    let components = Components::new(&config).expect("valid");
    components.tuner.tick(Duration::from_secs(1));
    for _ in 0..5 {
        assert_eq!(send(&components, &config, request("/")).await, 200);
    }
    let place = components.limit.try_acquire().expect("the only one");
    for _ in 0..3 {
        assert_eq!(send(&components, &config, request("/")).await, 503);
    }
    drop(place);
    let workers = &components.workers;
    for _ in 0..4 {
        workers.spawn_blocking(|| ()).await.expect("is done");
    }
    // One holds the only worker, one waits, two are refused.
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let _running = workers.spawn_blocking(move || {
        let _ = begun.send(());
        let _ = held.recv();
    });
    begins.await.expect("begins");
    // Whichever: where jobs have waited for long the newest is let in.
    let _waiting = [(); 3].map(|()| workers.spawn_blocking(|| ()));
    assert_eq!(workers.stats().shed, 2);
    components.runtime_metrics.collect();
    components.tuner.tick(Duration::from_secs(2));

    let signals = components.tuner.stats().signals;
    let value = |name: &str| {
        let signal = signals.iter().find(|signal| signal.name == name);
        signal.and_then(|signal| signal.value)
    };
    assert_eq!(value(names::THROUGHPUT), Some(5.0));
    // Whoever refused them.
    assert_eq!(value(names::SHED_RATE), Some(5.0));
    assert_eq!(value(names::QUEUE_SHED_RATE), Some(2.0));
    assert_eq!(value(names::JOB_RATE), Some(4.0));
    assert_eq!(value(names::QUEUE_DEPTH), Some(1.0));
    assert_eq!(value(names::WORKERS_BUSY), Some(1.0));
    let memory = value(names::MEMORY).zip(stellane_core::metrics::Machine::memory_used());
    let (signal, now) = memory.expect("is known on Linux");
    assert!((signal - now).abs() < 0.2, "{signal}, {now}");
    drop(release);
}

/// What becomes of a field of a component's `stats()`.
enum Is {
    /// The sum of the series of this name, or the one series with these labels.
    Exported(&'static str),
    /// It is told together with another, or can be told from others.
    Told(&'static str),
    /// No number.
    Words,
}
use Is::{Exported, Told, Words};

const RATE: Is = Told("the rate of a counter");

/// Every field of every `stats()`.
const FIELDS: &[(&str, &[(&str, Is)])] = &[
    (
        "connections",
        &[
            ("open", Exported("stellane_connections")),
            ("new", Told("as parked")),
            ("idle", Exported("stellane_connections{state=\"idle\"}")),
            ("parked", Told("with those that have sent nothing yet")),
            ("active", Exported("stellane_connections{state=\"active\"}")),
            (
                "upgraded",
                Exported("stellane_connections{state=\"upgraded\"}"),
            ),
            (
                "accepted_total",
                Exported("stellane_connections_accepted_total"),
            ),
            ("accepted_per_second", RATE),
            (
                "accept_errors_total",
                Exported("stellane_accept_errors_total"),
            ),
            (
                "closed_total",
                Exported("stellane_connections_closed_total"),
            ),
            (
                "requests_total",
                Exported("stellane_connection_requests_total"),
            ),
            ("requests_per_second", RATE),
            (
                "requests_in_flight",
                Exported("stellane_connection_requests_in_flight"),
            ),
            (
                "requests_cancelled_total",
                Exported("stellane_connection_requests_cancelled_total"),
            ),
            ("abandoned", Told("by the next table")),
            (
                "unparked_total",
                Exported("stellane_connections_unparked_total"),
            ),
            ("tls_total", Exported("stellane_connections_tls_total")),
            ("http2_total", Exported("stellane_connections_http2_total")),
            (
                "park_after",
                Exported("stellane_connections_park_after_seconds"),
            ),
            (
                "bytes_read_total",
                Exported("stellane_connection_read_bytes_total"),
            ),
            (
                "bytes_written_total",
                Exported("stellane_connection_written_bytes_total"),
            ),
        ],
    ),
    (
        "memory",
        &[
            ("budget_bytes", Exported("stellane_memory_budget_bytes")),
            ("held_bytes", Exported("stellane_memory_held_bytes")),
            ("answers_bytes", Exported("stellane_memory_answers_bytes")),
            ("sockets_bytes", Exported("stellane_memory_sockets_bytes")),
            ("waiting", Exported("stellane_uploads_waiting")),
            ("waits_total", Exported("stellane_uploads_waits_total")),
            (
                "ended_total",
                Exported("stellane_requests_out_of_memory_total"),
            ),
        ],
    ),
    (
        "abandoned",
        &[
            ("running", Exported("stellane_requests_abandoned")),
            (
                "finished_total",
                Exported("stellane_requests_abandoned_total{end=\"finished\"}"),
            ),
            (
                "timed_out_total",
                Exported("stellane_requests_abandoned_total{end=\"timed_out\"}"),
            ),
            (
                "stopped_total",
                Exported("stellane_requests_abandoned_total{end=\"stopped\"}"),
            ),
            (
                "panicked_total",
                Exported("stellane_requests_abandoned_total{end=\"panicked\"}"),
            ),
            (
                "refused_total",
                Exported("stellane_requests_abandoned_total{end=\"refused\"}"),
            ),
        ],
    ),
    (
        "limit",
        &[
            ("algorithm", Words),
            ("mode", Words),
            ("limit", Exported("stellane_concurrency_limit")),
            ("min", Exported("stellane_concurrency_limit_min")),
            ("max", Exported("stellane_concurrency_limit_max")),
            (
                "in_flight",
                Exported("stellane_limit_requests{state=\"in_flight\"}"),
            ),
            ("lent", Exported("stellane_limit_requests{state=\"lent\"}")),
            (
                "waiting",
                Exported("stellane_limit_requests{state=\"waiting\"}"),
            ),
            (
                "aside",
                Exported("stellane_limit_requests{state=\"aside\"}"),
            ),
            ("state", Words),
            ("evidence", Words),
            ("changes", Exported("stellane_limit_changes_total")),
            ("since", Exported("stellane_limit_state_seconds")),
            ("admitted", Exported("stellane_limit_admitted_total")),
            (
                "successes",
                Exported("stellane_limit_outcomes_total{outcome=\"success\"}"),
            ),
            (
                "overloads",
                Exported("stellane_limit_outcomes_total{outcome=\"overload\"}"),
            ),
            (
                "ignored",
                Exported("stellane_limit_outcomes_total{outcome=\"ignored\"}"),
            ),
            (
                "cancelled",
                Exported("stellane_limit_outcomes_total{outcome=\"cancelled\"}"),
            ),
            ("shed", Told("the sum of those by reason")),
            (
                "shed_limit",
                Exported("stellane_requests_shed_total{reason=\"limit\"}"),
            ),
            (
                "shed_queue_full",
                Exported("stellane_requests_shed_total{reason=\"queue_full\"}"),
            ),
            (
                "shed_wait_timeout",
                Exported("stellane_requests_shed_total{reason=\"wait_timeout\"}"),
            ),
            (
                "shed_deadline",
                Exported("stellane_requests_shed_total{reason=\"deadline\"}"),
            ),
            (
                "shed_class_full",
                Exported("stellane_requests_shed_total{reason=\"class_full\"}"),
            ),
            ("would_shed", Exported("stellane_requests_would_shed_total")),
            (
                "latency_p50",
                Exported("stellane_limit_latency_p50_seconds"),
            ),
            ("windows", Exported("stellane_limit_windows_total")),
            ("classes", Told("by class, each with its own metrics")),
        ],
    ),
    (
        "class",
        &[
            ("name", Words),
            ("share", Exported("stellane_limit_class_share")),
            ("in_flight", Exported("stellane_limit_class_requests")),
            ("shed", Exported("stellane_limit_class_shed_total")),
            (
                "would_shed",
                Exported("stellane_limit_class_would_shed_total"),
            ),
        ],
    ),
    (
        "overload",
        &[
            (
                "with_deadline",
                Exported("stellane_requests_with_deadline_total"),
            ),
            ("refused", Exported("stellane_requests_hopeless_total")),
            (
                "timed_out",
                Exported("stellane_requests_shed_total{reason=\"timed_out\"}"),
            ),
            ("pressure", Exported("stellane_pressure")),
        ],
    ),
    (
        "pools",
        &[
            (
                "hits",
                Exported("stellane_pool_checkouts_total{outcome=\"hit\"}"),
            ),
            (
                "misses",
                Exported("stellane_pool_checkouts_total{outcome=\"miss\"}"),
            ),
            ("steals", Exported("stellane_pool_steals_total")),
            ("drops", Exported("stellane_pool_drops_total")),
            ("outstanding", Exported("stellane_pool_outstanding")),
            ("idle", Exported("stellane_pool_idle")),
            ("retained_bytes", Exported("stellane_pool_retained_bytes")),
            ("budget_bytes", Exported("stellane_pool_budget_bytes")),
            ("trims", Exported("stellane_memory_trims_total")),
            ("last_trim", Exported("stellane_memory_trim_pause_seconds")),
            ("bodies", Exported("stellane_pool_bodies_total")),
            (
                "bodies_too_large",
                Exported("stellane_pool_bodies_too_large_total"),
            ),
        ],
    ),
    (
        "interner",
        &[
            ("frozen", Told("with the other entries")),
            ("entries", Told("with those that are frozen")),
            ("bytes", Exported("stellane_interner_bytes")),
            ("max_bytes", Exported("stellane_interner_max_bytes")),
            ("inserted", Exported("stellane_interner_inserted_total")),
            ("bypassed", Exported("stellane_interner_bypassed_total")),
        ],
    ),
    (
        "faults",
        &[
            ("panics", Exported("stellane_handler_panics_total")),
            ("errors", Exported("stellane_handler_errors_total")),
        ],
    ),
    (
        "http1_rules",
        &[("refused", Exported("stellane_requests_ambiguous_total"))],
    ),
    (
        "workers",
        &[
            ("active", Exported("stellane_workers{state=\"active\"}")),
            ("idle", Exported("stellane_workers{state=\"idle\"}")),
            ("queue_depth", Exported("stellane_worker_queue_depth")),
            ("outstanding", Exported("stellane_worker_jobs_outstanding")),
            ("min_workers", Exported("stellane_workers_min")),
            ("max_workers", Exported("stellane_workers_max")),
            ("queue_size", Exported("stellane_worker_queue_size")),
            (
                "submitted",
                Exported("stellane_worker_jobs_submitted_total"),
            ),
            (
                "completed",
                Exported("stellane_worker_jobs_total{outcome=\"completed\"}"),
            ),
            (
                "panics",
                Exported("stellane_worker_jobs_total{outcome=\"panic\"}"),
            ),
            (
                "cancelled",
                Exported("stellane_worker_jobs_total{outcome=\"cancelled\"}"),
            ),
            (
                "cancelled_waiting",
                Exported("stellane_worker_jobs_total{outcome=\"cancelled_waiting\"}"),
            ),
            ("shed", Told("the sum of those by reason")),
            (
                "shed_full",
                Exported("stellane_requests_shed_total{reason=\"workers_full\"}"),
            ),
            (
                "shed_expired",
                Exported("stellane_requests_shed_total{reason=\"workers_deadline\"}"),
            ),
            (
                "shed_waited",
                Exported("stellane_requests_shed_total{reason=\"workers_waited\"}"),
            ),
            ("stolen", Exported("stellane_worker_jobs_stolen_total")),
            ("blocked", Exported("stellane_worker_blocked_total")),
            (
                "wait_p50",
                Exported("stellane_worker_queue_wait_p50_seconds"),
            ),
            (
                "wait_p99",
                Exported("stellane_worker_queue_wait_p99_seconds"),
            ),
            ("run_p50", Exported("stellane_worker_run_p50_seconds")),
            ("run_p99", Exported("stellane_worker_run_p99_seconds")),
        ],
    ),
    (
        "tuner",
        &[
            ("mode", Words),
            ("frozen", Exported("stellane_tuner_frozen")),
            ("ticks", Exported("stellane_tuner_ticks_total")),
            ("clock_jumps", Exported("stellane_tuner_clock_jumps_total")),
            ("signals", Exported("stellane_tuner_signal")),
            ("knobs", Exported("stellane_tuner_knob")),
            ("actions", Exported("stellane_tuning_actions_total")),
        ],
    ),
    (
        "http",
        &[
            (
                "requests_total",
                Exported("http_server_request_duration_seconds_count"),
            ),
            (
                "requests_in_flight",
                Exported("http_server_active_requests"),
            ),
            (
                "requests_cancelled_total",
                Exported("stellane_http_requests_cancelled_total"),
            ),
            (
                "requests_failed_total",
                Told("by the statuses of the requests"),
            ),
            (
                "overflow_total",
                Exported("stellane_metrics_overflow_total"),
            ),
            ("routes", Told("by the label of the route")),
            ("series", Exported("stellane_metrics_series")),
        ],
    ),
    (
        "selector",
        &[
            (
                "accelerated",
                Exported("stellane_selector_requests_total{outcome=\"accelerated\"}"),
            ),
            (
                "not_replayable",
                Exported("stellane_selector_requests_total{outcome=\"not_replayable\"}"),
            ),
            (
                "open",
                Exported("stellane_selector_requests_total{outcome=\"open\"}"),
            ),
            (
                "not_ready",
                Exported("stellane_selector_requests_total{outcome=\"not_ready\"}"),
            ),
            (
                "declined",
                Exported("stellane_selector_requests_total{outcome=\"declined\"}"),
            ),
            (
                "errors",
                Exported("stellane_selector_requests_total{outcome=\"error\"}"),
            ),
            (
                "panics",
                Exported("stellane_selector_requests_total{outcome=\"panic\"}"),
            ),
            (
                "timeouts",
                Exported("stellane_selector_requests_total{outcome=\"timeout\"}"),
            ),
            ("breaker", Words),
            (
                "breaker_opened",
                Exported("stellane_selector_breaker_opened_total"),
            ),
        ],
    ),
    (
        "prepared",
        &[
            ("entries", Exported("stellane_prepared_responses")),
            ("bytes", Exported("stellane_prepared_bytes")),
            (
                "served",
                Exported("stellane_prepared_requests_total{outcome=\"served\"}"),
            ),
            (
                "not_modified",
                Exported("stellane_prepared_requests_total{outcome=\"not_modified\"}"),
            ),
            (
                "declined",
                Exported("stellane_prepared_requests_total{outcome=\"declined\"}"),
            ),
        ],
    ),
];

/// The fields of a struct as `Debug` shows them, with their values.
fn fields(shown: &str) -> Vec<(&str, &str)> {
    let inner = shown.split_once('{').expect("a struct").1;
    let inner = inner.rsplit_once('}').expect("a struct").0;
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once(": ").expect("a field"))
        .collect()
}

/// All whole numbers in a value, added up; `None` if there are others.
fn total(value: &str) -> Option<f64> {
    let words = value.split(|c: char| !c.is_alphanumeric() && c != '.');
    let numbers = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    numbers
        .map(|number| number.parse::<u64>().ok().map(|n| n as f64))
        .sum()
}

#[tokio::test]
async fn every_field_of_every_stats_is_exported_with_its_value() {
    use stellane_core::{
        engine_selector::EngineSelector,
        prepared::{Prepared, PreparedResponse},
    };
    let text = "[limit]\nalgorithm = \"fixed\"\ninitial = 8\nmax_wait = \"0s\"\n\
                [limit.classes.gpu]\nlimit = 1\npaths = [\"/error\"]\n\
                [pool]\nenabled = true\n[workers]\nmin_workers = 1\nmax_workers = 1\nqueue_size = 2\n";
    let config = Loader::new().text("app.toml", text).load().expect("loads");
    let components = Components::new(&config).expect("valid");
    let selector = EngineSelector::builder().build().expect("valid");
    let prepared = Prepared::new();
    prepared.insert("/", PreparedResponse::new("text/plain", "hello"));
    components.export_selector(&selector).expect("the only one");
    components.export_prepared(&prepared).expect("the only one");
    assert!(
        components.export_prepared(&prepared).is_err(),
        "two of a name"
    );

    // Each number is another.
    for (path, times) in [("/", 7), ("/error", 3), ("/panic", 2)] {
        for _ in 0..times {
            send(&components, &config, request(path)).await;
        }
    }
    for _ in 0..5 {
        let _ = components.workers.spawn_blocking(|| ()).await;
    }
    let _ = components
        .workers
        .spawn_blocking(|| panic!("as asked"))
        .await;
    while components.workers.stats().outstanding > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _ = components.interner.intern("something to be kept");
    for _ in 0..4 {
        drop(components.pools.headers());
    }
    components.tuner.tick(Duration::from_secs(1));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = listener.local_addr().expect("bound");
    let served = components.connections.serve(
        listener,
        service_fn(async |_| Ok::<_, BoxError>(Response::new("hello".to_owned()))),
    );
    let serving = tokio::spawn(served);
    let mut open = Vec::new();
    for _ in 0..3 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connects");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        assert!(stream.read(&mut [0; 512]).await.expect("reads") > 0);
        open.push(stream);
    }
    open.pop();
    while components.connections.stats().open != 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    components.runtime_metrics.collect();
    let stats = [
        (
            "connections",
            format!("{:?}", components.connections.stats()),
        ),
        ("memory", format!("{:?}", components.memory.stats())),
        (
            "abandoned",
            format!("{:?}", components.connections.stats().abandoned),
        ),
        ("limit", format!("{:?}", components.limit.stats())),
        (
            "class",
            format!("{:?}", components.limit.stats().classes[0]),
        ),
        ("overload", format!("{:?}", components.overload.stats())),
        ("pools", format!("{:?}", components.pools.stats())),
        ("interner", format!("{:?}", components.interner.stats())),
        ("faults", format!("{:?}", components.faults.stats())),
        (
            "http1_rules",
            format!("{:?}", components.http1_rules.stats()),
        ),
        ("workers", format!("{:?}", components.workers.stats())),
        ("tuner", format!("{:?}", components.tuner.stats())),
        ("http", format!("{:?}", components.metrics.stats())),
        ("selector", format!("{:?}", selector.stats())),
        ("prepared", format!("{:?}", prepared.stats())),
    ];
    let text = components.prometheus.render();
    let mut told = 0;
    for ((name, shown), (of, table)) in stats.iter().zip(FIELDS) {
        assert_eq!(name, of);
        let found: Vec<_> = fields(shown).into_iter().map(|(field, _)| field).collect();
        let listed: Vec<_> = table.iter().map(|(field, _)| *field).collect();
        assert_eq!(
            found, listed,
            "a field of `{name}` needs its line in `runtime/numbers.rs`"
        );
        for ((_, value), (field, is)) in fields(shown).into_iter().zip(*table) {
            let series = match is {
                Exported(series) => series,
                Told(how) => {
                    assert!(!how.is_empty());
                    continue;
                }
                Words => continue,
            };
            let values = text.lines().filter_map(|line| {
                let rest = line.strip_prefix(series)?;
                let labels = rest.starts_with('{') && !series.ends_with('}');
                (labels || rest.starts_with(' ')).then(|| rest.rsplit_once(' '))?
            });
            let values: Vec<f64> = values.map(|(_, n)| n.parse().expect("a number")).collect();
            // A family by label has no series before there is anything to say.
            let may_be_empty = ["actions", "classes"].contains(field);
            assert!(
                !values.is_empty() || may_be_empty,
                "{name}.{field}: no `{series}`"
            );
            let of_time = value.ends_with('s') || value.contains("s,");
            if let (Some(counted), false) = (total(value), of_time)
                && !["signals", "knobs", "frozen"].contains(field)
            {
                assert_eq!(
                    values.iter().sum::<f64>(),
                    counted,
                    "{name}.{field}: {series}"
                );
                told += u32::from(counted > 0.0);
            }
        }
    }
    assert!(
        told > 20,
        "{told}: too few numbers to tell one from another"
    );
    serving.abort();
}

#[tokio::test]
async fn each_family_is_exported_once() {
    let components = Components::new(&config()).expect("valid");
    // Also what somebody records under a name of ours.
    let recorder = components.prometheus.recorder();
    stellane_core::metrics::metrics::with_local_recorder(&recorder, || {
        use stellane_core::metrics::metrics;
        metrics::counter!("stellane_tuning_actions_total", "parameter" => "x").increment(1);
        metrics::counter!("stellane_handler_panics_total").increment(1);
        metrics::counter!("orders_total").increment(1);
    });
    let text = components.prometheus.render();
    assert!(text.contains("orders_total 1"), "{text}");
    let mut types: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), all);
    let mut series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    series.sort_unstable();
    let names = series
        .iter()
        .map(|line| line.rsplit_once(' ').map(|(name, _)| name));
    let names: Vec<_> = names.collect();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
}

//! What [`RuntimeMetrics`] says about traffic whose truth is known.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    future::ready,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use stellane_metrics::{HttpMetrics, MetricsConfig, MetricsLayer, RuntimeMetrics};
use tower::{Layer, Service, service_fn};

/// A clock that is moved by hand.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Relaxed);
    }

    fn read(&self) -> impl Fn() -> Duration + Send + Sync + 'static {
        let ns = Arc::clone(&self.0);
        move || Duration::from_nanos(ns.load(Relaxed))
    }
}

struct Setup {
    /// What requests are measured with.
    request_clock: Clock,
    /// What the collector is measured with.
    clock: Clock,
    http: HttpMetrics,
    runtime: RuntimeMetrics,
}

fn setup() -> Setup {
    let (request_clock, clock) = (Clock::default(), Clock::default());
    let http = HttpMetrics::builder()
        .clock(request_clock.read())
        .build()
        .unwrap();
    let runtime = RuntimeMetrics::builder()
        .config(MetricsConfig::default())
        .http(&http)
        .clock(clock.read())
        .build()
        .unwrap();
    Setup {
        request_clock,
        clock,
        http,
        runtime,
    }
}

impl Setup {
    /// Serves requests of these durations.
    fn serve(&self, durations: impl IntoIterator<Item = Duration>) {
        for duration in durations {
            let clock = self.request_clock.clone();
            let mut service = MetricsLayer::new(&self.http).layer(service_fn(|_| {
                clock.advance(duration);
                ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
            }));
            let mut cx = Context::from_waker(Waker::noop());
            let call = pin!(service.call(Request::new(Empty::<Bytes>::new())));
            assert!(call.poll(&mut cx).is_ready());
        }
    }
}

#[test]
fn percentiles_are_within_5_percent_of_those_of_the_raw_samples() {
    let seed = 0x5eed_0099_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    // Exponential around 2 ms, one in fifty waits for something slow, some take microseconds.
    let mut samples: Vec<Duration> = (0..50_000)
        .map(|_| {
            let scale = match uniform() {
                p if p < 0.02 => 0.080,
                p if p < 0.30 => 0.000_02,
                _ => 0.002,
            };
            Duration::from_secs_f64(-(1.0 - uniform()).ln() * scale)
        })
        .collect();
    let setup = setup();
    setup.serve(samples.iter().copied());
    setup.clock.advance(Duration::from_secs(1));
    let snapshot = setup.runtime.collect();

    samples.sort_unstable();
    let truth = |q: f64| samples[(q * samples.len() as f64).ceil() as usize - 1].as_secs_f64();
    for (name, shown, truth) in [
        ("p50", snapshot.latency_p50, truth(0.5)),
        ("p90", snapshot.latency_p90, truth(0.9)),
        ("p99", snapshot.latency_p99, truth(0.99)),
        ("p999", snapshot.latency_p999, truth(0.999)),
        ("head p99", snapshot.latency_head_p99, truth(0.99)),
    ] {
        let error = (shown.as_secs_f64() - truth).abs() / truth;
        println!(
            "{name}: {shown:?} against {truth:.6} s, error {:.2}%",
            error * 100.0
        );
        assert!(error < 0.05, "{name}: {shown:?} against {truth} s");
    }
    let mean = samples.iter().sum::<Duration>().as_secs_f64() / samples.len() as f64;
    assert!((snapshot.latency_avg.as_secs_f64() - mean).abs() / mean < 0.001);
}

/// They lie on one chart: one that is smoothed and one that is not would cross.
#[test]
fn the_rate_of_failures_is_of_the_same_window_as_that_of_all() {
    let setup = setup();
    let fail = |requests| {
        for _ in 0..requests {
            let service = service_fn(|_| {
                let response = Response::builder().status(503);
                ready(Ok::<_, Infallible>(
                    response.body(Empty::<Bytes>::new()).unwrap(),
                ))
            });
            let mut service = MetricsLayer::new(&setup.http).layer(service);
            let call = pin!(service.call(Request::new(Empty::<Bytes>::new())));
            assert!(
                call.poll(&mut Context::from_waker(Waker::noop()))
                    .is_ready()
            );
        }
    };
    let mut most = 0.0_f64;
    for tick in 0..120 {
        fail(if tick == 60 { 1000 } else { 1 });
        setup.clock.advance(Duration::from_millis(250));
        let snapshot = setup.runtime.collect();
        let (failed, all) = (
            snapshot.requests_failed_per_second,
            snapshot.requests_per_second,
        );
        assert!(failed <= all, "{failed} of {all} at tick {tick}");
        most = most.max(failed);
    }
    // A second of ten.
    assert!((100.0..110.0).contains(&most), "{most}");
}

#[test]
fn what_takes_microseconds_is_not_told_as_milliseconds() {
    let setup = setup();
    setup.serve([Duration::from_micros(1); 10]);
    let scrape = setup.http.render();
    let first = scrape
        .lines()
        .find(|line| line.starts_with("http_server_request_duration_seconds_bucket"))
        .unwrap();
    assert!(
        first.contains("le=\"0.0001\"") && first.ends_with(" 10"),
        "{first}"
    );
}

#[test]
fn rates_and_percentiles_forget_what_lies_before_the_window() {
    let setup = setup();
    let tick = || {
        setup.clock.advance(Duration::from_millis(250));
        setup.runtime.collect()
    };
    for _ in 0..40 {
        setup.serve([Duration::from_millis(400); 5]);
        tick();
    }
    let busy = tick();
    assert!(
        busy.latency_p99 > Duration::from_millis(390),
        "{:?}",
        busy.latency_p99
    );
    assert!(
        (busy.requests_per_second - 20.0).abs() < 1.0,
        "{}",
        busy.requests_per_second
    );
    for _ in 0..41 {
        setup.serve([Duration::from_millis(1)]);
        tick();
    }
    let calm = setup.runtime.snapshot();
    assert!(
        calm.latency_p99 < Duration::from_millis(2),
        "{:?}",
        calm.latency_p99
    );
    assert!(
        (calm.requests_per_second - 4.0).abs() < 0.2,
        "{}",
        calm.requests_per_second
    );
    assert_eq!(calm.requests_total, 241);
}

#[test]
fn the_snapshot_takes_over_what_sources_report_and_judges_it() {
    let clock = Clock::default();
    let connections = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&connections);
    let runtime = RuntimeMetrics::builder()
        .clock(clock.read())
        .allocator(|| 4096)
        .source(move |snapshot| {
            snapshot.connections_total = total.load(Relaxed);
            snapshot.connections_parked = 10_001;
            snapshot.shed_total.insert("limit".into(), 3);
        })
        .build()
        .unwrap();
    connections.store(500, Relaxed);
    clock.advance(Duration::from_secs(2));
    let snapshot = runtime.collect();
    assert_eq!(snapshot.heap_size, 4096);
    assert_eq!(snapshot.connections_per_second, 250.0);
    assert_eq!(snapshot.shed_total["limit"], 3);
    assert!(snapshot.acceleration.scale.reached);
    assert!(!snapshot.acceleration.performance_ceiling.reached);
    // Without a request, no latency is demanded of anything.
    assert!(!snapshot.acceleration.latency.reached);
    if cfg!(target_os = "linux") {
        assert!(snapshot.rss > 1_000_000 && snapshot.open_fds > 2 && snapshot.threads > 0);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_runs_on_its_own_and_sees_tokio() {
    let mut config = MetricsConfig::default();
    config.interval = Duration::from_millis(10);
    config.window = Duration::from_millis(200);
    let runtime = RuntimeMetrics::builder()
        .config(config)
        .tokio(&tokio::runtime::Handle::current())
        .build()
        .unwrap();
    let first = runtime.snapshot();
    let collector = tokio::spawn(runtime.clone().run());
    while runtime.snapshot().uptime <= first.uptime + Duration::from_millis(30) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let snapshot = runtime.snapshot();
    assert_eq!(snapshot.tokio_workers, 2);
    assert!(snapshot.tokio_alive_tasks >= 1);
    collector.abort();
}

#[test]
fn a_source_may_ask_for_the_snapshot_it_is_part_of() {
    let cell = Arc::new(std::sync::OnceLock::<RuntimeMetrics>::new());
    let inner = Arc::clone(&cell);
    let runtime = RuntimeMetrics::builder()
        .source(move |snapshot| {
            snapshot.limit = inner.get().map_or(1, |runtime| runtime.collect().limit + 1);
        })
        .build()
        .unwrap();
    cell.set(runtime.clone()).unwrap();
    assert_eq!(runtime.collect().limit, 2);
}

#[test]
fn the_history_has_a_point_a_second_for_ten_minutes() {
    let setup = setup();
    for _ in 0..3_000 {
        setup.clock.advance(Duration::from_millis(250));
        setup.serve([Duration::from_millis(1)]);
        setup.runtime.collect();
    }
    setup.runtime.tell("configuration reloaded");
    let history = setup.runtime.history();
    let seconds: Vec<f64> = (151..=750).map(f64::from).collect();
    assert_eq!(history.at, seconds);
    assert_eq!(history.numbers["requests_per_second"], vec![4.0; 600]);
    assert_eq!(history.counts["responses"]["2xx"], vec![4.0; 600]);
    assert!(
        history
            .latency_heat
            .iter()
            .all(|rows| rows.iter().sum::<f64>() == 1.0)
    );
    let last = history.events.last().unwrap();
    assert_eq!((last.at, &*last.text), (750.0, "configuration reloaded"));
    assert!(setup.runtime.route_history("/nowhere").is_none());
}

#[test]
fn a_snapshot_nobody_collects_is_taken_on_demand() {
    let setup = setup();
    setup.clock.advance(Duration::from_secs(1));
    setup.serve([Duration::from_millis(1)]);
    assert_eq!(setup.runtime.snapshot().requests_total, 1);
}

#[cfg(feature = "serde")]
#[test]
fn the_configuration_survives_serialisation_and_refuses_unknown_keys() {
    let config = MetricsConfig::default();
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(json["window"], "10s");
    assert_eq!(json["duration_buckets"], "fine");
    assert_eq!(
        serde_json::from_value::<MetricsConfig>(json).unwrap(),
        config
    );
    let error = serde_json::from_str::<MetricsConfig>(r#"{"windw": "1s"}"#).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `windw`"),
        "{error}"
    );
}

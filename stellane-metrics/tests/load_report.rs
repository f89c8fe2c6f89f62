//! Balancers are told the load: by the numbers that they choose by, in the form that each of them reads.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use stellane_metrics::{
    HttpMetrics, LoadReportLayer, LoadReports, LoadReportsBuilder, MetricsLayer,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// A clock of the test's own, and what is counted by it.
fn metrics() -> (Arc<AtomicU64>, HttpMetrics) {
    let millis = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&millis);
    let clock = move || Duration::from_millis(read.load(Relaxed));
    let http = HttpMetrics::builder().clock(clock).build().expect("valid");
    (millis, http)
}

fn build(builder: LoadReportsBuilder) -> LoadReports {
    builder.build().expect("valid")
}

type Body = Full<Bytes>;

#[tokio::test]
async fn an_answer_says_how_loaded_the_service_is() {
    let (millis, http) = metrics();
    let busy = Arc::new(AtomicU64::new(50));
    let read = Arc::clone(&busy);
    let builder = LoadReports::builder(&http)
        .application_utilization(move || Some(read.load(Relaxed) as f64 / 100.0))
        .named("queue", || Some(3.0))
        .named("unknown", || None);
    let reports = build(builder);
    let mut service = ServiceBuilder::new()
        .layer(LoadReportLayer::new(&reports))
        .layer(MetricsLayer::new(&http))
        .service_fn(async |request: Request<Body>| {
            let mut response = Response::new(Body::from("hello"));
            if request.uri().path() == "/fails" {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            Ok::<_, Infallible>(response)
        });
    // A hundred a second, of which each tenth fails.
    for request in 0..2000_u32 {
        let path = if request.is_multiple_of(10) {
            "/fails"
        } else {
            "/"
        };
        let request = Request::get(path).body(Body::default()).expect("valid");
        let answer = service
            .ready()
            .await
            .expect("never fails")
            .call(request)
            .await
            .expect("never fails");
        let told = answer.headers().get("endpoint-load-metrics");
        assert_eq!(
            told.is_some(),
            millis.load(Relaxed) >= 1000,
            "at {millis:?} ms"
        );
        answer.into_body().collect().await.expect("whole");
        millis.fetch_add(10, Relaxed);
    }
    let report = reports.report().expect("after a second");
    let within =
        |number: Option<f64>, low, high| number.is_some_and(|number| (low..high).contains(&number));
    assert!(
        within(report.rps_fractional, 85.0, 105.0) && within(report.eps, 8.0, 11.0),
        "{report:?}"
    );
    assert!(
        within(report.application_utilization, 0.49, 0.51),
        "{report:?}"
    );
    busy.store(150, Relaxed);
    millis.fetch_add(20_000, Relaxed);
    let request = Request::new(Body::default());
    let answer = service
        .ready()
        .await
        .expect("never fails")
        .call(request)
        .await
        .expect("never fails");
    let told = answer.headers()["endpoint-load-metrics"]
        .to_str()
        .expect("text");
    let numbers = told
        .strip_prefix("TEXT ")
        .expect("as Envoy reads it")
        .split(',');
    let numbers: Vec<_> = numbers
        .filter_map(|number| number.split_once(':'))
        .collect();
    let number = |name: &str| -> f64 {
        let found = numbers.iter().find(|(of, _)| *of == name).expect(told);
        found.1.parse().expect("a number")
    };
    assert!(
        (1.49..1.51).contains(&number("application_utilization")),
        "{told}"
    );
    assert_eq!(number("named_metrics.queue"), 3.0);
    assert_eq!(numbers.len(), 4, "{told}");
}

#[tokio::test]
async fn grpc_is_told_in_its_trailers_or_in_an_answer_that_is_only_a_head() {
    let (millis, http) = metrics();
    let reports = build(LoadReports::builder(&http).cpu_utilization(|| Some(0.5)));
    assert_eq!(reports.report(), None);
    millis.store(1500, Relaxed);
    let service =
        LoadReportLayer::new(&reports).layer(tower::service_fn(async |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("valid"));
            let frames = match path.as_str() {
                "/only-a-head" => Vec::new(),
                _ => vec![
                    Ok::<_, Infallible>(Frame::data(Bytes::from("message"))),
                    Ok(Frame::trailers(trailers)),
                ],
            };
            let response = Response::builder().header(
                "content-type",
                if path == "/web" {
                    "application/grpc-web"
                } else {
                    "application/grpc+proto"
                },
            );
            let response = if frames.is_empty() {
                response.header("grpc-status", "14")
            } else {
                response
            };
            let body = StreamBody::new(futures_util::stream::iter(frames));
            Ok::<_, Infallible>(response.body(body).expect("valid"))
        }));
    let ask = async |path: &str| {
        let request = Request::post(path).body(Body::default()).expect("valid");
        let answer = service.clone().oneshot(request).await.expect("never fails");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("whole");
        (head.headers, body.trailers().cloned().unwrap_or_default())
    };
    let in_base64 = |headers: &HeaderMap| headers.get("endpoint-load-metrics-bin").is_some();
    let (head, trailers) = ask("/call").await;
    assert!(
        !in_base64(&head) && in_base64(&trailers),
        "{head:?} {trailers:?}"
    );
    let (head, _) = ask("/only-a-head").await;
    assert!(
        in_base64(&head) && !head.contains_key("endpoint-load-metrics"),
        "{head:?}"
    );
    let (head, trailers) = ask("/web").await;
    assert!(
        head.contains_key("endpoint-load-metrics") && !in_base64(&trailers),
        "{trailers:?}"
    );
}

/// Else a balancer would take it for one that is full, and send it fewer still.
#[tokio::test]
async fn a_replica_that_has_little_to_do_says_so() {
    let (millis, http) = metrics();
    let in_flight = http.clone();
    let reports = LoadReports::builder(&http)
        .application_utilization(move || Some(in_flight.stats().requests_in_flight as f64 / 2.0));
    let reports = build(reports);
    let works = Arc::clone(&millis);
    let mut service = ServiceBuilder::new()
        .layer(LoadReportLayer::new(&reports))
        .layer(MetricsLayer::new(&http))
        .service_fn(move |_: Request<Body>| {
            works.fetch_add(20, Relaxed);
            async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) }
        });
    // One at a time, each second: a hundredth of what two seats can do.
    let mut told = None;
    for _ in 0..20 {
        millis.fetch_add(980, Relaxed);
        let service = service.ready().await.expect("infallible");
        let answer = service.call(Request::new(Body::default())).await;
        let answer = answer.expect("infallible");
        told = answer.headers().get("endpoint-load-metrics").cloned();
        answer.into_body().collect().await.expect("whole");
    }
    let told = told.expect("a report");
    let (_, rest) = told
        .to_str()
        .expect("text")
        .split_once("application_utilization:")
        .expect("told");
    let utilization: f64 = rest
        .split(',')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(utilization < 0.02, "{told:?}");
}

/// A moment's crowd is forgotten in seconds.
#[test]
fn whoever_was_much_too_full_is_not_remembered_for_it() {
    let (millis, http) = metrics();
    let load = Arc::new(AtomicU64::new(50));
    let read = Arc::clone(&load);
    let reports = build(
        LoadReports::builder(&http)
            .application_utilization(move || Some(read.load(Relaxed) as f64)),
    );
    let told_after = |seconds: u64| {
        let mut told = None;
        for _ in 0..seconds * 10 {
            millis.fetch_add(100, Relaxed);
            told = reports.report();
        }
        told.and_then(|report| report.application_utilization)
            .expect("told")
    };
    assert!(told_after(5) >= 1.5);
    load.store(0, Relaxed);
    assert!(told_after(4) < 0.05);
}

#[test]
fn a_name_that_makes_the_report_invalid_is_an_error() {
    let (_, http) = metrics();
    for names in [
        vec!["a", "a"],
        vec![""],
        vec!["a b"],
        vec!["a:b"],
        vec!["ä"],
    ] {
        let builder = LoadReports::builder(&http);
        let builder = names
            .iter()
            .fold(builder, |builder, name| builder.named(*name, || None));
        let error = builder.build().expect_err("wrong").to_string();
        assert!(error.contains("used once"), "{error}");
    }
}

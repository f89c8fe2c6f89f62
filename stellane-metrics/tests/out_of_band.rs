//! Reports on a stream of their own: at the interval that the client asks for, and no longer than the service is there.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use stellane_metrics::{HttpMetrics, LoadReports, MetricsLayer, OpenRcaService};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

/// Reports of a service that is half full, by a clock of the test's own.
fn reports() -> (Arc<AtomicU64>, HttpMetrics, LoadReports) {
    let millis = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&millis);
    let clock = move || Duration::from_millis(read.load(Relaxed));
    let http = HttpMetrics::builder().clock(clock).build().expect("valid");
    let reports = LoadReports::builder(&http).application_utilization(|| Some(0.5));
    let reports = reports.build().expect("valid");
    (millis, http, reports)
}

async fn traffic(millis: &AtomicU64, http: &HttpMetrics, reports: &LoadReports) {
    let layer = MetricsLayer::new(http);
    for _ in 0..200 {
        let service = layer.layer(tower::service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
        }));
        let answer = service.oneshot(Request::new(Full::default())).await;
        answer
            .expect("infallible")
            .into_body()
            .collect()
            .await
            .expect("whole");
        millis.fetch_add(10, Relaxed);
        let _ = reports.report();
    }
}

/// A message that asks for this interval.
fn asks_for(interval: Duration) -> Full<Bytes> {
    let varint = |mut number: u64| {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let mut duration = [vec![8], varint(interval.as_secs())].concat();
    duration.extend([vec![16], varint(interval.subsec_nanos().into())].concat());
    let message = [vec![10, duration.len() as u8], duration].concat();
    Full::from([vec![0, 0, 0, 0, message.len() as u8], message].concat())
}

async fn stream(
    reports: &LoadReports,
    asks: Full<Bytes>,
) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    let request = Request::post(OpenRcaService::PATH)
        .body(asks)
        .expect("valid");
    let response = OpenRcaService::new(reports)
        .oneshot(request)
        .await
        .expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    Box::pin(response.into_body())
}

async fn status(mut body: impl Body<Data = Bytes, Error = Infallible> + Unpin) -> String {
    let frame = body.frame().await.expect("trailers").expect("infallible");
    let status = frame.into_trailers().expect("trailers")["grpc-status"].clone();
    assert!(body.is_end_stream() && body.frame().await.is_none());
    status.to_str().expect("a number").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_report_comes_at_once_and_then_at_the_interval_that_was_asked_for() {
    let (millis, http, reports) = reports();
    traffic(&millis, &http, &reports).await;
    let cases = [(2500, 2500), (1000, 1000), (0, 500), (1, 500)];
    for (asked, wanted) in cases.map(|(a, b)| (Duration::from_millis(a), Duration::from_millis(b)))
    {
        let mut body = stream(&reports, asks_for(asked)).await;
        let began = Instant::now();
        for number in 0..4 {
            let frame = body.frame().await.expect("a report").expect("infallible");
            let frame = frame.into_data().expect("data");
            assert_eq!(frame[..4], [0, 0, 0, 0]);
            assert_eq!(usize::from(frame[4]), frame.len() - 5);
            // Field 9, application_utilization.
            let half = [&[9 << 3 | 1][..], &0.5_f64.to_le_bytes()].concat();
            assert!(frame.windows(9).any(|bytes| bytes == half), "{frame:?}");
            // tokio's clock is one of milliseconds.
            let late = began.elapsed() - wanted * number;
            assert!(
                late <= Duration::from_millis(4),
                "{number} of {asked:?}: {late:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_a_second_of_traffic() {
    let (millis, http, reports) = reports();
    let mut body = stream(&reports, asks_for(Duration::from_secs(1))).await;
    let waits = tokio::time::timeout(Duration::from_secs(30), body.frame()).await;
    assert!(waits.is_err());
    traffic(&millis, &http, &reports).await;
    assert!(
        body.frame()
            .await
            .expect("a report")
            .expect("infallible")
            .is_data()
    );
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_service() {
    let (millis, http, reports) = reports();
    traffic(&millis, &http, &reports).await;
    let mut body = stream(&reports, asks_for(Duration::from_secs(3600))).await;
    assert!(
        body.frame()
            .await
            .expect("a report")
            .expect("infallible")
            .is_data()
    );
    let began = Instant::now();
    reports.end_streams();
    assert_eq!(status(body).await, "14");
    assert!(began.elapsed() <= Duration::from_secs(1));
    let body = stream(&reports, asks_for(Duration::from_secs(1))).await;
    assert_eq!(status(body).await, "14");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_question_is_refused() {
    let (_, _, reports) = reports();
    let cases = [
        (Full::default(), "3"),
        (Full::from("\0\0\0\0\x02\n"), "3"),
        (Full::from("\0\0\0\0\x02\n\x05"), "3"),
        (Full::from("\x01\0\0\0\0"), "12"),
        (Full::from(vec![0; 100_000]), "3"),
    ];
    for (asks, wanted) in cases {
        assert_eq!(status(stream(&reports, asks).await).await, wanted);
    }
}

#[tokio::test]
async fn it_is_a_service_of_tonic() {
    let (millis, http, reports) = reports();
    traffic(&millis, &http, &reports).await;
    let routes = tonic::service::Routes::new(OpenRcaService::new(&reports));
    let ask = async |path: &str| {
        let body = tonic::body::Body::new(asks_for(Duration::from_secs(1)));
        let request = Request::post(path).body(body).expect("valid");
        routes.clone().oneshot(request).await.expect("an answer")
    };
    let mut known = ask(OpenRcaService::PATH).await.into_body();
    assert!(
        known
            .frame()
            .await
            .expect("a report")
            .expect("well")
            .is_data()
    );
    let unknown = ask("/xds.service.orca.v3.OpenRcaService/Other").await;
    let frame = unknown
        .into_body()
        .frame()
        .await
        .expect("trailers")
        .expect("well");
    assert_eq!(
        frame.into_trailers().expect("trailers")["grpc-status"],
        "12"
    );
}

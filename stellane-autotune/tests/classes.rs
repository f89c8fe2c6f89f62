//! A class may have a limit of its own, under the common one.

#![cfg(all(feature = "tokio", feature = "serde"))]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Class, ClassConfig, Hold, LimitBody,
    LimitConfig, LimitRequestBody, Shed,
};
use tower::{Layer, ServiceExt, service_fn};

/// A limit of 100 places with a class of so many seats.
fn limit(seats: u32, hold: Hold, max_wait: Duration) -> AdaptiveLimit {
    let mut gpu = ClassConfig::default();
    (gpu.limit, gpu.hold) = (seats, hold);
    let mut config = LimitConfig::default();
    config.classes.insert("gpu".into(), gpu);
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.max_wait) = (100, max_wait);
    AdaptiveLimit::builder().config(config).build().unwrap()
}

type Tokens = UnsyncBoxBody<Bytes, Infallible>;

/// Requests for `/gpu` are of the class, and are answered with a stream that goes on until it is dropped.
async fn ask(limit: &AdaptiveLimit, path: &str, grpc: bool) -> Response<LimitBody<Tokens>> {
    let class = limit.class("gpu").unwrap();
    let layer =
        AdaptiveLimitLayer::new(limit).classify_request(move |head| match head.uri.path() {
            "/gpu" => class,
            _ => Class::DEFAULT,
        });
    let service = layer.layer(service_fn(|request: Request<_>| async move {
        let path = request.uri().path().to_owned();
        let _: LimitRequestBody<Full<Bytes>> = request.into_body();
        if path != "/gpu" {
            return Ok::<_, Infallible>(Response::new(Full::new("hello".into()).boxed_unsync()));
        }
        Ok(Response::builder()
            .header("content-type", "text/event-stream")
            .body(Endless.boxed_unsync())
            .unwrap())
    }));
    let mut request = Request::builder().uri(path);
    if grpc {
        request = request.header("content-type", "application/grpc");
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    service.oneshot(request).await.unwrap()
}

/// Tokens that never end.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn streams_keep_their_seats_to_the_end_of_their_bodies() {
    let limit = limit(8, Hold::Body, Duration::ZERO);
    let mut streams = Vec::new();
    for _ in 0..8 {
        let response = ask(&limit, "/gpu", false).await;
        assert_eq!(response.status(), 200);
        streams.push(response);
    }
    let refused = ask(&limit, "/gpu", false).await;
    assert_eq!(refused.status(), 503);
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("class_full"));
    assert_eq!(
        ask(&limit, "/gpu", true).await.headers()["grpc-status"],
        "8"
    );
    assert_eq!(
        ask(&limit, "/hello", false).await.status(),
        200,
        "others have room"
    );
    assert_eq!(limit.stats().in_flight, 0, "an event stream holds no place");
    streams.pop();
    assert_eq!(ask(&limit, "/gpu", false).await.status(), 200);
}

#[tokio::test]
async fn a_seat_that_is_held_for_the_head_is_free_for_the_next() {
    let limit = limit(1, Hold::Headers, Duration::ZERO);
    let _first = ask(&limit, "/gpu", false).await;
    assert_eq!(ask(&limit, "/gpu", false).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_seat_waits_for_one() {
    let limit = limit(1, Hold::Body, Duration::from_secs(1));
    let first = ask(&limit, "/gpu", false).await;
    let mut second = Box::pin(ask(&limit, "/gpu", false));
    tokio::select! {
        _ = &mut second => panic!("there is no seat"),
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    drop(first);
    let second = second.await;
    assert_eq!(second.status(), 200);
    let late = ask(&limit, "/gpu", false).await;
    assert_eq!(late.status(), 503);
    let stats = limit.stats();
    let refused = |reason| {
        stats
            .classes
            .iter()
            .map(|class| class.shed_by(reason))
            .sum::<u64>()
    };
    assert_eq!(refused(Shed::ClassFull), 1);
}

#[test]
fn a_class_is_configured_by_its_share_or_by_all_it_has() {
    let config: LimitConfig = serde_json::from_str(
        r#"{"classes": {"vip": 0.25, "gpu": {"limit": 8, "hold": "body", "paths": ["/v1/chat"]}}}"#,
    )
    .unwrap();
    assert_eq!(config.classes["vip"], 0.25.into());
    assert_eq!(config.classes["gpu"].paths, ["/v1/chat"]);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<LimitConfig>(&text).unwrap(), config);
    let wrong = serde_json::from_str::<LimitConfig>(r#"{"classes": {"gpu": {"seats": 8}}}"#);
    assert!(
        wrong
            .unwrap_err()
            .to_string()
            .contains("unknown field `seats`")
    );
}

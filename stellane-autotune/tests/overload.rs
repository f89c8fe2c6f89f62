//! Deadlines and pressure as a client and an operator see them.

#![cfg(feature = "tokio")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Clock, LimitConfig, RequestHead, Shed,
    overload::{Deadline, OverloadConfig, OverloadLayer, Pressure},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Body = Full<Bytes>;

/// Takes 100 ms and answers with the milliseconds that were left on arrival.
fn service<B>() -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone {
    service_fn(|request: Request<B>| async move {
        let deadline = request.extensions().get::<Deadline>();
        let left = deadline.map_or(0, |deadline| deadline.remaining().as_millis());
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Response::new(Body::from(left.to_string())))
    })
}

/// Around the service, or as a part of a limit there: both are the same to a client.
async fn ask_either(
    layer: &OverloadLayer,
    header: &str,
    value: &str,
    fused: bool,
) -> (u16, String) {
    let request = Request::builder()
        .header(header, value)
        .body(Body::default())
        .unwrap();
    let response = if fused {
        let limit = AdaptiveLimit::builder().build().unwrap();
        let limit = AdaptiveLimitLayer::new(&limit).overload(layer);
        limit.layer(service()).oneshot(request).await.unwrap()
    } else {
        layer.layer(service()).oneshot(request).await.unwrap()
    };
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask(layer: &OverloadLayer, header: &str, value: &str) -> (u16, String) {
    ask_either(layer, header, value, false).await
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_read_passed_on_and_enforced() {
    deadlines(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_reads_and_enforces_deadlines_just_so() {
    deadlines(true).await;
}

#[tokio::test(start_paused = true)]
async fn grpc_is_told_of_its_deadline_by_status_4() {
    let overload = OverloadLayer::builder().clock(Clock::tokio()).build();
    let overload = overload.unwrap();
    let limit = AdaptiveLimit::builder().build().unwrap();
    let fused = AdaptiveLimitLayer::new(&limit).overload(&overload);
    // One that passes while it is answered, and one that has passed.
    for timeout in ["50m", "0m"] {
        let request = || {
            let request = Request::builder().header("grpc-timeout", timeout);
            let request = request.header("content-type", "application/grpc");
            request.body(Body::default()).unwrap()
        };
        for response in [
            overload.layer(service()).oneshot(request()).await.unwrap(),
            fused.layer(service()).oneshot(request()).await.unwrap(),
        ] {
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["grpc-status"], "4");
            assert_eq!(response.headers()["content-type"], "application/grpc");
            assert!(http_body::Body::is_end_stream(response.body()));
        }
    }
    let stats = overload.stats();
    assert_eq!((stats.timed_out, stats.refused), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn one_may_answer_a_deadline_oneself() {
    let answer = |shed: Shed, head: RequestHead<'_>| {
        Some(Response::new(format!("{shed} {}", head.uri).into()))
    };
    let builder = OverloadLayer::builder().clock(Clock::tokio());
    let overload = builder.on_refusal(answer).build().unwrap();
    let limit = AdaptiveLimit::builder().build().unwrap();
    let fused = AdaptiveLimitLayer::new(&limit).overload(&overload);
    for (timeout, expected) in [("50m", "timed_out /x"), ("0m", "deadline /x")] {
        let request = || {
            let request = Request::get("/x").header("grpc-timeout", timeout);
            request.body(Body::default()).unwrap()
        };
        for response in [
            overload.layer(service()).oneshot(request()).await.unwrap(),
            fused.layer(service()).oneshot(request()).await.unwrap(),
        ] {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_gives_its_place_back_at_the_deadline() {
    let limit = AdaptiveLimit::builder().build().unwrap();
    let overload = OverloadLayer::builder().clock(Clock::tokio()).build();
    let layer = AdaptiveLimitLayer::new(&limit).overload(&overload.unwrap());
    let request = Request::builder()
        .header("grpc-timeout", "50m")
        .body(Body::default());
    let mut call = Box::pin(layer.layer(service()).oneshot(request.unwrap()));
    let response = (&mut call).await.unwrap();
    assert_eq!(response.status(), 504);
    // Although the future is still there.
    assert_eq!(limit.stats().in_flight, 0);
    drop(call);
}

async fn deadlines(fused: bool) {
    let layer = OverloadLayer::builder()
        .clock(Clock::tokio())
        .build()
        .unwrap();
    let ask = async |header, value| ask_either(&layer, header, value, fused).await;
    assert_eq!(ask("grpc-timeout", "2S").await, (200, "2000".into()));
    assert_eq!(
        ask("x-request-timeout-ms", "150").await,
        (200, "150".into())
    );
    // Who says that it waits for long may: who says nothing does too.
    for (timeout, millis) in [("5M", 300_000), ("99999999H", 99_999_999_u64 * 3_600_000)] {
        assert_eq!(
            ask("grpc-timeout", timeout).await,
            (200, millis.to_string())
        );
    }
    assert_eq!(ask("grpc-timeout", "garbage").await, (200, "0".into()));
    let (status, body) = ask("grpc-timeout", "50m").await;
    assert_eq!(status, 504);
    assert!(body.contains(r#""reason":"deadline""#), "{body}");
    let (status, _) = ask("grpc-timeout", "0m").await;
    assert_eq!(status, 503);
    let stats = layer.stats();
    assert_eq!(
        (stats.with_deadline, stats.timed_out, stats.refused),
        (6, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn some_requests_have_a_timeout_of_their_own_longer_or_shorter_than_that_of_all() {
    let config = OverloadConfig::default().with(|config| {
        config.default_timeout = Duration::from_millis(90);
        config.max_timeout = Duration::from_millis(95);
    });
    let layer = OverloadLayer::builder()
        .config(config)
        .clock(Clock::tokio());
    let layer = layer.build().unwrap().timeouts(|head| {
        let own = head.headers.get("x-own")?.to_str().ok()?;
        own.parse().ok().map(Duration::from_millis)
    });
    // The service takes 100 ms.
    for fused in [false, true] {
        let own = async |own| ask_either(&layer, "x-own", own, fused).await;
        assert_eq!(own("none").await.0, 504);
        assert_eq!(own("50").await.0, 504);
        assert_eq!(own("5000").await, (200, "5000".into()));
    }
    let asks_for = async |own: &str, asked: &str| {
        let request = Request::builder().header("x-own", own);
        let request = request.header("x-request-timeout-ms", asked);
        let request = request.body(Body::default()).unwrap();
        let response = layer.layer(service()).oneshot(request).await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(asks_for("none", "5000").await, 504);
    assert_eq!(asks_for("5000", "3000").await, 200);
    assert_eq!(asks_for("5000", "50").await, 504);
    assert_eq!(asks_for("50", "5000").await, 504);
}

#[tokio::test(start_paused = true)]
async fn pressure_shortens_what_a_request_may_ask_for() {
    let pressure = Pressure::builder()
        .source("test", 0.0, 1.0, || Some(1.0))
        .build();
    let mut config = OverloadConfig::default();
    (config.max_timeout, config.pressed_timeout) = (Duration::from_secs(10), 0.5);
    let layer = OverloadLayer::builder()
        .config(config)
        .clock(Clock::tokio())
        .pressure(&pressure)
        .build()
        .unwrap();
    assert_eq!(ask(&layer, "grpc-timeout", "1M").await.1, "10000");
    pressure.refresh();
    assert_eq!(ask(&layer, "grpc-timeout", "1M").await.1, "5000");
    assert_eq!(ask(&layer, "grpc-timeout", "1S").await.1, "1000");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_answered_in_time_takes_no_place() {
    let limit = AdaptiveLimit::builder().clock(Clock::tokio());
    hopeless(&limit.build().unwrap(), 504).await;
    let mut config = LimitConfig::default();
    (config.algorithm, config.initial) = (AlgorithmKind::Fixed, 20);
    let limit = AdaptiveLimit::builder()
        .clock(Clock::tokio())
        .config(config);
    hopeless(&limit.build().unwrap(), 503).await;
}

/// While nothing says that the service is full a deadline that others would miss gets its chance, and is `answered` with
/// 504.
async fn hopeless(limit: &AdaptiveLimit, answered: u16) {
    let clock = Clock::tokio();
    let layer = OverloadLayer::builder()
        .clock(clock)
        .limit(limit)
        .build()
        .unwrap();
    let stack = ServiceBuilder::new()
        .layer(&layer)
        .layer(AdaptiveLimitLayer::new(limit))
        .service(service());
    let call = |timeout: &'static str| {
        let request = Request::builder()
            .header("grpc-timeout", timeout)
            .body(Body::default());
        stack.clone().oneshot(request.unwrap())
    };
    // Before the median is known, even a short deadline gets its chance.
    assert_eq!(call("50m").await.unwrap().status(), 504);
    for _ in 0..80 {
        assert_eq!(call("1S").await.unwrap().status(), 200);
    }
    assert!(limit.latency_p50() > Duration::from_millis(95));
    let admitted = limit.stats().admitted;
    assert_eq!(call("50m").await.unwrap().status(), answered);
    if answered == 504 {
        return;
    }
    assert_eq!(
        (limit.stats().admitted, limit.stats().shed_deadline),
        (admitted, 1)
    );

    // One of sixteen is tried all the same, to notice when the service has become faster.
    let mut statuses = Vec::new();
    for _ in 0..16 {
        statuses.push(call("50m").await.unwrap().status().as_u16());
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 504).count(),
        1,
        "{statuses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_place_longer_than_for_the_answer() {
    let clock = Clock::tokio();
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min, config.max_wait) = (1, 1, Duration::from_secs(60));
    let limit = AdaptiveLimit::builder()
        .config(config)
        .clock(clock.clone())
        .build()
        .unwrap();
    let _held = limit.try_acquire().unwrap();
    let mut config = OverloadConfig::default();
    config.enforce = false;
    let layer = OverloadLayer::builder()
        .config(config)
        .clock(clock)
        .build()
        .unwrap();
    let stack = ServiceBuilder::new()
        .layer(&layer)
        .layer(AdaptiveLimitLayer::new(&limit))
        .service(service());
    let request = Request::builder()
        .header("grpc-timeout", "50m")
        .body(Body::default())
        .unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(stack.oneshot(request).await.unwrap().status(), 503);
    assert!(start.elapsed() < Duration::from_millis(60));
    let stats = limit.stats();
    assert_eq!(
        (stats.shed_deadline, stats.waiting, stats.in_flight),
        (1, 0, 1)
    );
}

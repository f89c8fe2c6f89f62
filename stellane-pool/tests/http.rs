//! The layer, collected bodies and the axum extractors.
#![cfg(feature = "axum")]

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Router, routing::post};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use stellane_pool::{
    CollectError, DropReason, PoolConfig, PoolLayer, PooledBody, Pools, http::reply,
};
use tower::{Layer, Service, ServiceExt, service_fn};

fn pools() -> Pools {
    Pools::builder()
        .enabled(true)
        .build()
        .expect("the defaults are valid")
}

/// A body that announces `announced` bytes and then sends `frames`.
struct Sending {
    announced: u64,
    frames: Vec<&'static [u8]>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = (!self.frames.is_empty()).then(|| self.frames.remove(0));
        Poll::Ready(next.map(|data| Ok(Frame::data(Bytes::from_static(data)))))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.announced);
        hint
    }
}

#[tokio::test]
async fn a_body_is_collected_up_to_its_limit() {
    let pools = pools();
    let body = |announced| Sending {
        announced,
        frames: vec![b"one ", b"two ", b"three"],
    };
    let collected = PooledBody::collect_up_to(body(0), &pools, 13)
        .await
        .unwrap();
    assert_eq!(&collected[..], b"one two three");
    assert_eq!(collected.into_bytes(), "one two three");

    for announced in [0, 13, 1_000_000_000] {
        let error = PooledBody::collect_up_to(body(announced), &pools, 12)
            .await
            .unwrap_err();
        assert_eq!(error, CollectError::TooLarge { limit: 12 });
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    let stats = pools.stats();
    assert_eq!(
        (stats.bodies, stats.bodies_too_large, stats.outstanding),
        (1, 3, 0)
    );

    let empty = PooledBody::collect(Full::new(Bytes::new()), &pools)
        .await
        .unwrap();
    assert!(empty.is_empty() && empty.is_end_stream());
}

#[tokio::test]
async fn a_body_that_announces_much_and_sends_little_takes_little() {
    let pools = pools();
    let body = Sending {
        announced: 1 << 20,
        frames: vec![b"x"],
    };
    let collected = PooledBody::collect(body, &pools).await.unwrap();
    drop(collected);
    assert!(pools.stats().retained_bytes <= 16 << 10);
}

#[tokio::test]
async fn a_body_that_fails_is_a_bad_request_and_returns_its_memory() {
    let pools = pools();
    let frames = futures_util::stream::iter(vec![
        Ok(Frame::data(Bytes::from_static(b"half"))),
        Err("reset"),
    ]);
    let error = PooledBody::collect(StreamBody::new(frames), &pools)
        .await
        .unwrap_err();
    assert_eq!(error, CollectError::Body("reset"));
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    assert_eq!((pools.stats().outstanding, pools.stats().idle), (0, 1));
}

#[tokio::test]
async fn a_response_body_tells_its_length_and_returns_its_memory() {
    let pools = pools();
    let mut buffer = pools.buf().get(100);
    buffer.extend_from_slice(b"hello");
    let mut body = PooledBody::from(buffer);
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame, "hello");
    assert!(body.is_end_stream() && body.frame().await.is_none());
    drop((body, frame));
    drop(pools.buf().get(100));
    assert_eq!(pools.stats().hits, 1);
}

#[tokio::test]
async fn the_pools_are_current_only_where_the_handler_runs() {
    let (outer, inner) = (pools(), pools());
    outer.set_max_body_bytes(1);
    inner.set_max_body_bytes(2);
    let limit = || Pools::current().map(|pools| pools.max_body_bytes());
    let handler = service_fn(async |_: Request<()>| {
        let before = limit();
        tokio::task::yield_now().await;
        let spawned = std::thread::spawn(limit).join().unwrap();
        Ok::<_, Infallible>((before, limit(), spawned))
    });
    let inner = PoolLayer::new(&inner).layer(handler);
    let mut between = inner.clone();
    let service = PoolLayer::new(&outer).layer(service_fn(move |request: Request<()>| {
        let answer = between.call(request);
        async move {
            let before = limit();
            let answer = answer.await;
            assert_eq!(
                (before, limit()),
                (Some(1), Some(1)),
                "the outer ones are back"
            );
            answer
        }
    }));
    let answer = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer, (Some(2), Some(2), None));
    assert_eq!(limit(), None);
}

#[tokio::test]
async fn a_handler_that_panics_leaves_no_pools_behind() {
    let service = PoolLayer::new(&pools()).layer(service_fn(|_: Request<()>| {
        std::panic::panic_any("the handler fails");
        #[expect(unreachable_code, reason = "it says what type the future would have")]
        std::future::ready(Ok::<_, Infallible>(()))
    }));
    let mut service = service;
    assert!(catch_unwind(AssertUnwindSafe(|| drop(service.call(Request::new(()))))).is_err());
    assert!(Pools::current().is_none());
}

#[tokio::test]
async fn with_extension_the_pools_follow_the_request() {
    let pools = pools();
    let service =
        PoolLayer::new(&pools)
            .with_extension()
            .layer(service_fn(async |request: Request<()>| {
                let found =
                    tokio::task::spawn_blocking(move || Pools::of(request.extensions()).is_some());
                Ok::<_, Infallible>(found.await.unwrap())
            }));
    assert!(service.oneshot(Request::new(())).await.unwrap());
}

#[tokio::test]
async fn axum_handlers_take_pooled_bodies_and_pools() {
    async fn shout(pools: Pools, body: PooledBody) -> PooledBody {
        let mut reply = pools.buf().get(body.len());
        reply.extend_from_slice(&body.to_ascii_uppercase());
        reply.into()
    }
    let pools = pools();
    pools.set_max_body_bytes(10);
    let app = Router::new()
        .route("/", post(shout))
        .layer(PoolLayer::new(&pools));
    let send = async |app: Router, body: &'static str| {
        let response = app
            .oneshot(Request::post("/").body(body.to_owned()).unwrap())
            .await
            .unwrap();
        let status = response.status();
        (
            status,
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    };
    assert_eq!(
        send(app.clone(), "hello").await,
        (StatusCode::OK, "HELLO".into())
    );
    let (status, _) = send(app, "hello, world").await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = send(Router::new().route("/", post(shout)), "hello").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "no layer");
    assert_eq!(pools.stats().outstanding, 0);
}

#[test]
fn a_reply_carries_the_spent_map_and_nothing_of_the_request() {
    let mut request = Request::get("/").header("x-secret", "s").body(()).unwrap();
    request.headers_mut().reserve(50);
    let capacity = request.headers().capacity();
    let (mut parts, ()) = request.into_parts();
    let response: Response<()> = reply(&mut parts, StatusCode::CREATED);
    assert_eq!(response.status(), StatusCode::CREATED);
    assert!(response.headers().is_empty());
    assert_eq!(response.headers().capacity(), capacity);

    let mut huge = Request::new(());
    huge.headers_mut().reserve(1000);
    let (mut parts, ()) = huge.into_parts();
    assert_eq!(
        reply(&mut parts, StatusCode::OK).headers().capacity(),
        0,
        "not for the next one"
    );
}

#[test]
fn header_maps_and_extensions_come_back_empty_and_not_too_large() {
    let pools = pools();
    let mut headers = pools.headers();
    headers.insert(header::COOKIE, HeaderValue::from_static("secret"));
    drop(headers);
    let headers = pools.headers();
    assert!(headers.is_empty() && headers.capacity() > 0);
    drop(headers);
    let mut extensions = pools.extensions();
    extensions.insert("secret");
    drop(extensions);
    assert!(pools.extensions().is_empty());

    *pools.headers() = HeaderMap::with_capacity(1000);
    assert_eq!(pools.stats().drops.count(DropReason::TooLarge), 1);
}

#[test]
fn every_setting_can_change_at_run_time() {
    let pools = pools();
    let fill = || {
        let taken: Vec<_> = (0..30)
            .map(|_| (pools.buf().get(1), pools.buf().get(60_000)))
            .collect();
        drop(taken);
        pools.stats()
    };
    assert_eq!(fill().idle, 60);
    pools.set_budget_bytes(100_000);
    assert!(pools.stats().retained_bytes <= 100_000);
    let stats = fill();
    assert!(
        stats.retained_bytes <= 100_000 && stats.budget_bytes == 100_000,
        "{stats:?}"
    );
    pools.set_budget_bytes(100 << 20);
    assert_eq!(fill().idle, 60);
    pools.set_max_buffer_bytes(4096);
    pools.trim();
    assert_eq!(fill().idle, 30);
    pools.set_response_pool_size(1);
    assert_eq!(fill().idle, 1);
    pools.set_enabled(false);
    assert_eq!(fill().idle, 0);
    pools.set_enabled(true);
    assert_eq!(fill().idle, 1);
    pools.set_retain_percent(0);
    pools.tick();
    let stats = pools.stats();
    assert_eq!(
        (stats.idle, stats.retained_bytes, pools.budget().used()),
        (0, 0, 0)
    );
    assert!(stats.trims >= 2);
}

#[test]
fn ticks_follow_the_clock_they_are_given() {
    let mut config = PoolConfig::enabled();
    config.trim_interval = std::time::Duration::from_secs(5);
    let pools = Pools::builder().config(config).build().unwrap();
    drop(pools.buf().get(1));
    let start = std::time::Instant::now();
    let at = |seconds| pools.tick_at(start + std::time::Duration::from_secs(seconds));
    assert_eq!((at(0), at(4)), (None, None));
    assert_eq!(at(5).map(|trimmed| trimmed.objects), Some(0));
    assert_eq!(at(9), None);
    assert_eq!(at(10).map(|trimmed| trimmed.objects), Some(1));
    pools.set_trim_interval(std::time::Duration::ZERO);
    assert_eq!(at(1_000), None, "zero is never");
}

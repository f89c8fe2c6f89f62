//! Admission, release and refusal allocate nothing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Key, LimitConfig, Outcome, RateLimit,
};
use tower::{Layer, Service, service_fn};

struct Counting;

thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });

// SAFETY: passes every call on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

fn fixed(limit: u32) -> AdaptiveLimit {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min) = (limit, 1);
    AdaptiveLimit::builder().config(config).build().unwrap()
}

fn answer<B>(_: Request<B>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
}

fn request(body: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .uri("/some/where")
        .header("host", "example.org")
        .header("accept", "*/*")
        .body(Full::new(Bytes::from_static(body)))
        .unwrap()
}

#[test]
fn admission_and_release_allocate_nothing() {
    let limit = AdaptiveLimit::builder().build().unwrap();
    let count = allocations(|| {
        for _ in 0..10_000 {
            limit.try_acquire().unwrap().finish(Outcome::Success);
        }
    });
    assert_eq!(count, 0);
    assert_eq!(limit.stats().successes, 10_000);
}

#[test]
fn a_layered_call_allocates_no_more_than_the_service_alone_and_one_for_the_body_of_a_request() {
    for (body, expected) in [(&b""[..], 0), (b"body", 1)] {
        let limit = fixed(10);
        let mut service = AdaptiveLimitLayer::new(&limit).layer(service_fn(answer));
        let mut cx = Context::from_waker(Waker::noop());
        let requests: Vec<_> = (0..1000).map(|_| request(body)).collect();
        let count = allocations(|| {
            for request in requests {
                let mut future = std::pin::pin!(service.call(request));
                let Poll::Ready(response) = future.as_mut().poll(&mut cx) else {
                    panic!("not ready")
                };
                black_box(response).unwrap();
            }
        });
        assert_eq!(count, 1000 * expected);
        assert_eq!(limit.stats().successes, 1000);
    }
}

#[test]
fn to_wait_for_a_place_allocates_once() {
    // Who looks after those who wait has a timer.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build().unwrap();
    let _entered = runtime.enter();
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min, config.max_wait) = (1, 1, Duration::from_secs(60));
    let limit = AdaptiveLimit::builder().config(config).build().unwrap();
    let mut service = AdaptiveLimitLayer::new(&limit).layer(service_fn(answer));
    let mut cx = Context::from_waker(Waker::noop());
    let mut wait = |request| {
        let place = limit.try_acquire().unwrap();
        let mut future = std::pin::pin!(service.call(request));
        assert!(future.as_mut().poll(&mut cx).is_pending());
        place.finish(Outcome::Success);
        assert!(future.as_mut().poll(&mut cx).is_ready());
    };
    wait(request(b""));
    let requests: Vec<_> = (0..1000).map(|_| request(b"")).collect();
    let count = allocations(|| requests.into_iter().for_each(&mut wait));
    assert_eq!(count, 1000);
    assert_eq!(limit.stats().successes, 2002);
}

#[test]
fn a_refusal_allocates_nothing() {
    let limit = fixed(1);
    let _permit = limit.try_acquire().unwrap();
    let mut service = AdaptiveLimitLayer::new(&limit).layer(service_fn(answer));
    let mut cx = Context::from_waker(Waker::noop());
    for (content_type, status) in [("text/plain", 503), ("application/grpc+proto", 200)] {
        let request = |_| {
            let mut request = request(b"body");
            let content_type = HeaderValue::from_static(content_type);
            request.headers_mut().insert("content-type", content_type);
            request
        };
        let requests: Vec<_> = (0..1000).map(request).collect();
        let count = allocations(|| {
            for request in requests {
                let mut future = std::pin::pin!(service.call(request));
                let Poll::Ready(response) = future.as_mut().poll(&mut cx) else {
                    panic!("not ready")
                };
                assert_eq!(black_box(response).unwrap().status(), status);
            }
        });
        assert_eq!(count, 0);
    }
    assert_eq!(limit.stats().shed_limit, 2000);
}

#[test]
fn a_rate_of_a_known_key_allocates_nothing() {
    let rate = RateLimit::builder()
        .rule("1/h burst 100".parse().unwrap())
        .build()
        .unwrap();
    let ada = Key::of("ada");
    black_box(rate.check(ada, 1)).unwrap();
    let count = allocations(|| {
        for _ in 0..200 {
            let _ = black_box(rate.check(ada, 1));
        }
    });
    assert_eq!(count, 0);
    assert!(rate.check(ada, 1).is_err());
}

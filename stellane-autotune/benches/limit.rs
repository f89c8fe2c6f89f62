//! The cost of admission, release and refusal.
//!
//! `cargo bench -p stellane-autotune` prints nanoseconds; `… -- admit 100000` runs one case so often,
//! for `valgrind --tool=callgrind --toggle-collect='*case_*'`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::Full;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AdaptiveLimitService, AlgorithmKind, LimitConfig,
    LimitRequestBody, Outcome,
};
use tower::{Layer, Service, service_fn};

type Body = Full<Bytes>;
type Answer = Ready<Result<Response<Body>, Infallible>>;

fn fixed(limit: u32) -> AdaptiveLimit {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min) = (limit, 1);
    AdaptiveLimit::builder()
        .config(config)
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

fn answer<B>(_: Request<B>) -> Answer {
    let mut response = Response::new(Body::new(Bytes::from_static(b"hello")));
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    ready(Ok(response))
}

fn request() -> Request<Body> {
    let mut request = Request::new(Body::default());
    request
        .headers_mut()
        .insert("host", http::HeaderValue::from_static("example.org"));
    request
}

#[inline(never)]
fn case_admit(limit: &AdaptiveLimit) {
    if let Ok(permit) = black_box(limit).try_acquire() {
        permit.finish(Outcome::Success);
    }
}

#[inline(never)]
fn case_refuse(limit: &AdaptiveLimit) {
    let _ = black_box(limit.try_acquire());
}

#[inline(never)]
fn case_call<S: Service<Request<Body>>>(service: &mut S, request: Request<Body>)
where
    S::Error: std::fmt::Debug,
{
    let mut future = std::pin::pin!(service.call(request));
    let Poll::Ready(response) = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    else {
        return;
    };
    let _ = black_box(response);
}

fn measure(name: &str, count: u32, mut case: impl FnMut(u32)) {
    case(count / 10);
    let best = (0..7).map(|_| {
        let start = Instant::now();
        case(count);
        start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    });
    println!("{name:24} {:7.1} ns", best.fold(f64::INFINITY, f64::min));
}

fn calls<S: Service<Request<Body>>>(service: &mut S, count: u32)
where
    S::Error: std::fmt::Debug,
{
    let requests: Vec<_> = (0..count).map(|_| request()).collect();
    requests
        .into_iter()
        .for_each(|request| case_call(service, request));
}

/// A body that its client is waited for once, or one that is there.
struct Upload {
    is_late: bool,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match std::mem::take(&mut self.is_late) {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
    }
}

/// Reads the body, and waits once for something else unless it has waited for that.
async fn read(request: Request<LimitRequestBody<Upload>>) -> Result<Response<Body>, Infallible> {
    let waits = !request.body().get_ref().is_late;
    let mut body = pin!(request.into_body());
    while let Some(Ok(_)) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx)).await
    {}
    let mut is_late = waits;
    std::future::poll_fn(|_| match std::mem::take(&mut is_late) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
    Ok(Response::new(Body::new(Bytes::from_static(b"hello"))))
}

/// Polled twice: what it waited for is there the second time.
#[inline(never)]
fn case_wait<S: Service<Request<Upload>>>(service: &mut S, is_late: bool) {
    let mut future = pin!(service.call(Request::new(Upload { is_late })));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        let _ = black_box(future.as_mut().poll(&mut context).is_ready());
    }
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let only = args.first().map(String::as_str);
    let count = args
        .get(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(1_000_000);
    let is_on = |name: &str| only.is_none_or(|only| only == name);

    let open = AdaptiveLimit::builder()
        .build()
        .unwrap_or_else(|error| panic!("{error}"));
    let full = fixed(1);
    let _permit = full.try_acquire();
    let layered = |limit: &AdaptiveLimit| -> AdaptiveLimitService<_> {
        AdaptiveLimitLayer::new(limit).layer(service_fn(answer as fn(_) -> Answer))
    };
    if is_on("admit") {
        measure("admit", count, |n| (0..n).for_each(|_| case_admit(&open)));
    }
    if is_on("refuse") {
        measure("refuse", count, |n| (0..n).for_each(|_| case_refuse(&full)));
    }
    // Requests are made before the clock starts to run in `case_call`; take the bare service off.
    let calls_count = count / 10;
    if is_on("bare_call") {
        let mut bare = service_fn(answer as fn(_) -> Answer);
        measure("bare_call", calls_count, |n| calls(&mut bare, n));
    }
    if is_on("admit_call") {
        let mut service = layered(&open);
        measure("admit_call", calls_count, |n| calls(&mut service, n));
    }
    // The difference between these two is what it costs to lend the place and to take it again.
    for (name, is_late) in [("wait_for_work", false), ("wait_for_body", true)] {
        if is_on(name) {
            let mut service = AdaptiveLimitLayer::new(&open).layer(service_fn(read));
            measure(name, calls_count, |n| {
                (0..n).for_each(|_| case_wait(&mut service, is_late))
            });
        }
    }
    if is_on("refuse_call") {
        let mut service = layered(&full);
        measure("refuse_call", calls_count, |n| calls(&mut service, n));
    }
}

//! Honest load that looked like a full service: whatever comes next, and however it ends, the limit stays open.
#![cfg(feature = "tokio")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, Clock, LimitRequestBody, LimitState, LocalSignal,
};
use tokio::time::{Instant, interval, sleep, sleep_until};
use tower::{Layer, Service, ServiceExt, service_fn};

type Asked = Request<LimitRequestBody<Empty<Bytes>>>;

/// Reads an answer that is no refusal to its end.
async fn get<S, B>(service: S, path: &'static str)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: Body,
{
    let request = Request::get(path).body(Empty::new()).expect("a request");
    let answer = service.oneshot(request).await.expect("no error");
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    assert!(answer.into_body().collect().await.is_ok(), "{path}");
}

fn assert_open(limit: &AdaptiveLimit, when: impl std::fmt::Debug) {
    let stats = limit.stats();
    let why = stats.evidence;
    assert_eq!(stats.state, LimitState::Open, "{when:?}: {why:?}");
}

/// The machine has much to do for a while when a hundred streams end at once, and a second later a hundred others: what is
/// asked then is answered later.
#[tokio::test(start_paused = true)]
async fn hundreds_of_streams_that_end_at_once_are_no_evidence() {
    for lasts in [500, 1000, 3000, 10_000] {
        let limit = AdaptiveLimit::builder().clock(Clock::tokio()).build();
        let limit = limit.expect("valid");
        let end = Instant::now() + Duration::from_millis(lasts);
        let work = service_fn(move |request: Asked| async move {
            if request.uri() == "/hello" {
                let after = Instant::now().saturating_duration_since(end);
                let is_busy = Instant::now() >= end && after < Duration::from_secs(4);
                sleep(Duration::from_millis(if is_busy { 5 } else { 2 })).await;
                return Ok::<_, Infallible>(Response::new(BoxBody::new(Empty::new())));
            }
            let later = Duration::from_secs(u64::from(request.uri() == "/later"));
            let line = futures_util::stream::once(async move {
                sleep_until(end + later).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}\n")))
            });
            Ok(Response::new(BoxBody::new(StreamBody::new(line))))
        });
        let service = AdaptiveLimitLayer::new(&limit).layer(work);
        // A bystander who was there before.
        let mut every = interval(Duration::from_millis(50));
        let mut streams = Vec::new();
        for turn in 0..500 {
            every.tick().await;
            tokio::spawn(get(service.clone(), "/hello"));
            if turn == 5 {
                let paths = ["/stream", "/later"].into_iter().cycle().take(200);
                streams.extend(paths.map(|path| tokio::spawn(get(service.clone(), path))));
            }
            assert_open(&limit, (lasts, turn));
        }
        for stream in streams {
            stream.await.expect("no panic");
        }
    }
}

/// A machine that is idle, and answers that are fewer and later than before, since others are asked for.
#[tokio::test(start_paused = true)]
async fn other_requests_than_before_are_no_evidence() {
    let signal = LocalSignal::new();
    let limit = AdaptiveLimit::builder()
        .clock(Clock::tokio())
        .local_signal(&signal)
        .build()
        .expect("valid");
    signal.report(0.1);
    let work = service_fn(|request: Asked| async move {
        let takes = if request.uri() == "/slow" { 1000 } else { 1 };
        sleep(Duration::from_millis(takes)).await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let service = AdaptiveLimitLayer::new(&limit).layer(work);
    let mut every = interval(Duration::from_millis(1));
    for _ in 0..5000 {
        every.tick().await;
        tokio::spawn(get(service.clone(), "/quick"));
    }
    // As many as a team's jobs that all begin on the hour, each of which asks again as soon as it is answered.
    let jobs = (0..60).map(|_| {
        let service = service.clone();
        tokio::spawn(async move {
            for _ in 0..60 {
                get(service.clone(), "/slow").await;
            }
        })
    });
    let jobs: Vec<_> = jobs.collect();
    for turn in 0..600 {
        sleep(Duration::from_millis(100)).await;
        assert_open(&limit, turn);
    }
    for job in jobs {
        job.await.expect("no panic");
    }
}

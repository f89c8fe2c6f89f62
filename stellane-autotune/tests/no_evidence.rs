//! Honest load that looked like a full service: whatever comes next, and however it ends, the limit stays open.
#![cfg(feature = "tokio")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, Clock, LimitRequestBody, LimitState, LocalSignal,
};
use tokio::time::{Instant, interval, sleep, sleep_until};
use tower::{Layer, ServiceExt, service_fn};

/// The machine has much to do for a while when a hundred streams end at once: what is asked then is answered later.
#[tokio::test(start_paused = true)]
async fn a_hundred_streams_that_end_at_once_are_no_evidence() {
    for lasts in [500, 1000, 3000, 10_000] {
        let limit = AdaptiveLimit::builder().clock(Clock::tokio()).build();
        let limit = limit.expect("valid");
        let begun = Instant::now();
        let end = begun + Duration::from_millis(lasts);
        let work = service_fn(
            move |request: Request<LimitRequestBody<Empty<Bytes>>>| async move {
                if request.uri() == "/stream" {
                    let line = futures_util::stream::once(async move {
                        sleep_until(end).await;
                        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}\n")))
                    });
                    return Ok::<_, Infallible>(Response::new(BoxBody::new(StreamBody::new(line))));
                }
                let after = Instant::now().saturating_duration_since(end);
                let is_busy = Instant::now() >= end && after < Duration::from_secs(3);
                sleep(Duration::from_millis(if is_busy { 5 } else { 2 })).await;
                Ok(Response::new(BoxBody::new(Empty::new())))
            },
        );
        let service = AdaptiveLimitLayer::new(&limit).layer(work);
        let get = |path: &'static str| {
            let request = Request::get(path).body(Empty::<Bytes>::new());
            let answer = service.clone().oneshot(request.expect("a request"));
            async move {
                let answer = answer.await.expect("no error");
                assert!(answer.status().is_success(), "{path}: {}", answer.status());
                answer.into_body().collect().await.expect("no error");
            }
        };
        // A bystander who was there before.
        let mut every = interval(Duration::from_millis(50));
        let mut streams = Vec::new();
        for turn in 0..500 {
            every.tick().await;
            tokio::spawn(get("/hello"));
            if turn == 5 {
                streams.extend((0..100).map(|_| tokio::spawn(get("/stream"))));
            }
            let stats = limit.stats();
            assert_eq!(
                stats.state,
                LimitState::Open,
                "{lasts} ms, turn {turn}: {:?}",
                stats.evidence
            );
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
        .build();
    let limit = limit.expect("valid");
    signal.report(0.1);
    let work = service_fn(
        move |request: Request<LimitRequestBody<Empty<Bytes>>>| async move {
            sleep(Duration::from_millis(if request.uri() == "/slow" {
                1000
            } else {
                1
            }))
            .await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        },
    );
    let service = AdaptiveLimitLayer::new(&limit).layer(work);
    let get = move |path: &'static str| {
        let request = Request::get(path).body(Empty::<Bytes>::new());
        let answer = service.clone().oneshot(request.expect("a request"));
        async move {
            let answer = answer.await.expect("no error");
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
        }
    };
    let mut every = interval(Duration::from_millis(1));
    for _ in 0..5000 {
        every.tick().await;
        tokio::spawn(get("/quick"));
    }
    // As many as a team's jobs that all begin on the hour, each of which asks again as soon as it is answered.
    let jobs = (0..60).map(|_| {
        let get = get.clone();
        tokio::spawn(async move {
            for _ in 0..60 {
                get("/slow").await;
            }
        })
    });
    let jobs: Vec<_> = jobs.collect();
    for turn in 0..600 {
        sleep(Duration::from_millis(100)).await;
        let stats = limit.stats();
        assert_eq!(
            stats.state,
            LimitState::Open,
            "turn {turn}: {:?}",
            stats.evidence
        );
    }
    for job in jobs {
        job.await.expect("no panic");
    }
}

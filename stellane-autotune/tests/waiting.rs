//! Requests that wait for something else, beside quick ones: nobody is refused, since nothing is full. In a time of its
//! own, so that the machine has no part in it; over sockets it is `admission_sockets` in `stellane-core`.
#![cfg(feature = "tokio")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, Clock, LimitRequestBody, LocalSignal};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = Full<Bytes>;

/// `/` at once, `/123` after so many milliseconds; the machine has something else to do for a tenth of a second in each
/// second.
async fn answer(
    start: Instant,
    request: Request<LimitRequestBody<Body>>,
) -> Result<Response<Body>, Infallible> {
    if let Ok(millis) = request.uri().path()[1..].parse() {
        sleep(Duration::from_millis(millis)).await;
    }
    let into_second = start.elapsed().as_millis() % 1000;
    sleep(Duration::from_millis(
        100_u128.saturating_sub(into_second) as u64
    ))
    .await;
    Ok(Response::new(Body::default()))
}

/// The pause of who was refused.
const RETRY: Duration = Duration::from_secs(1);

/// Asks again as soon as it is answered; how often it was refused.
async fn keep_asking<S, B>(service: S, path: String, pause: Duration, end: Instant) -> u64
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut refused = 0;
    while Instant::now() < end {
        let request = Request::get(&path).body(Body::default()).expect("a path");
        let response = service.clone().oneshot(request).await;
        let served = response.expect("answers").status().is_success();
        refused += u64::from(!served);
        sleep(if served { pause } else { RETRY }).await;
    }
    refused
}

/// How often anybody is refused, and why: one client gets 20 answers a second, `quiet` alone; then come `clients` within
/// a few milliseconds and get their answers after `millis` or up to 40 ms more, three times.
async fn refused(
    quiet: Duration,
    (clients, millis): (u64, u64),
    signal: Option<f64>,
) -> (u64, String) {
    let mut builder = AdaptiveLimit::builder().clock(Clock::tokio());
    if let Some(tasks_per_core) = signal {
        let signal = LocalSignal::new();
        signal.report(tasks_per_core);
        builder = builder.local_signal(&signal);
    }
    let limit = builder.build().expect("valid");
    let start = Instant::now();
    let service =
        AdaptiveLimitLayer::new(&limit).layer(service_fn(move |request| answer(start, request)));
    let end = start + quiet + Duration::from_millis(millis * 5 / 2);
    let asking = (0..clients).map(|client| {
        let service = service.clone();
        // Spread by the golden ratio: even, and without a period.
        let spread = client * 618 % 1000 * 40 / 1000;
        let path = format!("/{}", millis + spread);
        tokio::spawn(async move {
            sleep(quiet + Duration::from_millis(spread / 8)).await;
            // The way to the client and back.
            keep_asking(service, path, Duration::from_millis(2 + spread / 8), end).await
        })
    });
    let asking: Vec<_> = asking.collect();
    let bystander = keep_asking(service, "/".to_owned(), Duration::from_millis(50), end);
    let mut refused = bystander.await;
    for task in asking {
        refused += task.await.expect("no panic");
    }
    let evidence = limit.stats().evidence;
    (
        refused,
        evidence.map_or_else(String::new, |evidence| evidence.to_string()),
    )
}

async fn check(quiet: Duration) {
    let mut bad = Vec::new();
    for clients in [30, 60, 100, 200, 300, 1000] {
        for millis in [50, 200, 500, 1000, 2000, 5000, 20_000, 60_000] {
            for signal in [None, Some(0.1), Some(0.9)] {
                let (refused, why) = refused(quiet, (clients, millis), signal).await;
                if refused > 0 {
                    bad.push(format!(
                        "{clients} of {millis} ms, {signal:?}: {refused}, {why}"
                    ));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{} cells, refused: {bad:#?}", bad.len());
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_beside_quick_ones_are_no_evidence() {
    check(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_after_a_quiet_time_are_no_evidence() {
    check(Duration::from_secs(3)).await;
}

//! What a client sees of a limited service.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Either, Full, combinators::BoxBody};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Class, LimitConfig, LimitMode,
    LimitRequestBody, Outcome,
};
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = Full<Bytes>;
/// The body that a service behind the layer gets.
type Limited = LimitRequestBody<Body>;

fn fixed(limit: u32) -> LimitConfig {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min) = (limit, 1);
    config
}

fn build(config: LimitConfig) -> AdaptiveLimit {
    AdaptiveLimit::builder().config(config).build().unwrap()
}

fn request() -> Request<Body> {
    Request::builder()
        .uri("/x")
        .header("host", "h")
        .body(Body::default())
        .unwrap()
}

/// A service that answers when told to.
fn slow()
-> impl Service<Request<Limited>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone
{
    service_fn(|_: Request<Limited>| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Response::new(Body::from("done")))
    })
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_limit_is_refused_with_a_problem_and_retry_after() {
    let limit = build(fixed(1));
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let first = tokio::spawn(service.clone().oneshot(request()));
    tokio::task::yield_now().await;

    let refused = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    let retry_after: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=3).contains(&retry_after));
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&problem["status"], &problem["reason"]),
        (&503.into(), &"limit".into())
    );

    let answer = first.await.unwrap().unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "done"
    );
    let stats = limit.stats();
    assert_eq!(
        (stats.admitted, stats.shed_limit, stats.in_flight),
        (1, 1, 0)
    );
    assert_eq!(
        service.oneshot(request()).await.unwrap().status(),
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_that_a_lower_limit_takes_away_is_not_handed_to_who_waits() {
    let mut config = fixed(2);
    config.max_wait = Duration::from_secs(60);
    let limit = build(config);
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let [first, second] = [(); 2].map(|()| limit.try_acquire().unwrap());
    let waiter = tokio::spawn(service.oneshot(request()));
    tokio::task::yield_now().await;
    limit.set_max(1);
    drop(first);
    let stats = limit.stats();
    assert_eq!((stats.limit, stats.in_flight, stats.waiting), (1, 1, 1));
    drop(second);
    let stats = limit.stats();
    assert_eq!((stats.in_flight, stats.waiting), (1, 0));
    assert_eq!(waiter.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(limit.stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn grpc_is_refused_in_headers_and_nothing_else() {
    let limit = build(fixed(1));
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let _permit = limit.try_acquire().unwrap();
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web-text+proto",
    ] {
        let mut request = request();
        let value = content_type.parse().unwrap();
        request.headers_mut().insert("content-type", value);
        let refused = service.clone().oneshot(request).await.unwrap();
        assert_eq!(refused.status(), StatusCode::OK);
        let headers = refused.headers();
        assert_eq!(headers["content-type"], content_type);
        assert_eq!(headers["grpc-status"], "14");
        assert!(headers.contains_key("grpc-message"));
        let pushback = headers["grpc-retry-pushback-ms"].to_str().unwrap();
        assert!((1000..=3000).contains(&pushback.parse::<u32>().unwrap()));
        assert_eq!(headers.len(), 4);
        assert!(http_body::Body::is_end_stream(refused.body()));
    }
}

#[tokio::test(start_paused = true)]
async fn one_may_answer_what_is_refused_oneself() {
    let mut config = fixed(1);
    (config.max_wait, config.max_waiters) = (Duration::from_millis(10), 1);
    let limit = build(config);
    let service = AdaptiveLimitLayer::new(&limit)
        .on_refusal(|shed, head| {
            let mut response = Response::new(format!("{shed} {}", head.uri).into());
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            (head.method == Method::POST).then_some(response)
        })
        .layer(slow());
    let _permit = limit.try_acquire().unwrap();
    let ask = async |method: Method| {
        let mut request = request();
        *request.method_mut() = method;
        let refused = service.clone().oneshot(request).await.unwrap();
        let status = refused.status().as_u16();
        let body = refused.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    };
    // The first waits, and there is no room for the second.
    let (first, second) = tokio::join!(ask(Method::POST), ask(Method::POST));
    assert_eq!(first, (418, "wait_timeout /x".to_owned()));
    assert_eq!(second, (418, "queue_full /x".to_owned()));
    assert_eq!(ask(Method::GET).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_read_the_body_of_the_request() {
    let limit = build(fixed(1));
    let service = AdaptiveLimitLayer::new(&limit).layer(service_fn(
        |request: Request<LimitRequestBody<BoxBody<Bytes, Infallible>>>| async {
            request.into_body().collect().await.unwrap();
            Ok::<_, Infallible>(Response::new(Body::default()))
        },
    ));
    let reads = Arc::new(AtomicUsize::new(0));
    let send = || {
        let reads = Arc::clone(&reads);
        let body = Body::from("body").map_frame(move |frame| {
            reads.fetch_add(1, Ordering::SeqCst);
            frame
        });
        service.clone().oneshot(Request::new(body.boxed()))
    };
    let permit = limit.try_acquire().unwrap();
    assert_eq!(
        send().await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(reads.load(Ordering::SeqCst), 0);
    drop(permit);
    assert_eq!(send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(reads.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_place_is_held_until_the_body_is_dropped() {
    let limit = build(fixed(1));
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let response = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(limit.stats().in_flight, 1);
    drop(response);
    assert_eq!(limit.stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_gives_its_place_back_and_counts_as_cancelled() {
    let limit = build(fixed(1));
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let call = tokio::time::timeout(Duration::from_millis(10), service.oneshot(request()));
    assert!(call.await.is_err());
    let stats = limit.stats();
    assert_eq!(
        (stats.in_flight, stats.cancelled, stats.successes),
        (0, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_admits_and_counts_what_it_would_have_refused() {
    let mut config = fixed(1);
    config.mode = LimitMode::Shadow;
    let limit = build(config);
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(service.clone().oneshot(request())))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!((limit.stats().would_shed, limit.stats().shed), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_class_gets_its_share_while_others_hold_the_limit() {
    let mut config = fixed(4);
    config.classes.insert("vip".into(), 0.5.into());
    let limit = build(config);
    let vip = limit.class("vip").unwrap();
    let service = AdaptiveLimitLayer::new(&limit)
        .classify_request(move |head| {
            if head.uri.path() == "/vip" {
                vip
            } else {
                Class::DEFAULT
            }
        })
        .layer(slow());
    let common: Vec<_> = (0..10)
        .map(|_| tokio::spawn(service.clone().oneshot(request())))
        .collect();
    tokio::task::yield_now().await;
    let mut served = 0;
    for call in (0..3)
        .map(|_| {
            let mut request = request();
            *request.uri_mut() = "/vip".parse().unwrap();
            tokio::spawn(service.clone().oneshot(request))
        })
        .collect::<Vec<_>>()
    {
        served += u32::from(call.await.unwrap().unwrap().status() == StatusCode::OK);
    }
    assert_eq!(served, 2);
    for call in common {
        call.await.unwrap().unwrap();
    }
    assert_eq!(limit.stats().in_flight, 0);
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_place_up_to_the_bound() {
    let mut config = fixed(1);
    (config.max_wait, config.max_waiters) = (Duration::from_millis(1500), 2);
    let limit = build(config);
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                let response = service.oneshot(request()).await.unwrap();
                let status = response.status();
                response.into_body().collect().await.unwrap();
                status
            })
        })
        .collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap().as_u16());
    }
    // The first at once, the second after 1 s, the third gives up at 1.5 s, no room for the fourth.
    assert_eq!(statuses, [200, 200, 503, 503]);
    let stats = limit.stats();
    assert_eq!((stats.shed_wait_timeout, stats.shed_queue_full), (1, 1));
    assert_eq!((stats.in_flight, stats.waiting), (0, 0));
    // Those who gave up are in nobody's way.
    assert!(limit.try_acquire().is_ok());
}

/// One place, which is held, and callers who wait for it for up to a second.
#[cfg(feature = "tokio")]
struct Line {
    limit: AdaptiveLimit,
    held: Option<stellane_autotune::Permit>,
    calls: Vec<tokio::task::JoinHandle<u16>>,
    served: Arc<std::sync::Mutex<Vec<u32>>>,
}

#[cfg(feature = "tokio")]
impl Line {
    fn new() -> Self {
        let mut config = fixed(1);
        config.max_wait = Duration::from_secs(1);
        let limit = AdaptiveLimit::builder()
            .config(config)
            .clock(stellane_autotune::Clock::tokio())
            .build()
            .unwrap();
        let held = limit.try_acquire().ok();
        Self {
            limit,
            held,
            calls: Vec::new(),
            served: Arc::default(),
        }
    }

    /// Further callers, who are numbered as they come.
    async fn join(&mut self, callers: u32) {
        for _ in 0..callers {
            let (served, caller) = (self.served.clone(), self.calls.len() as u32);
            let service = service_fn(move |_: Request<Limited>| {
                served.lock().unwrap().push(caller);
                std::future::ready(Ok::<_, Infallible>(Response::new(Body::default())))
            });
            let service = AdaptiveLimitLayer::new(&self.limit).layer(service);
            let call = service.oneshot(request());
            self.calls.push(tokio::spawn(async {
                call.await.unwrap().status().as_u16()
            }));
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Gives the place to those who wait, and lets them be served: in which order they are.
    async fn serve(&mut self) -> Vec<u32> {
        self.held = None;
        self.pass(1).await;
        self.held = self.limit.try_acquire().ok();
        assert!(self.held.is_some(), "somebody still waits");
        std::mem::take(&mut self.served.lock().unwrap())
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn while_a_queue_is_pressed_few_wait_with_hope_and_others_may_be_refused_on_arrival() {
    let mut line = Line::new();
    let layer = AdaptiveLimitLayer::new(&line.limit);
    let refuse = |again| {
        let refusal = layer.refuse(&request(), None, again)?;
        Some(refusal.shed().status().as_u16())
    };
    assert!(layer.may_refuse(), "the place is taken");
    line.join(18).await;
    assert_eq!(refuse(false), None, "all may wait");

    line.pass(60).await;
    line.calls[17].abort();
    line.pass(1).await;
    assert_eq!(refuse(false), Some(503));
    assert_eq!(refuse(true), None, "who asks again and again has to wait");
    assert_eq!(line.limit.stats().shed_queue_full, 1);
    // Whoever does not come by that way waits behind the others.
    line.join(1).await;
    let newest_first: Vec<_> = (0..17).rev().chain([18]).collect();
    assert_eq!(line.serve().await, newest_first);
    assert_eq!(refuse(false), None, "nobody waits any more");
    line.held = None;
    assert!(!layer.may_refuse());
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_queue_that_serves_nobody_in_time_serves_the_newest_first_until_it_does() {
    let mut line = Line::new();
    line.join(3).await;
    line.pass(900).await;
    assert_eq!(line.serve().await, [0, 1, 2], "all in time: in order");

    line.join(4).await;
    line.pass(60).await;
    // Somebody has left after a twentieth of the longest wait.
    line.calls[6].abort();
    line.pass(10).await;
    assert_eq!(line.serve().await, [5, 4, 3]);

    line.join(2).await;
    line.pass(60).await;
    line.join(1).await;
    line.pass(50).await;
    assert_eq!(line.limit.stats().waiting, 3);
    // Whoever comes next finds the oldest waiting for a tenth of the longest wait, which is too long.
    line.join(1).await;
    line.pass(1).await;
    assert_eq!(line.limit.stats().waiting, 1, "three were refused");
    assert_eq!(line.serve().await, [10]);
    assert_eq!(line.limit.stats().shed_wait_timeout, 3);

    // For as long as the longest wait nobody had to go.
    line.pass(1001).await;
    line.join(2).await;
    line.pass(900).await;
    assert_eq!(line.serve().await, [11, 12]);

    let mut statuses = Vec::new();
    for call in line.calls {
        statuses.push(call.await.unwrap_or(0));
    }
    assert_eq!(
        statuses,
        [
            200, 200, 200, 200, 200, 200, 0, 503, 503, 503, 200, 200, 200
        ]
    );
    assert_eq!(
        (line.limit.stats().in_flight, line.limit.stats().waiting),
        (1, 0)
    );
}

/// What a service does in a tenth of a second, all at once and beside its usual load.
#[cfg(feature = "tokio")]
/// One place, which is taken, and a layer where one waits so long for it.
fn taken(max_wait: Duration) -> (stellane_autotune::Permit, AdaptiveLimitLayer) {
    let mut config = fixed(1);
    config.max_wait = max_wait;
    let limit = build(config);
    let permit = limit.try_acquire().unwrap();
    (permit, AdaptiveLimitLayer::new(&limit))
}

#[tokio::test(start_paused = true)]
async fn everybody_waits_for_a_time_of_their_own_where_nothing_is_given_back() {
    let (_permit, layer) = taken(Duration::from_millis(640));
    let start = tokio::time::Instant::now();
    let wait = |after: u64| {
        let service = layer.layer(slow());
        async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let refused = service.oneshot(request()).await.unwrap();
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            (start.elapsed().as_millis() as u64) - after
        }
    };
    let waited = tokio::join!(wait(0), wait(100), wait(105), wait(500), wait(2000));
    for waited in <[u64; 5]>::from(waited) {
        // Whoever is not the first may wait a thirtieth longer.
        assert!((640..=665).contains(&waited), "{waited}");
    }
}

#[test]
fn who_waits_on_one_thread_is_refused_in_time_while_another_is_held() {
    let (_permit, layer) = taken(Duration::from_millis(20));
    let wait = |service: AdaptiveLimitLayer| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        (runtime, service.layer(slow()).oneshot(request()))
    };
    let (say, held) = std::sync::mpsc::channel();
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let first = layer.clone();
    let holder = std::thread::spawn(move || {
        let (runtime, waiting) = wait(first);
        runtime.block_on(async {
            let waiting = tokio::spawn(waiting);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            say.send(()).unwrap();
            // A handler that blocks.
            told.recv().unwrap();
            waiting.await.unwrap().unwrap().status()
        })
    });
    held.recv().unwrap();
    let (runtime, waiting) = wait(layer);
    let refused = runtime.block_on(waiting).unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    go_on.send(()).unwrap();
    assert_eq!(holder.join().unwrap(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn who_waits_on_a_second_runtime_of_a_thread_is_refused_in_time() {
    let (_permit, layer) = taken(Duration::from_millis(20));
    for patience in [Duration::from_millis(1), Duration::from_secs(60)] {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        let waiting = layer.layer(slow()).oneshot(request());
        let refused = runtime.block_on(async { tokio::time::timeout(patience, waiting).await });
        // The first runtime ends while somebody waits there.
        assert_eq!(refused.is_ok(), patience > Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_absorbed() {
    let mut config = fixed(10);
    (config.max_wait, config.max_waiters) = (Duration::from_millis(500), 1000);
    let limit = AdaptiveLimit::builder()
        .config(config)
        .clock(stellane_autotune::Clock::tokio())
        .build()
        .unwrap();
    // Ten at a time and 10 ms each: a thousand in a second.
    let service = AdaptiveLimitLayer::new(&limit).layer(service_fn(|_: Request<Limited>| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(Response::new(Body::default()))
    }));
    let mut calls = Vec::new();
    for millisecond in 0..1000 {
        let burst = if millisecond == 300 { 100 } else { 0 };
        for _ in 0..burst + millisecond % 2 {
            calls.push(tokio::spawn(service.clone().oneshot(request())));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!((limit.stats().shed, limit.stats().admitted), (0, 600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_clones_at_once_never_exceed_the_limit() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    static PEAK: AtomicU32 = AtomicU32::new(0);
    let limit = build(fixed(5));
    let service = AdaptiveLimitLayer::new(&limit).layer(service_fn(|_: Request<Limited>| async {
        PEAK.fetch_max(INSIDE.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        INSIDE.fetch_sub(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Response::new(Body::default()))
    }));
    let calls: Vec<_> = (0..10_000)
        .map(|_| tokio::spawn(service.clone().oneshot(request())))
        .collect();
    let mut answered = 0;
    for call in calls {
        answered += u64::from(call.await.unwrap().unwrap().status() == StatusCode::OK);
    }
    let stats = limit.stats();
    assert!((1..=5).contains(&PEAK.load(Ordering::SeqCst)));
    assert_eq!((stats.admitted, stats.in_flight), (answered, 0));
    assert_eq!(stats.admitted + stats.shed, 10_000);
}

/// A body whose length nobody knows.
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

#[test]
fn more_threads_than_have_counters_of_their_own_lose_no_answer() {
    const EACH: u64 = 2000;
    let limit = build(fixed(1000));
    // Twice, so that counters pass from threads that have ended to others.
    for _ in 0..2 {
        let threads: Vec<_> = (0..48)
            .map(|_| {
                let limit = limit.clone();
                std::thread::spawn(move || {
                    for _ in 0..EACH {
                        limit.try_acquire().unwrap().finish(Outcome::Success);
                        drop(limit.try_acquire().unwrap());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
    let stats = limit.stats();
    let all = 2 * 48 * EACH;
    assert_eq!((stats.successes, stats.cancelled), (all, all));
    assert_eq!(stats.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn client_errors_and_streams_do_not_count() {
    // In front of one's own service one client's quota is no reason to refuse others; that of a far side is.
    for (client, overloads) in [(false, 1), (true, 2)] {
        let limit = build(fixed(5));
        let mut layer = AdaptiveLimitLayer::new(&limit);
        if client {
            layer = layer.classify_response(|head| head.client_outcome());
        }
        let service = layer.layer(service_fn(|request: Request<Limited>| async move {
            let response = Response::builder();
            let (response, body) = match request.uri().path() {
                "/bad" => (response.status(400), Either::Left(Body::from("x"))),
                "/quota" => (response.status(429), Either::Left(Body::from("x"))),
                "/busy" => (response.status(503), Either::Left(Body::from("x"))),
                _ => {
                    let events = response.header("content-type", "text/event-stream");
                    (events, Either::Right(Endless))
                }
            };
            Ok::<_, Infallible>(response.body(body).unwrap())
        }));
        let mut held = Vec::new();
        for path in ["/bad", "/quota", "/busy", "/stream"] {
            let request = Request::builder()
                .method(Method::GET)
                .uri(path)
                .body(Body::default());
            held.push(service.clone().oneshot(request.unwrap()).await.unwrap());
        }
        let stats = limit.stats();
        let counted = (stats.ignored, stats.overloads, stats.successes);
        assert_eq!(counted, (3 - overloads, overloads, 1));
        // The stream gave its place back although its body lives.
        assert_eq!(stats.in_flight, 3);
    }
}

#[tokio::test]
async fn a_grpc_answer_counts_as_what_its_status_says() {
    // Per status, what it is in front of one's own service, and at a client of another's.
    let ignore = [Outcome::Ignore; 2];
    for (code, expected) in [
        ("0", [Outcome::Success; 2]),
        ("4", [Outcome::Overload; 2]),
        ("8", [Outcome::Ignore, Outcome::Overload]),
        ("14", [Outcome::Overload; 2]),
        ("5", ignore),
        ("13", ignore),
        ("", ignore),
    ] {
        for (client, expected) in [false, true].into_iter().zip(expected) {
            let limit = build(fixed(5));
            let mut layer = AdaptiveLimitLayer::new(&limit);
            if client {
                layer = layer.classify_response(|head| head.client_outcome());
            }
            let service = layer.layer(service_fn(|_: Request<Limited>| async move {
                let response = Response::builder()
                    .header("content-type", "application/grpc+proto")
                    .header("grpc-status", code)
                    .body(Body::default());
                Ok::<_, Infallible>(response.unwrap())
            }));
            drop(service.oneshot(request()).await.unwrap());
            let stats = limit.stats();
            let counted = match (stats.successes, stats.overloads, stats.ignored) {
                (1, 0, 0) => Outcome::Success,
                (0, 1, 0) => Outcome::Overload,
                (0, 0, 1) => Outcome::Ignore,
                other => panic!("{code}: {other:?}"),
            };
            assert_eq!(counted, expected, "{code}, {client}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_exempt_request_is_neither_limited_nor_counted() {
    let limit = build(fixed(1));
    let service = AdaptiveLimitLayer::new(&limit)
        .exempt(|head| head.uri.path() == "/x")
        .layer(slow());
    let (a, b) = tokio::join!(
        service.clone().oneshot(request()),
        service.oneshot(request())
    );
    assert_eq!(
        (a.unwrap().status(), b.unwrap().status()),
        (StatusCode::OK, StatusCode::OK)
    );
    assert_eq!(limit.stats().admitted, 0);
}

#[tokio::test]
async fn ten_thousand_ready_clones_hold_no_place() {
    let limit = build(fixed(2));
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let mut clones: Vec<_> = (0..10_000).map(|_| service.clone()).collect();
    for clone in &mut clones {
        clone.ready().await.unwrap();
    }
    assert_eq!(limit.stats().in_flight, 0);
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiting_loses_nobody_when_some_give_up_and_the_limit_moves() {
    let mut config = fixed(3);
    config.classes.insert("vip".into(), 0.4.into());
    (config.max_wait, config.max_waiters) = (Duration::from_secs(60), 1000);
    let limit = build(config);
    let vip = limit.class("vip").unwrap();
    let service = AdaptiveLimitLayer::new(&limit).layer(service_fn(|_: Request<Limited>| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Body::from("done")))
    }));
    let tasks: Vec<_> = (0..64_u64)
        .map(|task| {
            let service = service.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                for turn in 0..200 {
                    let mut request = request();
                    if task % 4 == 0 {
                        request.extensions_mut().insert(vip);
                    }
                    let call = service.clone().oneshot(request);
                    if (task + turn) % 3 == 0 {
                        // Gives up after a few polls, granted or not.
                        let patience = async {
                            for _ in 0..task % 5 {
                                tokio::task::yield_now().await;
                            }
                        };
                        tokio::select! { biased; _ = call => {}, () = patience => {} }
                    } else {
                        answered += u64::from(call.await.unwrap().status() == StatusCode::OK);
                    }
                }
                answered
            })
        })
        .collect();
    for max in [1, 5, 2, 3].into_iter().cycle().take(200) {
        limit.set_max(max);
        tokio::task::yield_now().await;
    }
    let mut answered = 0;
    for task in tasks {
        answered += task.await.unwrap();
    }
    let patient = (0..64_u64).flat_map(|task| (0..200).map(move |turn| task + turn));
    assert_eq!(answered, patient.filter(|sum| sum % 3 != 0).count() as u64);
    let stats = limit.stats();
    assert_eq!((stats.in_flight, stats.waiting, stats.shed), (0, 0, 0));
    assert!(stats.classes.iter().all(|class| class.in_flight == 0));
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_limit_lowered_under_waiters_is_reached_within_one_service_time() {
    let mut config = fixed(10);
    config.hold = stellane_autotune::Hold::Headers;
    (config.max_wait, config.max_waiters) = (Duration::from_secs(60), 1000);
    let limit = build(config);
    let service = AdaptiveLimitLayer::new(&limit).layer(slow());
    let calls: Vec<_> = (0..100)
        .map(|_| tokio::spawn(service.clone().oneshot(request())))
        .collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!((limit.stats().in_flight, limit.stats().waiting), (10, 90));
    limit.set_max(2);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(limit.stats().in_flight, 2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[test]
fn shares_can_be_changed_and_nothing_leaks_without_classes() {
    let mut config = fixed(2);
    config.mode = LimitMode::Shadow;
    let limit = build(config);
    limit.set_share(Class::DEFAULT, 1.0);
    for _ in 0..10 {
        let _permits: Vec<_> = (0..5).map(|_| limit.try_acquire().unwrap()).collect();
    }
    let stats = limit.stats();
    assert_eq!(
        (
            stats.in_flight,
            stats.classes[0].in_flight,
            stats.would_shed
        ),
        (0, 0, 30)
    );

    let mut config = fixed(10);
    config.classes.insert("vip".into(), 0.0.into());
    let limit = build(config);
    let vip = limit.class("vip").unwrap();
    let _full: Vec<_> = (0..10).map(|_| limit.try_acquire().unwrap()).collect();
    assert!(limit.try_acquire_for(vip).is_err());
    limit.set_share(vip, 0.1);
    let _permit = limit.try_acquire_for(vip).unwrap();
    assert!(limit.try_acquire_for(vip).is_err());
}

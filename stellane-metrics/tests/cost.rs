//! What a request costs: no allocation, and a bounded number of series whatever clients send.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use stellane_metrics::{
    HttpMetrics, LoadReportLayer, LoadReports, MetricsConfig, MetricsLayer, label_route,
};
use tower::{Layer, Service, service_fn};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

fn count(allocations: u64, bytes: i64) {
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + allocations));
    let _ = LIVE.try_with(|n| n.set(n.get() + bytes));
}

// SAFETY: forwards to the system allocator; the counters are plain thread-locals that never allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Body1 = Full<Bytes>;

/// Sends one request through and reads its body, without a runtime.
fn send<S, B>(service: &mut S, request: Request<Body1>)
where
    S: Service<Request<Body1>, Response = Response<B>, Error = Infallible>,
    B: Body + Unpin,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(mut response)) = pin!(service.call(request)).poll(&mut cx) else {
        panic!("the service answers at once");
    };
    while let Poll::Ready(Some(_)) = Pin::new(response.body_mut()).poll_frame(&mut cx) {}
}

#[test]
fn a_request_allocates_nothing_once_its_series_is_known() {
    let http = HttpMetrics::builder().build().unwrap();
    let mut service = MetricsLayer::new(&http)
        .route_from_request(|_: &Request<Body1>| Some("/users/{id}"))
        .route_from_response(|_: &Response<Body1>| Some("/v1/users/{id}"))
        .layer(service_fn(|_| {
            label_route("/nested/{id}");
            ready(Ok::<_, Infallible>(Response::new(Full::new(
                Bytes::from_static(b"hello"),
            ))))
        }));
    let mut run = |n| (0..n).for_each(|_| send(&mut service, Request::new(Full::default())));
    run(10);
    let before = ALLOCATIONS.get();
    run(100_000);
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(http.stats().requests_total, 100_010);
}

/// axum boxes what a layer of a route makes, whichever it is.
#[cfg(feature = "axum")]
#[test]
fn a_label_from_axum_allocates_nothing_beyond_what_axum_does_for_any_layer_there() {
    use axum::{
        Router,
        routing::{Route, get},
    };
    use tower::layer::layer_fn;

    let app = || Router::new().route("/users/{id}", get(|| async { "hello" }));
    let allocations = |app: Router, route: &str| {
        let http = HttpMetrics::builder().build().unwrap();
        let mut service = MetricsLayer::new(&http).layer(app);
        let mut run = |n| {
            (0..n).for_each(|_| {
                let request = Request::get("/users/7");
                send(&mut service, request.body(Full::default()).unwrap());
            });
        };
        run(10);
        let before = ALLOCATIONS.get();
        run(100);
        assert_eq!(http.routes()[0].route, route);
        ALLOCATIONS.get() - before
    };
    let unmatched = MetricsConfig::default().unmatched_route;
    let none = app().route_layer(layer_fn(|route: Route| route));
    let labelled = app().route_layer(stellane_metrics::RouteLabelLayer::axum());
    assert_eq!(
        allocations(labelled, "/users/{id}"),
        allocations(none, &unmatched)
    );
}

#[test]
fn a_load_report_allocates_nothing_in_a_head_that_has_room_for_it() {
    let allocations = |tells: bool| {
        let millis = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&millis);
        let clock = move || Duration::from_millis(read.load(Relaxed));
        let http = HttpMetrics::builder().clock(clock).build().unwrap();
        let reports = LoadReports::builder(&http)
            .application_utilization(|| Some(0.5))
            .build()
            .unwrap();
        let told = Cell::new(0);
        let answers = MetricsLayer::new(&http).layer(service_fn(|_: Request<Body1>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
            *response.headers_mut() = HeaderMap::with_capacity(4);
            ready(Ok::<_, Infallible>(response))
        }));
        let mut telling = LoadReportLayer::new(&reports).layer(answers.clone());
        let mut counting = service_fn(|request: Request<Body1>| {
            let answered = telling.call(request);
            let told = &told;
            async move {
                let response = answered.await?;
                told.set(told.get() + response.headers().len());
                Ok::<_, Infallible>(response)
            }
        });
        let mut plain = answers;
        let mut one = || match tells {
            true => send(&mut counting, Request::new(Full::default())),
            false => send(&mut plain, Request::new(Full::default())),
        };
        for _ in 0..2000 {
            millis.fetch_add(1, Relaxed);
            one();
        }
        let before = ALLOCATIONS.get();
        (0..1000).for_each(|_| one());
        let allocated = ALLOCATIONS.get() - before;
        assert_eq!(told.get() > 1000, tells, "{}", told.get());
        allocated
    };
    assert_eq!(allocations(true), allocations(false));
}

#[test]
fn a_table_is_freed_with_its_last_handle_and_its_last_request() {
    let life = || {
        let http = HttpMetrics::builder().build().unwrap();
        let mut service = MetricsLayer::new(&http).layer(service_fn(|_: Request<Body1>| {
            label_route("/");
            ready(Ok::<_, Infallible>(Response::new(Full::new(
                Bytes::from_static(b"hello"),
            ))))
        }));
        send(&mut service, Request::new(Full::default()));
        let under_way = service.call(Request::new(Full::default()));
        drop((http, service));
        assert!(LIVE.get() > 60_000, "a request holds the table");
        drop(under_way);
    };
    life();
    let before = LIVE.get();
    life();
    assert_eq!(LIVE.get() - before, 0);
}

#[test]
fn a_cancelled_request_allocates_nothing() {
    let http = HttpMetrics::builder().build().unwrap();
    let mut service = MetricsLayer::new(&http).layer(service_fn(|_: Request<Body1>| {
        ready(Ok::<_, Infallible>(Response::new(Full::new(
            Bytes::from_static(b"hello"),
        ))))
    }));
    drop(service.call(Request::new(Full::default())));
    let before = ALLOCATIONS.get();
    for _ in 0..1_000 {
        drop(service.call(Request::new(Full::default())));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

/// A million requests that each invent a path and a method, to a server whose route closure makes the classic mistake.
#[test]
fn a_million_random_paths_and_methods_leave_a_capped_table_and_flat_memory() {
    let mut config = MetricsConfig::default();
    config.max_routes = 50;
    config.max_series = 100;
    let http = HttpMetrics::builder().config(config).build().unwrap();
    let mut service = MetricsLayer::new(&http)
        .route_from_request(|request: &Request<Body1>| Some(request.uri().path()))
        .layer(service_fn(|_| {
            ready(Ok::<_, Infallible>(Response::new(Full::new(
                Bytes::from_static(b"no"),
            ))))
        }));
    let seed = 0x5eed_0006_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut attack = |n: usize| {
        for _ in 0..n {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = format!("/{:x}", random()).parse().unwrap();
            *request.method_mut() =
                Method::from_bytes(format!("M{:x}", random()).as_bytes()).unwrap();
            send(&mut service, request);
        }
    };
    attack(10_000);
    let scrape = http.render();
    let before = LIVE.get();
    // An hour of scrapes, four a minute, between the requests.
    for _ in 0..240 {
        attack(990_000 / 240);
        assert_eq!(http.render().lines().count(), scrape.lines().count());
    }
    let grown = LIVE.get() - before;
    assert_eq!(grown, 0, "bytes kept after the attack");

    let stats = http.stats();
    assert_eq!(stats.requests_total, 10_000 + 240 * (990_000 / 240));
    assert_eq!(stats.routes, 50);
    assert!(stats.series <= 100, "{} series", stats.series);
    assert_eq!(stats.overflow_total, stats.requests_total - 50);
    assert!(!http.render().contains("method=\"M"));
}

#[test]
fn series_past_their_cap_share_one_and_nothing_is_lost() {
    let mut config = MetricsConfig::default();
    config.max_series = 3;
    let http = HttpMetrics::builder().config(config).build().unwrap();
    let mut service = MetricsLayer::new(&http).layer(service_fn(|request: Request<Body1>| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"x")));
        *response.status_mut() = *request.extensions().get().unwrap();
        ready(Ok::<_, Infallible>(response))
    }));
    for status in 200..210 {
        let mut request = Request::new(Full::default());
        request
            .extensions_mut()
            .insert(http::StatusCode::from_u16(status).unwrap());
        send(&mut service, request);
    }
    let counted: f64 = http
        .render()
        .lines()
        .filter(|line| line.starts_with("http_server_request_duration_seconds_count"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert_eq!(counted, 10.0);
    assert_eq!(http.stats().overflow_total, 7);
    assert!(http.render().contains(
        r#"duration_seconds_count{http_request_method="_OTHER",http_route="__overflow__"} 7"#
    ));
}

#[test]
fn threads_that_come_and_go_lose_no_request() {
    let http = HttpMetrics::builder().build().unwrap();
    // More threads at once than have cells of their own, twice, so that slots are handed on.
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for _ in 0..150 {
                scope.spawn(|| {
                    let mut service = MetricsLayer::new(&http).layer(service_fn(|_| {
                        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(
                            "x",
                        )))))
                    }));
                    for _ in 0..100 {
                        send(&mut service, Request::new(Full::default()));
                    }
                });
            }
        });
    }
    let stats = http.stats();
    assert_eq!(
        (stats.requests_total, stats.requests_in_flight),
        (30_000, 0)
    );
}

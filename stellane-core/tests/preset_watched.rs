//! What the admin address tells while the service is held up, and what the preset does beside the requests.
#![cfg(feature = "full")]

#[path = "support/ask.rs"]
mod ask;
#[cfg(target_os = "linux")]
#[path = "support/looks.rs"]
mod looks;

#[path = "support/process_ran.rs"]
mod process_ran;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use looks::in_time;
use stellane_core::{
    RefusalKind, RequestBody, Runtime, RuntimeConfig, RuntimeError,
    autotune::RequestHead,
    config::Loader,
    engine::EngineKind,
    metrics::Dependency,
    router::Router,
    runtime::{BoundRuntime, RunReport},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use tower::service_fn;
use tracing::level_filters::LevelFilter;

/// Far longer than anything takes here.
const TIMEOUT: Duration = Duration::from_secs(30);

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.workers.min_workers = 1;
    config.connection.drain_idle = Duration::ZERO;
    config
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let answer = in_time(ask::ask_at(address, request)).await;
    answer.expect("in time")
}

async fn get(address: SocketAddr, path: &str) -> String {
    let answer = in_time(ask::get(address, path)).await;
    answer.unwrap_or_else(|| panic!("{path} at {address} is not answered"))
}

/// Asks again and again until the answer is as it should be.
async fn until(address: SocketAddr, path: &str, is_right: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    let asking = async {
        loop {
            last = get(address, path).await;
            if is_right(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let is_right = in_time(asking).await.is_some();
    assert!(is_right, "{path} stays {last}");
    last
}

/// A handler waits here, and holds its thread, until the gate is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn block(&self) {
        let (open, opened) = &*self.0;
        let mut open = open.lock().expect("no panic");
        while !*open {
            open = opened.wait(open).expect("no panic");
        }
    }

    fn open(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_all();
    }
}

/// Opens the gate at last: a test that fails must end all the same.
struct AtLast(Gate);

impl Drop for AtLast {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A server on a runtime of its own with so many threads; the test stays able to ask.
struct Served {
    address: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<Result<RunReport, RuntimeError>>>,
}

macro_rules! serve {
    ($threads:expr, $builder:expr) => {{
        let (say_bound, bound) = oneshot::channel();
        let (say_ended, ended) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads($threads)
                .enable_all()
                .build()
                .expect("a runtime");
            // In a task: what `block_on` runs is on no thread that a handler may hold.
            let served = runtime.block_on(runtime.spawn(async move {
                let runtime = $builder
                    .shutdown_signal(async { drop(stopped.await) })
                    .build()
                    .expect("builds");
                let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
                let addresses = (bound.local_addr(), bound.admin_addr().expect("on"));
                let _ = say_bound.send(addresses);
                bound.serve().await
            }));
            let _ = say_ended.send(served.expect("no panic"));
            runtime.shutdown_background();
        });
        let (address, admin) = bound.await.expect("starts");
        Served {
            address,
            admin,
            stop: Some(stop),
            ended: Some(ended),
        }
    }};
}

impl Served {
    async fn end(mut self) -> RunReport {
        drop(self.stop.take());
        let ended = in_time(self.ended.take().expect("once")).await;
        ended
            .expect("in time")
            .expect("no panic")
            .expect("no error")
    }
}

fn blocking_router(gate: &Gate) -> Router {
    let gate = gate.clone();
    let block = move || {
        let gate = gate.clone();
        async move {
            gate.block();
            "at last"
        }
    };
    Router::builder()
        .get("/blocks/{id}", block)
        .get("/", || async { "hello" })
        .build()
        .expect("no conflicts")
}

#[tokio::test]
async fn probes_and_metrics_are_answered_while_every_thread_is_held_and_the_handler_is_named() {
    for kind in [EngineKind::Shared, EngineKind::PerCore] {
        let gate = Gate::default();
        let _at_last = AtLast(gate.clone());
        let mut config = config();
        config.engine.kind = kind;
        config.engine.cores = 2;
        let router = blocking_router(&gate);
        let served = serve!(2, Runtime::builder().config(config).service(router));
        // So many that some come to each thread.
        let ask = |n| {
            let address = served.address;
            tokio::spawn(async move { get(address, &format!("/blocks/{n}")).await })
        };
        let held: Vec<_> = (0..32).map(ask).collect();
        let both = "stellane_held_threads{http_route=\"/blocks/{id}\"} 2\n";
        until(served.admin, "/metrics", |text| text.contains(both)).await;
        for path in [
            "/healthz",
            "/readyz",
            "/metrics",
            "/",
            "/runtime.json",
            "/connections",
            "/tuning",
        ] {
            let answer = get(served.admin, path).await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{kind:?} {path}: {answer}"
            );
        }
        let told = get(served.admin, "/metrics").await;
        let total = "stellane_thread_holds_total{http_route=\"/blocks/{id}\"} 2\n";
        assert!(told.contains(total), "once for each: {told}");
        gate.open();
        for held in held {
            assert!(held.await.expect("no panic").ends_with("at last"));
        }
        until(served.admin, "/metrics", |text| {
            !text.contains("stellane_held_threads{")
        })
        .await;
        served.end().await;
    }
}

#[tokio::test]
async fn one_handler_that_holds_its_thread_does_not_hold_up_the_others() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let router = blocking_router(&gate);
    let served = serve!(2, Runtime::builder().config(config()).service(router));
    // Tokio has no other thread wait for sockets when it begins to run what the only one that was awake was woken for.
    let address = served.address;
    let held = tokio::spawn(async move { get(address, "/blocks/1").await });
    let is_held = |text: &str| text.contains("stellane_held_threads{");
    until(served.admin, "/metrics", is_held).await;
    for _ in 0..20 {
        let answer = get(served.address, "/").await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    gate.open();
    held.await.expect("no panic");
    served.end().await;
}

#[tokio::test]
async fn a_thread_that_is_always_busy_with_something_else_is_not_held() {
    let busy = async || {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            // A step is a thousandth of what holds a thread.
            let step = std::time::Instant::now();
            while step.elapsed() < Duration::from_millis(2) {}
            tokio::task::yield_now().await;
        }
        "done"
    };
    let mut config = config();
    config.server.held_after = Duration::from_secs(2);
    let router = Router::builder().get("/busy", busy);
    let router = router.build().expect("no conflicts");
    let served = serve!(1, Runtime::builder().config(config).service(router));
    assert!(get(served.address, "/busy").await.ends_with("done"));
    let told = get(served.admin, "/metrics").await;
    assert!(!told.contains("stellane_thread_holds_total{"), "{told}");
    served.end().await;
}

#[tokio::test]
async fn an_axum_handler_is_named_too() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let blocking = gate.clone();
    let block = axum::routing::get(move || async move { blocking.block() });
    let router = axum::Router::new()
        .route("/slow/{id}", block)
        .route_layer(stellane_core::metrics::RouteLabelLayer::axum());
    let served = serve!(2, Runtime::builder().config(config()).service(router));
    let address = served.address;
    let held = tokio::spawn(async move { get(address, "/slow/1").await });
    let is_held =
        |text: &str| text.contains("stellane_held_threads{http_route=\"/slow/{id}\"} 1\n");
    until(served.admin, "/metrics", is_held).await;
    gate.open();
    held.await.expect("no panic");
    served.end().await;
}

/// Nobody logs in this process: a trace point costs one comparison, in h2 alone there are fifty for each request.
#[tokio::test]
async fn the_thread_beside_the_service_has_nobody_asked_what_is_to_be_logged() {
    let router = blocking_router(&Gate::default());
    let served = serve!(1, Runtime::builder().config(config()).service(router));
    until(served.admin, "/healthz", |answer| answer.contains(" 200 ")).await;
    assert_eq!(LevelFilter::current(), LevelFilter::OFF);
    served.end().await;
    assert_eq!(LevelFilter::current(), LevelFilter::OFF);
}

#[tokio::test]
async fn a_service_that_gets_nowhere_is_unhealthy_if_that_is_asked_for() {
    for (after, unhealthy) in [(Duration::ZERO, false), (Duration::from_millis(500), true)] {
        let gate = Gate::default();
        let _at_last = AtLast(gate.clone());
        let mut config = config();
        config.server.unhealthy_after = after;
        let router = blocking_router(&gate);
        let served = serve!(1, Runtime::builder().config(config).service(router));
        assert!(
            get(served.admin, "/healthz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let address = served.address;
        let held = tokio::spawn(async move { get(address, "/blocks/1").await });
        until(served.admin, "/metrics", |text| {
            text.contains("stellane_held_threads{")
        })
        .await;
        if unhealthy {
            let is_so = |text: &str| text.starts_with("HTTP/1.1 503") && text.contains("stalled");
            until(served.admin, "/healthz", is_so).await;
        } else {
            let answer = get(served.admin, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        gate.open();
        until(served.admin, "/healthz", |text| {
            text.starts_with("HTTP/1.1 200")
        })
        .await;
        held.await.expect("no panic");
        served.end().await;
    }
}

#[tokio::test]
async fn half_heads_on_the_admin_address_leave_places_for_probes() {
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let served = serve!(2, Runtime::builder().config(config()).service(hello));
    let mut half = Vec::new();
    for round in 0..4 {
        for _ in 0..250 {
            let mut stream = TcpStream::connect(served.admin).await.expect("connects");
            let _ = stream.write_all(b"GET /healthz HTT").await;
            half.push(stream);
        }
        let answer = get(served.admin, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{round}: {answer}");
        // Who asked for nothing is gone soon.
        let oldest = &mut half[round * 250];
        let mut end = Vec::new();
        let closed = in_time(oldest.read_to_end(&mut end)).await;
        assert!(closed.is_some(), "{round}: still there");
    }
    served.end().await;
}

#[tokio::test]
async fn who_has_asked_on_the_admin_address_stays_however_many_come() {
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let served = serve!(2, Runtime::builder().config(config()).service(hello));
    let ask = async |stream: &mut TcpStream| {
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request).await.expect("writes");
        let mut answer = [0; 4096];
        let read = in_time(stream.read(&mut answer)).await;
        let read = read.expect("in time").expect("is there");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    };
    // Scrapers that keep their connections, more than the places from which on some are closed.
    let mut probes = Vec::new();
    for _ in 0..100 {
        let mut probe = TcpStream::connect(served.admin).await.expect("connects");
        ask(&mut probe).await;
        probes.push(probe);
    }
    // It looks: who comes later and asks for nothing goes.
    for _ in 0..2 {
        let mut silent = TcpStream::connect(served.admin).await.expect("connects");
        let closed = in_time(silent.read(&mut [0; 1])).await;
        assert!(matches!(closed, Some(Ok(0) | Err(_))), "still there");
    }
    for probe in &mut probes {
        ask(probe).await;
    }
    served.end().await;
}

#[tokio::test]
async fn the_admin_address_is_strict_and_takes_addresses_as_host() {
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let served = serve!(2, Runtime::builder().config(config()).service(hello));
    for (host, path, status) in [
        ("10.1.2.3:9090", "/healthz", "200"),
        ("10.1.2.3:9090", "/runtime.json", "200"),
        ("[fd00::1]:9090", "/config", "200"),
        ("evil.example", "/healthz", "200"),
        ("evil.example", "/config", "403"),
        ("a b", "/healthz", "400"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = exchange(served.admin, &request).await;
        assert_eq!(answer.get(9..12), Some(status), "{host} {path}: {answer}");
    }
    let two = "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n";
    let answer = exchange(served.admin, two).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    served.end().await;
}

#[tokio::test]
async fn a_required_dependency_takes_the_readiness_away_after_it_has_failed_for_long_and_gives_it_back()
 {
    #[derive(Clone, Copy, PartialEq)]
    enum How {
        Well,
        Error,
        Hang,
        Panic,
    }
    let how = Arc::new(Mutex::new(How::Error));
    let asked = Arc::clone(&how);
    let check = move || {
        let how = *asked.lock().expect("no panic");
        async move {
            match how {
                How::Well => Ok(()),
                How::Error => Err("no database"),
                How::Hang => std::future::pending().await,
                How::Panic => panic!("in the check"),
            }
        }
    };
    let cache = || async { Err::<(), _>("no cache") };
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let (every, timeout) = (Duration::from_millis(10), Duration::from_millis(50));
    let database = Dependency::required("database", Duration::from_millis(300));
    let served = serve!(
        2,
        Runtime::builder()
            .config(config())
            .service(hello)
            .ready_check(database, every, timeout, check)
            .ready_check(Dependency::degraded("cache"), every, timeout, cache)
    );
    let ready = |text: &str| text.starts_with("HTTP/1.1 200");
    let unready = |text: &str| text.starts_with("HTTP/1.1 503") && text.contains("database");
    // Not before it was there.
    until(served.admin, "/metrics", |text| {
        text.contains("stellane_dependency_up{dependency=\"database\"} 0")
            && !text.contains("stellane_dependency_check_failures_total{dependency=\"database\"} 0")
    })
    .await;
    let answer = get(served.admin, "/readyz").await;
    assert!(unready(&answer), "{answer}");
    for bad in [How::Error, How::Hang, How::Panic] {
        *how.lock().expect("no panic") = How::Well;
        until(served.admin, "/readyz", ready).await;
        *how.lock().expect("no panic") = bad;
        until(served.admin, "/readyz", unready).await;
    }
    *how.lock().expect("no panic") = How::Well;
    until(served.admin, "/readyz", ready).await;
    let told = get(served.admin, "/readyz?verbose").await;
    for part in [
        "\"name\":\"cache\"",
        "\"required\":false",
        "\"up\":false",
        "\"name\":\"database\"",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(
        !told.contains("no cache"),
        "nothing of what the check said: {told}"
    );
    served.end().await;
}

#[tokio::test]
async fn a_dependency_that_blinks_keeps_the_server_ready() {
    let works = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&works);
    let check = move || {
        let works = asked.load(SeqCst);
        async move { works.then_some(()).ok_or("no database") }
    };
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let every = Duration::from_millis(10);
    let database = Dependency::required("database", Duration::from_secs(3600));
    let served = serve!(
        2,
        Runtime::builder()
            .config(config())
            .service(hello)
            .ready_check(database, every, every, check)
    );
    until(served.admin, "/readyz", |text| {
        text.starts_with("HTTP/1.1 200")
    })
    .await;
    works.store(false, SeqCst);
    until(served.admin, "/readyz?verbose", |text| {
        text.contains("\"up\":false")
    })
    .await;
    let answer = get(served.admin, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    served.end().await;
}

#[tokio::test]
async fn background_work_is_restarted_told_of_the_drain_and_waited_for() {
    let starts = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let (counted, did) = (Arc::clone(&starts), Arc::clone(&done));
    let outbox = move |draining: stellane_core::runtime::CancellationToken| {
        let (starts, done) = (Arc::clone(&counted), Arc::clone(&did));
        async move {
            assert!(starts.fetch_add(1, SeqCst) > 0, "panics the first time");
            draining.cancelled().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            done.store(true, SeqCst);
        }
    };
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let served = serve!(
        2,
        Runtime::builder()
            .config(config())
            .service(hello)
            .background("outbox", outbox)
            .background("one that ends", |_| async {})
    );
    let restarted = "stellane_background_restarts_total{task=\"outbox\"} 1\n";
    until(served.admin, "/metrics", |text| text.contains(restarted)).await;
    assert!(!done.load(SeqCst));
    let report = served.end().await;
    assert!(report.is_clean() && report.background_cut.is_empty());
    assert_eq!(starts.load(SeqCst), 2);
    assert!(done.load(SeqCst), "was waited for");
}

#[tokio::test]
async fn background_work_that_does_not_end_is_cut_off_at_the_deadline() {
    let mut config = config();
    config.server.drain_timeout = Duration::from_millis(100);
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let dropped = Arc::new(());
    let held = Arc::clone(&dropped);
    let served = serve!(
        2,
        Runtime::builder()
            .config(config)
            .service(hello)
            .background("one that ends", |_| async {})
            .background("stubborn", move |_| {
                let held = Arc::clone(&held);
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                }
            })
    );
    get(served.address, "/").await;
    let report = served.end().await;
    assert_eq!(report.background_cut, ["stubborn"]);
    assert!(!report.is_clean() && report.to_string().contains("stubborn"));
    let gone = async {
        while Arc::strong_count(&dropped) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(gone).await.expect("it was dropped");
}

type Hello =
    BoundRuntime<tower::util::BoxCloneService<Request<RequestBody>, Response<String>, Infallible>>;

async fn bound(config: RuntimeConfig) -> Result<Hello, RuntimeError> {
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    Runtime::builder()
        .config(config)
        .service(tower::util::BoxCloneService::new(hello))
        .shutdown_signal(std::future::pending())
        .build()?
        .bind("127.0.0.1:0")
        .await
}

fn answers(bound: Hello) -> (SocketAddr, JoinHandle<Result<RunReport, RuntimeError>>) {
    let admin = bound.admin_addr().expect("on");
    (admin, tokio::spawn(bound.serve()))
}

#[tokio::test]
async fn a_default_admin_address_that_is_in_use_is_replaced_and_a_chosen_one_is_an_error() {
    // Whoever has it, it is in use now; another run of this test lets go of it.
    let mut taken = TcpListener::bind("127.0.0.1:9090").await;
    for _ in 0..500 {
        if taken.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            taken = TcpListener::bind("127.0.0.1:9090").await;
        }
    }
    let mut config = RuntimeConfig::default();
    config.workers.min_workers = 1;
    let (one, other) = (bound(config.clone()).await, bound(config.clone()).await);
    let (one, first) = answers(one.expect("another port"));
    let (other, second) = answers(other.expect("another port"));
    assert!(one != other && one.ip().is_loopback() && one.port() != 9090);
    for admin in [one, other] {
        assert!(get(admin, "/readyz").await.starts_with("HTTP/1.1 200"));
    }
    let load = |loader: Loader| loader.load().expect("valid");
    let key = "STELLANE__SERVER__ADMIN_ADDRESS";
    let file = "[server]\nadmin_address = \"127.0.0.1:9090\"\n";
    for chosen in [
        config
            .clone()
            .with(|config| config.server.admin_address = one.to_string()),
        // Also where it is what the default would be.
        config.with(|config| config.server.admin_address = "127.0.0.1:9090".to_owned()),
        load(Loader::new().text("app.toml", file)),
        load(Loader::new().env([(key, "127.0.0.1:9090")])),
    ] {
        let error = bound(chosen).await.expect_err("it was chosen");
        assert!(
            error.to_string().contains("server.admin_address"),
            "{error}"
        );
    }
    let auto = load(Loader::new().env([(key, "auto")]));
    assert!(bound(auto).await.is_ok(), "the default, in so many words");
    first.abort();
    second.abort();
}

#[tokio::test]
async fn the_threads_of_a_run_end_with_it() {
    let hello = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let served = serve!(2, Runtime::builder().config(config()).service(hello));
    let admin = served.admin;
    get(admin, "/metrics").await;
    served.end().await;
    assert!(TcpStream::connect(admin).await.is_err(), "nobody listens");

    let mut config = config();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    let (admin, serving) = answers(bound(config).await.expect("binds"));
    get(admin, "/metrics").await;
    serving.abort();
    let closed = async {
        while TcpStream::connect(admin).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(closed).await.expect("closed when it is dropped");
}

/// One whose threads may be held.
fn handoff() -> RuntimeConfig {
    let mut config = config();
    config.engine.kind = EngineKind::Handoff;
    config.engine.cores = 2;
    config
}

/// Where handlers wait by their threads, and where they compute, until the gate is open.
fn holding_router(gate: &Gate) -> Router {
    let (gate, computing) = (gate.clone(), gate.clone());
    let block = move || {
        let gate = gate.clone();
        async move {
            gate.block();
            "at last"
        }
    };
    let compute = move || {
        let gate = computing.clone();
        async move {
            while !*gate.0.0.lock().expect("no panic") {
                std::hint::black_box((0..10_000).map(std::hint::black_box).sum::<u32>());
            }
            "computed"
        }
    };
    Router::builder()
        .get("/blocks/{id}", block)
        .get("/computes/{id}", compute)
        .get("/blocks/quick", || async { "hello" })
        .post("/blocks/{id}", || async { "posted" })
        .get("/", || async { "hello" })
        .build()
        .expect("no conflicts")
}

impl Served {
    fn ask(&self, count: usize, path: &'static str) -> Vec<JoinHandle<String>> {
        let ask = |n| {
            let address = self.address;
            tokio::spawn(async move { get(address, &format!("{path}/{n}")).await })
        };
        (0..count).map(ask).collect()
    }

    async fn until_held(&self, path: &str, threads: usize) -> String {
        let now = format!("stellane_held_threads{{http_route=\"{path}/{{id}}\"}} {threads}\n");
        until(self.admin, "/metrics", |text| text.contains(&now)).await
    }
}

async fn answered(asking: Vec<JoinHandle<String>>, with: &str) {
    for asked in asking {
        let answer = asked.await.expect("no panic");
        assert!(answer.ends_with(with), "{answer}");
    }
}

#[tokio::test]
async fn more_handlers_may_wait_by_their_threads_than_the_limit_has_places_and_each_is_told_once() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let router = holding_router(&gate);
    let served = serve!(2, Runtime::builder().config(handoff()).service(router));
    // The limit begins with 20, and 128 threads have counters of their own.
    let asking = served.ask(200, "/blocks");
    let told = served.until_held("/blocks", 200).await;
    let total = "stellane_thread_holds_total{http_route=\"/blocks/{id}\"} 200\n";
    assert!(told.contains(total), "{told}");
    for _ in 0..20 {
        let answer = get(served.address, "/").await;
        assert!(answer.ends_with("hello"), "{answer}");
        for probe in ["/healthz", "/readyz"] {
            let answer = get(served.admin, probe).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    gate.open();
    answered(asking, "at last").await;
    let over = "stellane_thread_held_seconds_total{http_route=\"/blocks/{id}\"}";
    let told = until(served.admin, "/metrics", |text| {
        text.contains(over) && !text.contains("stellane_held_threads{")
    })
    .await;
    assert!(told.contains(total), "once for each: {told}");
    assert_eq!(served.end().await.drain.aborted, 0);
}

#[tokio::test]
async fn a_handler_that_waits_by_its_thread_leaves_the_limit_and_one_that_computes_does_not() {
    for (path, answer) in [("/blocks", "hello"), ("/computes", "")] {
        let gate = Gate::default();
        let _at_last = AtLast(gate.clone());
        let router = holding_router(&gate);
        let mut config = handoff();
        (config.limit.min, config.limit.initial, config.limit.max) = (2, 2, 2);
        config.limit.max_wait = Duration::from_millis(1);
        let served = serve!(2, Runtime::builder().config(config).service(router));
        let asking = served.ask(2, path);
        served.until_held(path, 2).await;
        let is_there = |text: &str| text.starts_with("HTTP/1.1 200");
        match answer.is_empty() {
            // At once or after it is seen that they wait.
            false => drop(until(served.address, "/", is_there).await),
            true => {
                for _ in 0..5 {
                    let answer = get(served.address, "/").await;
                    assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
                }
            }
        }
        gate.open();
        for asked in asking {
            assert!(is_there(&asked.await.expect("no panic")));
        }
        // All places are there again, and no more.
        until(served.address, "/", is_there).await;
        served.end().await;
    }
}

/// So many hold their threads, of a route that is known to after the first of them.
async fn fill(served: &Served, count: usize, path: &'static str) -> Vec<JoinHandle<String>> {
    let mut asking = served.ask(1, path);
    served.until_held(path, 1).await;
    asking.extend(served.ask(count - 1, path));
    served.until_held(path, count).await;
    // And each is seen to wait.
    let none = "\"limit_in_flight\":0,";
    until(served.admin, "/runtime.json", |text| text.contains(none)).await;
    asking
}

#[tokio::test]
async fn beyond_those_that_may_wait_requests_of_their_route_are_refused_and_no_others() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let siblings = holding_router(&gate);
    let mut config = handoff();
    config.engine.max_blocked = 4;
    (config.limit.min, config.limit.initial, config.limit.max) = (3, 3, 3);
    // Who asks for it by this path is answered in words of one's own.
    let own = |kind: RefusalKind, head: RequestHead<'_>| {
        let asks = head.uri.path() == "/blocks/own";
        asks.then(|| Response::new(Bytes::from(format!("{kind:?} {}", kind.status()))))
    };
    let served = serve!(
        2,
        Runtime::builder()
            .config(config)
            .on_refusal(own)
            .service(siblings)
    );
    let post =
        "POST /blocks/1 HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // Routes are known once they were asked for.
    for path in ["/", "/blocks/quick"] {
        assert!(get(served.address, path).await.ends_with("hello"));
    }
    exchange(served.address, post).await;
    let asking = fill(&served, 4, "/blocks").await;
    for n in 0..5 {
        let refused = get(served.address, &format!("/blocks/{n}")).await;
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        assert!(refused.contains("retry-after: 1"), "{refused}");
        for path in ["/", "/blocks/quick"] {
            let answer = get(served.address, path).await;
            assert!(answer.ends_with("hello"), "{path}: {answer}");
        }
        let other = exchange(served.address, post).await;
        assert!(other.ends_with("posted"), "{other}");
    }
    let own = get(served.address, "/blocks/own").await;
    assert!(
        own.ends_with("\r\n\r\nThreadsHeld 503 Service Unavailable"),
        "{own}"
    );
    let refused = "stellane_requests_shed_total{reason=\"max_blocked\"} 6\n";
    let told = until(served.admin, "/metrics", |text| text.contains(refused)).await;
    let of_route = |line: &str| line.contains("\"/blocks/{id}\"") && line.contains("\"503\"");
    assert!(told.lines().any(of_route), "{told}");
    // Nobody was refused by the limit, which has but three places.
    let of_limit = "stellane_requests_shed_total{reason=\"limit\"} 0\n";
    assert!(told.contains(of_limit), "{told}");
    gate.open();
    answered(asking, "at last").await;
    let answer = get(served.address, "/blocks/1").await;
    assert!(answer.ends_with("at last"), "{answer}");
    served.end().await;
}

#[tokio::test]
async fn handlers_of_a_route_that_has_waited_by_its_thread_take_no_core_from_others() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let inside = Arc::new(AtomicU64::new(0));
    let (opens, counts) = (gate.clone(), Arc::clone(&inside));
    let block = move || {
        let (gate, inside) = (opens.clone(), Arc::clone(&counts));
        async move {
            // Wherever it is polled by then.
            tokio::time::sleep(Duration::from_millis(1)).await;
            inside.fetch_add(1, SeqCst);
            gate.block();
            "at last"
        }
    };
    let router = Router::builder()
        .get("/blocks/{id}", block)
        .get("/", || async { "hello" });
    let router = router.build().expect("no conflicts");
    let mut config = handoff();
    config.engine.cores = 1;
    // It takes as long until the core is taken from one that was not known, and a fifth of it from each that follows.
    config.engine.hand_off_after = Duration::from_secs(5);
    // Of a hundred at once none gives up, however busy the machine is with others.
    config.limit.max_wait = TIMEOUT;
    let served = serve!(2, Runtime::builder().config(config).service(router));
    let mut asking = served.ask(1, "/blocks");
    served.until_held("/blocks", 1).await;
    asking.extend(served.ask(30, "/blocks"));
    let all_inside = async {
        while inside.load(SeqCst) < 31 {
            let answer = get(served.address, "/").await;
            assert!(answer.ends_with("hello"), "{answer}");
        }
    };
    in_time(all_inside).await.expect("in time");
    // Those that were seen to hold a thread until then.
    let told = get(served.admin, "/metrics").await;
    let seen = told.split("stellane_thread_holds_total{http_route=\"/blocks/{id}\"} ");
    let seen = seen
        .last()
        .and_then(|rest| rest.lines().next()?.parse::<u64>().ok());
    assert!(seen.is_some_and(|seen| seen < 15), "{seen:?}");
    gate.open();
    answered(asking, "at last").await;
    // More than it takes to forget the route.
    answered(served.ask(100, "/blocks"), "at last").await;
    answered(served.ask(100, "/blocks"), "at last").await;
    assert_eq!(served.end().await.drain.aborted, 0);
}

#[tokio::test]
async fn an_end_while_handlers_hold_their_threads_loses_none_of_their_answers() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let router = holding_router(&gate);
    let mut served = serve!(2, Runtime::builder().config(handoff()).service(router));
    let asking = served.ask(10, "/blocks");
    served.until_held("/blocks", 10).await;
    drop(served.stop.take());
    let is_draining = |text: &str| text.starts_with("HTTP/1.1 503");
    until(served.admin, "/readyz", is_draining).await;
    gate.open();
    answered(asking, "at last").await;
    let report = served.end().await;
    assert_eq!((report.drain.aborted, report.drain.left), (0, 0));
}

/// The CPU time of this thread.
#[cfg(target_os = "linux")]
fn ran() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("is there");
    let ran = times.split(' ').next().and_then(|ran| ran.parse().ok());
    Duration::from_nanos(ran.expect("a number"))
}

/// What the limit makes of ten times as many computations of 200 ms of a CPU as there are CPUs for, from when it begins to
/// limit: how many are answered and refused. `slice` is after how much of it a handler lets others have its thread. `None` if
/// neighbours had most of the CPUs: of a queue that comes of them the limit concludes nothing.
#[cfg(target_os = "linux")]
async fn ten_times_too_many_computations(
    kind: EngineKind,
    slice: Duration,
) -> Option<(usize, usize)> {
    let over = Arc::<AtomicBool>::default();
    let is_over = Arc::clone(&over);
    let compute = move || {
        let is_over = Arc::clone(&is_over);
        async move {
            for _ in 0..200 / slice.as_millis() {
                let end = ran() + slice;
                while ran() < end && !is_over.load(SeqCst) {
                    std::hint::black_box((0..50_000).map(std::hint::black_box).sum::<u64>());
                }
                tokio::task::yield_now().await;
            }
            "computed"
        }
    };
    let router = Router::builder().get("/", compute).build();
    let router = router.expect("no conflicts");
    let mut config = config();
    config.engine.kind = kind;
    let cpus = std::thread::available_parallelism().expect("known").get();
    let served = serve!(cpus, Runtime::builder().config(config).service(router));
    let mut ticks = tokio::time::interval(Duration::from_millis(20) / cpus as u32);
    let (mut asking, mut limits) = (JoinSet::new(), false);
    let (mut answered, mut refused) = (0, 0);
    let load = async {
        while refused < 50 {
            for _ in 0..10 {
                ticks.tick().await;
                let address = served.address;
                asking.spawn(async move { ask::get(address, "/").await });
            }
            if !limits {
                let told = get(served.admin, "/runtime.json").await;
                limits = told.contains("\"limit_state\":\"limiting");
            }
            while let Some(asked) = asking.try_join_next() {
                let answer = asked.expect("no panic");
                answered += usize::from(limits && answer.starts_with("HTTP/1.1 200"));
                refused += usize::from(limits && answer.starts_with("HTTP/1.1 503"));
            }
        }
    };
    let (begun, ran_before) = (std::time::Instant::now(), process_ran::process_ran());
    let in_time = tokio::time::timeout(4 * TIMEOUT, load).await.is_ok();
    over.store(true, SeqCst);
    let had =
        (process_ran::process_ran() - ran_before).div_duration_f64(begun.elapsed() * cpus as u32);
    assert!(
        in_time || had < 0.5,
        "{kind:?} limits: {limits}, refused {refused}, had {had:.2} of the CPUs"
    );
    drop(asking);
    served.end().await;
    in_time.then_some((answered, refused))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_as_many_computations_as_there_are_cpus_for_are_limited_as_on_the_shared_engine()
{
    // There one that lets nobody else have its thread stands in the way of the limit too.
    let of_shared = Duration::from_millis(10);
    let whole = Duration::from_millis(200);
    for (kind, slice) in [
        (EngineKind::Shared, of_shared),
        (EngineKind::Handoff, whole),
    ] {
        let Some((answered, refused)) = ten_times_too_many_computations(kind, slice).await else {
            println!("{kind:?}: not known, since neighbours had most of the CPUs");
            continue;
        };
        println!("{kind:?}, {slice:?}: {answered} answered, {refused} refused");
        assert!(answered < refused, "{kind:?}: {answered} of {refused}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_cores_do_that_go_from_thread_to_thread_is_shown() {
    let gate = Gate::default();
    let _at_last = AtLast(gate.clone());
    let router = holding_router(&gate);
    let served = serve!(2, Runtime::builder().config(handoff()).service(router));
    let asking = served.ask(4, "/computes");
    served.until_held("/computes", 4).await;
    let number = |text: &str, name: &str| {
        let rest = text.split(&format!("\"{name}\":")).nth(1)?;
        rest.split([',', '}']).next()?.parse::<f64>().ok()
    };
    // Two of tokio's, and the cores.
    until(served.admin, "/runtime.json", |text| {
        number(text, "tokio_workers") == Some(4.0)
            && number(text, "tokio_alive_tasks").is_some_and(|tasks| tasks >= 4.0)
            && number(text, "tokio_busy_ratio").is_some_and(|ratio| ratio > 0.02)
    })
    .await;
    let told = get(served.admin, "/metrics").await;
    assert!(told.contains("\ntokio_workers 4\n"), "{told}");
    gate.open();
    answered(asking, "computed").await;
    served.end().await;
}

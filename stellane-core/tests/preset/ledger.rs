//! Where the time of a request went: by name, adding up to the whole, for those that are worth a look.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig,
    autotune::AlgorithmKind,
    engine::EngineKind,
    runtime::{KeptAs, KeptRequest, waits_for},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    ask::{ask_at, get},
    looks::holds_soon,
};

const MS: Duration = Duration::from_millis(1);

fn block(ms: u32) {
    std::thread::sleep(MS * ms);
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn text(text: &'static str) -> UnsyncBoxBody<Bytes, Infallible> {
    Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync()
}

/// What the path asks for.
async fn app<B>(request: Request<RequestBody<B>>) -> Result<Answer, Infallible>
where
    B: http_body::Body<Data = Bytes, Error: Into<stellane_core::BoxError>>,
{
    let path = request.uri().path().to_owned();
    stellane_core::metrics::label_route(&path);
    let mut status = StatusCode::OK;
    let body = match &*path {
        "/blocks" => {
            block(60);
            tokio::task::yield_now().await;
            block(20);
            text("blocked")
        }
        "/sleeps" => {
            sleep(60 * MS).await;
            text("slept")
        }
        "/db" => {
            waits_for("db", sleep(60 * MS)).await;
            text("asked")
        }
        // Woken when somebody else has the only thread for 80 ms.
        "/delayed" => {
            let (tell, told) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let _ = tell.send(());
                block(80);
            });
            let _ = told.await;
            text("delayed")
        }
        "/upload" => {
            let _ = request.into_body().collect().await;
            text("read")
        }
        "/large" => {
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            let pieces = futures_util::stream::repeat(piece).take(256);
            StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
        }
        "/slow-body" => {
            let pieces = futures_util::stream::iter(0..3).then(|_| async {
                waits_for("pieces", sleep(30 * MS)).await;
                Ok(Frame::data(Bytes::from_static(b"piece")))
            });
            StreamBody::new(pieces).boxed_unsync()
        }
        "/fails" => {
            status = StatusCode::BAD_GATEWAY;
            text("no")
        }
        "/panic" => panic!("as asked"),
        "/hang" => std::future::pending().await,
        _ => text("hello"),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    Ok(answer)
}

fn config(places: u32) -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.workers.min_workers = 1;
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (places, places);
    config.limit.max = places;
    config.limit.max_wait = Duration::from_secs(3600);
    config
}

/// Through the preset without a socket, to the end of the answer.
async fn send(components: &Components, path: &str) -> u16 {
    let service = components.layer(&config(9).server).layer(service_fn(app));
    let request = Request::get(path).body(axum::body::Body::empty());
    let answer = service.oneshot(request.expect("valid")).await;
    let answer = answer.expect("is always answered");
    let status = answer.status().as_u16();
    let _ = answer.into_body().collect().await;
    status
}

/// What the accounts add up to.
fn sum(request: &KeptRequest) -> Duration {
    let waits: Duration = request.waits.iter().map(|(_, took)| *took).sum();
    let polls = request.computing + request.blocking;
    let served = polls + request.poll_delay + waits + request.waiting + request.client_reading;
    request.before_call + served
}

/// The latest that is kept of this route.
fn kept(components: &Components, kept_as: KeptAs, path: &str) -> KeptRequest {
    let all = components.kept_requests();
    let mut its = all
        .iter()
        .filter(|one| one.kept_as == kept_as && one.route.as_deref() == Some(path));
    let found = its.next().unwrap_or_else(|| panic!("{path} in {all:#?}"));
    let off = found.duration.abs_diff(sum(found));
    assert!(off < Duration::from_nanos(100), "{off:?} of {found:#?}");
    found.clone()
}

fn wait(request: &KeptRequest, name: &str) -> Duration {
    let named = request.waits.iter().find(|(of, _)| *of == name);
    named.map_or(Duration::ZERO, |(_, took)| *took)
}

#[tokio::test]
async fn computing_blocking_waiting_and_the_wait_for_a_thread_are_told_apart() {
    let components = Components::new(&config(9)).expect("valid");
    for path in ["/blocks", "/sleeps", "/db", "/delayed", "/slow-body"] {
        assert_eq!(send(&components, path).await, 200);
    }
    let blocks = kept(&components, KeptAs::Slow, "/blocks");
    assert!(blocks.polls >= 2, "{blocks:#?}");
    assert!(blocks.blocking >= 80 * MS, "{blocks:#?}");
    assert!(blocks.longest_poll >= 60 * MS && blocks.longest_poll < blocks.blocking);
    assert!(blocks.why.contains("held its thread"), "{}", blocks.why);

    let sleeps = kept(&components, KeptAs::Slow, "/sleeps");
    assert!(sleeps.waiting >= 59 * MS, "{sleeps:#?}");
    assert!(sleeps.waits.is_empty() && sleeps.why.contains("handler awaits"));

    let db = kept(&components, KeptAs::Slow, "/db");
    assert!(wait(&db, "db") >= 59 * MS, "{db:#?}");
    assert!(db.why.ends_with("waited for db"), "{}", db.why);

    let delayed = kept(&components, KeptAs::Slow, "/delayed");
    assert!(delayed.poll_delay >= 79 * MS, "{delayed:#?}");
    assert!(delayed.why.contains("waited for a thread"));

    let body = kept(&components, KeptAs::Slow, "/slow-body");
    assert!(wait(&body, "pieces") >= 88 * MS, "{body:#?}");
    assert!(body.head.expect("a head") < body.duration);
}

#[tokio::test]
async fn a_place_and_the_worker_pool_are_waited_for_by_name() {
    let components = Components::new(&config(1)).expect("valid");
    tokio::join!(send(&components, "/db"), send(&components, "/db"));
    let all = components.kept_requests();
    // How long depends on when it comes to wait, while the other one already has.
    let queued = all.iter().find(|one| !wait(one, "limit").is_zero());
    let queued = queued.unwrap_or_else(|| panic!("{all:#?}"));
    assert!(wait(queued, "db") >= 59 * MS, "{queued:#?}");
    assert!(queued.duration.abs_diff(sum(queued)) < Duration::from_nanos(100));

    let workers = components.workers.clone();
    let pooled = service_fn(move |_: Request<RequestBody<axum::body::Body>>| {
        stellane_core::metrics::label_route("/pooled");
        let (go, gone) = mpsc::channel();
        let job = workers.spawn_blocking(move || {
            gone.recv().expect("is waited for");
            block(30);
        });
        async move {
            // It is waited for before it goes.
            let (done, sent) = tokio::join!(job, async { go.send(()) });
            done.expect("done");
            sent.expect("there");
            Ok::<_, Infallible>(Response::new(text("pooled")))
        }
    });
    let service = components.layer(&config(9).server).layer(pooled);
    let request = Request::get("/pooled").body(axum::body::Body::empty());
    let answer = service.oneshot(request.expect("valid")).await;
    let body = answer.expect("answered").into_body();
    body.collect().await.expect("whole");
    let pooled = kept(&components, KeptAs::Slow, "/pooled");
    assert!(wait(&pooled, "workers") >= 20 * MS, "{pooled:#?}");
}

async fn serve(config: RuntimeConfig) -> (SocketAddr, SocketAddr, Components) {
    let runtime = Runtime::builder().config(config);
    let runtime = runtime.service(service_fn(app)).build().expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let (address, admin) = (bound.local_addr(), bound.admin_addr().expect("on"));
    tokio::spawn(bound.serve());
    (address, admin, components)
}

/// A server with one thread, by each engine that has such: where it is, and what has become of its requests. `/held` tells that
/// it is there, and holds the thread until it is let go.
fn serve_alone(engine: EngineKind) -> (SocketAddr, Components, Gate) {
    let (enters, entered) = mpsc::channel();
    let (leave, leaves) = mpsc::channel();
    let leaves = Arc::new(Mutex::new(leaves));
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        tokio.expect("a runtime").block_on(async move {
            let service = service_fn(move |request: Request<RequestBody>| {
                let (enters, leaves) = (enters.clone(), Arc::clone(&leaves));
                async move {
                    if request.uri().path() == "/held" {
                        stellane_core::metrics::label_route("/held");
                        enters.send(()).expect("the test is there");
                        let _ = leaves.lock().expect("no panic").recv();
                    }
                    app(request).await
                }
            });
            let mut config = config(9);
            config.engine.kind = engine;
            config.engine.cores = 1;
            config.dev.server_timing = true;
            let runtime = Runtime::builder().config(config).service(service);
            let runtime = runtime.build().expect("builds");
            let components = runtime.components().clone();
            let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
            let _ = tell.send((bound.local_addr(), components));
            let _ = bound.serve().await;
        });
    });
    let (address, components) = told.recv().expect("it serves");
    (address, components, Gate { entered, leave })
}

struct Gate {
    entered: mpsc::Receiver<()>,
    leave: mpsc::Sender<()>,
}

/// Sends a request, whose answer is read later.
fn begin(mut client: std::net::TcpStream, path: &str) -> std::net::TcpStream {
    use std::io::Write;
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.write_all(head.as_bytes()).expect("writes");
    client
}

fn end(mut client: std::net::TcpStream) -> String {
    use std::io::Read;
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("reads");
    answer
}

/// A connection that has been in use.
fn in_use(address: SocketAddr) -> std::net::TcpStream {
    use std::io::{Read, Write};
    let mut client = std::net::TcpStream::connect(address).expect("connects");
    let head = b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(head).expect("writes");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("reads");
        answer.extend(byte);
    }
    client
}

#[test]
fn who_waits_behind_a_handler_that_holds_the_only_thread_is_told_for_how_long() {
    for engine in [EngineKind::Shared, EngineKind::PerCore] {
        let (address, components, gate) = serve_alone(engine);
        let (other, known) = (in_use(address), in_use(address));
        let held = begin(in_use(address), "/held");
        gate.entered.recv().expect("it is there");
        // These are woken together, in this order: the second waits for the handler of the first.
        let other = begin(other, "/blocks");
        let known = begin(known, "/known");
        // And so is this one, which is not even accepted yet.
        let stranger = std::net::TcpStream::connect(address).expect("connects");
        let stranger = begin(stranger, "/stranger");
        block(100);
        gate.leave.send(()).expect("it waits");
        for client in [held, other] {
            end(client);
        }
        for (client, path, least) in [(known, "/known", 59), (stranger, "/stranger", 0)] {
            let answer = end(client);
            assert!(answer.contains("before_call;dur="), "{answer}");
            let waited = kept(&components, KeptAs::Slow, path);
            // What it lay in the kernel is told by Linux, less what that does not tell exactly.
            let lay = if cfg!(target_os = "linux") { 75 } else { 0 };
            let least = MS * (least + lay).max(1);
            assert!(waited.before_call >= least, "{engine:?}: {waited:#?}");
            assert!(
                waited.head.expect("a head") > waited.before_call,
                "{waited:#?}"
            );
            if least > MS {
                let why = "waited for a thread, before it was called";
                assert!(waited.why.ends_with(why), "{waited:#?}");
            }
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    assert!(holds_soon(async || holds()).await, "never {what}");
}

#[tokio::test]
async fn the_body_of_a_client_and_its_reading_are_its_own() {
    let (address, _, components) = serve(config(9)).await;
    let is_kept = |path: &'static str| {
        let components = components.clone();
        move || {
            let all = components.kept_requests();
            all.iter().any(|one| one.route.as_deref() == Some(path))
        }
    };
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head =
        b"POST /upload HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 10\r\n\r\n01234";
    client.write_all(head).await.expect("writes");
    sleep(70 * MS).await;
    client.write_all(b"56789").await.expect("writes");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("reads");
    until("upload", is_kept("/upload")).await;
    let upload = kept(&components, KeptAs::Slow, "/upload");
    assert!(upload.why.contains("client's body"), "{upload:#?}");
    // When it came, for each piece and for its answer, and not for what its connection has to do beside.
    assert!(upload.polls <= 4, "{upload:#?}");

    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(head).await.expect("writes");
    sleep(300 * MS).await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("reads");
    assert!(answer.len() > 16 << 20);
    until("large", is_kept("/large")).await;
    let large = kept(&components, KeptAs::Slow, "/large");
    assert!(
        large.client_reading > large.waiting + large.poll_delay,
        "{large:#?}"
    );
}

#[tokio::test]
async fn who_was_refused_failed_or_left_is_kept_apart_and_no_more_than_a_few() {
    let mut config = config(1);
    config.limit.max_wait = Duration::ZERO;
    let (address, admin, components) = serve(config).await;
    for _ in 0..30 {
        assert!(get(address, "/fails").await.starts_with("HTTP/1.1 502"));
    }
    assert!(get(address, "/panic").await.starts_with("HTTP/1.1 500"));
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(head).await.expect("writes");
    let limit = components.limit.clone();
    until("the only place", || limit.stats().in_flight == 1).await;
    for _ in 0..30 {
        assert!(get(address, "/sleeps").await.starts_with("HTTP/1.1 503"));
    }
    drop(client);
    let left = || {
        let all = components.kept_requests();
        all.into_iter().find(|one| one.kept_as == KeptAs::Cancelled)
    };
    until("left", || left().is_some()).await;
    let left = left().expect("is there");
    assert_eq!((left.status, left.end), (499, "cancelled"));
    assert_eq!(left.route.as_deref(), Some("/hang"));
    assert!(left.why.contains("handler awaits"), "{left:#?}");

    let count = |kind| {
        let all = components.kept_requests();
        all.iter().filter(|one| one.kept_as == kind).count()
    };
    // A minute may have begun meanwhile.
    assert!(
        (1..=8).contains(&count(KeptAs::Failed)),
        "{}",
        count(KeptAs::Failed)
    );
    assert!((1..=8).contains(&count(KeptAs::Refused)));
    assert!((1..=16).contains(&count(KeptAs::Slow)));
    let refused = components.kept_requests();
    let refused = refused.iter().find(|one| one.kept_as == KeptAs::Refused);
    assert_eq!(refused.expect("is there").status, 503);

    // The same for who looks at the admin address.
    let shown = get(admin, "/requests").await;
    for part in [
        "\"kept_as\":\"cancelled\"",
        "\"kept_as\":\"refused\"",
        "\"poll_delay\":",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[cfg(feature = "http-layers")]
#[tokio::test]
async fn the_id_of_a_request_is_kept_with_it_and_its_timing_is_told_if_that_is_set() {
    let mut config = config(9);
    config.http.request_id.enabled = true;
    config.dev.server_timing = true;
    let (address, _, components) = serve(config).await;
    let head = "GET /db HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: order-7\r\n\r\n";
    let answer = ask_at(address, head).await;
    assert!(answer.contains("x-request-id: order-7"), "{answer}");
    let timing = answer
        .lines()
        .find(|line| line.starts_with("server-timing: "));
    let timing = timing.unwrap_or_else(|| panic!("{answer}"));
    assert!(
        timing.contains("db;dur=") && timing.contains("total;dur="),
        "{timing}"
    );
    until("kept", || !components.kept_requests().is_empty()).await;
    let kept = kept(&components, KeptAs::Slow, "/db");
    assert_eq!(kept.id.as_deref(), Some("order-7"));
}

#[tokio::test]
async fn nothing_is_told_of_an_answers_timing_by_default() {
    let (address, _, _) = serve(config(9)).await;
    let answer = get(address, "/db").await;
    assert!(!answer.contains("server-timing"), "{answer}");
}

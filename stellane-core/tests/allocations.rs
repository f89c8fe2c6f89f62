//! How many heap allocations one keep-alive request costs: bare hyper, axum and the preset side by side.
//!
//! `STELLANE_TEST_REQUESTS=100000 cargo test -p stellane-core --test allocations -- --nocapture` prints
//! the table with as many requests as you like.
#![cfg(feature = "full")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use stellane_core::{
    BoxError, Components, RequestBody, Runtime, RuntimeConfig,
    autotune::AlgorithmKind,
    pool::{PooledBody, Pools, http::reply},
    router::{Json, Path, Router},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // The thread may be ending; what it frees then is nobody's request.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn requests() -> usize {
    std::env::var("STELLANE_TEST_REQUESTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(5_000)
}

/// Sends `request` again and again over one connection and counts what the whole thread allocates for
/// each; the client itself allocates nothing. The median is told, because the background (hyper's date,
/// the preset's collector, tuner and sweep) allocates by the clock and not for a request.
async fn measure(address: SocketAddr, request: &[u8], expect: &str) -> u64 {
    measure_status(address, request, "200 OK", expect).await
}

async fn measure_status(address: SocketAddr, request: &[u8], status: &str, expect: &str) -> u64 {
    let begins = format!("HTTP/1.1 {status}\r\n");
    let expect = (&*begins, expect);
    let mut client = TcpStream::connect(address).await.expect("connects");
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..200 {
        exchange(&mut client, request, expect, &mut buffer).await;
    }
    let mut counts = Vec::with_capacity(requests());
    for _ in 0..counts.capacity() {
        let before = COUNT.get();
        exchange(&mut client, request, expect, &mut buffer).await;
        counts.push(COUNT.get() - before);
    }
    let middle = counts.len() / 2;
    *counts.select_nth_unstable(middle).1
}

async fn exchange(
    client: &mut TcpStream,
    request: &[u8],
    (begins, ends): (&str, &str),
    buffer: &mut [u8],
) {
    client.write_all(request).await.expect("writes");
    let mut filled = 0;
    loop {
        let read = client.read(&mut buffer[filled..]).await.expect("reads");
        assert!(read > 0, "the server closed");
        filled += read;
        if buffer[..filled].ends_with(ends.as_bytes()) {
            assert!(buffer.starts_with(begins.as_bytes()));
            return;
        }
    }
}

const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n";
const HELLO_BODY: &str = "Hello, world!";

/// Bare hyper at its best: the request is dropped before the response is made, or hyper would need a new
/// read buffer while the request still holds on to the old one.
fn hyper_hello(
    request: Request<hyper::body::Incoming>,
) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    drop(request);
    let mut response = Response::new(Full::from(HELLO_BODY));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    ready(Ok(response))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    (listener, address)
}

async fn serve_hyper() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                hyper::service::service_fn(hyper_hello),
            ));
        }
    });
    address
}

async fn serve_axum() -> SocketAddr {
    let (listener, address) = listen().await;
    let app = axum::Router::new().route("/hello", axum::routing::get(|| async { HELLO_BODY }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn serve_preset() -> SocketAddr {
    serve_preset_with(RuntimeConfig::default()).await.0
}

async fn serve_preset_with(mut config: RuntimeConfig) -> (SocketAddr, Components) {
    config.server.admin_address = String::new();
    let router = Router::builder()
        .get("/hello", || async { HELLO_BODY })
        .get("/page", || async { Bytes::from_static(&PAGE_BODY) })
        .get("/users/{id}", |Path(id): Path<u64>| async move {
            Json(User { id })
        })
        .build()
        .expect("no conflicts");
    let runtime = Runtime::builder()
        .config(config)
        .service(router)
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    (address, components)
}

/// The preset when it is full, and nobody may wait.
async fn refusal() -> u64 {
    let mut config = RuntimeConfig::default();
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max_wait = Duration::ZERO;
    let (address, components) = serve_preset_with(config).await;
    let _place = components.limit.try_acquire().expect("the only one");
    let ends = r#""The concurrency limit is reached. Retry later."}"#;
    measure_status(address, HELLO, "503 Service Unavailable", ends).await
}

/// Echoes from pooled memory, under the headers of the request's own map.
async fn serve_echo() -> SocketAddr {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    // Off by default: with mimalloc it saves allocations, not time.
    config.pool.enabled = true;
    let echo = tower::service_fn(async |request: Request<RequestBody>| {
        let (mut parts, body) = request.into_parts();
        let pools = Pools::current().ok_or("the preset has a PoolLayer")?;
        let body = PooledBody::collect(body, &pools)
            .await
            .map_err(|error| error.to_string())?;
        Ok::<_, BoxError>(reply(&mut parts, StatusCode::OK).map(|()| body))
    });
    let runtime = Runtime::builder()
        .config(config)
        .service(echo)
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    address
}

#[derive(serde::Serialize)]
struct User {
    id: u64,
}

const USER: &[u8] = b"GET /users/7 HTTP/1.1\r\nhost: localhost\r\n\r\n";
const USER_BODY: &str = r#"{"id":7}"#;

const PAGE: &[u8] = b"GET /page HTTP/1.1\r\nhost: localhost\r\n\r\n";
static PAGE_BODY: [u8; 8192] = [b'p'; 8192];

/// With names that are not among the usual ones.
const BROWSER: &[u8] = b"GET /hello HTTP/1.1\r\nhost: localhost\r\nsec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\nsec-fetch-site: none\r\nsec-fetch-mode: navigate\r\n\
    accept-encoding: gzip, br\r\ncookie: session=0123456789abcdef\r\n\r\n";

const ECHO_HEAD: &[u8] = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16384\r\n\r\n";
static ECHO_BODY: LazyLock<String> = LazyLock::new(|| "0123456789abcdef".repeat(1024));

#[tokio::test]
async fn a_request_costs_no_more_than_with_bare_hyper() {
    let hyper = measure(serve_hyper().await, HELLO, HELLO_BODY).await;
    let axum = measure(serve_axum().await, HELLO, HELLO_BODY).await;
    let preset = serve_preset().await;
    let hello = measure(preset, HELLO, HELLO_BODY).await;
    let browser = measure(preset, BROWSER, HELLO_BODY).await;
    let user = measure(preset, USER, USER_BODY).await;
    let page = measure(preset, PAGE, str::from_utf8(&PAGE_BODY).expect("text")).await;
    let echo = [ECHO_HEAD, ECHO_BODY.as_bytes()].concat();
    let echo = measure(serve_echo().await, &echo, &ECHO_BODY).await;
    println!(
        "allocations for each request: hello with hyper {hyper}, axum {axum}, the preset {hello}"
    );
    println!("allocations for each request: a browser's hello, the preset {browser}");
    println!("allocations for each request: JSON with a parameter, the preset {user}");
    println!("allocations for each request: a page of 8 KiB, the preset {page}");
    println!("allocations for each request: echo of 16 KiB, the preset {echo}");
    let refusal = refusal().await;
    println!("allocations for each request: a refusal, the preset {refusal}");
    assert_eq!(refusal, 0);
    assert!(hello <= hyper, "the preset {hello}, hyper {hyper}");
    assert_eq!(browser, 0);
    assert!(user <= 4, "{user}");
    assert_eq!(page, 0);
    assert!(echo <= 3, "{echo}");
}

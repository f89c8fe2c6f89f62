//! The memory budget of the preset over sockets: by the configuration, in the one layer and in the many, over HTTP/1 and
//! HTTP/2 and in gRPC.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    Components, RuntimeConfig,
    config::Loader,
    connection::{ConnectionManager, Incoming, Listener, ProxyProtocol},
    pool::PooledBody,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore, oneshot},
};
use tower::Layer;

use crate::{
    frames::{PREFACE, SETTINGS, frame},
    looks::holds_soon,
    until::until,
};

const MIB: usize = 1 << 20;

fn config() -> RuntimeConfig {
    let text = "[server]\nadmin_address = \"\"\n[memory]\nbudget = \"8MiB\"\n[limit]\nalgorithm = \"fixed\"\ninitial = 1000\n";
    Loader::new().text("app.toml", text).load().expect("loads")
}

/// For the one test that has a handler wait.
static GO: Notify = Notify::const_new();
/// The same for those whose handlers have buffers on loan.
static READ: Semaphore = Semaphore::const_new(0);

fn app() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/collect", post(async |body: Bytes| body.len().to_string()))
        .route(
            "/collect-and-wait",
            post(async |body: Bytes| {
                GO.notified().await;
                body.len().to_string()
            }),
        )
        .route(
            "/pooled-and-wait",
            post(async |body: PooledBody| {
                let read = READ.acquire().await.expect("never closed");
                read.forget();
                body.len().to_string()
            }),
        )
        .route(
            "/consume",
            post(async |mut body: Body| {
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                }
                bytes.to_string()
            }),
        )
        .layer(DefaultBodyLimit::disable())
}

/// As one layer, or as many.
async fn serve(fused: bool) -> (Components, SocketAddr) {
    serve_with(config(), fused).await
}

async fn serve_with(config: RuntimeConfig, fused: bool) -> (Components, SocketAddr) {
    let components = Components::new(&config).expect("valid");
    tokio::spawn(components.clone().run());
    let options = &components.connections.config().listen;
    let listener = Listener::bind("127.0.0.1:0", options).await.expect("binds");
    let address = listener.local_addr().expect("TCP");
    let (connections, server) = (&components.connections, &config.server);
    if fused {
        let service = components.layer(server).layer(app());
        tokio::spawn(connections.serve(listener, service));
    } else {
        let service = components.layers(server).layer(app());
        tokio::spawn(connections.serve(listener, service));
    }
    (components, address)
}

pub(crate) async fn send(
    address: SocketAddr,
    http2: bool,
    request: http::request::Builder,
    body: usize,
) -> Response<Bytes> {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let body = Full::new(Bytes::from(vec![7; body]));
    let answer = async {
        let answer = if http2 {
            let request = request.body(body).expect("valid");
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .expect("shakes hands");
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let request = request.body(body).expect("valid");
            let (mut sender, connection) = http1::handshake(io).await.expect("shakes hands");
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let (head, body) = answer.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Response::from_parts(head, body)
    };
    tokio::time::timeout(Duration::from_secs(60), answer)
        .await
        .expect("in time")
}

fn upload(address: SocketAddr, path: &str) -> http::request::Builder {
    Request::post(format!("http://{address}{path}"))
}

#[tokio::test]
async fn uploads_for_which_there_is_no_room_at_once_come_to_their_end_one_after_the_other() {
    for (fused, http2) in [(true, false), (true, true), (false, false), (false, true)] {
        let (components, address) = serve(fused).await;
        let uploads: Vec<_> = (0..24)
            .map(|_| tokio::spawn(send(address, http2, upload(address, "/collect"), MIB)))
            .collect();
        for upload in uploads {
            // Who stands beside notices nothing.
            let bystander = Request::get(format!("http://{address}/"));
            assert_eq!(send(address, http2, bystander, 0).await.body(), "hello");
            let answer = upload.await.expect("no panic");
            assert_eq!(
                (answer.status(), &answer.body()[..]),
                (StatusCode::OK, &b"1048576"[..]),
                "{:?} {:?}",
                components.memory.stats(),
                components.limit.stats()
            );
        }
        until(&components.connections, "over", |_| {
            components.memory.stats().held_bytes == 0
        })
        .await;
        assert_eq!(components.memory.stats().ended_total, 0);
    }
}

#[tokio::test]
async fn what_can_not_be_held_is_refused_in_the_words_of_its_protocol() {
    for (fused, http2) in [(true, false), (true, true), (false, false), (false, true)] {
        let (components, address) = serve(fused).await;
        let answer = send(address, http2, upload(address, "/collect"), 16 * MIB).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let call = upload(address, "/collect").header("content-type", "application/grpc");
        let answer = send(address, http2, call, 16 * MIB).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
        let answer = send(address, http2, upload(address, "/collect"), 2 * MIB).await;
        assert_eq!(answer.status(), StatusCode::OK);
        until(&components.connections, "over", |_| {
            components.memory.stats().held_bytes == 0
        })
        .await;
        assert_eq!(components.memory.stats().ended_total, 2);
    }
}

/// Eight times the budget goes through.
#[tokio::test]
async fn what_is_consumed_as_it_comes_may_be_as_long_as_it_likes() {
    for http2 in [false, true] {
        let (components, address) = serve(true).await;
        let answer = send(address, http2, upload(address, "/consume"), 64 * MIB).await;
        assert_eq!(answer.body(), &(64 * MIB).to_string());
        let stats = components.memory.stats();
        assert_eq!((stats.waits_total, stats.ended_total), (0, 0));
    }
}

/// Those that wait lend their place under the limit.
#[tokio::test]
async fn a_request_that_waits_for_memory_keeps_nobody_out() {
    let mut config = config();
    (config.limit.initial, config.limit.min) = (1, 1);
    let components = Components::new(&config).expect("valid");
    let held = components.memory.hold(11 << 19);
    let options = &components.connections.config().listen;
    let listener = Listener::bind("127.0.0.1:0", options).await.expect("binds");
    let address = listener.local_addr().expect("TCP");
    let service = components.layer(&config.server).layer(app());
    tokio::spawn(components.connections.serve(listener, service));
    let stats = || components.memory.stats();
    // Its client may send more at any time, and then gives all of it back.
    let mut first = TcpStream::connect(address).await.expect("connects");
    let head = "POST /collect HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n";
    first.write_all(head.as_bytes()).await.expect("writes");
    first.write_all(&vec![7; MIB]).await.expect("writes");
    until(&components.connections, "read", |_| {
        stats().held_bytes == 13 << 19
    })
    .await;
    let second = tokio::spawn(send(address, false, upload(address, "/collect"), 2 * MIB));
    until(&components.connections, "waits", |_| stats().waiting == 1).await;
    let bystander = Request::get(format!("http://{address}/"));
    assert_eq!(send(address, false, bystander, 0).await.body(), "hello");
    assert_eq!(stats().waiting, 1);
    drop(held);
    assert_eq!(second.await.expect("no panic").status(), StatusCode::OK);
    assert_eq!((stats().held_bytes, stats().ended_total), (1 << 20, 0));
}

/// A client by a proxy that names it, with an upload of which it has sent a part.
async fn begin_as(address: SocketAddr, peer: &str, length: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "PROXY TCP4 {peer} 192.0.2.1 1000 80\r\nPOST /collect HTTP/1.1\r\nhost: x\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.write_all(&vec![7; sent]).await.expect("writes");
    stream
}

async fn status(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut head));
    read.await.expect("in time").expect("an answer");
    String::from_utf8_lossy(&head[9..]).into_owned()
}

/// Each of them holds less than the modest one.
#[tokio::test]
async fn a_client_with_many_connections_pays_before_one_with_a_single_larger_upload() {
    let mut config = config();
    config.connection.proxy_protocol.mode = ProxyProtocol::Required;
    config.connection.proxy_protocol.trusted = vec!["127.0.0.1".to_owned()];
    let (components, address) = serve_with(config, true).await;
    let held = async |bytes: usize| {
        let is_so = |_: &ConnectionManager| components.memory.stats().held_bytes >= bytes as u64;
        until(&components.connections, "held", is_so).await;
    };
    let whole = MIB * 7 / 4;
    let mut modest = begin_as(address, "198.51.100.8", whole, MIB * 3 / 2).await;
    held(MIB * 3 / 2).await;
    let mut greedy = Vec::new();
    for n in 1..=5 {
        greedy.push(begin_as(address, "198.51.100.7", 7 * MIB, MIB).await);
        held((MIB * 3 / 2 + n * MIB).min(6 * MIB)).await;
    }
    // More than there is: one of them has to go.
    until(&components.connections, "ended", |_| {
        components.memory.stats().ended_total > 0
    })
    .await;
    modest
        .write_all(&vec![7; whole - MIB * 3 / 2])
        .await
        .expect("writes");
    assert_eq!(status(&mut modest).await, "200");
    let ended = components.memory.stats().ended_total;
    assert!(ended <= 5, "{ended}");
}

/// What the server says of the window of a stream at the beginning.
async fn stream_window(address: SocketAddr) -> u32 {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(PREFACE).await.expect("writes");
    let hello = frame(SETTINGS, 0, 0, &[]);
    stream.write_all(&hello).await.expect("writes");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.expect("settings");
    let mut settings = settings.chunks_exact(6);
    let window = settings.find(|setting| setting[1] == 4);
    window.map_or(65_535, |setting| {
        u32::from_be_bytes(setting[2..].try_into().expect("four"))
    })
}

#[tokio::test]
async fn connections_that_begin_while_memory_is_scarce_get_the_least_windows() {
    let (components, address) = serve(true).await;
    let until_window_is = async |expected| {
        let is_there = holds_soon(async || stream_window(address).await == expected);
        assert!(is_there.await, "never {expected}");
    };
    assert_eq!(stream_window(address).await, 256 << 10);
    let held = components.memory.hold(7 << 20);
    until_window_is(65_535).await;
    drop(held);
    until_window_is(256 << 10).await;
}

#[tokio::test]
async fn uploads_wait_for_buffers_that_handlers_have_on_loan() {
    const LENT: usize = 6;
    let mut config = config();
    config.pool.enabled = true;
    let (components, address) = serve_with(config, true).await;
    let stats = || components.memory.stats();
    let mut lent = Vec::new();
    for n in 1..=LENT {
        let request = upload(address, "/pooled-and-wait");
        lent.push(tokio::spawn(send(address, false, request, MIB)));
        until(&components.connections, "counted", |_| {
            stats().held_bytes >= (n * MIB) as u64
        })
        .await;
    }
    let request = upload(address, "/collect");
    let waits = tokio::spawn(send(address, false, request, 4 * MIB));
    until(&components.connections, "waits", |_| stats().waiting == 1).await;
    READ.add_permits(LENT);
    for request in lent.into_iter().chain([waits]) {
        let answer = request.await.expect("no panic");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    until(&components.connections, "given back", |_| {
        stats().held_bytes == 0
    })
    .await;
    assert_eq!(stats().ended_total, 0);
}

/// What comes of an upload that waits is what its window was, and no more, whether its connection was there before memory
/// became scarce or not.
#[tokio::test]
async fn the_window_of_an_upload_that_waits_is_not_opened_again() {
    for first in [0, 64] {
        waits_with_what_its_window_was(first).await;
    }
}

/// An upload of 4 MiB, of which so many pieces of 16 KiB come before memory is scarce.
async fn waits_with_what_its_window_was(first: usize) {
    const PIECE: usize = 16 << 10;
    let (components, address) = serve(true).await;
    let stats = || components.memory.stats();
    let given = Arc::new(AtomicUsize::new(0));
    let pieces = |count| {
        let given = Arc::clone(&given);
        futures_util::stream::iter((0..count).map(move |_| {
            given.fetch_add(PIECE, Relaxed);
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(vec![7; PIECE])))
        }))
    };
    let (go_on, scarce) = oneshot::channel::<()>();
    let rest = pieces(256 - first);
    let rest = futures_util::stream::once(scarce).flat_map(move |_| rest.clone());
    let body = http_body_util::StreamBody::new(pieces(first).chain(rest));
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("shakes hands");
    tokio::spawn(connection);
    let request = upload(address, "/collect").body(body).expect("valid");
    let answer = tokio::spawn(sender.send_request(request));
    let until_held = async |bytes: usize| {
        until(&components.connections, "held", |_| {
            stats().held_bytes >= bytes as u64
        })
        .await;
    };
    until_held(first * PIECE).await;
    let request = upload(address, "/collect-and-wait");
    let other = tokio::spawn(send(address, false, request, 13 << 19));
    until_held(first * PIECE + (13 << 19)).await;
    go_on.send(()).expect("it is under way");
    until(&components.connections, "waits", |_| stats().waiting == 1).await;
    // It sends what it may.
    let mut before = usize::MAX;
    while given.load(Relaxed) != before {
        before = given.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The window, what was read before it had to wait, and what lies at the client.
    assert!(
        before <= first * PIECE + ((256 + 128 + 64) << 10),
        "{before}"
    );
    assert_eq!((stats().waiting, stats().ended_total), (1, 0));
    GO.notify_one();
    let answer = answer.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(given.load(Relaxed), 256 * PIECE);
    assert_eq!(other.await.expect("no panic").status(), StatusCode::OK);
}

/// How much of an answer is made for a client that reads nothing of it.
#[cfg(target_os = "linux")]
async fn made_for_nobody(buffers_little: bool) -> usize {
    let manager = ConnectionManager::builder().build().expect("valid");
    manager.set_buffers_little(buffers_little);
    let options = &manager.config().listen;
    let listener = Listener::bind("127.0.0.1:0", options).await.expect("binds");
    let address = listener.local_addr().expect("TCP");
    let made = Arc::new(AtomicUsize::new(0));
    let service = {
        let made = Arc::clone(&made);
        tower::service_fn(move |_: Request<Incoming>| {
            let made = Arc::clone(&made);
            let pieces = (0..4096).map(move |_| {
                made.fetch_add(16 << 10, Relaxed);
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(vec![7; 16 << 10])))
            });
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(pieces));
            async { Ok::<_, Infallible>(Response::new(body)) }
        })
    };
    tokio::spawn(manager.serve(listener, service));
    let mut client = TcpStream::connect(address).await.expect("connects");
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request).await.expect("writes");
    let mut before = usize::MAX;
    while made.load(Relaxed) == 0 || made.load(Relaxed) != before {
        before = made.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    before
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_takes_little_of_an_answer_that_nobody_reads_while_memory_is_scarce() {
    let (usual, little) = (made_for_nobody(false).await, made_for_nobody(true).await);
    assert!(little < usual * 3 / 4, "{little} of {usual}");
}

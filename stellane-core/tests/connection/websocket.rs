//! WebSocket over HTTP/2 (RFC 8441): axum's handler, on the manager alone and in the preset.
#![cfg(feature = "full")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::frames::{END_HEADERS, HEADERS, Peer, RST_STREAM, SETTINGS, field, frame};
use crate::served::served;
use crate::until::until;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::{
    body::Incoming as Received, client::conn::http2::SendRequest, ext::Protocol, upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    Runtime, RuntimeConfig,
    connection::{CloseReason, ConnectionConfig, ConnectionState, Incoming},
    router::Router,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            break;
        }
    }
}

fn axum() -> axum::Router {
    let upgrade = |upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) };
    axum::Router::new()
        .route("/ws", axum::routing::any(upgrade))
        .route("/hello", axum::routing::get(|| async { "hello" }))
}

async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("speaks");
    tokio::spawn(connection);
    client
}

async fn ask(client: &mut SendRequest<Empty<Bytes>>, path: &str) -> Response<Received> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://x{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::new())
        .expect("a request");
    client.ready().await.expect("is open");
    client.send_request(request).await.expect("an answer")
}

async fn open(client: &mut SendRequest<Empty<Bytes>>) -> TokioIo<Upgraded> {
    let response = ask(client, "/ws").await;
    assert_eq!(response.status(), StatusCode::OK);
    TokioIo::new(hyper::upgrade::on(response).await.expect("is upgraded"))
}

async fn say(socket: &mut TokioIo<Upgraded>, text: &str) {
    let length = u8::try_from(text.len()).expect("short");
    // Text, masked with nothing.
    let message = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
    socket.write_all(&message).await.expect("writes");
    let mut answer = vec![0; 2 + text.len()];
    socket.read_exact(&mut answer).await.expect("an echo");
    assert_eq!(answer, [&[0x81, length], text.as_bytes()].concat());
}

#[tokio::test]
async fn axums_handler_answers_and_its_connection_is_in_use_meanwhile() {
    let mut config = ConnectionConfig::default();
    config.idle_timeout = Duration::from_millis(300);
    config.rate_grace = Duration::from_millis(300);
    let (manager, address) = served(config, axum(), |listener| listener).await;
    let mut client = connect(address).await;
    let (mut one, mut other) = (open(&mut client).await, open(&mut client).await);
    for n in 0..3 {
        say(&mut one, "one").await;
        say(&mut other, "the other").await;
        // Longer than a connection may be idle, or a body may wait.
        tokio::time::sleep(Duration::from_millis(400 * (n % 2))).await;
    }
    let stats = manager.stats();
    assert_eq!((stats.open, stats.requests_in_flight), (1, 2));
    assert_eq!(manager.list()[0].state, ConnectionState::Active);
    let hello = Request::get("http://x/hello").body(Empty::new());
    let hello = client.send_request(hello.expect("a request")).await;
    assert_eq!(hello.expect("an answer").status(), StatusCode::OK);
    drop((one, other));
    until(&manager, "idle", |m| m.stats().requests_in_flight == 0).await;
    until(&manager, "closed", |m| m.stats().open == 0).await;
    assert_eq!(manager.stats().closed(CloseReason::IdleTimeout), 1);
}

#[tokio::test]
async fn a_drain_waits_for_it_until_its_deadline_and_says_goodbye() {
    let (manager, address) = served(ConnectionConfig::default(), axum(), |l| l).await;
    let mut client = connect(address).await;
    let mut socket = open(&mut client).await;
    let drained = tokio::spawn({
        let manager = manager.clone();
        async move { manager.drain(Duration::from_millis(1500)).await }
    });
    until(&manager, "draining", |m| m.is_draining()).await;
    say(&mut socket, "still here").await;
    let mut goodbye = [0; 4];
    socket.read_exact(&mut goodbye).await.expect("is told");
    assert_eq!(&goodbye, b"\x88\x02\x03\xf4");
    // As the protocol asks.
    let close = b"\x88\x82\0\0\0\0\x03\xf4";
    socket.write_all(close).await.expect("writes");
    let more = socket.read_u8().await;
    assert!(more.is_err(), "nothing comes behind a close frame");
    drop(socket);
    let report = drained.await.expect("no panic");
    let (told, cut) = (report.farewells, report.aborted);
    assert_eq!((told, cut, report.left), (1, 0, 0));
}

#[tokio::test]
async fn goodbye_comes_within_no_frame_and_a_declined_upgrade_is_an_error() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let handler = tower::service_fn(move |mut request: Request<Incoming>| {
        let accepts = request.uri().path() == "/ws";
        let (tell, upgrade) = (tell.clone(), hyper::upgrade::on(&mut request));
        tokio::spawn(async move {
            let upgraded = upgrade.await;
            let _ = tell.send(upgraded.is_ok());
            let Ok(upgraded) = upgraded else { return };
            let mut socket = TokioIo::new(upgraded);
            socket.write_all(b"\x81\x02h").await.expect("writes");
            while let Ok(1..) = socket.read(&mut [0; 64]).await {}
        });
        let mut response = Response::new(Full::<Bytes>::default());
        if !accepts {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        async { Ok::<_, Infallible>(response) }
    });
    let (manager, address) = served(ConnectionConfig::default(), handler, |l| l).await;
    let mut client = connect(address).await;
    let declined = ask(&mut client, "/no").await;
    assert_eq!(declined.status(), StatusCode::FORBIDDEN);
    assert_eq!(told.recv().await, Some(false));
    let mut half = open(&mut client).await;
    assert_eq!(told.recv().await, Some(true));
    let mut begun = [0; 3];
    half.read_exact(&mut begun).await.expect("is sent");
    let report = manager.drain(Duration::from_millis(300)).await;
    assert_eq!((report.farewells, report.aborted), (0, 1));
    assert!(half.read_u8().await.is_err(), "nothing more");
}

#[tokio::test]
async fn the_preset_carries_it_too() {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.server.max_body_bytes = 10;
    let runtime = Runtime::builder().config(config).service(axum()).build();
    let bound = runtime.expect("builds").bind("127.0.0.1:0").await;
    let bound = bound.expect("binds");
    let (address, components) = (bound.local_addr(), bound.components().clone());
    let serving = tokio::spawn(bound.serve());
    let mut client = connect(address).await;
    let mut socket = open(&mut client).await;
    for _ in 0..20 {
        say(&mut socket, "more than the limit of bodies").await;
    }
    assert_eq!(components.connections.stats().requests_in_flight, 1);
    assert_eq!(components.limit.stats().in_flight, 0, "no place is taken");
    serving.abort();
}

#[tokio::test]
async fn where_no_route_takes_it_our_router_says_405() {
    let router = Router::builder()
        .get("/ws", async || "hello")
        .build()
        .expect("builds");
    let (_manager, address) = served(ConnectionConfig::default(), router, |l| l).await;
    let mut client = connect(address).await;
    let response = ask(&mut client, "/ws").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        ask(&mut client, "/nothing").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_service_that_agrees_and_does_not_take_it_ends_the_stream() {
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"all is well"))))
    });
    let (manager, address) = served(ConnectionConfig::default(), service, |l| l).await;
    let mut client = connect(address).await;
    let response = ask(&mut client, "/ws").await;
    assert_eq!(response.status(), StatusCode::OK);
    if let Ok(upgraded) = hyper::upgrade::on(response).await {
        assert!(TokioIo::new(upgraded).read_u8().await.is_err(), "the end");
    }
    until(&manager, "idle", |m| m.stats().requests_in_flight == 0).await;
    assert_eq!(manager.stats().open, 1);
}

#[tokio::test]
async fn it_is_offered_unless_it_is_turned_off() {
    for offered in [true, false] {
        let mut config = ConnectionConfig::default();
        config.http2.extended_connect = offered;
        let (_manager, address) = served(config, axum(), |l| l).await;
        let mut peer = Peer::greet(address, &[]).await;
        let settings = peer.until(SETTINGS, 0).await.payload;
        let tells = settings.chunks(6).any(|s| s == [0, 8, 0, 0, 0, 1]);
        assert_eq!(tells, offered);
        let fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/ws"),
            (":authority", "x"),
            ("sec-websocket-version", "13"),
        ];
        let head: Vec<_> = fields.iter().flat_map(|(n, v)| field(n, v)).collect();
        peer.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
        if offered {
            peer.until(HEADERS, 1).await;
        } else {
            assert_eq!(peer.until(RST_STREAM, 1).await.code(), 1, "PROTOCOL_ERROR");
        }
    }
}

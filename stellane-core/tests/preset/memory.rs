//! The memory budget of the preset over sockets: by the configuration, in the one layer and in the many, over HTTP/1 and
//! HTTP/2 and in gRPC.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{Components, RuntimeConfig, config::Loader, connection::Listener};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::Layer;

use crate::until::until;

const MIB: usize = 1 << 20;

fn config() -> RuntimeConfig {
    let text = "[server]\nadmin_address = \"\"\n[memory]\nbudget = \"8MiB\"\n[limit]\nalgorithm = \"fixed\"\ninitial = 1000\n";
    Loader::new().text("app.toml", text).load().expect("loads")
}

fn app() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/collect", post(async |body: Bytes| body.len().to_string()))
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
    let config = config();
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

async fn send(
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
                (StatusCode::OK, &b"1048576"[..])
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

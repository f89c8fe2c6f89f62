//! What HTTP/2 can say in two ways is refused as over HTTP/1, with the same settings.
#![cfg(feature = "full")]

#[path = "support/frames.rs"]
mod frames;
#[path = "support/served.rs"]
mod served;

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use frames::{END_HEADERS, END_STREAM, HEADERS, Peer, RST_STREAM, field, frame};
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use served::served;
use stellane_core::{
    Runtime, RuntimeConfig,
    connection::{ConnectionConfig, Incoming},
    router::Router,
};
use tokio::net::TcpStream;

/// Whether a stream with these fields is answered, or reset with `PROTOCOL_ERROR`.
async fn is_answered(peer: &mut Peer, stream: u32, fields: &[(&str, &str)]) -> bool {
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let head: Vec<_> = usual
        .iter()
        .chain(fields)
        .flat_map(|(name, value)| field(name, value))
        .collect();
    let flags = END_HEADERS | END_STREAM;
    peer.send(&frame(HEADERS, flags, stream, &head)).await;
    loop {
        let frame = peer.next().await.expect("the connection lives");
        if frame.is(RST_STREAM, stream) {
            assert_eq!(frame.code(), 1, "PROTOCOL_ERROR");
            return false;
        }
        if frame.is(HEADERS, stream) {
            return true;
        }
    }
}

#[tokio::test]
async fn a_request_says_once_whom_it_is_for() {
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    for strict in [true, false] {
        let mut config = ConnectionConfig::default();
        config.strict_http1 = strict;
        let (_manager, address) = served(config, service, |listener| listener).await;
        let mut peer = Peer::greet(address, &[]).await;
        for (n, (fields, fine)) in [
            (&[(":authority", "a")][..], true),
            (&[(":authority", "a"), ("host", "a")], true),
            (&[(":authority", "A:80"), ("host", "a")], true),
            (&[("host", "a")], true),
            // As a proxy forwards what had none over HTTP/1.0.
            (&[], true),
            (&[(":authority", "a"), ("host", "b")], false),
            (&[(":authority", "a:443"), ("host", "a")], false),
            (&[(":authority", "a"), ("host", "a"), ("host", "a")], false),
            (&[("host", "a"), ("host", "b")], false),
            (&[(":authority", "user@a")], false),
            (&[("host", "user@a")], false),
            (&[(":authority", "a")], true),
        ]
        .into_iter()
        .enumerate()
        {
            let stream = u32::try_from(n).expect("few") * 2 + 1;
            let answered = is_answered(&mut peer, stream, fields).await;
            assert_eq!(answered, fine || !strict, "{fields:?}");
        }
    }
}

async fn preset(config: RuntimeConfig) -> SocketAddr {
    let router = Router::builder().get("/{*path}", async || "hello").build();
    let runtime = Runtime::builder()
        .config(config)
        .service(router.expect("builds"))
        .build();
    let bound = runtime.expect("builds").bind("127.0.0.1:0").await;
    let bound = bound.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    address
}

#[tokio::test]
async fn a_target_and_fields_have_the_same_limits() {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.strict_http1.max_target_bytes = 100;
    config.strict_http1.max_headers = 20;
    let address = preset(config).await;
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("speaks");
    tokio::spawn(connection);
    for (path, fields, cookies, status) in [
        (100, 20, 0, StatusCode::OK),
        (101, 0, 0, StatusCode::URI_TOO_LONG),
        (10, 21, 0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        // A browser sends each cookie in a field of its own.
        (10, 19, 90, StatusCode::OK),
        (10, 20, 90, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    ] {
        let mut request = Request::get(format!("http://x/{}", "p".repeat(path - 1)));
        for n in 0..fields {
            request = request.header(format!("x-{n}"), "y");
        }
        for n in 0..cookies {
            request = request.header("cookie", format!("c{n}=1"));
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = client.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), status, "{path} {fields} {cookies}");
    }
}

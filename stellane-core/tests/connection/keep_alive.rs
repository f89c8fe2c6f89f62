//! Responses that say how long their connection may be idle, and connections that stay for that long.

use std::{convert::Infallible, time::Duration};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use stellane_core::connection::{CloseReason, ConnectionConfig, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
    if request.uri().path() == "/last" {
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response)
}

fn config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.keep_alive_header = true;
    config.idle_timeout = Duration::from_secs(1);
    config.park_after = Duration::from_millis(1);
    config
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let n = stream.read_buf(&mut answer).await.expect("reads");
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn what_a_response_says_is_kept() {
    let (manager, address) = served(config(), tower::service_fn(handle), |l| l).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let get = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    for _ in 0..2 {
        let answer = ask(&mut stream, get).await;
        assert!(answer.contains("keep-alive: timeout=1\r\n"), "{answer}");
        // The last moment that was promised, and a little late.
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert_eq!(manager.stats().open, 1);
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::IdleTimeout) == 1
    })
    .await;

    manager.set_idle_timeout(Duration::from_secs(90));
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let answer = ask(&mut stream, get).await;
    assert!(answer.contains("keep-alive: timeout=90\r\n"), "{answer}");
}

#[tokio::test]
async fn nothing_is_promised_for_a_connection_that_ends() {
    let mut config = config();
    config.max_requests = 2;
    let (_manager, address) = served(config, tower::service_fn(handle), |l| l).await;
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: foo, Close\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: x\r\n\r\n",
        "GET /last HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let answer = ask(&mut stream, request).await;
        assert!(!answer.contains("keep-alive:"), "{request} {answer}");
    }
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let get = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(ask(&mut stream, get).await.contains("keep-alive:"));
    let last = ask(&mut stream, get).await;
    assert!(
        last.contains("connection: close") && !last.contains("keep-alive:"),
        "{last}"
    );
}

#[tokio::test]
async fn it_is_off_unless_asked_for() {
    for off in 0..3 {
        let mut config = config();
        match off {
            0 => config.keep_alive_header = false,
            1 => config.idle_timeout = Duration::ZERO,
            _ => config.idle_timeout = Duration::from_millis(900),
        }
        let (_manager, address) = served(config, tower::service_fn(handle), |l| l).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let answer = ask(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(!answer.contains("keep-alive:"), "{off}: {answer}");
    }
}

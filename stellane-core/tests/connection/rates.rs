//! Clients that send or take bytes too slowly, and services that do: only the former are closed.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const GRACE: Duration = Duration::from_millis(500);

fn config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.rate_grace = GRACE;
    config.min_body_rate_bytes = 1000;
    config.write_timeout = Duration::ZERO;
    config
}

/// `/read` reads the body at once, `/wait` a while later, `/think` answers a while after it; `/big` has an answer of
/// 8 MiB, `/early` one before it reads.
async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    match path.as_str() {
        "/big" => return Ok(Response::new(Full::new(Bytes::from(vec![0; 8 << 20])))),
        "/early" => {
            tokio::spawn(body.collect());
            return Ok(Response::new(Full::new(Bytes::from_static(b"early"))));
        }
        "/wait" => tokio::time::sleep(3 * GRACE).await,
        _ => {}
    }
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(Full::default()));
    };
    if path == "/think" {
        tokio::time::sleep(3 * GRACE).await;
    }
    let length = body.to_bytes().len();
    Ok(Response::new(Full::from(format!("got {length}"))))
}

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    served(config, tower::service_fn(handle), |listener| listener).await
}

async fn begin(address: SocketAddr, path: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream
}

/// Sends pieces of a body until the server ends the connection, or all are sent.
async fn drip(stream: &mut TcpStream, piece: &[u8], pieces: usize) -> String {
    let mut answer = Vec::new();
    for _ in 0..pieces {
        tokio::select! {
            biased;
            read = stream.read_buf(&mut answer) => {
                let _ = read;
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(25)) => {}
        }
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    while !answer.ends_with(b"got") {
        match stream.read_buf(&mut answer).await {
            Ok(n) if n > 0 && !String::from_utf8_lossy(&answer).contains("got ") => {}
            _ => break,
        }
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn an_upload_slower_than_the_rate_is_told_and_closed() {
    let (manager, address) = start(config()).await;
    // A fifth of the rate, and nothing at all; with a length and in chunks.
    let mut slow = begin(address, "/read", 1 << 20).await;
    let mut silent = begin(address, "/read", 10).await;
    let mut chunked = TcpStream::connect(address).await.expect("connects");
    chunked
        .write_all(b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .expect("writes");
    let answers = tokio::join!(
        drip(&mut slow, b"12345", 4000),
        drip(&mut silent, b"", 4000),
        drip(&mut chunked, b"1\r\nx\r\n", 4000),
    );
    for answer in [answers.0, answers.1, answers.2] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    until(&manager, "closed", |m| m.stats().open == 0).await;
    assert_eq!(manager.stats().closed(CloseReason::SlowBody), 3);
    assert_eq!(manager.stats().requests_cancelled_total, 3);
}

#[tokio::test]
async fn an_upload_that_began_to_be_answered_is_closed_without_a_second_answer() {
    let (manager, address) = start(config()).await;
    let mut stream = begin(address, "/early", 10).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(
        answer.ends_with("early") && !answer.contains("408"),
        "{answer}"
    );
    assert_eq!(manager.stats().closed(CloseReason::SlowBody), 1);
}

#[tokio::test]
async fn an_upload_faster_than_the_rate_may_take_as_long_as_it_needs() {
    let (manager, address) = start(config()).await;
    let mut stream = begin(address, "/read", 60 * 1000).await;
    // Three times the grace, and forty times the rate.
    let answer = drip(&mut stream, &[b'x'; 1000], 60).await;
    assert!(answer.ends_with("got 60000"), "{answer}");
    assert_eq!(manager.stats().closed_total(), 0);
}

#[tokio::test]
async fn a_service_that_takes_its_time_is_no_fault_of_the_clients() {
    let (manager, address) = start(config()).await;
    for (path, length) in [("/wait", 10), ("/wait", 1 << 20), ("/think", 10)] {
        let mut stream = begin(address, path, length).await;
        let body = vec![b'x'; length];
        stream.write_all(&body).await.expect("writes");
        let answer = drip(&mut stream, b"", 0).await;
        assert!(
            answer.ends_with(&format!("got {length}")),
            "{path}: {answer}"
        );
    }
    // Nor one that does not even look, to a client that asks before it sends.
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream
        .write_all(
            b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n",
        )
        .await
        .expect("writes");
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.expect("reads");
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"0123456789").await.expect("writes");
    let answer = drip(&mut stream, b"", 0).await;
    assert!(answer.ends_with("got 10"), "{answer}");
    assert_eq!(manager.stats().closed(CloseReason::SlowBody), 0);
}

#[tokio::test]
async fn a_response_taken_slower_than_the_rate_is_closed() {
    let mut config = config();
    config.min_response_rate_bytes = 4 << 20;
    let (manager, address) = start(config).await;
    let mut slow = begin(address, "/big", 0).await;
    let reading = tokio::spawn(async move {
        let mut total = 0;
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = slow.read(&mut buffer).await {
            total += n;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        total
    });
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::SlowRead) == 1
    })
    .await;
    reading.abort();

    let mut quick = begin(address, "/big", 0).await;
    let mut answer = Vec::new();
    while answer.len() < 8 << 20 {
        let n = quick.read_buf(&mut answer).await.expect("reads");
        assert!(n > 0, "closed after {}", answer.len());
    }
    assert_eq!(manager.stats().closed_total(), 1);
}

#[tokio::test]
async fn without_a_rate_nobody_is_too_slow() {
    for off in 0..2 {
        let mut config = config();
        match off {
            0 => config.rate_grace = Duration::ZERO,
            _ => config.min_body_rate_bytes = 0,
        }
        let (manager, address) = start(config).await;
        let mut stream = begin(address, "/read", 1).await;
        tokio::time::sleep(2 * GRACE).await;
        stream.write_all(b"x").await.expect("writes");
        let answer = drip(&mut stream, b"", 0).await;
        assert!(answer.ends_with("got 1"), "{answer}");
        assert_eq!(manager.stats().closed_total(), 0);
    }
}

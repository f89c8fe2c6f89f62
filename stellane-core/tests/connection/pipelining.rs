//! Requests that a client sends without waiting for answers: these may travel together, but none waits for
//! what the client does next.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{looks::in_time, served::served};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use stellane_core::connection::{ConnectionConfig, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

type Answer = Result<Response<BoxBody<Bytes, io::Error>>, io::Error>;

/// One piece, and then nothing for as long as anybody waits.
struct Stuck(Option<Bytes>);

impl Body for Stuck {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn body(length: usize) -> String {
    (0..length)
        .map(|i| char::from(b'a' + (i % 26) as u8))
        .collect()
}

async fn handle(request: Request<Incoming>, go: Arc<Notify>) -> Answer {
    let path = request.uri().path().to_owned();
    let full = |text: String| {
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed()
    };
    let body = match path.as_str() {
        "/stuck" => Stuck(Some(Bytes::from_static(b"piece"))).boxed(),
        "/wait" => {
            go.notified().await;
            full("waited".into())
        }
        "/error" => return Err(io::Error::other("no answer")),
        // Answers while the body is under way, and holds it for good.
        "/unread" => {
            tokio::spawn(async move {
                let _request = request;
                std::future::pending::<()>().await;
            });
            full("unread".into())
        }
        length => full(body(length[1..].parse().expect("a length"))),
    };
    Ok(Response::new(body))
}

async fn connect(config: ConnectionConfig) -> (TcpStream, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let given = Arc::clone(&go);
    let service = tower::service_fn(move |request| handle(request, Arc::clone(&given)));
    let (_, address) = served(config, service, |listener| listener).await;
    (TcpStream::connect(address).await.expect("connects"), go)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// Reads until this has come; a test that waits in vain fails.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).contains(wanted) {
            let n = stream.read_buf(&mut got).await.expect("reads");
            assert!(n > 0, "ended after {:?}", String::from_utf8_lossy(&got));
        }
    };
    let read = in_time(reading).await;
    let got = String::from_utf8(got).expect("text");
    read.unwrap_or_else(|| panic!("no more after {got:?}"));
    got
}

#[tokio::test]
async fn answers_of_all_sizes_come_in_order() {
    for strict in [true, false] {
        let mut config = ConnectionConfig::default();
        config.strict_http1 = strict;
        let (mut stream, _) = connect(config).await;
        let lengths = || (0..300_usize).map(|i| i * i * 7 % 40_000);
        let requests: String = lengths().map(|n| get(&format!("/{n}"))).collect();
        let (mut from, mut to) = stream.split();
        let sending = async { to.write_all(requests.as_bytes()).await.expect("sends") };
        let receiving = async {
            let mut got = Vec::new();
            for length in lengths() {
                let end = |got: &[u8]| got.windows(4).position(|four| four == b"\r\n\r\n");
                while end(&got).is_none_or(|end| got.len() < end + 4 + length) {
                    assert!(from.read_buf(&mut got).await.expect("reads") > 0);
                }
                let begin = end(&got).expect("has one") + 4;
                assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"));
                assert_eq!(&got[begin..begin + length], body(length).as_bytes());
                got.drain(..begin + length);
            }
            assert!(got.is_empty());
        };
        tokio::join!(sending, receiving);
    }
}

#[tokio::test]
async fn answers_to_what_came_together_leave_together() {
    let (mut stream, _) = connect(ConnectionConfig::default()).await;
    stream
        .write_all(get("/5").repeat(16).as_bytes())
        .await
        .expect("sends");
    let mut first = vec![0; 64 << 10];
    let n = stream.read(&mut first).await.expect("reads");
    let got = String::from_utf8_lossy(&first[..n]).into_owned();
    assert_eq!(got.matches("abcde").count(), 16, "{got}");
}

#[tokio::test]
async fn a_stream_is_not_held_back_by_the_request_behind_it() {
    let (mut stream, _) = connect(ConnectionConfig::default()).await;
    let requests = [get("/1"), get("/stuck"), get("/5"), get("/5")].concat();
    stream.write_all(requests.as_bytes()).await.expect("sends");
    read_until(&mut stream, "piece\r\n").await;
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_handler_behind_it() {
    let (mut stream, go) = connect(ConnectionConfig::default()).await;
    let requests = [get("/5"), get("/wait"), get("/3")].concat();
    stream.write_all(requests.as_bytes()).await.expect("sends");
    read_until(&mut stream, "abcde").await;
    go.notify_one();
    let rest = read_until(&mut stream, "abc").await;
    assert!(rest.find("waited") < rest.find("abc"), "{rest}");
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_rest_of_a_head() {
    let (mut stream, _) = connect(ConnectionConfig::default()).await;
    let requests = [get("/1"), get("/5"), "GET /3 HTT".into()].concat();
    stream.write_all(requests.as_bytes()).await.expect("sends");
    read_until(&mut stream, "abcde").await;
}

#[tokio::test]
async fn an_answer_does_not_wait_for_a_body_nobody_reads() {
    let (mut stream, _) = connect(ConnectionConfig::default()).await;
    let post = "POST /unread HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "4\r\nbody\r\n".repeat(9) + "0\r\n\r\n";
    let requests = [get("/1"), post.into(), body, get("/3")].concat();
    stream.write_all(requests.as_bytes()).await.expect("sends");
    read_until(&mut stream, "unread").await;
}

#[tokio::test]
async fn answers_before_a_failure_arrive() {
    let too_bad = "GET  HTTP/9\r\n\r\n".to_owned();
    for bad in [get("/error"), too_bad] {
        let (mut stream, _) = connect(ConnectionConfig::default()).await;
        let requests = [get("/1"), get("/5"), bad].concat();
        stream.write_all(requests.as_bytes()).await.expect("sends");
        let mut got = String::new();
        stream.read_to_string(&mut got).await.expect("reads");
        assert!(got.contains("abcde"), "{got}");
    }
}

//! Streams and upgraded connections, which have no end of their own: what they know about their connection,
//! and how a drain ends them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::served::served;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper_util::rt::TokioIo;
use stellane_core::connection::{
    CloseReason, ConnectInfo, ConnectionConfig, ConnectionManager, ConnectionState, Incoming,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

type Answer = Result<Response<BoxBody<Bytes, Infallible>>, Infallible>;

/// Sends an event now and then, until the drain.
struct Events {
    tick: tokio::time::Interval,
    drain: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    said_goodbye: bool,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.said_goodbye {
            return Poll::Ready(None);
        }
        if this.drain.as_mut().poll(cx).is_ready() {
            this.said_goodbye = true;
            let goodbye = Bytes::from_static(b"event: goodbye\n\n");
            return Poll::Ready(Some(Ok(Frame::data(goodbye))));
        }
        this.tick
            .poll_tick(cx)
            .map(|_| Some(Ok(Frame::data(Bytes::from_static(b"data: tick\n\n")))))
    }
}

async fn handle(mut request: Request<Incoming>) -> Answer {
    let info = request
        .extensions()
        .get::<ConnectInfo>()
        .cloned()
        .expect("is on");
    let mut response = Response::new(Empty::new().boxed());
    match request.uri().path() {
        "/events" => {
            let events = Events {
                tick: tokio::time::interval(Duration::from_millis(20)),
                drain: Box::pin(info.draining()),
                said_goodbye: false,
            };
            *response.body_mut() = events.boxed();
        }
        path @ ("/polite" | "/stubborn" | "/flood") => {
            let (polite, flood) = (path == "/polite", path == "/flood");
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut socket = TokioIo::new(upgrade.await.expect("upgrades"));
                let mut buffer = [0; 64];
                if flood {
                    while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
                    return;
                }
                loop {
                    tokio::select! {
                        read = socket.read(&mut buffer) => match read {
                            Ok(0) | Err(_) => return,
                            Ok(n) => if socket.write_all(&buffer[..n]).await.is_err() {
                                return;
                            },
                        },
                        () = info.draining(), if polite => {
                            let _ = socket.write_all(b"goodbye").await;
                            let _ = socket.shutdown().await;
                            return;
                        }
                    }
                }
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, "echo".parse().expect("a value"));
            headers.insert(header::CONNECTION, "upgrade".parse().expect("a value"));
        }
        "/last" => info.close_after_response(),
        _ => {
            let text = format!(
                "{} {:?} {:?} {}",
                info.id(),
                info.peer(),
                info.local(),
                info.requests()
            );
            *response.body_mut() = http_body_util::Full::from(text).boxed();
        }
    }
    Ok(response)
}

async fn start() -> (ConnectionManager, SocketAddr) {
    let mut config = ConnectionConfig::default();
    config.connect_info = true;
    config.park_after = Duration::from_millis(1);
    config.drain_idle = Duration::from_millis(50);
    config.write_timeout = Duration::from_millis(300);
    served(config, tower::service_fn(handle), |listener| listener).await
}

async fn ask(stream: &mut TcpStream, path: &str, end: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    read_until(stream, end).await
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    String::from_utf8(answer).expect("text")
}

/// An upgraded connection, with a message echoed on it.
async fn upgraded(manager: &ConnectionManager, address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    // What is no HTTP passes untouched, a bare line feed too.
    stream.write_all(b"\nhello\n").await.expect("writes");
    assert_eq!(read_until(&mut stream, "\nhello\n").await, "\nhello\n");
    let upgraded = |m: &ConnectionManager| {
        m.list()
            .iter()
            .any(|connection| connection.state == ConnectionState::Upgraded)
    };
    while !upgraded(manager) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stream
}

#[tokio::test]
async fn a_request_knows_its_connection_also_after_parking() {
    let (manager, address) = start().await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let peer = stream.local_addr().expect("an address");
    for request in 1..=3 {
        let end = format!(" {request}");
        let answer = ask(&mut stream, "/", &end).await;
        let expected = format!("1 Some({peer}) Some({address}) {request}");
        assert!(answer.ends_with(&expected), "{answer}, expected {expected}");
        while manager.stats().parked == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let answer = ask(&mut stream, "/last", "\r\n\r\n").await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(stream.read(&mut [0; 8]).await.expect("reads"), 0);
}

#[tokio::test]
async fn server_sent_events_end_with_the_drain_and_not_with_its_deadline() {
    let (manager, address) = start().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        ask(&mut stream, "/events", "data: tick\n\n\r\n").await;
        streams.push(stream);
    }
    let report = manager.drain(Duration::from_secs(60)).await;
    assert_eq!((report.closed, report.aborted, report.left), (8, 0, 0));
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("reads");
        // The last event, and the end of the chunks: a whole response.
        assert!(rest.ends_with("event: goodbye\n\n\r\n0\r\n\r\n"), "{rest}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_counted_and_takes_part_in_the_drain() {
    let (manager, address) = start().await;
    let mut stream = upgraded(&manager, address, "/polite").await;
    let stats = manager.stats();
    assert_eq!((stats.open, stats.active, stats.upgraded), (1, 0, 1));
    let report = manager.drain(Duration::from_secs(60)).await;
    assert_eq!((report.closed, report.aborted, report.left), (1, 0, 0));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("reads");
    assert_eq!(rest, "goodbye");
    assert_eq!(manager.stats().closed(CloseReason::Upgraded), 1);
}

#[tokio::test]
async fn an_upgraded_connection_that_ignores_the_drain_is_aborted() {
    let (manager, address) = start().await;
    let mut stream = upgraded(&manager, address, "/stubborn").await;
    let report = manager.drain(Duration::from_millis(100)).await;
    assert_eq!((report.aborted, report.left), (1, 0));
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    let stats = manager.stats();
    assert_eq!(stats.accepted_total, stats.closed_total());
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_client_or_by_hand() {
    let (manager, address) = start().await;
    drop(upgraded(&manager, address, "/stubborn").await);
    while manager.stats().open > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(manager.stats().closed(CloseReason::Upgraded), 1);

    let mut stream = upgraded(&manager, address, "/stubborn").await;
    assert!(manager.close(manager.list()[0].id));
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    while manager.stats().open > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(manager.stats().closed(CloseReason::Killed), 1);
}

#[tokio::test]
async fn an_upgraded_connection_whose_client_does_not_read_is_closed() {
    let (manager, address) = start().await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = "GET /flood HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("writes");
    while manager.stats().closed_total() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(manager.stats().closed(CloseReason::SlowRead), 1);
}

#[tokio::test]
async fn bytes_right_behind_an_upgrade_that_is_agreed_to_belong_to_the_other_protocol() {
    let (_, address) = start().await;
    let request =
        "GET /stubborn HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    // What would not pass for HTTP, and more than is read in one piece.
    for behind in ["GET / HTTP/1.1\n\r\n".to_owned(), "x".repeat(30_000)] {
        for before in ["", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            for size in [1, 70, usize::MAX] {
                let stream = TcpStream::connect(address).await.expect("connects");
                stream.set_nodelay(true).expect("sets");
                let (mut reader, mut writer) = stream.into_split();
                let head = [before, request].concat();
                let bytes = [&head, &behind[..]].concat();
                let sending = tokio::spawn(async move {
                    let (first, rest) = bytes.as_bytes().split_at(head.len() + 10);
                    for piece in first.chunks(size) {
                        writer.write_all(piece).await.expect("writes");
                        tokio::task::yield_now().await;
                    }
                    writer.write_all(rest).await.expect("writes");
                    writer.shutdown().await.expect("ends");
                });
                let mut got = String::new();
                let reading = reader.read_to_string(&mut got);
                tokio::time::timeout(Duration::from_secs(60), reading)
                    .await
                    .expect("an end")
                    .expect("no reset");
                sending.await.expect("sends");
                assert!(got.contains("101 Switching Protocols"), "{got}");
                let echoed = format!("\r\n\r\n{behind}");
                assert!(got.ends_with(&echoed), "{size} {before} {}", got.len());
            }
        }
    }
}

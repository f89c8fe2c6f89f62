//! A drain and what has no end of its own: handlers find out without anything in their requests, and who does not look
//! is told goodbye at the end of its time, in the words of its protocol.
#![cfg(all(feature = "connection", feature = "http2"))]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    connection::{
        CloseReason, ConnectionConfig, ConnectionManager, Incoming, ListenConfig, Listener,
    },
    drain_token,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What the tests hear of the handlers.
#[derive(Clone, Default)]
struct Signs {
    /// A handler waits.
    waits: Arc<Notify>,
}

fn events(content_type: &'static str, first: &'static str) -> Answer {
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(first.as_bytes())))]);
    let never = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let body = BodyExt::boxed(StreamBody::new(first.chain(never)));
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Events until the drain, of which the body finds out itself when it is polled.
fn told() -> Answer {
    let body = futures_util::stream::once(async {
        drain_token().cancelled().await;
        Ok(Frame::data(Bytes::from_static(b"data: goodbye\n\n")))
    });
    Response::new(BodyExt::boxed(StreamBody::new(body)))
}

async fn handle(mut request: Request<Incoming>, signs: Signs) -> Answer {
    let nothing = || Empty::new().boxed();
    match request.uri().path() {
        "/poll" => {
            signs.waits.notify_one();
            drain_token().cancelled().await;
            Response::new(Full::from("nothing new").boxed())
        }
        "/spawned" => {
            let drain = drain_token();
            let waits = signs.waits.clone();
            let told = tokio::spawn(async move {
                waits.notify_one();
                drain.cancelled().await;
                // There is no request here, and nobody to hear of.
                !drain_token().is_cancelled()
            });
            assert!(told.await.expect("no panic"));
            Response::new(Full::from("told").boxed())
        }
        "/told" => told(),
        "/slow" => {
            signs.waits.notify_one();
            tokio::time::sleep(Duration::from_secs(2)).await;
            Response::new(Full::from("at last").boxed())
        }
        "/never" => {
            signs.waits.notify_one();
            std::future::pending().await
        }
        "/events" => events("text/event-stream", "data: one\n\n"),
        "/half" => events("text/event-stream", "data: one\n\ndata: tw"),
        "/grpc" => events("application/grpc", "\0\0\0\0\x01x"),
        path @ ("/socket" | "/half-socket") => {
            let frame: &[u8] = match path {
                "/socket" => b"\x81\x02hi",
                _ => b"\x81\x02h",
            };
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut socket = TokioIo::new(upgrade.await.expect("upgrades"));
                socket.write_all(frame).await.expect("writes");
                signs.waits.notify_one();
                // Reads what comes, looks at nothing, and ends with its client.
                let mut buffer = [0; 64];
                while let Ok(1..) = socket.read(&mut buffer).await {}
            });
            let mut response = Response::new(nothing());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response
        }
        _ => Response::new(Full::from("hello").boxed()),
    }
}

struct Server {
    manager: ConnectionManager,
    address: SocketAddr,
    signs: Signs,
}

async fn start(retry: Duration) -> Server {
    start_with(retry, Duration::from_millis(100)).await
}

async fn start_with(retry: Duration, drain_idle: Duration) -> Server {
    let mut config = ConnectionConfig::default();
    config.drain_idle = drain_idle;
    config.sse_retry = retry;
    let manager = ConnectionManager::builder()
        .config(config)
        .drain_budget(|request| match request.uri().path() {
            "/never" => Some(Duration::ZERO),
            "/slow" => Some(Duration::from_secs(60)),
            _ => None,
        })
        .build()
        .expect("valid");
    let listener = Listener::bind("127.0.0.1:0", &ListenConfig::default())
        .await
        .expect("binds");
    let address = listener.local_addr().expect("TCP");
    let signs = Signs::default();
    let service = {
        let signs = signs.clone();
        tower::service_fn(move |request| {
            let answer = handle(request, signs.clone());
            async move { Ok::<_, Infallible>(answer.await) }
        })
    };
    tokio::spawn(manager.serve(listener, service));
    Server {
        manager,
        address,
        signs,
    }
}

impl Server {
    async fn ask(&self, path: &str, more: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        stream
    }

    async fn ask_http2(&self, path: &'static str) -> Response<hyper::body::Incoming> {
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("speaks HTTP/2");
        tokio::spawn(connection);
        let request = Request::get(format!("http://x{path}")).body(Empty::<Bytes>::new());
        let answer = client.send_request(request.expect("valid"));
        // The client goes with its last request.
        let (answer, _) = tokio::join!(answer, self.hold(client.clone()));
        answer.expect("answers")
    }

    async fn hold<T: Send + 'static>(&self, held: T) {
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
    }
}

async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // What was cut may end with a reset.
    let _ = stream.read_to_end(&mut all).await;
    all
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        let read = stream.read_buf(&mut all).await.expect("reads");
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&all));
    }
    all
}

/// On one thread, where streams are polled by their connection first, and on four, where each has a task.
fn on_both_runtimes(test: impl AsyncFn()) {
    use tokio::runtime::Builder;
    for builder in [
        &mut Builder::new_current_thread(),
        Builder::new_multi_thread().worker_threads(4),
    ] {
        builder
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test());
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_handler_finds_the_drain_without_anything_in_its_request() {
    on_both_runtimes(async || {
        let server = start(Duration::ZERO).await;
        let mut waiting = Vec::new();
        for path in ["/poll", "/spawned"] {
            waiting.push(server.ask(path, "").await);
            server.signs.waits.notified().await;
        }
        let mut told = server.ask("/told", "").await;
        read_until(&mut told, b"\r\n\r\n").await;
        let http2 = server.ask_http2("/told").await;
        let report = server.manager.drain(LONG).await;
        assert_eq!((report.aborted, report.farewells), (0, 0));
        for (stream, end) in waiting.into_iter().zip(["nothing new", "told"]) {
            let all = rest(stream).await;
            assert!(
                all.ends_with(end.as_bytes()),
                "{:?}",
                String::from_utf8_lossy(&all)
            );
        }
        let all = rest(told).await;
        assert!(all.ends_with(b"data: goodbye\n\n\r\n0\r\n\r\n"));
        let all = http2.into_body().collect().await.expect("whole").to_bytes();
        assert_eq!(all, "data: goodbye\n\n");
    });
}

#[tokio::test]
async fn a_token_outside_of_a_request_is_never_cancelled() {
    let server = start(Duration::ZERO).await;
    let token = drain_token();
    let _ = server.manager.drain(LONG).await;
    assert!(!token.is_cancelled());
}

#[test]
fn a_stream_of_events_ends_between_two_of_them() {
    on_both_runtimes(async || {
        for (retry, last) in [(0, ""), (2, "retry: 2000\n\n")] {
            let server = start(Duration::from_secs(retry)).await;
            let mut stream = server.ask("/events", "").await;
            read_until(&mut stream, b"data: one\n\n\r\n").await;
            let http2 = server.ask_http2("/events").await;
            let report = server.manager.drain(Duration::from_millis(300)).await;
            assert_eq!((report.aborted, report.farewells), (0, 2));
            let all = rest(stream).await;
            let all = String::from_utf8(all).expect("text");
            assert!(all.contains(last) && all.ends_with("0\r\n\r\n"), "{all:?}");
            let all = http2.into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(all, format!("data: one\n\n{last}"));
        }
    });
}

#[tokio::test]
async fn a_stream_that_was_told_goodbye_is_not_cut_though_its_connection_is_idle_for_less_than_it_may()
 {
    let server = start_with(Duration::ZERO, LONG).await;
    let mut stream = server.ask("/events", "").await;
    read_until(&mut stream, b"data: one\n\n\r\n").await;
    let report = server.manager.drain(Duration::from_millis(300)).await;
    assert_eq!((report.aborted, report.farewells), (0, 1));
    assert!(rest(stream).await.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn a_stream_within_an_event_is_cut_so_that_nobody_takes_the_half_for_whole() {
    let server = start(Duration::from_secs(2)).await;
    let mut stream = server.ask("/half", "").await;
    read_until(&mut stream, b"data: tw\r\n").await;
    let http2 = server.ask_http2("/half").await;
    let report = server.manager.drain(Duration::from_millis(300)).await;
    assert_eq!((report.aborted, report.farewells), (2, 0));
    assert_eq!(rest(stream).await, b"");
    assert!(http2.into_body().collect().await.is_err());
}

#[test]
fn a_call_of_grpc_ends_with_a_status_that_clients_try_again_after() {
    on_both_runtimes(async || {
        let server = start(Duration::ZERO).await;
        let answer = server.ask_http2("/grpc").await;
        let report = server.manager.drain(Duration::from_millis(300)).await;
        assert_eq!((report.aborted, report.farewells), (0, 1));
        let all = answer.into_body().collect().await.expect("whole");
        let trailers = all.trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "14");
    });
}

#[tokio::test]
async fn a_websocket_is_told_that_the_service_restarts() {
    let server = start(Duration::ZERO).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    let mut stream = server.ask("/socket", upgrade).await;
    read_until(&mut stream, b"\x81\x02hi").await;
    let mut half = server.ask("/half-socket", upgrade).await;
    read_until(&mut half, b"\x81\x02h").await;
    let client = tokio::spawn(async move {
        let close = read_until(&mut stream, b"\x88\x02\x03\xf4").await;
        // As the protocol asks.
        stream
            .write_all(b"\x88\x82\0\0\0\0\x03\xf4")
            .await
            .expect("writes");
        (close, stream)
    });
    let report = server.manager.drain(Duration::from_millis(300)).await;
    assert_eq!(report.farewells, 1);
    let (close, stream) = client.await.expect("told");
    assert_eq!(close, b"\x88\x02\x03\xf4");
    assert_eq!(
        rest(stream).await,
        b"",
        "nothing comes behind a close frame"
    );
    assert_eq!(rest(half).await, b"", "no frame comes within another");
}

#[tokio::test]
async fn each_request_has_the_time_of_its_class() {
    let server = start(Duration::ZERO).await;
    let never = server.ask("/never", "").await;
    server.signs.waits.notified().await;
    let slow = server.ask("/slow", "").await;
    server.signs.waits.notified().await;
    let poll = server.ask("/events", "").await;
    // One is cut at once, the events after 300 ms, and the slow one is waited for, long after the deadline.
    let report = server.manager.drain(Duration::from_millis(300)).await;
    assert_eq!((report.aborted, report.farewells, report.left), (1, 1, 0));
    assert_eq!(server.manager.stats().closed(CloseReason::Aborted), 1);
    assert_eq!(rest(never).await, b"");
    assert!(rest(slow).await.ends_with(b"at last"));
    assert!(rest(poll).await.ends_with(b"0\r\n\r\n"));
}

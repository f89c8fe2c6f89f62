//! Ends over TLS: whatever was handed to the service is answered, the client reads it to the end, and the end is said by
//! `close_notify`, or by an alert where there is no answer.
#![cfg(feature = "full")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame, head,
};
use crate::self_signed::SelfSigned;
use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, Incoming, TlsAcceptor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    manager: ConnectionManager,
    address: SocketAddr,
    tls: SelfSigned,
    /// How many requests the service got.
    handed: Arc<AtomicUsize>,
}

async fn start(config: ConnectionConfig) -> Server {
    let tls = SelfSigned::new();
    let handed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handed);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        count.fetch_add(1, SeqCst);
        async move {
            let path = request.uri().path().to_owned();
            if path == "/401" || request.method() == Method::CONNECT {
                let mut refused = Response::new(Full::<Bytes>::from("refused"));
                *refused.status_mut() = StatusCode::UNAUTHORIZED;
                return Ok::<_, Infallible>(refused);
            }
            let body = request.into_body().collect().await;
            let body = body.map_or_else(|_| Bytes::from_static(b"cut"), |body| body.to_bytes());
            match &*path {
                "/slow" => sleep(Duration::from_millis(20)).await,
                "/never" => std::future::pending().await,
                _ => {}
            }
            Ok(Response::new(Full::from(
                [b"got ", &body[..], b"\n"].concat(),
            )))
        }
    });
    let acceptor = TlsAcceptor::from_rustls(tls.server());
    let (manager, address) = served(config, service, |listener| listener.tls(&acceptor)).await;
    Server {
        manager,
        address,
        tls,
        handed,
    }
}

impl Server {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.expect("connects");
        self.tls.connect(socket).await
    }

    fn handed(&self) -> usize {
        self.handed.load(SeqCst)
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n")
}

fn post(path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {length}\r\n\r\n{body}")
}

async fn write(stream: &mut TlsStream<TcpStream>, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.expect("writes");
    stream.flush().await.expect("writes");
}

async fn read_until(stream: &mut TlsStream<TcpStream>, wanted: &str) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).contains(wanted) {
            let read = stream.read_buf(&mut got).await.expect("reads");
            assert!(read > 0, "ended after {:?}", String::from_utf8_lossy(&got));
        }
    };
    timeout(PATIENCE, reading).await.expect("in time");
    String::from_utf8(got).expect("text")
}

/// Up to `close_notify`: an end without it is an error of rustls's, and so is a reset.
async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut got = Vec::new();
    let reading = timeout(PATIENCE, stream.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got);
    reading
        .unwrap_or_else(|_| panic!("no end after {text:?}"))
        .unwrap_or_else(|error| panic!("{error} after {text:?}"));
    got
}

async fn text_to_end(stream: &mut TlsStream<TcpStream>) -> String {
    String::from_utf8(read_to_end(stream).await).expect("text")
}

/// How a client ends its side behind its requests.
#[derive(Debug, Clone, Copy)]
enum End {
    Stays,
    /// `close_notify` alone.
    Notify,
    /// `close_notify` and FIN.
    NotifyAndFin,
}

const ENDS: [End; 3] = [End::Stays, End::Notify, End::NotifyAndFin];

async fn end(stream: &mut TlsStream<TcpStream>, end: End) {
    match end {
        End::Stays => {}
        End::Notify => {
            stream.get_mut().1.send_close_notify();
            stream.flush().await.expect("writes");
        }
        End::NotifyAndFin => stream.shutdown().await.expect("ends its side"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pipelined_when_a_drain_begins_is_answered() {
    for how in ENDS {
        for path in ["/slow", "/"] {
            let server = start(ConnectionConfig::default()).await;
            let mut stream = server.connect().await;
            let requests = [get(path, ""), post(path, "", "body")].concat().repeat(4);
            write(&mut stream, requests).await;
            end(&mut stream, how).await;
            until(&server.manager, "at work", |_| server.handed() > 0).await;
            let draining = server.manager.drain(PATIENCE);
            let (report, got) = tokio::join!(draining, text_to_end(&mut stream));
            let answers = got.matches("got ").count();
            assert_eq!(answers, server.handed(), "{how:?} {path}: {got}");
            assert_eq!(report.aborted, 0, "{how:?} {path}");
            if matches!(how, End::Stays) && answers < 8 {
                let last = got.rsplit("HTTP/1.1 ").next().expect("an answer");
                assert!(last.contains("connection: close\r\n"), "{got}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_says_goodbye_alone_is_answered_on_both_paths() {
    let server = start(ConnectionConfig::default()).await;
    let chunked =
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    for how in [End::Notify, End::NotifyAndFin] {
        for (request, answers) in [
            (get("/", ""), 1),
            (get("/slow", ""), 1),
            (post("/slow", "", "body"), 1),
            (chunked.to_owned(), 1),
            (
                [get("/slow", ""), chunked.to_owned(), get("/", "")].concat(),
                3,
            ),
        ] {
            let mut stream = server.connect().await;
            write(&mut stream, &request).await;
            end(&mut stream, how).await;
            let got = text_to_end(&mut stream).await;
            assert_eq!(
                got.matches("got ").count(),
                answers,
                "{how:?} {request}: {got}"
            );
        }
    }
    assert_eq!(server.manager.stats().closed(CloseReason::HalfClosed), 0);
}

#[tokio::test]
async fn who_says_goodbye_is_given_up_after_the_grace() {
    let mut config = ConnectionConfig::default();
    config.half_close_grace = Duration::from_millis(100);
    let server = start(config).await;
    for how in [End::Notify, End::NotifyAndFin] {
        let mut stream = server.connect().await;
        write(&mut stream, get("/never", "")).await;
        end(&mut stream, how).await;
        until(&server.manager, "given up", |m| m.stats().open == 0).await;
    }
    assert_eq!(server.manager.stats().closed(CloseReason::HalfClosed), 2);
}

#[tokio::test]
async fn the_last_of_so_many_requests_says_so() {
    let mut config = ConnectionConfig::default();
    config.max_requests = 3;
    let server = start(config).await;
    for how in ENDS {
        let before = server.handed();
        let mut stream = server.connect().await;
        write(&mut stream, post("/slow", "", "body").repeat(5)).await;
        end(&mut stream, how).await;
        let got = text_to_end(&mut stream).await;
        assert_eq!(got.matches("got body").count(), 3, "{how:?}: {got}");
        assert_eq!(server.handed() - before, 3, "{how:?}");
        assert_eq!(
            got.matches("connection: close").count(),
            1,
            "{how:?}: {got}"
        );
    }
}

/// A client of HTTP/2 that asks for one thing after the other, until it is told to go.
struct Http2 {
    stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
    next: u32,
    told_to_go: bool,
}

impl Http2 {
    async fn greet(mut stream: TlsStream<TcpStream>) -> Self {
        write(&mut stream, [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        Self {
            stream,
            unread: Vec::new(),
            next: 1,
            told_to_go: false,
        }
    }

    /// Whether it is answered, rather than told that it was not looked at.
    async fn ask(&mut self, path: &str) -> bool {
        let id = self.next;
        self.next += 2;
        let fields = head("GET", path);
        let request = frame(HEADERS, END_HEADERS | END_STREAM, id, &fields);
        write(&mut self.stream, request).await;
        loop {
            let frame = timeout(PATIENCE, self.frame()).await.expect("in time");
            let Some(frame) = frame else {
                assert!(self.told_to_go, "ended without a word");
                return false;
            };
            match frame[3] {
                GOAWAY => {
                    assert_eq!(frame[13..17], [0; 4], "no error");
                    self.told_to_go = true;
                    if frame[9..13] < id.to_be_bytes()[..] {
                        return false;
                    }
                }
                DATA if frame[4] & END_STREAM != 0 && frame[5..9] == id.to_be_bytes() => {
                    return true;
                }
                _ => {}
            }
        }
    }

    /// The next frame, or the end.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let [a, b, c, ..] = self.unread[..] {
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if self.unread.len() >= 9 + length {
                    let mut frame: Vec<u8> = self.unread.drain(..9 + length).collect();
                    if frame[3] != PING || frame[4] & ACK != 0 {
                        return Some(frame);
                    }
                    frame[4] |= ACK;
                    let _ = self.stream.write_all(&frame).await;
                    let _ = self.stream.flush().await;
                    continue;
                }
            }
            let read = self.stream.read_buf(&mut self.unread).await;
            if read.expect("no reset") == 0 {
                return None;
            }
        }
    }

    /// How many of `most` requests are answered before it is told to go; reads to the end then.
    async fn ask_until_told(mut self, path: &str, most: usize, pause: Duration) -> usize {
        let mut answered = 0;
        while answered < most && !self.told_to_go {
            answered += usize::from(self.ask(path).await);
            sleep(pause).await;
        }
        if self.told_to_go {
            let end = async { while self.frame().await.is_some() {} };
            timeout(PATIENCE, end).await.expect("in time");
        }
        answered
    }
}

#[tokio::test]
async fn streams_before_a_planned_end_are_answered() {
    let mut few = ConnectionConfig::default();
    few.max_requests = 3;
    let mut old = ConnectionConfig::default();
    old.max_age = Duration::from_millis(100);
    let ends = [
        (few, CloseReason::MaxRequests, 3),
        (old, CloseReason::MaxAge, 1),
    ];
    for (config, reason, least) in ends {
        let server = start(config).await;
        for path in ["/", "/slow"] {
            let before = server.handed();
            let client = Http2::greet(server.connect().await).await;
            let pause = Duration::from_millis(5);
            let answered = client.ask_until_told(path, usize::MAX, pause).await;
            assert_eq!(answered, server.handed() - before, "{reason:?} {path}");
            assert!(answered >= least, "{reason:?} {path}: {answered}");
        }
        until(&server.manager, "closed", |m| m.stats().closed(reason) == 2).await;
    }
}

#[tokio::test]
async fn streams_of_a_drain_are_answered() {
    let server = start(ConnectionConfig::default()).await;
    let client = Http2::greet(server.connect().await).await;
    let asking = client.ask_until_told("/slow", usize::MAX, Duration::ZERO);
    let draining = async {
        until(&server.manager, "at work", |_| server.handed() > 2).await;
        server.manager.drain(PATIENCE).await
    };
    let (answered, report) = tokio::join!(asking, draining);
    assert_eq!((answered, report.aborted), (server.handed(), 0));
}

#[tokio::test]
async fn the_greatest_age_is_told_before_the_end() {
    let mut config = ConnectionConfig::default();
    config.max_age = Duration::from_millis(100);
    config.drain_idle = PATIENCE;
    let server = start(config).await;
    let mut stream = server.connect().await;
    let mut answers = 0;
    loop {
        write(&mut stream, get("/", "")).await;
        let answer = read_until(&mut stream, "got \n").await;
        answers += 1;
        if answer.contains("connection: close") {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(answers > 1);
    assert_eq!(text_to_end(&mut stream).await, "");
    assert_eq!(server.handed(), answers);
}

#[tokio::test]
async fn an_upgrade_that_was_declined_changes_nothing() {
    let mut config = ConnectionConfig::default();
    config.park_after = Duration::from_millis(1);
    let server = start(config).await;
    let h2c = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    let connect = "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n".to_owned();
    for (declined, said) in [(get("/", h2c), "got \n"), (connect, "refused")] {
        for parked in [false, true] {
            let mut stream = server.connect().await;
            write(&mut stream, &declined).await;
            let got = read_until(&mut stream, said).await;
            assert!(!got.contains("connection: close"), "{got}");
            if parked {
                until(&server.manager, "parked", |m| m.stats().parked == 1).await;
            }
            write(&mut stream, get("/", "")).await;
            read_until(&mut stream, "got \n").await;
            // The last request is answered, and what stands behind it is not.
            let last = post("/slow", "connection: close\r\n", "last");
            write(&mut stream, last + &get("/", "")).await;
            let got = text_to_end(&mut stream).await;
            assert_eq!(got.matches("got ").count(), 1, "{got}");
            assert!(got.contains("got last"), "{got}");
            drop(stream);
            until(&server.manager, "gone", |m| m.stats().open == 0).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_and_is_refused_ends_the_connection_as_was_said() {
    let server = start(ConnectionConfig::default()).await;
    let asks = post("/401", "expect: 100-continue\r\n", "");
    let asks = asks.replace("content-length: 0", "content-length: 60000");
    // Also by who sends its body all the same.
    for body in ["", &"x".repeat(60_000)] {
        let mut stream = server.connect().await;
        write(&mut stream, &asks).await;
        let first = read_until(&mut stream, "refused").await;
        assert!(first.starts_with("HTTP/1.1 401 "), "{first}");
        assert!(first.contains("connection: close\r\n"), "{first}");
        let _ = stream.write_all(body.as_bytes()).await;
        assert_eq!(text_to_end(&mut stream).await, "");
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_its_connection() {
    let mut config = ConnectionConfig::default();
    config.park_after = Duration::from_millis(1);
    let server = start(config).await;
    for length in [1, 2100, 16 << 10, 200_000] {
        let mut stream = server.connect().await;
        for round in 0..3 {
            let request = post("/401", "", &"x".repeat(length));
            let (head, body) = request.split_at(request.len() / 2);
            write(&mut stream, head).await;
            write(&mut stream, body).await;
            let got = read_until(&mut stream, "refused").await;
            assert!(
                !got.contains("connection: close"),
                "{length} {round}: {got}"
            );
            write(&mut stream, get("/", "")).await;
            read_until(&mut stream, "got \n").await;
            until(&server.manager, "parked", |m| m.stats().parked == 1).await;
        }
        drop(stream);
        until(&server.manager, "gone", |m| m.stats().open == 0).await;
    }
    assert_eq!(server.manager.stats().closed(CloseReason::ClientClosed), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_place_loses_nothing_and_who_comes_too_late_hears_an_alert() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 6;
    let server = Arc::new(start(config).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..10 {
        let server = Arc::clone(&server);
        clients.spawn(async move {
            let (mut served, mut refused) = (0, 0);
            while served + refused < 20 {
                let socket = TcpStream::connect(server.address).await.expect("connects");
                let stream = match server.tls.try_connect(socket).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        assert!(error.to_string().contains("alert"), "{error}");
                        refused += 1;
                        continue;
                    }
                };
                let pause = Duration::from_millis(5);
                let left = 20 - served - refused;
                if client % 2 == 0 {
                    let client = Http2::greet(stream).await;
                    served += client.ask_until_told("/", left, pause).await;
                    continue;
                }
                let mut stream = stream;
                while served + refused < 20 {
                    write(&mut stream, get("/", "")).await;
                    let answer = read_until(&mut stream, "got \n").await;
                    served += 1;
                    if answer.contains("connection: close") {
                        assert_eq!(text_to_end(&mut stream).await, "");
                        break;
                    }
                    sleep(pause).await;
                }
            }
            served
        });
    }
    let outcomes = timeout(3 * PATIENCE, clients.join_all())
        .await
        .expect("in time");
    assert!(outcomes.iter().sum::<usize>() >= 100, "{outcomes:?}");
    let stats = server.manager.stats();
    assert_eq!(stats.accepted_total, stats.open + stats.closed_total());
}

//! Everything that was read and handed to the service is answered, whatever comes behind it and however the connection
//! ends; and the client can read what it was told.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Pieces with pauses, and a length that may not be theirs.
struct Pieces {
    left: usize,
    length: Option<u64>,
    pause: Pin<Box<tokio::time::Sleep>>,
    ended: bool,
}

impl Pieces {
    fn body(left: usize, length: Option<u64>) -> BoxBody<Bytes, io::Error> {
        Self {
            left,
            length,
            pause: Box::pin(sleep(Duration::ZERO)),
            ended: false,
        }
        .boxed()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        assert!(!self.ended, "polled after its end");
        if self.length.is_none() {
            std::task::ready!(self.pause.as_mut().poll(cx));
        }
        if self.left == 0 {
            self.ended = true;
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.pause = Box::pin(sleep(Duration::from_millis(5)));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"piece")))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, io::Error> {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

async fn handle(request: Request<Incoming>) -> io::Result<Response<BoxBody<Bytes, io::Error>>> {
    let (head, body) = request.into_parts();
    let status = |status| {
        let mut response = Response::new(full("refused"));
        *response.status_mut() = status;
        response
    };
    if head.method == Method::CONNECT {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    Ok(match head.uri.path() {
        "/401" => status(StatusCode::UNAUTHORIZED),
        "/late401" => {
            sleep(Duration::from_millis(10)).await;
            drop(body);
            status(StatusCode::UNAUTHORIZED)
        }
        "/slow" => {
            sleep(Duration::from_millis(30)).await;
            Response::new(full("slow"))
        }
        "/never" => {
            std::future::pending::<()>().await;
            unreachable!()
        }
        "/panic" => panic!("on purpose"),
        "/pieces" => Response::new(Pieces::body(3, None)),
        "/short" => Response::new(Pieces::body(1, Some(15))),
        "/empty" => Response::new(Pieces::body(0, Some(5))),
        "/long" => Response::new(Pieces::body(3, Some(5))),
        "/204" | "/304" => {
            let mut response = status(match head.uri.path() {
                "/204" => StatusCode::NO_CONTENT,
                _ => StatusCode::NOT_MODIFIED,
            });
            let length = HeaderValue::from_static("7");
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        }
        path @ ("/lie" | "/head") => {
            let mut response = Response::new(full(if path == "/lie" { "lie" } else { "" }));
            let length = HeaderValue::from_static("30");
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        }
        "/last" | "/go-on" => {
            let says = match head.uri.path() {
                "/last" => "close",
                _ => "keep-alive",
            };
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let mut response = Response::new(full([&b"got "[..], &body].concat()));
            let says = HeaderValue::from_static(says);
            response.headers_mut().insert(header::CONNECTION, says);
            response
        }
        _ => {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            Response::new(full([&b"got "[..], &body].concat()))
        }
    })
}

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    served(config, tower::service_fn(handle), |listener| listener).await
}

fn quick() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.park_after = Duration::from_millis(1);
    config
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

fn post(path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {length}\r\n\r\n{body}")
}

async fn write(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.expect("writes");
}

/// Reads until it has got this; a test that waits in vain fails.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).contains(wanted) {
            let n = stream.read_buf(&mut got).await.expect("reads");
            assert!(n > 0, "ended after {:?}", String::from_utf8_lossy(&got));
        }
    };
    let in_time = timeout(PATIENCE, reading).await;
    let got = String::from_utf8(got).expect("text");
    in_time.unwrap_or_else(|_| panic!("no {wanted:?} after {got:?}"));
    got
}

/// Reads to the end; a reset is none.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let reading = timeout(PATIENCE, stream.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    reading
        .unwrap_or_else(|_| panic!("no end after {text:?}"))
        .unwrap_or_else(|error| panic!("{error} after {text:?}"));
    text
}

#[tokio::test]
async fn a_declined_upgrade_and_a_refused_connect_leave_an_ordinary_connection() {
    let mut config = quick();
    config.keep_alive_header = true;
    let (manager, address) = start(config).await;
    let declined = "GET /u HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";
    let refused = "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n";
    for (request, answer) in [(declined, "got "), (refused, "refused")] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let closed = manager.stats().closed_total();
        for again in [false, true] {
            write(&mut stream, request).await;
            let got = read_until(&mut stream, answer).await;
            let idle = manager.config().idle_timeout.as_secs();
            assert!(
                got.contains(&format!("keep-alive: timeout={idle}\r\n")),
                "{got}"
            );
            until(&manager, "parked", |m| m.stats().parked == 1).await;
            write(&mut stream, get("/")).await;
            read_until(&mut stream, "got ").await;
            assert_eq!(manager.stats().closed_total(), closed, "{again} {request}");
        }
        drop(stream);
        until(&manager, "gone", |m| m.stats().open == 0).await;
    }
}

#[tokio::test]
async fn the_last_request_is_answered_whatever_stands_behind_it() {
    let declined = "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";
    let refused = "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n";
    for max_requests in [0, 3] {
        for before in [declined, refused] {
            let close = match max_requests {
                0 => "connection: close\r\n",
                _ => "",
            };
            for (last, answer) in [
                (post("/", close, "posted"), "got posted"),
                (post("/last", "", "posted"), "got posted"),
                (post("/401", close, "posted"), "refused"),
                (
                    post("/", close, "posted").replace("1.1", "1.0"),
                    "got posted",
                ),
                (
                    get("/slow").replace("host", &format!("{close}host")),
                    "slow",
                ),
                (
                    get("/pieces").replace("host", &format!("{close}host")),
                    "0\r\n\r\n",
                ),
            ] {
                let mut config = ConnectionConfig::default();
                config.max_requests = max_requests;
                let (manager, address) = start(config).await;
                let mut stream = TcpStream::connect(address).await.expect("connects");
                write(&mut stream, before).await;
                read_until(&mut stream, "\r\n\r\n").await;
                // Another answer is held back with the last one.
                let behind = [get("/2"), last.clone(), get("/lost"), get("/lost")].concat();
                write(&mut stream, &behind).await;
                let got = read_to_end(&mut stream).await;
                assert!(got.contains(answer), "{behind}: {got}");
                assert!(
                    got.contains("connection: close") || last.contains("1.0"),
                    "{got}"
                );
                assert_eq!(manager.stats().requests_total, 3);
            }
        }
    }
}

/// `curl --http2` and Java's client ask with every first request.
const UPGRADE: &str =
    "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n";

#[tokio::test]
async fn requests_behind_a_declined_upgrade_are_served() {
    let upgrading = |request: String| request.replace("host", &format!("{UPGRADE}host"));
    let more = 1500;
    for strict in [true, false] {
        for (requests, answers) in [
            (
                [upgrading(get("/")), get("/slow")].concat(),
                vec!["got ", "slow"],
            ),
            (
                [upgrading(get("/slow")), get("/"), get("/slow")].concat(),
                vec!["slow", "got ", "slow"],
            ),
            (
                [upgrading(get("/pieces")), post("/", "", "posted")].concat(),
                vec!["piece", "0\r\n\r\n", "got posted"],
            ),
            (
                [upgrading(post("/", "", "first")), post("/", "", "second")].concat(),
                vec!["got first", "got second"],
            ),
            (
                [
                    upgrading(post("/401", "", "unread")),
                    upgrading(post("/late401", "", "unread")),
                    get("/"),
                ]
                .concat(),
                vec!["refused", "refused", "got "],
            ),
            (
                [
                    get("/slow"),
                    upgrading(get("/")),
                    upgrading(get("/slow")),
                    get("/"),
                ]
                .concat(),
                vec!["slow", "got ", "slow", "got "],
            ),
            (
                [
                    upgrading(get("/"))
                        .replace("1.1", "1.0")
                        .replace("connection: Upgrade", "connection: keep-alive, Upgrade"),
                    get("/slow"),
                ]
                .concat(),
                vec!["got ", "slow"],
            ),
            // One whose framing the guard spoils.
            (
                [
                    upgrading(get("/")),
                    "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n"
                        .to_owned(),
                ]
                .concat(),
                if strict {
                    vec!["got ", "400 Bad Request"]
                } else {
                    vec!["got "]
                },
            ),
            (upgrading(get("/")).repeat(more), vec!["got "; more]),
        ] {
            for pieces in [1, 7, usize::MAX] {
                let mut config = quick();
                config.strict_http1 = strict;
                let (manager, address) = start(config).await;
                let stream = TcpStream::connect(address).await.expect("connects");
                let (mut reader, mut writer) = stream.into_split();
                let bytes = requests.clone();
                // A piece at a time takes long for the many.
                if pieces < bytes.len() && bytes.len() > 10_000 {
                    continue;
                }
                let sending = tokio::spawn(async move {
                    for piece in bytes.as_bytes().chunks(pieces) {
                        writer.write_all(piece).await.expect("writes");
                        if pieces != usize::MAX {
                            tokio::task::yield_now().await;
                        }
                    }
                    writer.shutdown().await.expect("ends");
                });
                let mut got = String::new();
                timeout(PATIENCE, reader.read_to_string(&mut got))
                    .await
                    .expect("an end")
                    .expect("no reset");
                sending.await.expect("sends");
                let mut rest = &got[..];
                for answer in &answers {
                    let Some((_, more)) = rest.split_once(answer) else {
                        panic!("no {answer:?} for {requests:?} by {pieces}: {got}");
                    };
                    rest = more;
                }
                let reason = CloseReason::BytesBehindUpgrade;
                assert_eq!(manager.stats().closed(reason), 0);
            }
        }
    }
}

#[tokio::test]
async fn bytes_behind_a_refused_connect_end_its_connection_with_a_reason_of_their_own() {
    let connect = "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n";
    for before in [String::new(), get("/slow")] {
        let (manager, address) = start(quick()).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, [&before, connect, &get("/behind")].concat()).await;
        let got = read_to_end(&mut stream).await;
        let served = if before.is_empty() { 1 } else { 2 };
        assert!(
            got.contains("connection: close") && got.matches("HTTP/1.1").count() == served,
            "{got}"
        );
        assert!(got.ends_with("refused"), "{got}");
        drop(stream);
        until(&manager, "counted", |m| {
            m.stats().closed(CloseReason::BytesBehindUpgrade) == 1
        })
        .await;
        assert_eq!(manager.stats().requests_total, served as u64);
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_is_answered() {
    let chunked =
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for strict in [true, false] {
        for (requests, answers) in [
            (get("/"), &["got "][..]),
            (get("/slow"), &["slow"]),
            (get("/pieces"), &["piece", "0\r\n\r\n"]),
            (post("/", "", "posted"), &["got posted"]),
            (post("/slow", "", "posted"), &["slow"]),
            (post("/401", "", "posted"), &["refused"]),
            (post("/pieces", "", "posted"), &["0\r\n\r\n"]),
            (chunked.to_owned(), &["got abc"]),
            (get("/slow").replace("1.1", "1.0"), &["slow"]),
            (get("/pieces").replace("1.1", "1.0"), &["piecepiecepiece"]),
            (
                [get("/"), get("/slow"), get("/pieces")].concat(),
                &["got ", "slow", "0\r\n\r\n"],
            ),
            (
                [
                    post("/", "", "1"),
                    post("/slow", "", "2"),
                    get("/"),
                    post("/", "", "3"),
                ]
                .concat(),
                &["got 1", "slow", "got ", "got 3"],
            ),
            // The half of another is none.
            (get("/slow") + "GET / HT", &["slow"]),
        ] {
            let mut config = quick();
            config.strict_http1 = strict;
            let (manager, address) = start(config).await;
            // First on its connection, and after it was parked.
            for parked in [false, true] {
                let mut stream = TcpStream::connect(address).await.expect("connects");
                if parked {
                    write(&mut stream, get("/")).await;
                    read_until(&mut stream, "got ").await;
                    until(&manager, "parked", |m| m.stats().parked == 1).await;
                }
                write(&mut stream, &requests).await;
                stream.shutdown().await.expect("ends its side");
                let mut got = &read_to_end(&mut stream).await[..];
                for answer in answers {
                    let Some(at) = got.find(answer) else {
                        panic!("no {answer:?} to {requests:?}: {got}");
                    };
                    got = &got[at + answer.len()..];
                }
            }
            until(&manager, "ended", |m| m.stats().open == 0).await;
            assert_eq!(manager.stats().requests_cancelled_total, 0);
            assert_eq!(manager.stats().closed(CloseReason::HalfClosed), 0);
        }
    }
}

#[tokio::test]
async fn a_client_that_ended_its_side_is_given_up_after_the_grace() {
    for request in [get("/never"), post("/never", "", "posted")] {
        let mut config = ConnectionConfig::default();
        config.half_close_grace = Duration::from_millis(50);
        let (manager, address) = start(config).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let requests = [get("/"), request].concat();
        write(&mut stream, requests).await;
        stream.shutdown().await.expect("ends its side");
        let got = read_to_end(&mut stream).await;
        assert!(
            got.contains("got ") && got.matches("HTTP").count() == 1,
            "{got}"
        );
        until(&manager, "counted", |m| {
            m.stats().closed(CloseReason::HalfClosed) == 1
        })
        .await;
        assert_eq!(manager.stats().requests_cancelled_total, 1);
    }
}

#[tokio::test]
async fn a_stream_to_a_client_that_ended_its_side_goes_on_while_anything_is_sent() {
    let mut config = ConnectionConfig::default();
    config.half_close_grace = Duration::from_millis(200);
    let service = tower::service_fn(|_: Request<Incoming>| async {
        // For much longer than the grace, in pieces.
        Ok::<_, io::Error>(Response::new(Pieces::body(200, None)))
    });
    let (manager, address) = served(config, service, |listener| listener).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    write(&mut stream, get("/")).await;
    stream.shutdown().await.expect("ends its side");
    let got = read_to_end(&mut stream).await;
    assert_eq!(got.matches("piece").count(), 200);
    assert_eq!(manager.stats().closed(CloseReason::HalfClosed), 0);
}

/// A body that comes in chunks.
fn chunked(path: &str, length: usize) -> String {
    let chunks = "3e8\r\n".to_owned() + &"x".repeat(1000) + "\r\n";
    let body = chunks.repeat(length / 1000);
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n")
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_its_connection() {
    for strict in [true, false] {
        let mut config = quick();
        config.strict_http1 = strict;
        let (manager, address) = start(config).await;
        for path in ["/401", "/late401"] {
            for request in [
                post(path, "", &"x".repeat(2100)),
                post(path, "", &"x".repeat(16 << 10)),
                post(path, "", &"x".repeat(200_000)),
                chunked(path, 16_000),
                chunked(path, 600_000),
            ] {
                for pieces in [1, 3] {
                    let mut stream = TcpStream::connect(address).await.expect("connects");
                    for parked in [false, true] {
                        let closed = manager.stats().closed_total();
                        let (mut from, mut to) = stream.split();
                        let sending = async {
                            for piece in request.as_bytes().chunks(request.len() / pieces + 1) {
                                to.write_all(piece).await.expect("writes");
                                sleep(Duration::from_millis(5)).await;
                            }
                        };
                        let mut got = Vec::new();
                        let receiving = async {
                            while !got.ends_with(b"refused") {
                                assert!(from.read_buf(&mut got).await.expect("reads") > 0);
                            }
                        };
                        tokio::join!(sending, receiving);
                        let got = String::from_utf8_lossy(&got);
                        assert!(!got.contains("connection: close"), "{got}");
                        write(&mut stream, get("/")).await;
                        read_until(&mut stream, "got ").await;
                        assert_eq!(manager.stats().closed_total(), closed, "{parked}");
                        until(&manager, "parked", |m| m.stats().parked == 1).await;
                    }
                    drop(stream);
                    until(&manager, "gone", |m| m.stats().open == 0).await;
                }
            }
        }
    }
}

/// Clients such as Python's `http.client` read nothing before all is sent.
#[tokio::test]
async fn an_early_answer_reaches_a_client_that_writes_all_first() {
    let (manager, address) = start(ConnectionConfig::default()).await;
    for path in ["/401", "/late401"] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, post(path, "", &"x".repeat(20 << 20))).await;
        let got = read_to_end(&mut stream).await;
        assert!(got.starts_with("HTTP/1.1 401"), "{got}");
        assert!(got.contains("connection: close\r\n"), "{got}");
        drop(stream);
        until(&manager, "gone", |m| m.stats().open == 0).await;
    }
    let stats = manager.stats();
    assert_eq!(stats.closed(CloseReason::Finished), 2, "{stats:?}");
}

#[tokio::test]
async fn a_client_that_waits_for_the_end_with_its_body_unsent_is_told_the_end() {
    let (_, address) = start(ConnectionConfig::default()).await;
    for path in ["/401", "/late401"] {
        for (version, fields) in [
            ("1.1", "connection: close\r\ncontent-length: 6\r\n"),
            ("1.1", "connection: close\r\ntransfer-encoding: chunked\r\n"),
            ("1.0", "content-length: 6\r\n"),
        ] {
            for sent in ["", "1"] {
                let mut stream = TcpStream::connect(address).await.expect("connects");
                let request =
                    format!("POST {path} HTTP/{version}\r\nhost: x\r\n{fields}\r\n{sent}");
                write(&mut stream, request).await;
                let got = timeout(PATIENCE, read_to_end(&mut stream)).await;
                let got = got.unwrap_or_else(|_| panic!("{path} {version} {fields} {sent}"));
                assert!(got.contains(" 401 "), "{got}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_and_is_refused_ends_the_connection_as_was_said() {
    let (_, address) = start(ConnectionConfig::default()).await;
    for path in ["/401", "/late401"] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n"
        );
        write(&mut stream, request).await;
        let got = read_to_end(&mut stream).await;
        assert!(got.starts_with("HTTP/1.1 401"), "{got}");
        assert!(got.contains("connection: close\r\n"), "{got}");
    }
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let asks = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n";
    write(&mut stream, asks).await;
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    write(&mut stream, "posted").await;
    let got = read_until(&mut stream, "got posted").await;
    assert!(!got.contains("connection: close"), "{got}");
}

#[tokio::test]
async fn a_response_says_one_thing_of_its_connection() {
    let old = |path: &str| get(path).replace("1.1\r\n", "1.0\r\nconnection: keep-alive\r\n");
    let closing = |path: &str| get(path).replace("host", "connection: close\r\nhost");
    for (max_requests, request, says) in [
        (1, old("/"), Some("close")),
        (0, old("/"), Some("keep-alive")),
        (0, old("/last"), Some("close")),
        (0, old("/pieces"), Some("close")),
        (1, get("/"), Some("close")),
        (1, get("/go-on"), Some("close")),
        (0, closing("/go-on"), Some("close")),
        (0, closing("/"), Some("close")),
        (0, get("/last"), Some("close")),
        (0, get("/go-on"), Some("keep-alive")),
        (0, get("/"), None),
    ] {
        let mut config = ConnectionConfig::default();
        config.max_requests = max_requests;
        let (_, address) = start(config).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, &request).await;
        let got = read_until(&mut stream, "\r\n\r\n").await;
        let head = got.split("\r\n\r\n").next().expect("a head").to_owned();
        let told: Vec<_> = head
            .lines()
            .filter_map(|line| line.strip_prefix("connection: "))
            .collect();
        assert_eq!(
            told,
            says.into_iter().collect::<Vec<_>>(),
            "{request} {head}"
        );
        if says == Some("close") {
            read_to_end(&mut stream).await;
        }
    }
}

#[tokio::test]
async fn a_408_says_that_it_closes_and_when_and_can_be_read() {
    let mut config = ConnectionConfig::default();
    config.head_timeout = Duration::from_millis(50);
    let (manager, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    write(&mut stream, get("/") + "GET / HT").await;
    let got = read_until(&mut stream, "408").await + &read_until(&mut stream, "\r\n\r\n").await;
    for part in ["got ", "connection: close\r\n", "date: "] {
        assert!(got.contains(part), "{part} in {got}");
    }
    // Bytes that cross it don't reset it.
    write(&mut stream, "TP/1.1\r\n").await;
    assert_eq!(read_to_end(&mut stream).await, "");
    drop(stream);
    until(&manager, "counted", |m| {
        m.stats().closed(CloseReason::HeadTimeout) == 1
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_can_be_read_also_by_who_goes_on_sending() {
    let (_, address) = start(ConnectionConfig::default()).await;
    for (bad, status) in [
        ("GET / HTTP/9.9\r\n".to_owned(), "400"),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n",
                "x".repeat(70_000)
            ),
            "431",
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, bad).await;
        // These cross the answer.
        for _ in 0..200 {
            write(&mut stream, "more: x\r\n".repeat(1000)).await;
        }
        let got = read_to_end(&mut stream).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{got}");
        assert!(
            got.contains("connection: close\r\n") && got.contains("date: "),
            "{got}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_said_is_not_asked_after_its_end() {
    let (manager, address) = start(ConnectionConfig::default()).await;
    for path in ["/short", "/empty"] {
        for request in [get(path), post(path, "", "")] {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            // What was answered before it arrives.
            write(&mut stream, get("/") + &request).await;
            let got = read_to_end(&mut stream).await;
            assert!(got.contains("got "), "{got}");
        }
    }
    let mut stream = TcpStream::connect(address).await.expect("connects");
    write(&mut stream, get("/long") + &get("/")).await;
    let got = read_until(&mut stream, "got ").await;
    assert!(
        got.contains("content-length: 5\r\n") && got.matches("piece").count() == 1,
        "{got}"
    );
    drop(stream);
    until(&manager, "gone", |m| m.stats().open == 0).await;
    // A panic would be another.
    assert_eq!(manager.stats().closed(CloseReason::ServiceError), 4);
    assert_eq!(manager.stats().closed(CloseReason::ClientClosed), 1);
}

#[tokio::test]
async fn a_length_that_is_not_true_is_not_told() {
    let (_, address) = start(ConnectionConfig::default()).await;
    for (request, length) in [
        (get("/204"), None),
        (get("/304"), Some("7")),
        (get("/204").replace("GET", "HEAD"), None),
        (get("/lie"), Some("3")),
        (get("/lie").replace("GET", "HEAD"), Some("3")),
        (get("/head").replace("GET", "HEAD"), Some("30")),
        (get("/").replace("GET", "HEAD"), Some("4")),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, &request).await;
        let got = read_until(&mut stream, "\r\n\r\n").await;
        let told = got
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(told, length, "{request}: {got}");
        write(&mut stream, post("/", "", "next")).await;
        read_until(&mut stream, "got next").await;
    }
}

#[tokio::test]
async fn a_panic_is_not_the_end_of_the_answers_before_it() {
    let (manager, address) = start(ConnectionConfig::default()).await;
    for before in [get("/"), post("/", "", "posted")] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, before + &get("/panic")).await;
        let got = read_to_end(&mut stream).await;
        assert!(
            got.contains("got ") && got.matches("HTTP").count() == 1,
            "{got}"
        );
    }
    until(&manager, "counted", |m| {
        m.stats().closed(CloseReason::ServiceError) == 2
    })
    .await;
}

#[tokio::test]
async fn no_method_is_taken_for_http_2() {
    let (_, address) = start(ConnectionConfig::default()).await;
    for (request, answer) in [
        ("PRINT /x HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200"),
        ("PRI /x HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200"),
        ("PROPFIND /x HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200"),
        ("PRI * HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 "),
        ("PRI * HTTP/2.0\r\n\r\nXY\r\n\r\n", "HTTP/1.1 400"),
    ] {
        for at_once in [true, false] {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.set_nodelay(true).expect("sets");
            let size = if at_once { request.len() } else { 1 };
            for piece in request.as_bytes().chunks(size) {
                write(&mut stream, piece).await;
                sleep(Duration::from_millis(1)).await;
            }
            let got = read_until(&mut stream, "\r\n\r\n").await;
            assert!(got.starts_with(answer), "{request}: {got}");
        }
    }
}

#[cfg(feature = "http2")]
mod http2 {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    #[tokio::test]
    async fn the_preface_is_known_byte_by_byte() {
        let (_, address) = start(ConnectionConfig::default()).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("sets");
        for byte in PREFACE {
            write(&mut stream, [*byte]).await;
            sleep(Duration::from_millis(1)).await;
        }
        let mut frame = [0; 9];
        let reading = stream.read_exact(&mut frame);
        timeout(PATIENCE, reading)
            .await
            .expect("in time")
            .expect("reads");
        assert_eq!(frame[3], 4, "SETTINGS");
    }

    #[tokio::test]
    async fn an_unanswered_ping_has_a_reason_of_its_own() {
        let mut config = ConnectionConfig::default();
        config.http2.ping_interval = Duration::from_millis(50);
        config.http2.ping_timeout = Duration::from_millis(50);
        let (manager, address) = start(config).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        write(&mut stream, PREFACE).await;
        until(&manager, "counted", |m| {
            m.stats().closed(CloseReason::PingTimeout) == 1
        })
        .await;
        drop(stream);
    }
}

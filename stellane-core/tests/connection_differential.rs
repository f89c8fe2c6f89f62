//! The same bytes to three servers, from a seed: to the manager as it is, to the manager with hyper serving all of them, and
//! to hyper alone. What comes back is the same but for what is told below, each by its name.
//!
//! `STELLANE_STREAMS=100000` tries more of them; `STELLANE_SEED=17` tries one.
#![cfg(feature = "connection")]

#[path = "support/random.rs"]
mod random;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper_util::rt::TokioIo;
use random::Random;
use stellane_core::connection::{ConnectionConfig, ConnectionManager};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::sleep,
};

const STREAMS: u64 = 1000;

/// How the client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It ends its side right behind its last byte.
    Half,
    /// It waits for the server to end, and for a while for more answers.
    Waits,
}

#[derive(Debug)]
struct Stream {
    bytes: Vec<u8>,
    /// Where a client pauses that does not send ahead.
    pieces: Vec<usize>,
    end: End,
    /// Room of the transport.
    room: usize,
    /// Why hyper alone may say less, or more, in the words of `explained`.
    unread: bool,
    /// Which of the requests are a CONNECT.
    connects: Vec<usize>,
}

fn stream(seed: u64) -> Stream {
    let random = &mut Random::new(seed);
    let mut bytes = Vec::new();
    let mut boundaries = Vec::new();
    let (mut unread, mut connects) = (false, Vec::new());
    let count = 1 + random.below(5);
    for n in 0..count {
        let last = n + 1 == count;
        let path = [
            "/now", "/later", "/pieces", "/empty", "/refused", "/big", "/last",
        ][random.below(7).min(if last { 6 } else { 5 })];
        let version = if random.below(10) == 0 { "1.0" } else { "1.1" };
        let mut fields = String::from("host: x\r\n");
        if random.below(if last { 3 } else { 12 }) == 0 {
            fields += "connection: close\r\n";
        } else if random.below(6) == 0 {
            fields += "connection: keep-alive\r\n";
        }
        if random.below(8) == 0 {
            fields += "accept: */*\r\ncookie: a=b\r\n";
        }
        let length = [0, 3, 100, 3000][random.below(4)];
        let body = "b".repeat(length);
        let (method, rest) = match random.below(10) {
            0..=3 => ("GET", "\r\n".to_owned()),
            4 => ("HEAD", "\r\n".to_owned()),
            5 if version == "1.1" => (
                "GET",
                "connection: upgrade\r\nupgrade: h2c\r\n\r\n".to_owned(),
            ),
            6 if version == "1.1" => {
                let chunk = match length {
                    0 => String::new(),
                    length => format!("{length:x}\r\n{body}\r\n"),
                };
                let rest = format!("transfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
                ("POST", rest)
            }
            7 if version == "1.1" => {
                connects.push(n);
                ("CONNECT", "\r\n".to_owned())
            }
            _ => ("POST", format!("content-length: {length}\r\n\r\n{body}")),
        };
        unread |= path == "/refused" && method == "POST";
        let target = if method == "CONNECT" { "x:1" } else { path };
        bytes.extend(format!("{method} {target} HTTP/{version}\r\n{fields}{rest}").bytes());
        boundaries.push(bytes.len());
    }
    match random.below(12) {
        // The half of another, or something else.
        0 => bytes.extend(b"GET /now HT"),
        1 => bytes.extend(b"NO\x01THING\r\n\r\n"),
        _ => {}
    }
    let ahead = random.below(2) == 0;
    let pieces = match random.below(3) {
        0 => vec![bytes.len()],
        1 => {
            let size = 1 + random.below(200);
            (1..=bytes.len().div_ceil(size))
                .map(|n| (n * size).min(bytes.len()))
                .collect()
        }
        _ if ahead => vec![bytes.len()],
        _ => {
            let mut pieces = boundaries;
            pieces.push(bytes.len());
            pieces.dedup();
            pieces
        }
    };
    Stream {
        connects,
        bytes,
        pieces,
        end: [End::Half, End::Waits][random.below(2)],
        room: [100, 1 << 16][random.below(2)],
        unread,
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What the services are asked, in order.
type Seen = Arc<Mutex<Vec<String>>>;

async fn answer<B>(seen: Seen, request: Request<B>) -> Result<Answer, Infallible>
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let (head, body) = request.into_parts();
    let number = {
        let mut seen = seen.lock().expect("no panic");
        seen.push(format!("{} {} {:?}", head.method, head.uri, head.headers));
        seen.len()
    };
    let full = |text: String| Full::new(Bytes::from(text)).boxed();
    if head.method == Method::CONNECT {
        let mut refused = Response::new(full("no tunnel".to_owned()));
        *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(refused);
    }
    let path = head.uri.path();
    if path == "/later" {
        sleep(Duration::from_millis(20)).await;
    }
    let mut response = match path {
        "/refused" => {
            let mut response = Response::new(full("refused".to_owned()));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(response);
        }
        "/empty" => {
            let mut response = Response::new(full(String::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        "/big" => Response::new(full("big".repeat(10_000))),
        "/pieces" => {
            let pieces = (0..3).map(|n| format!("{n}."));
            let frames = pieces.map(|piece| Ok(http_body::Frame::data(Bytes::from(piece))));
            let stream = futures_util::stream::iter(frames);
            Response::new(http_body_util::StreamBody::new(stream).boxed())
        }
        _ => Response::new(full(format!("answer {number}"))),
    };
    match body.collect().await {
        Ok(body) => {
            let read = HeaderValue::from(body.to_bytes().len());
            response.headers_mut().insert("x-read", read);
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    if path == "/last" {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Manager,
    /// Extensions may say how hyper is to write a response.
    ManagerByHyper,
    Hyper,
}

fn serve(server: Server, transport: DuplexStream, seen: &Seen) {
    let seen = Arc::clone(seen);
    if server == Server::Hyper {
        let service = hyper::service::service_fn(move |request| answer(Arc::clone(&seen), request));
        let mut connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(transport), service);
        tokio::spawn(async move {
            let ended = (&mut connection).await;
            // After a declined upgrade hyper is done before it has sent all.
            if ended.as_ref().err().is_none_or(hyper::Error::is_parse) {
                let _ = connection.await;
            }
        });
        return;
    }
    let mut config = ConnectionConfig::default();
    config.park = false;
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let service = tower::service_fn(move |request| {
        let seen = Arc::clone(&seen);
        async move {
            let mut answered = answer(seen, request).await;
            if let (Server::ManagerByHyper, Ok(answer)) = (server, &mut answered) {
                answer.extensions_mut().insert(server);
            }
            answered
        }
    });
    tokio::spawn(manager.serve_connection(transport, None, service));
}

async fn ask(server: Server, stream: &Stream, seen: &Seen) -> Vec<Said> {
    let (client, transport) = tokio::io::duplex(stream.room);
    serve(server, transport, seen);
    let (mut reader, mut writer) = tokio::io::split(client);
    let send = async {
        let mut sent = 0;
        let pause = Duration::from_millis(if stream.pieces.len() < 100 { 50 } else { 1 });
        for end in &stream.pieces {
            // Not taken any more after the last answer.
            if writer.write_all(&stream.bytes[sent..*end]).await.is_err() {
                break;
            }
            sent = *end;
            sleep(pause).await;
        }
        if stream.end == End::Waits {
            sleep(Duration::from_millis(500)).await;
        }
        let _ = writer.shutdown().await;
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(reader.read_to_end(&mut got), send) };
    let ended = tokio::time::timeout(Duration::from_secs(100), both).await;
    // hyper alone may forget a request behind a body that nobody read.
    assert!(
        ended.is_ok() || (server == Server::Hyper && stream.unread),
        "{server:?} hangs: {stream:?}"
    );
    let mut methods = stream_methods(&stream.bytes).into_iter();
    let mut said = Vec::new();
    let mut rest = &got[..];
    while let Some((one, behind)) = Said::read(rest, methods.next() == Some(Method::HEAD)) {
        said.push(one);
        rest = behind;
    }
    // A debug assertion of hyper's fails behind such a body.
    assert!(
        rest.is_empty() || (server == Server::Hyper && stream.unread),
        "{server:?} {}",
        String::from_utf8_lossy(rest)
    );
    said
}

/// The methods of the requests, in order.
fn stream_methods(bytes: &[u8]) -> Vec<Method> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("\r\n").filter(|line| line.contains(" HTTP/1."));
    // A body may stand before it, in the same line.
    let methods = ["GET ", "HEAD ", "POST ", "CONNECT "];
    lines
        .filter_map(|line| methods.iter().find(|method| line.contains(*method)))
        .map(|method| method.trim().parse().expect("a method"))
        .collect()
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    status: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Said {
    fn read(got: &[u8], to_head: bool) -> Option<(Self, &[u8])> {
        let end = got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&got[..end]).expect("a head");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next()?.to_owned();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a field");
            let name: http::HeaderName = name.parse().expect("a name");
            if name != header::DATE {
                headers.append(name, value.parse().expect("a value"));
            }
        }
        let rest = &got[end..];
        let length = headers.get(header::CONTENT_LENGTH).map(|length| {
            let length = length.to_str().expect("text");
            length.parse::<usize>().expect("a number")
        });
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let none = to_head || status.contains(" 204 ");
        let length = match length {
            _ if none => 0,
            Some(length) => length,
            None if chunked => rest.windows(5).position(|five| five == b"0\r\n\r\n")? + 5,
            None => rest.len(),
        };
        let body = rest.get(..length)?.to_vec();
        let said = Self {
            status,
            headers,
            body,
        };
        Some((said, &rest[length..]))
    }

    /// Without what the manager says otherwise, and why.
    fn without_connection(&self) -> Self {
        let mut said = self.clone();
        said.headers.remove(header::CONNECTION);
        said
    }

    fn closes(&self) -> bool {
        let connection = self.headers.get(header::CONNECTION);
        connection.is_some_and(|said| said.as_bytes() == b"close")
    }
}

/// Why the manager said something else than hyper alone, if it may.
fn explained(stream: &Stream, got: &[Said], expected: &[Said]) -> Option<&'static str> {
    let alike = |a: &[Said], b: &[Said]| {
        let both = a.iter().zip(b);
        both.into_iter()
            .all(|(a, b)| a.without_connection() == b.without_connection())
    };
    if !alike(got, expected) {
        return None;
    }
    let old = |said: &Said| said.status.starts_with("HTTP/1.0");
    match got.len().cmp(&expected.len()) {
        std::cmp::Ordering::Equal if got.iter().zip(expected).all(|(a, b)| a == b || old(a)) => {
            Some("HTTP/1.0 is told twice, or wrongly, by hyper")
        }
        // hyper ends a connection behind a body that nobody read.
        _ if stream.unread && got.len() >= expected.len() => {
            Some("a body that nobody read cost hyper the connection")
        }
        std::cmp::Ordering::Less | std::cmp::Ordering::Equal
            if stream.connects.contains(&got.len().wrapping_sub(1))
                && got.last().is_some_and(Said::closes) =>
        {
            Some("bytes behind a refused CONNECT are no requests")
        }
        _ => None,
    }
}

#[test]
fn the_same_bytes_are_answered_the_same() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|n| n.parse::<u64>().expect("a number"))
    };
    let seeds = match number("STELLANE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STELLANE_STREAMS").unwrap_or(STREAMS),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut differences = BTreeMap::<_, u64>::new();
    let mut answers = 0;
    for seed in seeds {
        let stream = stream(seed);
        let servers = [Server::Manager, Server::ManagerByHyper, Server::Hyper];
        let [manager, by_hyper, hyper] = servers.map(|server| {
            let seen = Seen::default();
            let said = runtime.block_on(ask(server, &stream, &seen));
            let seen = seen.lock().expect("no panic").clone();
            (said, seen)
        });
        let tell = || {
            format!(
                "STELLANE_SEED={seed}\n{:?} {:?} {}\n{}\n{manager:#?}\n{by_hyper:#?}\n{hyper:#?}",
                stream.end,
                stream.pieces,
                stream.room,
                String::from_utf8_lossy(&stream.bytes),
            )
        };
        assert!(manager == by_hyper, "with and without hyper: {}", tell());
        // Everything that was handed to the service is answered; 400 to what was none is hyper's.
        let served = manager.1.len();
        let more = manager.0.len().checked_sub(served);
        assert!(more.is_some_and(|more| more <= 1), "{}", tell());
        if manager != hyper {
            let Some(why) = explained(&stream, &manager.0, &hyper.0) else {
                panic!("not explained: {}", tell());
            };
            *differences.entry(why).or_default() += 1;
        }
        answers += manager.0.len();
    }
    println!("{answers} answers, explained differences: {differences:?}");
}

//! HTTP/2 under attack, frame by frame, over real sockets.
#![cfg(feature = "http2")]

use std::{
    convert::Infallible,
    io, mem,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, frame,
};
use crate::looks::in_time;
use crate::served::served;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, ConnectionState, Incoming,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    let service = tower::service_fn(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.map(|b| b.to_bytes());
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, Infallible>(Response::new(Full::new(body.unwrap_or_default())))
    });
    served(config, service, |listener| listener).await
}

const ENHANCE_YOUR_CALM: u8 = 11;

/// `:method POST`, `:scheme http`, `:path /`, `:authority x`, by HPACK's static table.
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'x'];

/// Sends the preface, and then what `attack` makes for each turn, until the server has had enough; the code of its last
/// GOAWAY.
async fn attack(
    address: SocketAddr,
    attack: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> Option<u8> {
    let (mut read, mut write) = TcpStream::connect(address)
        .await
        .expect("connects")
        .into_split();
    let writing = tokio::spawn(async move {
        let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        if write.write_all(&greeting).await.is_err() {
            return;
        }
        for turn in 0..1_000_000 {
            if write.write_all(&attack(turn)).await.is_err() {
                return;
            }
        }
        panic!("a million turns, and still served");
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    writing.await.expect("is closed");
    let (mut rest, mut code) = (&answer[..], None);
    while let [a, b, c, kind, ..] = rest {
        if *kind == GOAWAY {
            code = rest.get(16).copied();
        }
        let length = 9 + usize::from(*a) * 65_536 + usize::from(*b) * 256 + usize::from(*c);
        rest = rest.get(length..).unwrap_or_default();
    }
    code
}

/// Serves a good client while `turn` attacks; with which reason the attacker was closed.
async fn survive(name: &str, turn: impl Fn(u32) -> Vec<u8> + Send + 'static) -> CloseReason {
    let (manager, address) = start(ConnectionConfig::default()).await;
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut good, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("speaks");
    tokio::spawn(connection);
    let attacking = tokio::spawn(attack(address, turn));
    let mut served = 0;
    while !attacking.is_finished() || served < 20 {
        let request = Request::post("http://x/").body(Full::new(Bytes::from_static(b"good")));
        let response = good
            .send_request(request.expect("a request"))
            .await
            .expect("answers");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(body, "good");
        served += 1;
    }
    let code = attacking.await.expect("attacks");
    while manager.stats().open > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stats = manager.stats();
    assert_eq!(stats.closed_total(), 1, "{name}");
    let reason = CloseReason::ALL
        .iter()
        .find(|reason| stats.closed(**reason) == 1);
    let reason = *reason.expect("one");
    println!("{name}: {reason}, GOAWAY: {code:?}, good requests meanwhile: {served}");
    if reason == CloseReason::Abuse {
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
    }
    reason
}

#[tokio::test]
async fn floods_are_ended_while_others_are_served() {
    let reset = |turn: u32| {
        let stream = turn * 2 + 1;
        [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, POST),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    assert_eq!(survive("rapid reset", reset).await, CloseReason::Abuse);
    let ping = |_| frame(PING, 0, 0, &[0; 8]);
    assert_eq!(survive("pings", ping).await, CloseReason::Abuse);
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    assert_eq!(survive("settings", settings).await, CloseReason::Abuse);
    let updates = |_| frame(8, 0, 0, &[0, 0, 0, 1]);
    assert_eq!(survive("byte by byte", updates).await, CloseReason::Abuse);
    let unknown = |_| frame(0xEE, 0, 0, b"?");
    assert_eq!(survive("unknown frames", unknown).await, CloseReason::Abuse);

    // What h2 may end sooner.
    let empty = |turn: u32| {
        let begin = frame(HEADERS, END_HEADERS, 1, POST);
        let data = frame(DATA, 0, 1, &[]);
        if turn == 0 {
            [begin, data].concat()
        } else {
            data
        }
    };
    let reason = survive("empty data", empty).await;
    assert!(
        matches!(reason, CloseReason::Abuse | CloseReason::ProtocolError),
        "{reason}"
    );
    let continuation = |turn: u32| {
        // A field that is not indexed, `a: a…`.
        let field = [&[0x00, 0x01, b'a', 0x7F, 0x81, 0x01][..], &[b'a'; 256]].concat();
        match turn {
            0 => frame(HEADERS, END_STREAM, 1, &[POST, &field].concat()),
            _ => frame(CONTINUATION, 0, 1, &field),
        }
    };
    let reason = survive("continuation", continuation).await;
    assert!(
        matches!(reason, CloseReason::Abuse | CloseReason::ProtocolError),
        "{reason}"
    );
    // Streams that h2 has to reset itself (CVE-2025-8671): a window that overflows.
    let reset_by_us = |turn: u32| {
        let stream = turn * 2 + 1;
        [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, POST),
            frame(8, 0, stream, &[0x7F, 0xFF, 0xFF, 0xFF]),
        ]
        .concat()
    };
    let reason = survive("made to reset", reset_by_us).await;
    assert!(
        matches!(reason, CloseReason::Abuse | CloseReason::ProtocolError),
        "{reason}"
    );
}

#[tokio::test]
async fn who_is_odd_is_asked_to_go_before_he_is_closed() {
    let mut config = ConnectionConfig::default();
    config.http2.abuse_burst = 100;
    config.http2.abuse_per_second = 0;
    let (manager, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let begin = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, POST),
    ]
    .concat();
    stream.write_all(&begin).await.expect("writes");
    stream
        .write_all(&frame(PING, 0, 0, &[0; 8]).repeat(80))
        .await
        .expect("writes");
    // Asked to go; but what was begun is served to its end.
    let mut answer = Vec::new();
    let goaway = |answer: &[u8]| answer.windows(4).any(|w| w[0] == 8 && w[1] == GOAWAY);
    while !goaway(&answer) {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    assert_eq!(manager.stats().open, 1);
    stream
        .write_all(&frame(DATA, END_STREAM, 1, b"in the end"))
        .await
        .expect("writes");
    while !answer.windows(10).any(|w| w == b"in the end") {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    drop(stream);
    while manager.stats().open > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(manager.stats().closed(CloseReason::Abuse), 1);
}

#[tokio::test]
async fn the_first_bytes_may_come_one_by_one() {
    let (manager, address) = start(ConnectionConfig::default()).await;
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for (protocol, sent, answer) in [
        ("HTTP/2", &greeting[..], [0, 0, 36, SETTINGS]),
        ("HTTP/1", b"PUT / HTTP/1.1\r\nhost: x\r\n\r\n", *b"HTTP"),
        (
            "HTTP/1",
            b"PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n",
            *b"HTTP",
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        for byte in sent {
            stream.write_all(&[*byte]).await.expect("writes");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut got = [0; 4];
        stream.read_exact(&mut got).await.expect("an answer");
        assert_eq!(got, answer, "{protocol}");
    }
    // Who says no more is waited for no longer than for any head.
    let mut config = ConnectionConfig::default();
    config.head_timeout = Duration::from_millis(200);
    let (quick, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"P").await.expect("writes");
    assert_eq!(stream.read(&mut [0; 100]).await.expect("an end"), 0);
    assert_eq!(quick.stats().closed(CloseReason::HeadTimeout), 1);
    assert_eq!(manager.stats().accepted_total, 3);
}

/// A client that takes so many bytes of its answer, which comes at once or in pieces; whether it was asked to go before
/// the end.
async fn with_little_room(
    config: ConnectionConfig,
    room: u16,
    pieces: usize,
) -> (ConnectionManager, bool) {
    let service = tower::service_fn(move |_: Request<Incoming>| async move {
        let piece = Bytes::from_static(&[b'x'; 10_000]);
        let body = match pieces {
            1 => Full::new(piece).boxed(),
            _ => {
                let pieces = vec![piece; pieces]
                    .into_iter()
                    .map(|piece| Ok(Frame::data(piece)));
                BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
            }
        };
        Ok::<_, Infallible>(Response::new(body))
    });
    let (manager, address) = served(config, service, |listener| listener).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let [high, low] = room.to_be_bytes();
    let begin = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, high, low]),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, POST),
    ]
    .concat();
    stream.write_all(&begin).await.expect("writes");
    let drained = tokio::spawn({
        let manager = manager.clone();
        async move {
            while manager.stats().requests_total == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if manager.config().idle_timeout.is_zero() {
                let report = manager.drain(Duration::from_millis(500)).await;
                assert_eq!((report.aborted, report.left), (1, 0));
            }
        }
    });
    // It answers what is asked of it, so that it is not taken for gone.
    let (mut asked_to_go, mut got) = (false, Vec::new());
    while stream.read_buf(&mut got).await.is_ok_and(|n| n > 0) {
        let length = |got: &[u8]| 9 + usize::from(got[1]) * 256 + usize::from(got[2]);
        while got.len() >= 9 && got.len() >= length(&got) {
            let rest = got.split_off(length(&got));
            asked_to_go |= got[3] == GOAWAY;
            if got[3] == PING && got[4] == 0 {
                let _ = stream.write_all(&frame(PING, 1, 0, &got[9..])).await;
            }
            got = rest;
        }
    }
    drained.await.expect("reports");
    while manager.stats().open > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (manager, asked_to_go)
}

#[tokio::test]
async fn a_stream_whose_client_makes_no_room_is_ended() {
    let mut config = ConnectionConfig::default();
    config.idle_timeout = Duration::from_millis(200);
    config.write_timeout = Duration::from_millis(300);
    config.rate_grace = Duration::from_millis(1000);
    // Its stream is reset: the connection is idle, and is asked to go for that.
    for pieces in [1, 100] {
        let (manager, asked_to_go) = with_little_room(config.clone(), 10, pieces).await;
        assert_eq!(manager.stats().closed(CloseReason::IdleTimeout), 1);
        assert!(asked_to_go);
    }
    // What h2 holds back of the last piece no longer concerns the handler: the connection counts as idle at once.
    let (manager, asked_to_go) = with_little_room(config, u16::MAX, 7).await;
    assert_eq!(manager.stats().closed(CloseReason::SlowRead), 1);
    assert!(asked_to_go);
}

#[tokio::test]
async fn a_drain_ends_in_time_whatever_its_clients_take() {
    let mut config = ConnectionConfig::default();
    config.idle_timeout = Duration::ZERO;
    config.drain_idle = Duration::ZERO;
    for pieces in [1, 100] {
        let (manager, asked_to_go) = with_little_room(config.clone(), 10, pieces).await;
        assert_eq!(manager.stats().closed(CloseReason::Aborted), 1);
        assert!(asked_to_go);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_is_not_idle_and_one_that_has_answered_is() {
    let mut config = ConnectionConfig::default();
    config.idle_timeout = Duration::from_secs(3);
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let service = tower::service_fn(|_: Request<Incoming>| async {
        let ticks = (0..10).map(|n| async move {
            tokio::time::sleep(Duration::from_secs(n.min(1))).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"tick")))
        });
        let ticks = futures_util::stream::iter(ticks).then(|tick| tick);
        Ok::<_, Infallible>(Response::new(StreamBody::new(ticks)))
    });
    let (near, far) = tokio::io::duplex(10_000);
    let serving = tokio::spawn(manager.serve_connection(far, None, service));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .expect("speaks");
    let connection = tokio::spawn(connection);
    let get = || Request::get("http://x/").body(Empty::<Bytes>::new());
    let first = client.send_request(get().expect("valid")).await;
    let first = tokio::spawn(first.expect("answers").into_body().collect());
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(manager.list()[0].state, ConnectionState::Active);
    assert_eq!(manager.stats().requests_in_flight, 1);
    let second = client.send_request(get().expect("valid")).await;
    let second = second.expect("was not asked to go").into_body().collect();
    assert_eq!(second.await.expect("a body").to_bytes().len(), 40);
    assert_eq!(
        first.await.expect("ends").expect("a body").to_bytes().len(),
        40
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(manager.list()[0].state, ConnectionState::Idle);
    let ends = tokio::time::timeout(Duration::from_secs(4), serving).await;
    assert_eq!(
        ends.expect("in time").expect("no panic"),
        CloseReason::IdleTimeout
    );
    connection.await.expect("no panic").expect("in peace");
}

#[tokio::test]
async fn what_the_settings_say_is_told_to_clients() {
    let mut config = ConnectionConfig::default();
    config.http2.max_concurrent_streams = 7;
    config.http2.stream_window_bytes = 70_000;
    config.http2.max_header_list_bytes = 7000;
    let (_manager, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&greeting).await.expect("writes");
    let mut answer = vec![0; 9];
    stream.read_exact(&mut answer).await.expect("reads");
    assert_eq!(answer[3], SETTINGS);
    let mut settings = vec![0; usize::from(answer[2])];
    stream.read_exact(&mut settings).await.expect("reads");
    let value = |id: u8| {
        let mut settings = settings.chunks(6).filter(|s| s[..2] == [0, id]);
        settings
            .next()
            .map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
    };
    assert_eq!(
        (value(3), value(4), value(6)),
        (Some(7), Some(70_000), Some(7000))
    );
}

/// Panics where its path says; no layer catches anything.
fn panics(
    path: String,
) -> impl Future<Output = Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible>>
{
    assert_ne!(path, "/call", "on purpose");
    async move {
        assert_ne!(path, "/first_poll", "on purpose");
        tokio::task::yield_now().await;
        assert_ne!(path, "/later", "on purpose");
        let body = Full::new(Bytes::from_static(b"hello"));
        Ok(Response::new(body.map_frame(move |frame| {
            assert_ne!(path, "/body", "on purpose");
            frame
        })))
    }
}

fn stream_panics_alone(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let (waits, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let service = tower::service_fn({
            let (waits, go) = (Arc::clone(&waits), Arc::clone(&go));
            move |request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let begun = (path == "/waits").then(|| (waits.clone(), go.clone()));
                let answer = panics(path);
                async move {
                    if let Some((waits, go)) = begun {
                        waits.notify_one();
                        go.notified().await;
                    }
                    answer.await
                }
            }
        });
        let (manager, address) =
            served(ConnectionConfig::default(), service, |listener| listener).await;
        let stream = TcpStream::connect(address).await.expect("connects");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("speaks");
        tokio::spawn(connection);
        let mut get = |path: &str| {
            let request = Request::get(format!("http://x{path}")).body(Empty::<Bytes>::new());
            let response = client.send_request(request.expect("a request"));
            async { Ok::<_, hyper::Error>(response.await?.into_body().collect().await?.to_bytes()) }
        };
        let waiting = tokio::spawn(get("/waits"));
        waits.notified().await;
        for path in ["/call", "/first_poll", "/later", "/body"] {
            assert!(get(path).await.is_err(), "{path}");
            assert_eq!(
                get("/good").await.expect("an answer"),
                "hello",
                "after {path}"
            );
        }
        go.notify_one();
        assert_eq!(
            waiting.await.expect("no panic").expect("an answer"),
            "hello"
        );
        assert_eq!(
            (manager.stats().open, manager.stats().accepted_total),
            (1, 1)
        );
    });
}

/// With and without tasks of their own for all streams.
#[test]
fn a_handler_that_panics_ends_its_stream_and_not_its_connection() {
    use tokio::runtime::Builder;
    let built = |builder: &mut Builder| builder.enable_all().build().expect("a runtime");
    stream_panics_alone(&built(&mut Builder::new_current_thread()));
    for workers in [1, 2, 4] {
        stream_panics_alone(&built(Builder::new_multi_thread().worker_threads(workers)));
    }
}

/// The server's end of a client that sends as many requests again as soon as anything is answered.
struct Insatiable {
    unread: Vec<u8>,
    next_stream: u32,
    answered: bool,
    reader: Option<Waker>,
}

/// So many at once, half of what it may.
const AT_ONCE: u32 = 50;

impl AsyncRead for Insatiable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() && mem::take(&mut self.answered) {
            for _ in 0..AT_ONCE {
                let post = frame(HEADERS, END_HEADERS | END_STREAM, self.next_stream, POST);
                self.unread.extend(post);
                self.next_stream += 2;
            }
        }
        if self.unread.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..n]);
        self.unread.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Insatiable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_connection_that_always_has_another_stream_leaves_others_their_turns() {
    let served = Arc::new(AtomicU32::new(0));
    let manager = ConnectionManager::builder().build().expect("valid");
    let counted = Arc::clone(&served);
    let service = tower::service_fn(move |_: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello")))) }
    });
    let client = Insatiable {
        unread: [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(),
        next_stream: 1,
        answered: true,
        reader: None,
    };
    tokio::spawn(manager.serve_connection(client, None, service));
    // A task like any other, in the queue behind the connection: tokio's `yield_now` has others wait for longer.
    let counting = tokio::spawn(async move {
        let (mut before, mut largest) = (0, 0);
        while before < 100 * AT_ONCE {
            let mut woken = false;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                match mem::replace(&mut woken, true) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
            let now = served.load(Ordering::Relaxed);
            largest = largest.max(now - before);
            before = now;
        }
        largest
    });
    let largest = in_time(counting).await;
    let largest = largest.expect("all served").expect("no panic");
    assert!(largest <= 2 * AT_ONCE, "{largest} between two turns");
}

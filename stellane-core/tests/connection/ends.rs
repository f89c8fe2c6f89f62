//! Planned ends lose nothing, and take as long as there is work.
#![cfg(feature = "http2")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, Incoming, ProxyProtocol,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Much longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers with `hello`; `/stream` never ends.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let stream = request.uri().path() == "/stream";
    // Some read what they are sent.
    let _ = request.into_body().collect().await;
    let hello = Ok(Frame::data(Bytes::from_static(b"hello")));
    let body = match stream {
        true => {
            let ticks = futures_util::stream::unfold(hello, |tick| async {
                sleep(Duration::from_millis(20)).await;
                let next = Ok(Frame::data(Bytes::from_static(b"hello")));
                Some((tick, next))
            });
            StreamBody::new(ticks).boxed_unsync()
        }
        false => Full::new(Bytes::from_static(b"hello")).boxed_unsync(),
    };
    Ok(Response::new(body))
}

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    served(config, tower::service_fn(answer), |listener| listener).await
}

/// A POST, and what came of it; `None` if the connection had ended.
async fn post(stream: &mut TcpStream) -> Option<String> {
    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";
    stream.write_all(request).await.ok()?;
    read_hello(stream).await
}

async fn get(stream: &mut TcpStream) -> Option<String> {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .ok()?;
    read_hello(stream).await
}

async fn read_hello(stream: &mut TcpStream) -> Option<String> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(answer).ok()
}

/// Passes connections on, and what comes over them half a round trip later.
async fn delayed(server: SocketAddr, round_trip: Duration) -> SocketAddr {
    async fn pass_on(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        delay: Duration,
    ) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((due, bytes)) = receiver.recv().await {
                tokio::time::sleep_until(due).await;
                let bytes: Vec<u8> = bytes;
                let done = match bytes.is_empty() {
                    true => to.shutdown().await.is_err(),
                    false => to.write_all(&bytes).await.is_err(),
                };
                if done {
                    return;
                }
            }
        });
        let mut buffer = [0; 4096];
        while let Ok(n) = from.read(&mut buffer).await {
            let due = Instant::now() + delay;
            if sender.send((due, buffer[..n].to_vec())).is_err() || n == 0 {
                return;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else {
                continue;
            };
            for stream in [&client, &server] {
                let _ = stream.set_nodelay(true);
            }
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(pass_on(from_client, to_server, round_trip / 2));
            tokio::spawn(pass_on(from_server, to_client, round_trip / 2));
        }
    });
    address
}

/// So many requests, by clients that keep their connections: how many were lost.
async fn lost(address: SocketAddr, clients: u64, requests: u64, longest_pause: Duration) -> u64 {
    let (left, lost) = (Arc::new(AtomicU64::new(requests)), Arc::default());
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (left, lost) = (Arc::clone(&left), Arc::<AtomicU64>::clone(&lost));
        tasks.spawn(async move {
            let mut random = client * 7919 + 1;
            let mut stream = None;
            let mut answered = Instant::now();
            while left
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                // Held up for longer than it meant to be.
                if answered.elapsed() > longest_pause {
                    stream = None;
                }
                let kept = match &mut stream {
                    Some(kept) => kept,
                    None => {
                        let new = TcpStream::connect(address).await.expect("connects");
                        new.set_nodelay(true).expect("sets");
                        stream.insert(new)
                    }
                };
                match post(kept).await {
                    Some(answer) if answer.contains("connection: close") => stream = None,
                    Some(_) => {}
                    None => {
                        lost.fetch_add(1, Relaxed);
                        stream = None;
                    }
                }
                answered = Instant::now();
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                sleep(longest_pause.mul_f64((random >> 40) as f64 / (1 << 24) as f64)).await;
            }
        });
    }
    tasks.join_all().await;
    lost.load(Relaxed)
}

/// With `STELLANE_TEST_REQUESTS=100000` as long as it takes to be sure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_whose_pauses_are_short_lose_nothing_at_the_greatest_age() {
    let whole = std::env::var("STELLANE_TEST_REQUESTS").ok();
    let requests = whole.and_then(|n| n.parse().ok()).unwrap_or(800);
    let clients = (requests / 60).clamp(20, 200);
    for round_trip in [0, 20].map(Duration::from_millis) {
        let mut config = ConnectionConfig::default();
        config.max_age = Duration::from_millis(400);
        config.drain_idle = Duration::from_millis(500);
        config.park_after = Duration::from_millis(20);
        // What is left is for a machine that is busy with other tests.
        let pause = config.drain_idle - round_trip - Duration::from_millis(150);
        let (manager, server) = start(config).await;
        let address = match round_trip.is_zero() {
            true => server,
            false => delayed(server, round_trip).await,
        };
        let lost = lost(address, clients, requests, pause).await;
        let stats = manager.stats();
        println!("{lost} of {requests} lost at {round_trip:?}: {stats:?}");
        assert_eq!(lost, 0, "at {round_trip:?}");
        assert!(stats.closed(CloseReason::MaxAge) > clients, "{stats:?}");
    }
}

#[tokio::test]
async fn a_connection_of_the_greatest_age_says_so_before_it_ends() {
    let mut config = ConnectionConfig::default();
    config.max_age = Duration::from_millis(100);
    config.drain_idle = LONG;
    let (manager, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut answers = 0;
    loop {
        let answer = post(&mut stream).await.expect("is never closed before");
        answers += 1;
        if answer.contains("connection: close") {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(answers > 1, "at once");
    assert_eq!(stream.read(&mut [0]).await.expect("ends"), 0);
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::MaxAge) == 1
    })
    .await;
}

#[tokio::test]
async fn what_is_open_on_a_connection_of_the_greatest_age_ends_after_the_grace() {
    let mut config = ConnectionConfig::default();
    config.max_age = Duration::from_millis(100);
    config.max_age_grace = Duration::from_millis(300);
    let (manager, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let get = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(get).await.expect("writes");
    let mut answer = Vec::new();
    let end = timeout(LONG, stream.read_to_end(&mut answer)).await;
    end.expect("ends").expect("reads");
    assert!(answer.windows(5).filter(|five| five == b"hello").count() > 3);
    assert!(
        !answer.ends_with(b"0\r\n\r\n"),
        "cut, and the client sees it"
    );
    let reason = CloseReason::MaxAgeGrace;
    until(&manager, "closed", |m| m.stats().closed(reason) == 1).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The head of a request on stream 1 that goes on.
const HALF_HEADERS: &[u8] = &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82];

/// What a client has sent when a drain begins, and after that says no more.
fn silent_clients() -> Vec<(&'static str, Vec<u8>)> {
    let proxied = |bytes: &[u8]| [b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n", bytes].concat();
    vec![
        ("nothing", proxied(b"")),
        ("a PROXY header awaited", Vec::new()),
        ("half a PROXY header", b"PROXY TCP4 192".to_vec()),
        ("less than tells the protocol", proxied(b"PR")),
        ("half a preface", proxied(&PREFACE[..12])),
        ("a preface without SETTINGS", proxied(PREFACE)),
        ("no PING answered", proxied(&[PREFACE, SETTINGS].concat())),
        (
            "half a head of HTTP/2",
            proxied(&[PREFACE, SETTINGS, HALF_HEADERS].concat()),
        ),
        ("half a line", proxied(b"GET / HT")),
        ("half a head", proxied(b"GET / HTTP/1.1\r\nhost: x\r\n")),
        ("an answer", proxied(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")),
        (
            "half a second head",
            proxied(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nPOST / HTTP/1.1\r\nhost"),
        ),
    ]
}

fn behind_a_proxy() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.proxy_protocol.mode = ProxyProtocol::Required;
    config.proxy_protocol.trusted = vec!["127.0.0.1".to_owned()];
    config.proxy_protocol.timeout = LONG;
    config.drain_idle = Duration::from_millis(300);
    config
}

#[tokio::test]
async fn a_drain_waits_for_no_client_that_asks_for_nothing() {
    for (what, bytes) in silent_clients() {
        let (manager, address) = start(behind_a_proxy()).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(&bytes).await.expect("writes");
        sleep(Duration::from_millis(50)).await;
        let drain = timeout(LONG / 2, manager.drain(LONG)).await;
        let report = drain.unwrap_or_else(|_| panic!("{what}: {:?}", manager.list()));
        assert_eq!(report.aborted, 0, "{what}");
        let stats = manager.stats();
        assert_eq!(stats.closed(CloseReason::Drained), 1, "{what}: {stats:?}");
        assert_eq!(stats.accepted_total, 1, "{what}");
    }
}

/// What a client has sent when a drain begins, and what it sends a moment later.
#[tokio::test]
async fn who_goes_on_within_a_moment_is_answered_in_a_drain() {
    let request = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n";
    // In the PROXY header, right behind it, in the line, before the last byte.
    for at in [0, 10, 40, 45, request.len() - 1] {
        let mut config = behind_a_proxy();
        // A moment may be long on a busy machine.
        config.drain_idle = LONG;
        let (manager, address) = start(config).await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(&request[..at]).await.expect("writes");
        // Accepted by then.
        sleep(Duration::from_millis(50)).await;
        let client = async {
            sleep(Duration::from_millis(100)).await;
            stream.write_all(&request[at..]).await.expect("writes");
            let answer = read_hello(&mut stream).await.expect("is answered");
            assert!(answer.contains("connection: close"), "{at}: {answer}");
        };
        let (report, ()) = tokio::join!(manager.drain(LONG), client);
        assert_eq!((report.aborted, report.closed), (0, 1), "{at}");
    }
}

#[tokio::test]
async fn http2_that_answers_pings_takes_the_rest_of_its_answer_in_a_drain() {
    let mut config = ConnectionConfig::default();
    config.drain_idle = Duration::from_millis(100);
    let (manager, address) = start(config).await;
    let stream = TcpStream::connect(address).await.expect("connects");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(executor)
        // So that the end of the answer waits for this client.
        .initial_stream_window_size(2)
        .handshake(io)
        .await
        .expect("speaks");
    tokio::spawn(connection);
    let request = Request::get("http://x/").body(Full::<Bytes>::default());
    let response = client.send_request(request.expect("valid")).await;
    let response = response.expect("answers");
    let read = async {
        sleep(Duration::from_millis(600)).await;
        let body = response.into_body().collect().await;
        assert_eq!(body.expect("whole").to_bytes(), "hello");
    };
    let (report, ()) = tokio::join!(manager.drain(LONG), read);
    assert_eq!((report.aborted, report.closed), (0, 1));
}

#[tokio::test]
async fn a_table_full_of_half_heads_makes_room_for_whole_ones() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 20;
    let (manager, address) = start(config).await;
    let mut attackers = Vec::new();
    for _ in 0..25 {
        let mut attacker = TcpStream::connect(address).await.expect("connects");
        attacker
            .write_all(b"GET / HTTP/1.1\r\nhost: ")
            .await
            .expect("writes");
        attackers.push(attacker);
    }
    // By then they are too slow for a full house.
    sleep(Duration::from_millis(1500)).await;
    let mut all_good = Vec::new();
    for nth in 0..10 {
        let mut good = TcpStream::connect(address).await.expect("connects");
        let answer = post(&mut good).await.expect("is answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{nth}: {answer}");
        all_good.push(good);
    }
    let reason = CloseReason::HeadTimeout;
    until(&manager, "made room", |m| m.stats().closed(reason) >= 10).await;
    assert!(manager.stats().open <= 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_place_loses_nothing_and_who_comes_too_late_hears_why() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 30;
    let (manager, address) = start(config).await;
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        clients.spawn(async move {
            let (mut served, mut refused, mut left) = (0, 0, 100);
            while left > 0 {
                let mut stream = TcpStream::connect(address).await.expect("connects");
                while left > 0 {
                    left -= 1;
                    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";
                    stream.write_all(request).await.expect("the server reads");
                    let mut answer = Vec::new();
                    while !answer.ends_with(b"hello") && !answer.starts_with(b"HTTP/1.1 503") {
                        let read = stream.read_buf(&mut answer).await;
                        assert!(read.expect("no reset") > 0, "closed without an answer");
                    }
                    let answer = String::from_utf8(answer).expect("text");
                    match answer.starts_with("HTTP/1.1 200") {
                        true => served += 1,
                        false => refused += 1,
                    }
                    if answer.contains("connection: close") {
                        break;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            }
            (served, refused)
        });
    }
    let outcomes = clients.join_all().await;
    let served: i32 = outcomes.iter().map(|(served, _)| served).sum();
    assert!(served > 3000, "{outcomes:?}");
    let stats = manager.stats();
    assert_eq!(stats.accepted_total, stats.open + stats.closed_total());
}

/// A connection in use, for as long as it is kept.
async fn streaming(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let get = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(get).await.expect("writes");
    read_hello(&mut stream).await.expect("is answered");
    stream
}

#[tokio::test]
async fn who_finds_no_room_is_told_in_its_protocol_and_can_read_it() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 1;
    let (manager, address) = start(config).await;
    let _busy = streaming(address).await;
    let large = [
        &b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 30000\r\n\r\n"[..],
        &[b'x'; 30_000],
    ]
    .concat();
    for (asks, hears) in [
        (
            &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            &b"HTTP/1.1 503 "[..],
        ),
        (&large, b"HTTP/1.1 503 "),
        (b"", b"HTTP/1.1 503 "),
        // Empty SETTINGS, then GOAWAY.
        (PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7]),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(asks).await.expect("writes");
        let mut answer = Vec::new();
        while stream.read_buf(&mut answer).await.expect("no reset") > 0 {
            // It goes on sending while it reads, as clients do.
            let _ = stream.write_all(b"x").await;
        }
        assert!(answer.starts_with(hears), "{answer:?}");
    }
    assert_eq!(manager.stats().closed(CloseReason::Refused), 4);
}

#[tokio::test]
async fn newcomers_that_wait_delay_nobody_and_are_let_in_when_there_is_room() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 3;
    config.park_after = Duration::from_millis(1);
    let (manager, address) = start(config).await;
    let busy = [streaming(address).await, streaming(address).await];
    let mut parked = TcpStream::connect(address).await.expect("connects");
    for _ in 0..5 {
        get(&mut parked).await.expect("is answered");
        until(&manager, "parked", |m| m.stats().parked == 1).await;
        let mut newcomer = TcpStream::connect(address).await.expect("connects");
        newcomer
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        // Accepted by then.
        sleep(Duration::from_millis(50)).await;
        let room = timeout(Duration::ZERO, read_hello(&mut newcomer)).await;
        assert!(room.is_err(), "there is none: {room:?}");
        let answer = get(&mut parked).await.expect("is answered");
        assert!(answer.contains("connection: close"), "asked to make room");
        // And has, by that.
        let answer = read_hello(&mut newcomer).await.expect("is answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        parked = newcomer;
    }
    drop(busy);
}

#[tokio::test]
async fn newcomers_that_wait_are_served_in_a_drain() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 1;
    config.drain_idle = LONG;
    let (manager, address) = start(config).await;
    let busy = streaming(address).await;
    let mut newcomer = TcpStream::connect(address).await.expect("connects");
    newcomer
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    sleep(Duration::from_millis(50)).await;
    let client = async {
        sleep(Duration::from_millis(50)).await;
        drop(busy);
        let answer = read_hello(&mut newcomer).await.expect("is answered");
        assert!(
            answer.contains("200 OK") && answer.contains("connection: close"),
            "{answer}"
        );
    };
    let (report, ()) = tokio::join!(manager.drain(LONG), client);
    assert_eq!(report.aborted, 0);
}

//! HTTP/2 under attack, frame by frame, over real sockets.
#![cfg(feature = "http2")]

#[path = "support/served.rs"]
mod served;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use served::served;
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    let service = tower::service_fn(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.map(|b| b.to_bytes());
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, Infallible>(Response::new(Full::new(body.unwrap_or_default())))
    });
    served(config, service, |listener| listener).await
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `:method POST`, `:scheme http`, `:path /`, `:authority x`, by HPACK's static table.
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'x'];

/// Sends the preface, and then what `attack` makes for each turn, until the server has had enough; whether
/// it said GOAWAY before.
async fn attack(address: SocketAddr, attack: impl Fn(u32) -> Vec<u8> + Send + 'static) -> bool {
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
    let mut rest = &answer[..];
    while let [a, b, c, kind, ..] = rest {
        if *kind == GOAWAY {
            return true;
        }
        let length = 9 + usize::from(*a) * 65_536 + usize::from(*b) * 256 + usize::from(*c);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
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
    let said_goaway = attacking.await.expect("attacks");
    while manager.stats().open > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stats = manager.stats();
    assert_eq!(stats.closed_total(), 1, "{name}");
    let reason = CloseReason::ALL
        .iter()
        .find(|reason| stats.closed(**reason) == 1);
    let reason = *reason.expect("one");
    println!("{name}: {reason}, GOAWAY: {said_goaway}, good requests meanwhile: {served}");
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

//! Clients of HTTP/2 that send or take bytes too slowly: their stream is ended, and its connection lives.
#![cfg(feature = "http2")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Peer, RST_STREAM, field, frame, head, window_update,
};
use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use stellane_core::connection::{ConnectionConfig, ConnectionManager, Incoming};

const GRACE: Duration = Duration::from_millis(500);

/// SETTINGS_INITIAL_WINDOW_SIZE.
fn window(bytes: u32) -> Vec<u8> {
    [&[0, 4][..], &bytes.to_be_bytes()].concat()
}

fn config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.rate_grace = GRACE;
    config.min_body_rate_bytes = 1000;
    config.min_response_rate_bytes = 1000;
    config
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// `/read` reads the body, `/answer/N` has a body of N bytes, `/pieces/N` of N pieces, `/quiet` says something and
/// then nothing for long, `/both` answers before it reads.
async fn handle(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let (name, number) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
    let number: usize = number.parse().expect("a number");
    let body = match name {
        "answer" => Full::new(Bytes::from(vec![b'a'; number])).boxed_unsync(),
        "pieces" => {
            let piece = |_| Ok(Frame::data(Bytes::from_static(&[b'p'; 10_000])));
            StreamBody::new(stream::iter((0..number).map(piece))).boxed_unsync()
        }
        "quiet" => {
            let later = stream::unfold(0, |n| async move {
                tokio::time::sleep(4 * GRACE * n.min(1)).await;
                let tick = Ok(Frame::data(Bytes::from_static(b"tick")));
                (n < 2).then_some((tick, n + 1))
            });
            StreamBody::new(later).boxed_unsync()
        }
        "both" => {
            let body = request.into_body();
            let rest = stream::unfold(body, |mut body| async {
                let frame = body.frame().await?.ok()?;
                Some((Ok(frame), body))
            });
            StreamBody::new(rest).boxed_unsync()
        }
        _ => {
            let body = request.into_body().collect().await;
            let length = body.map_or(0, |body| body.to_bytes().len());
            Full::from(format!("got {length}")).boxed_unsync()
        }
    };
    Ok(Response::new(body))
}

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    served(config, tower::service_fn(handle), |listener| listener).await
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &head("GET", path),
    )
}

fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", path))
}

/// The body of an answer, which comes to its end.
async fn answer(peer: &mut Peer, stream: u32) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let frame = peer.next().await.expect("a frame");
        assert!(!frame.is(RST_STREAM, stream), "{frame:?} {}", body.len());
        if frame.is(DATA, stream) {
            body.extend(&frame.payload);
        }
        if frame.stream == stream && frame.flags & END_STREAM != 0 && frame.kind <= HEADERS {
            return body;
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_not_taken_ends_its_stream_and_no_other() {
    for (room, path) in [
        (0, "/answer/100"),
        (10, "/answer/10000"),
        (10, "/pieces/1"),
        (10, "/pieces/100"),
        (65_535, "/answer/65536"),
        (65_535, "/answer/1000000"),
        (65_535, "/pieces/100"),
        (1 << 20, "/answer/1000000"),
    ] {
        let (manager, address) = start(config()).await;
        let mut peer = Peer::greet(address, &window(room)).await;
        peer.send(&get(1, path)).await;
        let reset = peer.until(RST_STREAM, 1).await;
        assert_eq!(reset.code(), 8, "CANCEL: {path} with {room}");
        // Room for all of the connection: the other stream has its own.
        peer.send(&[window_update(0, 1 << 20), get(3, "/answer/100")].concat())
            .await;
        peer.send(&window_update(3, 1000)).await;
        assert_eq!(answer(&mut peer, 3).await.len(), 100);
        let stats = manager.stats();
        assert_eq!((stats.open, stats.closed_total()), (1, 0));
        until(&manager, "idle", |m| m.stats().requests_in_flight == 0).await;
    }
}

#[tokio::test]
async fn an_answer_is_ended_also_while_another_is_taken_fast() {
    let mut config = config();
    config.min_response_rate_bytes = 100_000;
    let (_manager, address) = start(config).await;
    let mut peer = Peer::greet(address, &window(65_535)).await;
    peer.send(&get(1, "/answer/1000000")).await;
    let mut next = 3;
    peer.send(&window_update(0, 1 << 30)).await;
    peer.send(&get(next, "/answer/10000")).await;
    let mut others = 0;
    loop {
        let frame = peer.next().await.expect("a frame");
        if frame.is(RST_STREAM, 1) {
            break;
        }
        assert_ne!(frame.kind, RST_STREAM);
        if frame.stream == next && frame.flags & END_STREAM != 0 {
            others += 1;
            next += 2;
            peer.send(&get(next, "/answer/10000")).await;
        }
    }
    assert!(others > 10, "{others}");
}

#[tokio::test]
async fn an_upload_slower_than_the_rate_is_told_and_ended_and_no_other() {
    let (manager, address) = start(config()).await;
    let mut peer = Peer::greet(address, &[]).await;
    // One sends nothing, one a fifth of the rate, one what is asked.
    peer.send(&[post(1, "/read"), post(3, "/read"), post(5, "/read")].concat())
        .await;
    let (mut slow, mut turn) = (Vec::new(), 0);
    let ended = async {
        while slow.len() < 2 {
            tokio::select! {
                frame = peer.next() => {
                    let frame = frame.expect("a frame");
                    if frame.kind == HEADERS {
                        slow.push((frame.stream, frame.flags & END_STREAM));
                        // `:status 408` in Huffman's code, and then in the table.
                        let status = frame.payload.windows(3).any(|w| w == [0x68, 0x0F, 0x7F]);
                        assert!(status || slow.len() == 2, "{frame:?}");
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    turn += 1;
                    if !slow.contains(&(3, END_STREAM)) {
                        peer.stream.try_write(&frame(DATA, 0, 3, &[b'x'; 10])).expect("writes");
                    }
                    peer.stream.try_write(&frame(DATA, 0, 5, &[b'x'; 500])).expect("writes");
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("both are ended");
    assert_eq!(slow, [(1, END_STREAM), (3, END_STREAM)]);
    assert_eq!(manager.stats().requests_cancelled_total, 2);
    peer.send(&frame(DATA, END_STREAM, 5, b"")).await;
    let body = String::from_utf8(answer(&mut peer, 5).await).expect("text");
    assert_eq!(body, format!("got {}", turn * 500));
    assert_eq!(manager.stats().open, 1);
}

#[tokio::test]
async fn an_upload_that_is_too_slow_is_reset_in_peace() {
    let (_manager, address) = start(config()).await;
    let mut peer = Peer::greet(address, &[]).await;
    peer.send(&post(1, "/read")).await;
    let reset = peer.until(RST_STREAM, 1).await;
    assert_eq!(
        reset.code(),
        0,
        "the answer is whole, the body is not wanted"
    );
}

/// None of them is slow.
#[tokio::test]
async fn who_waits_for_the_service_or_has_an_answer_is_not_too_slow() {
    let (manager, address) = start(config()).await;
    let mut peer = Peer::greet(address, &[]).await;
    // The service has nothing to say, or nobody has: a call in both directions, and one of gRPC.
    let grpc = [
        head("POST", "/read"),
        field("content-type", "application/grpc+proto"),
    ];
    peer.send(&get(1, "/quiet")).await;
    peer.send(&post(3, "/both")).await;
    peer.send(&frame(HEADERS, END_HEADERS, 5, &grpc.concat()))
        .await;
    peer.send(&frame(DATA, 0, 3, b"first")).await;
    assert_eq!(answer(&mut peer, 1).await, b"ticktick");
    peer.send(&frame(DATA, END_STREAM, 3, b" last")).await;
    peer.send(&frame(DATA, END_STREAM, 5, b"call")).await;
    let last = peer.until(DATA, 3).await;
    assert!(last.payload.ends_with(b"last"), "{last:?}");
    assert_eq!(answer(&mut peer, 5).await, b"got 4");
    assert_eq!(manager.stats().open, 1);
}

#[tokio::test]
async fn a_reader_that_takes_what_is_asked_has_all_of_it() {
    for room in [0, 1000] {
        let (_manager, address) = start(config()).await;
        let mut peer = Peer::greet(address, &window(room)).await;
        peer.send(&get(1, "/answer/20000")).await;
        let mut got = 0;
        while got < 20_000 {
            tokio::select! {
                frame = peer.next() => {
                    let frame = frame.expect("a frame");
                    assert_ne!(frame.kind, RST_STREAM, "after {got}");
                    if frame.kind == DATA {
                        got += frame.payload.len();
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    peer.send(&window_update(1, 400)).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn answers_that_hold_too_much_and_are_not_taken_end() {
    let mut config = config();
    config.min_response_rate_bytes = 0;
    config.http2.max_unread_bytes = 1 << 20;
    let (manager, address) = start(config).await;
    let mut peer = Peer::greet(address, &window(100)).await;
    let requests: Vec<_> = (0..5).map(|n| get(n * 2 + 1, "/answer/400000")).collect();
    peer.send(&requests.concat()).await;
    let mut reset = Vec::new();
    while reset.len() < 2 {
        let frame = peer.next().await.expect("a frame");
        if frame.kind == RST_STREAM {
            reset.push(frame.stream);
        }
    }
    // The others fit.
    peer.send(&window_update(0, 1 << 22)).await;
    for stream in [1, 3, 5, 7, 9].into_iter().filter(|s| !reset.contains(s)) {
        peer.send(&window_update(stream, 1 << 20)).await;
        assert_eq!(answer(&mut peer, stream).await.len(), 400_000 - 100);
    }
    assert_eq!(manager.stats().open, 1);
}

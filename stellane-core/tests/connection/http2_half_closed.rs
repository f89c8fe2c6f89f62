//! A client of HTTP/2 that ends its side of the socket is answered, as one of HTTP/1 is.
#![cfg(feature = "full")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, head, window_update,
};
use crate::self_signed::SelfSigned;
use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, Incoming, TlsAcceptor,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);
const LARGE: usize = 300_000;

fn full(body: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(body.into()).boxed()
}

/// `n` pieces, one after the other.
fn pieces(n: usize) -> BoxBody<Bytes, Infallible> {
    let pieces = futures_util::stream::unfold(n, |left| async move {
        let left = left.checked_sub(1)?;
        sleep(Duration::from_millis(5)).await;
        let piece = http_body::Frame::data(Bytes::from_static(b"piece"));
        Some((Ok(piece), left))
    });
    BodyExt::boxed(StreamBody::new(Box::pin(pieces)))
}

async fn app(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let body = body.map(http_body_util::Collected::to_bytes);
    let answer = match &*path {
        "/slow" => {
            sleep(Duration::from_millis(30)).await;
            full("slow")
        }
        "/never" => std::future::pending().await,
        "/large" => full(vec![b'x'; LARGE]),
        "/pieces" => pieces(5),
        "/long" => pieces(100),
        _ => full(body.unwrap_or_default()),
    };
    Ok(Response::new(answer))
}

async fn start(grace: Duration, tls: Option<&SelfSigned>) -> (ConnectionManager, SocketAddr) {
    let mut config = ConnectionConfig::default();
    config.half_close_grace = grace;
    served(config, tower::service_fn(app), |listener| match tls {
        Some(tls) => listener.tls(&TlsAcceptor::from_rustls(tls.server())),
        None => listener,
    })
    .await
}

/// Requests on streams 1, 3, 5 ..., behind the preface; a client that takes whatever it is sent.
fn requests(asked: &[(&str, &str)]) -> Vec<u8> {
    let window = [&[0, 4][..], &(1_u32 << 30).to_be_bytes()].concat();
    let mut sent = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &window),
        &window_update(0, 1 << 30),
    ]
    .concat();
    for (n, (path, body)) in asked.iter().enumerate() {
        let stream = u32::try_from(n).expect("few") * 2 + 1;
        match *body {
            "" => sent.extend(frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                stream,
                &head("GET", path),
            )),
            body => {
                sent.extend(frame(HEADERS, END_HEADERS, stream, &head("POST", path)));
                sent.extend(frame(DATA, END_STREAM, stream, body.as_bytes()));
            }
        }
    }
    sent
}

/// Sends that in pieces of a size, ends its side, and reads to the end: what came on each stream, and whether that was
/// all.
async fn ask<S>(mut socket: S, bytes: &[u8], size: usize, streams: usize) -> Vec<(Vec<u8>, bool)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for piece in bytes.chunks(size) {
        socket.write_all(piece).await.expect("writes");
        socket.flush().await.expect("writes");
        if size < bytes.len() {
            tokio::task::yield_now().await;
        }
    }
    socket.shutdown().await.expect("ends its side");
    let mut wire = Vec::new();
    // The end may be that of a socket, or without TLS's goodbye.
    let reading = timeout(PATIENCE, socket.read_to_end(&mut wire)).await;
    let mut answers = vec![(Vec::new(), false); streams];
    let _ = reading.expect("the end");
    let mut rest = &wire[..];
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, next) = after.split_at(length);
        let stream = usize::from(head[8]);
        if stream > 0
            && let Some((body, all)) = answers.get_mut(stream / 2)
        {
            if head[3] == DATA {
                body.extend_from_slice(payload);
            }
            *all |= matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0;
        }
        rest = next;
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_was_asked_for_before_the_end_is_answered() {
    let asked = [
        ("/", ""),
        ("/", "posted"),
        ("/slow", ""),
        ("/pieces", ""),
        ("/large", ""),
        ("/slow", "posted"),
        ("/", ""),
    ];
    let large = "x".repeat(LARGE);
    let expected = [
        "",
        "posted",
        "slow",
        "piecepiecepiecepiecepiece",
        &large,
        "slow",
        "",
    ];
    let key = SelfSigned::new();
    for tls in [None, Some(&key)] {
        let (manager, address) = start(Duration::from_secs(10), tls).await;
        for count in [1, 2, 3, asked.len()] {
            for skipped in 0..=asked.len() - count {
                let range = skipped..skipped + count;
                let bytes = requests(&asked[range.clone()]);
                for size in [bytes.len(), 7, 1] {
                    let socket = TcpStream::connect(address).await.expect("connects");
                    let answers = match tls {
                        Some(key) => ask(key.connect(socket).await, &bytes, size, count).await,
                        None => ask(socket, &bytes, size, count).await,
                    };
                    for ((body, all), expected) in answers.iter().zip(&expected[range.clone()]) {
                        let asked = &asked[range.clone()];
                        assert!(*all, "{asked:?} by {size}: not all");
                        assert!(body == expected.as_bytes(), "{asked:?} by {size}");
                    }
                }
            }
        }
        until(&manager, "ended", |m| m.stats().open == 0).await;
        let stats = manager.stats();
        assert_eq!(stats.requests_cancelled_total, 0);
        assert_eq!(
            stats.closed(CloseReason::ClientClosed),
            stats.closed_total()
        );
    }
}

#[tokio::test]
async fn what_is_not_answered_within_the_grace_is_cancelled() {
    let key = SelfSigned::new();
    for tls in [None, Some(&key)] {
        for (asked, answers) in [
            (&[("/never", "")][..], &[None][..]),
            (
                &[("/", "posted"), ("/never", ""), ("/slow", "")],
                &[Some("posted"), None, Some("slow")],
            ),
        ] {
            let (manager, address) = start(Duration::from_millis(200), tls).await;
            let bytes = requests(asked);
            let socket = TcpStream::connect(address).await.expect("connects");
            let got = match tls {
                Some(key) => {
                    ask(
                        key.connect(socket).await,
                        &bytes,
                        bytes.len(),
                        answers.len(),
                    )
                    .await
                }
                None => ask(socket, &bytes, bytes.len(), answers.len()).await,
            };
            for ((body, all), expected) in got.iter().zip(answers) {
                assert_eq!(*all, expected.is_some(), "{asked:?}");
                assert_eq!(body, expected.unwrap_or_default().as_bytes());
            }
            until(&manager, "ended", |m| m.stats().open == 0).await;
            assert_eq!(manager.stats().closed(CloseReason::HalfClosed), 1);
            until(&manager, "cancelled", |m| {
                m.stats().requests_cancelled_total == 1
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_while_anything_is_sent() {
    let (manager, address) = start(Duration::from_millis(200), None).await;
    let socket = TcpStream::connect(address).await.expect("connects");
    let bytes = requests(&[("/long", "")]);
    let answers = ask(socket, &bytes, bytes.len(), 1).await;
    assert_eq!(answers, [(b"piece".repeat(100), true)]);
    assert_eq!(manager.stats().closed(CloseReason::HalfClosed), 0);
}

/// Its rest can not come, and nobody waits for that longer than the grace.
#[tokio::test]
async fn half_a_body_and_a_closed_window_end_with_the_grace() {
    let half = [
        requests(&[]),
        frame(HEADERS, END_HEADERS, 1, &head("POST", "/")),
        frame(DATA, 0, 1, b"half"),
    ]
    .concat();
    let none = [0, 4, 0, 0, 0, 0];
    let closed = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &none),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/large")),
    ]
    .concat();
    for bytes in [half, closed] {
        let (manager, address) = start(Duration::from_millis(100), None).await;
        let socket = TcpStream::connect(address).await.expect("connects");
        let answers = ask(socket, &bytes, bytes.len(), 1).await;
        assert_eq!(answers, [(Vec::new(), false)]);
        until(&manager, "ended", |m| m.stats().open == 0).await;
        assert_eq!(manager.stats().closed(CloseReason::HalfClosed), 1);
    }
}

#[tokio::test]
async fn who_has_nothing_open_is_let_go_at_once() {
    let (manager, address) = start(Duration::from_secs(1000), None).await;
    for bytes in [requests(&[]), requests(&[("/", "posted")])] {
        let socket = TcpStream::connect(address).await.expect("connects");
        ask(socket, &bytes, bytes.len(), 1).await;
    }
    until(&manager, "ended", |m| m.stats().open == 0).await;
    assert_eq!(manager.stats().closed(CloseReason::ClientClosed), 2);
}

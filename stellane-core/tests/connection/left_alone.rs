//! Connections that ask for nothing cost nothing: their tasks are not polled, in simulated time.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    task::JoinHandle,
    time::sleep,
};

/// Counts how often it is asked for bytes, which each turn of a connection does.
struct Counted(DuplexStream, Arc<AtomicU64>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1.fetch_add(1, Relaxed);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn manager(change: impl FnOnce(&mut ConnectionConfig)) -> ConnectionManager {
    let mut config = ConnectionConfig::default();
    change(&mut config);
    let builder = ConnectionManager::builder().config(config);
    builder.build().expect("valid")
}

/// A connection that no listener accepted: its client, the turns it has had, and its end.
fn connect(manager: &ConnectionManager) -> (DuplexStream, Arc<AtomicU64>, JoinHandle<CloseReason>) {
    let service = tower::service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let (client, server) = tokio::io::duplex(1 << 16);
    let turns = Arc::new(AtomicU64::new(0));
    let server = Counted(server, Arc::clone(&turns));
    let serving = tokio::spawn(manager.serve_connection(server, None, service));
    (client, turns, serving)
}

/// Asks once; the turns of the half minute that begins some seconds later.
async fn turns_while_idle(client: &mut DuplexStream, request: &[u8], turns: &AtomicU64) -> u64 {
    client.write_all(request).await.expect("takes it");
    let mut got = Vec::new();
    while !got.windows(5).any(|window| window == b"hello") {
        assert!(client.read_buf(&mut got).await.expect("an answer") > 0);
    }
    sleep(Duration::from_secs(5)).await;
    let before = turns.load(Relaxed);
    sleep(Duration::from_secs(30)).await;
    turns.load(Relaxed) - before
}

/// A sweep comes ten times a second. What looks after it may have a turn every five.
const FEW: u64 = 8;

#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_next_to_no_turns() {
    let manager = manager(|_| {});
    // Whoever comes first sweeps for all.
    let (_first, ..) = connect(&manager);
    let (mut client, turns, _serving) = connect(&manager);
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let turns = turns_while_idle(&mut client, request, &turns).await;
    assert!(turns < FEW, "{turns}");
}

#[cfg(feature = "http2")]
#[tokio::test(start_paused = true)]
async fn an_idle_connection_of_http2_has_next_to_no_turns() {
    use crate::frames::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame};

    let manager = manager(|config| config.http2.ping_interval = Duration::ZERO);
    let (_first, ..) = connect(&manager);
    let (mut client, turns, _serving) = connect(&manager);
    let get = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
    let request = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &get),
    ];
    let turns = turns_while_idle(&mut client, &request.concat(), &turns).await;
    assert!(turns < FEW, "{turns}");
}

#[tokio::test(start_paused = true)]
async fn when_the_one_that_sweeps_ends_the_others_still_keep_to_their_deadlines() {
    let manager = manager(|config| config.head_timeout = Duration::from_secs(10));
    let (first, _, first_serving) = connect(&manager);
    let mut others: Vec<_> = (0..3).map(|_| connect(&manager)).collect();
    drop(first);
    first_serving.await.expect("no panic");
    for (client, ..) in &mut others {
        client.write_all(b"GET / HT").await.expect("takes it");
    }
    // Each of them hands its turn on when it ends.
    for (_client, _, serving) in others {
        assert_eq!(serving.await.expect("no panic"), CloseReason::HeadTimeout);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_one_that_sweeps_is_held_the_others_still_keep_to_their_deadlines() {
    let manager = manager(|config| config.head_timeout = Duration::from_secs(10));
    let service = tower::service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let (_held, server) = tokio::io::duplex(1 << 16);
    let mut held = Box::pin(manager.serve_connection(server, None, service));
    // Nobody polls it any more.
    assert!((&mut held).now_or_never().is_none());
    let (mut client, _, serving) = connect(&manager);
    client.write_all(b"GET / HT").await.expect("takes it");
    assert_eq!(serving.await.expect("no panic"), CloseReason::HeadTimeout);
}

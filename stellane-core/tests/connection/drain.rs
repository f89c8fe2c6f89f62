//! A drain of many connections: it comes to one after the other, and loses no request.

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, time::Duration};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// With a window of a second for fifty connections.
async fn start() -> (ConnectionManager, SocketAddr) {
    let mut config = ConnectionConfig::default();
    config.park_after = Duration::from_millis(1);
    config.drain_idle = Duration::from_millis(200);
    config.drain_spread = Duration::from_secs(20);
    let hello = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    served(config, hello, |listener| listener).await
}

/// One exchange; `None` if the server has closed.
async fn exchange(stream: &mut TcpStream) -> Option<String> {
    stream.write_all(GET).await.ok()?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(answer).ok()
}

/// Clients that have asked once.
async fn fifty(address: SocketAddr) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(address).await.expect("connects");
        exchange(&mut client).await.expect("answers");
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn idle_connections_close_one_after_the_other() {
    let (manager, address) = start().await;
    let _clients = fifty(address).await;
    until(&manager, "parked", |m| m.stats().parked == 50).await;
    let mut seen = BTreeSet::new();
    let mut drain = std::pin::pin!(manager.drain(Duration::from_secs(30)));
    let report = loop {
        tokio::select! {
            report = &mut drain => break report,
            () = tokio::time::sleep(Duration::from_millis(5)) => seen.insert(manager.stats().open),
        };
    };
    assert_eq!((report.closed, report.aborted), (50, 0));
    assert_eq!(manager.stats().closed(CloseReason::Drained), 50);
    // All at once would be 50 and 0.
    assert!(seen.len() >= 5, "{seen:?}");
}

#[tokio::test]
async fn a_drain_that_spreads_still_meets_its_deadline() {
    let (manager, address) = start().await;
    let _clients = fifty(address).await;
    // The window would go on for longer.
    let report = manager.drain(Duration::from_millis(900)).await;
    assert_eq!((report.closed, report.aborted), (50, 0));
}

#[tokio::test]
async fn who_goes_on_asking_is_answered_until_told_to_leave() {
    let (manager, address) = start().await;
    let mut clients = JoinSet::new();
    for mut stream in fifty(address).await {
        clients.spawn(async move {
            let mut answers = 0;
            loop {
                let answer = exchange(&mut stream).await.expect("no request is lost");
                answers += 1;
                if answer.contains("connection: close") {
                    let mut rest = Vec::new();
                    let end = stream.read_to_end(&mut rest).await;
                    assert!(matches!(end, Ok(0)), "{end:?}");
                    return answers;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let report = manager.drain(Duration::from_secs(30)).await;
    let mut answers: Vec<u32> = clients.join_all().await;
    assert_eq!((report.closed, report.aborted), (50, 0));
    answers.sort_unstable();
    assert!(
        answers[49] > 2 * answers[0],
        "they left together: {answers:?}"
    );
}

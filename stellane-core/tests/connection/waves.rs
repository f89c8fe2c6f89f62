//! However many connections are parked, come back or are closed at once, others have their turn in between.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::{looks::in_time, served::served};
use http::{Request, Response};
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, ConnectionStats, Incoming,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
};

const CLIENTS: u64 = 400;
/// What happens to more than so many between two turns of another task held that task up.
const FEW: u64 = 80;

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    served(config, service, |listener| listener).await
}

async fn send(client: &mut TcpStream) {
    let sent = client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sent.expect("writes");
}

async fn receive(client: &mut TcpStream) {
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert!(client.read_buf(&mut got).await.expect("reads") > 0);
    }
}

/// `CLIENTS` of them, each with an answered request.
async fn clients(address: SocketAddr) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(address).await.expect("connects");
        send(&mut client).await;
        receive(&mut client).await;
        clients.push(client);
    }
    clients
}

/// Has a turn as often as it can until all clients are counted, and tells the largest step of the count between
/// two of them.
async fn largest_step(
    manager: &ConnectionManager,
    count: impl Fn(&ConnectionStats) -> u64 + Send + 'static,
) -> u64 {
    let counted = manager.clone();
    // A task like any other: the one of the test itself is preferred by the runtime.
    let counting = tokio::spawn(async move {
        let (mut before, mut largest) = (count(&counted.stats()), 0);
        while before < CLIENTS {
            yield_now().await;
            let now = count(&counted.stats());
            largest = largest.max(now.saturating_sub(before));
            before = now;
        }
        largest
    });
    let counted = in_time(counting).await;
    counted
        .unwrap_or_else(|| panic!("not all: {:?}", manager.stats()))
        .expect("no panic")
}

#[tokio::test]
async fn connections_are_parked_come_back_and_are_closed_a_few_at_a_time() {
    let mut config = ConnectionConfig::default();
    // Time to connect them all.
    config.park_after = Duration::from_secs(600);
    let (manager, address) = start(config).await;
    let mut clients = clients(address).await;

    manager.set_park_after(Duration::ZERO);
    let step = largest_step(&manager, |stats| stats.parked).await;
    assert!(step <= FEW, "{step} were parked at once");

    manager.set_park_after(Duration::from_secs(600));
    for client in &mut clients {
        send(client).await;
    }
    let step = largest_step(&manager, |stats| stats.unparked_total).await;
    assert!(step <= FEW, "{step} came back at once");
    for client in &mut clients {
        receive(client).await;
    }

    manager.set_park_after(Duration::ZERO);
    largest_step(&manager, |stats| stats.parked).await;
    manager.set_idle_timeout(Duration::from_millis(1));
    let step = largest_step(&manager, |stats| stats.closed(CloseReason::IdleTimeout)).await;
    assert!(step <= FEW, "{step} were closed at once");
}

#[tokio::test]
async fn connections_that_never_send_a_byte_are_closed_a_few_at_a_time() {
    let mut config = ConnectionConfig::default();
    config.first_byte_timeout = Duration::from_secs(1);
    let (manager, address) = start(config).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(TcpStream::connect(address).await.expect("connects"));
    }
    let closed = |stats: &ConnectionStats| stats.closed(CloseReason::FirstByteTimeout);
    let step = largest_step(&manager, closed).await;
    assert!(step <= FEW, "{step} were closed at once");
}

//! Connections that come back as soon as they are parked are parked later.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use stellane_core::connection::{ConnectionConfig, ConnectionManager, ConnectionStats, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

const CLIENTS: u64 = 150;
const PARK_AFTER: Duration = Duration::from_millis(100);

/// One request after each pause, on each of the connections.
async fn ask(manager: &ConnectionManager, pause: Duration, times: usize) {
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let clients = (0..CLIENTS).map(|n| {
        let (mut near, far) = tokio::io::duplex(1000);
        let serving = tokio::spawn(manager.serve_connection(far, None, service));
        tokio::spawn(async move {
            sleep(pause * u32::try_from(n).expect("few") / 150).await;
            for _ in 0..times {
                let get = near.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
                get.expect("writes");
                let mut got = Vec::new();
                while !got.ends_with(b"hello") {
                    assert!(near.read_buf(&mut got).await.expect("reads") > 0);
                }
                sleep(pause).await;
            }
            drop(near);
            serving.await.expect("no panic");
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
}

fn manager() -> ConnectionManager {
    let mut config = ConnectionConfig::default();
    config.park_after = PARK_AFTER;
    let manager = ConnectionManager::builder().config(config).build();
    let manager = manager.expect("valid");
    assert_eq!(manager.config().park_after, PARK_AFTER);
    manager
}

fn new_since(before: &ConnectionStats, after: &ConnectionStats) -> (u64, u64) {
    let requests = after.requests_total - before.requests_total;
    (requests, after.unparked_total - before.unparked_total)
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_at_once_is_parked_later_and_as_usual_when_that_is_over() {
    let manager = manager();
    ask(&manager, Duration::from_millis(220), 4).await;
    let learnt = manager.stats();
    assert!(learnt.park_after > PARK_AFTER, "{:?}", learnt.park_after);

    ask(&manager, Duration::from_millis(220), 40).await;
    let stats = manager.stats();
    let (requests, unparked) = new_since(&learnt, &stats);
    assert!(unparked * 10 < requests, "{unparked} of {requests}");

    // One that comes now and then lets the time pass.
    let (_client, far) = tokio::io::duplex(1000);
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let _serving = tokio::spawn(manager.serve_connection(far, None, service));
    sleep(Duration::from_secs(9)).await;
    assert!(manager.stats().park_after > PARK_AFTER);
    ask(&manager, Duration::from_secs(3), 13).await;
    assert_eq!(manager.stats().park_after, PARK_AFTER);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_late_is_parked_all_the_same() {
    let manager = manager();
    ask(&manager, Duration::from_secs(2), 10).await;
    let stats = manager.stats();
    assert_eq!(stats.park_after, PARK_AFTER);
    assert_eq!(stats.unparked_total, stats.requests_total - CLIENTS);
}

//! The manager's numbers agree with each other at any moment.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::served::served;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, Incoming, WhenFull,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_open_or_has_ended_at_any_moment() {
    let mut config = ConnectionConfig::default();
    config.max_connections_per_peer = 3;
    config.when_full = WhenFull::Close;
    let (manager, address) = served(config, tower::service_fn(hello), |listener| listener).await;
    let over = Arc::new(AtomicBool::new(false));
    let looking = {
        let (manager, over) = (manager.clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut looks = 0;
            while !over.load(Relaxed) {
                let stats = manager.stats();
                let known = stats.open + stats.closed_total();
                assert_eq!(stats.accepted_total, known, "{stats:?}");
                looks += 1;
            }
            looks
        })
    };
    let clients = (0..8).map(|_| {
        tokio::spawn(async move {
            for _ in 0..150 {
                let mut stream = TcpStream::connect(address).await.expect("connects");
                // A refused one is gone already.
                let _ = stream
                    .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    .await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    over.store(true, Relaxed);
    let looks = tokio::task::spawn_blocking(|| looking.join())
        .await
        .expect("joins");
    assert!(looks.expect("no contradiction") > 100);
    let stats = manager.stats();
    assert!(
        stats.closed(CloseReason::Refused) > 0 && stats.closed(CloseReason::Finished) > 0,
        "{stats:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn speeds_are_those_of_the_latest_second() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let (mut client, server) = tokio::io::duplex(4096);
    tokio::spawn(manager.serve_connection(server, None, tower::service_fn(hello)));
    for _ in 0..40 {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        assert!(client.read(&mut [0; 1000]).await.expect("reads") > 0);
        sleep(Duration::from_millis(50)).await;
    }
    let stats = manager.stats();
    assert!((19..=21).contains(&stats.requests_per_second), "{stats:?}");
    sleep(Duration::from_secs(2)).await;
    let stats = manager.stats();
    assert_eq!((stats.requests_per_second, stats.requests_total), (0, 40));
    assert_eq!((stats.accepted_per_second, stats.accepted_total), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_whole_process_makes_no_idle_client_a_slow_one() {
    let mut config = ConnectionConfig::default();
    config.park = false;
    let long = 2 * (config.idle_timeout + config.write_timeout);
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let (mut near, far) = tokio::io::duplex(1000);
    let service = tower::service_fn(hello);
    let serving = tokio::spawn(manager.serve_connection(far, None, service));
    let get = near.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    get.expect("writes");
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert!(near.read_buf(&mut got).await.expect("reads") > 0);
    }
    tokio::time::advance(long).await;
    serving.await.expect("no panic");
    let stats = manager.stats();
    assert_eq!(stats.closed(CloseReason::IdleTimeout), 1, "{stats:?}");
}

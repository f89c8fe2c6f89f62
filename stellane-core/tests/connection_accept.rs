//! Listening sockets and what is decided before a connection is served.
#![cfg(feature = "connection")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, ListenConfig, Listener, WhenFull,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

fn manager(config: ConnectionConfig) -> ConnectionManager {
    ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid")
}

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    let manager = manager(config);
    let listener = Listener::bind("127.0.0.1:0", &manager.config().listen)
        .await
        .expect("binds");
    let address = listener.local_addr().expect("TCP");
    tokio::spawn(manager.serve(listener, tower::service_fn(hello)));
    (manager, address)
}

async fn get(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn several_sockets_share_an_address_and_one_drain() {
    let mut config = ConnectionConfig::default();
    config.listen.sockets = 4;
    config.drain_idle = Duration::ZERO;
    let manager = manager(config);
    let listeners = Listener::bind_all("127.0.0.1:0", &manager.config().listen)
        .await
        .expect("binds");
    assert_eq!(listeners.len(), 4);
    let address = listeners[0].local_addr().expect("TCP");
    assert!(listeners.iter().all(|l| l.local_addr() == Some(address)));
    let serving = tokio::spawn(manager.serve_all(listeners, tower::service_fn(hello)));
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = TcpStream::connect(address).await.expect("connects");
        get(&mut client).await;
        clients.push(client);
    }
    let report = manager.drain(Duration::from_secs(5)).await;
    assert_eq!((report.closed, report.aborted), (32, 0));
    serving.await.expect("ends").expect("without an error");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_shared_only_when_asked() {
    let mut config = ListenConfig::default();
    let first = Listener::bind("127.0.0.1:0", &config).await.expect("binds");
    let address = first.local_addr().expect("TCP").to_string();
    let error = Listener::bind(&address, &config).await.expect_err("in use");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(first);

    config.reuse_port = true;
    let _first = Listener::bind(&address, &config).await.expect("binds");
    let _second = Listener::bind(&address, &config).await.expect("binds too");
}

#[tokio::test]
async fn connections_inherit_what_the_listener_was_told() {
    let manager = manager(ConnectionConfig::default());
    let listener = Listener::bind("127.0.0.1:0", &ListenConfig::default())
        .await
        .expect("binds");
    let address = listener.local_addr().expect("TCP");
    // As the accept loop sets it up.
    let serving = manager.serve(listener, tower::service_fn(hello));
    tokio::spawn(serving);
    let mut client = TcpStream::connect(address).await.expect("connects");
    get(&mut client).await;
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{:04X}", address.port());
    let of_server = |line: &&str| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|a| a.ends_with(&port))
    };
    // Timer 2 is keep-alive; the listening socket has none.
    let timers: Vec<_> = table
        .lines()
        .filter(of_server)
        .filter_map(|line| line.split_whitespace().nth(5))
        .collect();
    assert!(
        timers.iter().any(|timer| timer.starts_with("02:")),
        "{timers:?}"
    );
}

#[tokio::test]
async fn a_unix_socket_replaces_a_dead_file_and_no_living_one() {
    let path = std::env::temp_dir().join(format!("stellane-accept-{}.sock", std::process::id()));
    let address = format!("unix:{}", path.display());
    let _ = std::fs::remove_file(&path);
    for round in 0..2 {
        let manager = manager(ConnectionConfig::default());
        let listener = Listener::bind(&address, &ListenConfig::default())
            .await
            .expect("binds");
        assert!(
            Listener::bind(&address, &ListenConfig::default())
                .await
                .is_err(),
            "{round}"
        );
        let serving = tokio::spawn(manager.serve(listener, tower::service_fn(hello)));
        let mut client = UnixStream::connect(&path).await.expect("connects");
        get(&mut client).await;
        serving.abort();
        let _ = serving.await;
        // The file stays, as after a crash.
        assert!(path.exists());
    }
    std::fs::remove_file(&path).expect("removes");
}

#[tokio::test]
async fn more_than_the_rate_waits_in_the_queue() {
    let mut config = ConnectionConfig::default();
    // One at once, and then one in each minute.
    config.max_accepts_per_second = 1;
    let (manager, address) = start(config).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(
            TcpStream::connect(address)
                .await
                .expect("the system accepts"),
        );
    }
    get(&mut clients[0]).await;
    assert_eq!(manager.stats().accepted_total, 1);
    manager.set_max_accepts_per_second(0);
    for client in &mut clients {
        get(client).await;
    }
    assert_eq!(manager.stats().accepted_total, 3);
}

#[tokio::test]
async fn who_finds_no_room_hears_503_or_nothing() {
    for (when_full, heard) in [(WhenFull::Respond, "HTTP/1.1 503"), (WhenFull::Close, "")] {
        let mut config = ConnectionConfig::default();
        config.max_connections_per_peer = 1;
        config.when_full = when_full;
        let (manager, address) = start(config).await;
        let mut first = TcpStream::connect(address).await.expect("connects");
        get(&mut first).await;
        let mut second = TcpStream::connect(address).await.expect("connects");
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.expect("reads");
        assert_eq!(answer.get(..12).unwrap_or(""), heard);
        assert_eq!(manager.stats().closed(CloseReason::Refused), 1);
    }
}

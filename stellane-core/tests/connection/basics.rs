//! The manager over real sockets.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, ConnectionState, Incoming, ServeError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

async fn start(
    config: ConnectionConfig,
) -> (
    ConnectionManager,
    SocketAddr,
    JoinHandle<Result<(), ServeError>>,
) {
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let service = tower::service_fn(|request: Request<Incoming>| async move {
        if request.uri().path() == "/sleep" {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let serving = tokio::spawn(manager.serve(listener, service));
    (manager, address, serving)
}

fn quick() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.park_after = Duration::from_millis(1);
    config.drain_idle = Duration::from_millis(100);
    config
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.expect("writes");
    read_hello(stream).await
}

async fn read_hello(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let n = stream.read_buf(&mut answer).await.expect("reads");
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).expect("text")
}

/// A connection whose request is being served.
async fn busy(manager: &ConnectionManager, address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream
        .write_all(b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    until(manager, "busy", |m| m.stats().requests_in_flight == 1).await;
    stream
}

fn state(manager: &ConnectionManager, state: ConnectionState) -> bool {
    manager
        .list()
        .iter()
        .all(|connection| connection.state == state)
}

#[tokio::test]
async fn an_idle_connection_is_parked_and_answers_again() {
    let (manager, address, _serving) = start(quick()).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    for round in 0..3 {
        exchange(&mut stream, GET).await;
        until(&manager, "parked", |m| state(m, ConnectionState::Parked)).await;
        assert_eq!(manager.stats().unparked_total, round);
    }
    let connection = &manager.list()[0];
    assert_eq!(connection.requests, 3, "it is still the same connection");
    assert_eq!(connection.bytes_read, 3 * GET.len() as u64);
}

#[cfg(unix)]
#[tokio::test]
async fn a_connection_that_waits_has_no_task() {
    let (manager, address, _serving) = start(quick()).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        exchange(&mut stream, GET).await;
        idle.push(stream);
        // One that never says anything.
        idle.push(TcpStream::connect(address).await.expect("connects"));
    }
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    until(&manager, "without tasks", |_| tasks() <= 1).await;
    assert_eq!((manager.stats().parked, manager.stats().new), (20, 20));
    for stream in &mut idle {
        exchange(stream, GET).await;
    }
    // A client that leaves is noticed as well, in either state.
    idle.clear();
    until(&manager, "empty", |m| m.stats().open == 0).await;
    assert_eq!(manager.stats().closed(CloseReason::ClientClosed), 40);
}

#[tokio::test]
async fn a_head_in_pieces_is_read_whole_from_every_state() {
    let (manager, address, _serving) = start(quick()).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    for split in 1..GET.len() {
        stream.write_all(&GET[..split]).await.expect("writes");
        until(&manager, "head", |m| state(m, ConnectionState::Head)).await;
        stream.write_all(&GET[split..]).await.expect("writes");
        read_hello(&mut stream).await;
        if split % 2 == 0 {
            until(&manager, "parked", |m| state(m, ConnectionState::Parked)).await;
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let (manager, address, _serving) = start(quick()).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // Three requests and a half.
    let mut requests = GET.repeat(3);
    requests.extend_from_slice(&GET[..9]);
    stream.write_all(&requests).await.expect("writes");
    let mut answers = String::new();
    while answers.matches("hello").count() < 3 {
        answers.push_str(&read_hello(&mut stream).await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stream.write_all(&GET[9..]).await.expect("writes");
    read_hello(&mut stream).await;
    assert_eq!(manager.stats().requests_total, 4);
}

#[tokio::test]
async fn each_deadline_ends_its_connection_with_its_reason() {
    let mut config = quick();
    config.first_byte_timeout = Duration::from_millis(200);
    config.head_timeout = Duration::from_millis(200);
    config.idle_timeout = Duration::from_millis(200);
    let (manager, address, _serving) = start(config).await;

    let mut silent = TcpStream::connect(address).await.expect("connects");
    let mut slow = TcpStream::connect(address).await.expect("connects");
    slow.write_all(b"GET / HT").await.expect("writes");
    let mut idle = TcpStream::connect(address).await.expect("connects");
    exchange(&mut idle, GET).await;

    let mut end = Vec::new();
    silent.read_to_end(&mut end).await.expect("reads");
    assert_eq!(end, b"");
    slow.read_to_end(&mut end).await.expect("reads");
    assert!(
        end.starts_with(b"HTTP/1.1 408 "),
        "{}",
        String::from_utf8_lossy(&end)
    );
    end.clear();
    idle.read_to_end(&mut end).await.expect("reads");
    assert_eq!(end, b"");

    until(&manager, "closed", |m| m.stats().open == 0).await;
    let stats = manager.stats();
    for reason in [
        CloseReason::FirstByteTimeout,
        CloseReason::HeadTimeout,
        CloseReason::IdleTimeout,
    ] {
        assert_eq!(stats.closed(reason), 1, "{reason}");
    }
    assert_eq!(stats.closed_total(), stats.accepted_total);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let mut config = quick();
    config.write_timeout = Duration::from_millis(300);
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let big = Bytes::from(vec![0; 64 << 20]);
    let service = tower::service_fn(move |_: Request<Incoming>| {
        let big = big.clone();
        async move { Ok::<_, Infallible>(Response::new(Full::new(big))) }
    });
    let _serving = tokio::spawn(manager.serve(listener, service));
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(GET).await.expect("writes");
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::SlowRead) == 1
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let mut config = quick();
    config.half_close_grace = Duration::from_millis(20);
    let (manager, address, _serving) = start(config).await;
    let stream = busy(&manager, address).await;
    drop(stream);
    until(&manager, "cancelled", |m| {
        m.stats().requests_cancelled_total == 1
    })
    .await;
    until(&manager, "closed", |m| m.stats().open == 0).await;
    assert_eq!(manager.stats().requests_in_flight, 0);
}

#[tokio::test]
async fn a_full_table_makes_room_by_closing_the_idlest() {
    let mut config = quick();
    config.max_connections = 2;
    let (manager, address, _serving) = start(config).await;
    let mut oldest = TcpStream::connect(address).await.expect("connects");
    exchange(&mut oldest, GET).await;
    until(&manager, "parked", |m| state(m, ConnectionState::Parked)).await;
    let mut busy = busy(&manager, address).await;

    let mut newest = TcpStream::connect(address).await.expect("connects");
    exchange(&mut newest, GET).await;
    assert_eq!(
        oldest.read(&mut [0; 8]).await.expect("reads"),
        0,
        "made room"
    );
    read_hello(&mut busy).await;
    assert_eq!(manager.stats().closed(CloseReason::Reclaimed), 1);
}

#[tokio::test]
async fn a_peer_has_its_limit_and_hears_503() {
    let mut config = quick();
    config.max_connections_per_peer = 1;
    let (manager, address, _serving) = start(config).await;
    let mut first = TcpStream::connect(address).await.expect("connects");
    exchange(&mut first, GET).await;
    let mut second = TcpStream::connect(address).await.expect("connects");
    let mut answer = Vec::new();
    second.read_to_end(&mut answer).await.expect("reads");
    assert!(
        answer.starts_with(b"HTTP/1.1 503 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    drop(first);
    until(&manager, "closed", |m| m.stats().open == 0).await;
    let mut third = TcpStream::connect(address).await.expect("connects");
    exchange(&mut third, GET).await;
}

#[tokio::test]
async fn max_requests_is_announced_on_the_last_response() {
    let mut config = quick();
    config.max_requests = 2;
    let (manager, address, _serving) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    assert!(
        !exchange(&mut stream, GET)
            .await
            .contains("connection: close")
    );
    assert!(
        exchange(&mut stream, GET)
            .await
            .contains("connection: close")
    );
    assert_eq!(stream.read(&mut [0; 8]).await.expect("reads"), 0);
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::MaxRequests) == 1
    })
    .await;
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_says_close() {
    let (manager, address, serving) = start(quick()).await;
    let mut parked = TcpStream::connect(address).await.expect("connects");
    exchange(&mut parked, GET).await;
    let mut busy = busy(&manager, address).await;

    let drain = tokio::spawn({
        let manager = manager.clone();
        async move { manager.drain(Duration::from_secs(5)).await }
    });
    until(&manager, "draining", ConnectionManager::is_draining).await;
    // On its way when the drain began: still answered, and told to go.
    assert!(
        exchange(&mut parked, GET)
            .await
            .contains("connection: close")
    );
    assert!(read_hello(&mut busy).await.contains("connection: close"));
    let report = drain.await.expect("drains");
    assert_eq!((report.closed, report.aborted, report.left), (2, 0, 0));
    serving.await.expect("ends").expect("without an error");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "no longer accepts"
    );
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (manager, address, serving) = start(quick()).await;
    let mut busy = busy(&manager, address).await;
    let report = manager.drain(Duration::from_millis(50)).await;
    assert_eq!((report.aborted, report.left), (1, 0));
    assert_eq!(busy.read(&mut [0; 8]).await.expect("reads"), 0);
    serving.await.expect("ends").expect("without an error");
}

#[tokio::test]
async fn dropping_the_server_closes_its_connections() {
    let (manager, address, serving) = start(quick()).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    exchange(&mut stream, GET).await;
    serving.abort();
    let _ = serving.await;
    assert_eq!(stream.read(&mut [0; 8]).await.expect("reads"), 0);
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::Aborted) == 1
    })
    .await;
}

#[tokio::test]
async fn one_connection_can_be_closed_by_hand() {
    let (manager, address, _serving) = start(quick()).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    exchange(&mut stream, GET).await;
    let id = manager.list()[0].id;
    assert!(manager.close(id));
    assert_eq!(stream.read(&mut [0; 8]).await.expect("reads"), 0);
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::Killed) == 1
    })
    .await;
    assert!(!manager.close(id));
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_served_the_same() {
    let manager = ConnectionManager::builder()
        .config(quick())
        .build()
        .expect("valid");
    let path = std::env::temp_dir().join(format!("stellane-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).expect("binds");
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let _serving = tokio::spawn(manager.serve(listener, service));
    let mut stream = tokio::net::UnixStream::connect(&path)
        .await
        .expect("connects");
    for _ in 0..2 {
        stream.write_all(GET).await.expect("writes");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
        }
        until(&manager, "parked", |m| state(m, ConnectionState::Parked)).await;
    }
    std::fs::remove_file(&path).expect("removes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_never_go_down_while_connections_end() {
    let (manager, address, _serving) = start(quick()).await;
    let clients = tokio::spawn(async move {
        for _ in 0..1000 {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            exchange(&mut stream, GET).await;
        }
    });
    let mut last = 0;
    while !clients.is_finished() {
        let total = manager.stats().requests_total;
        assert!(total >= last, "{total} after {last}");
        last = total;
    }
    clients.await.expect("no panic");
    assert_eq!(manager.stats().requests_total, 1000);
}

/// The largest piece in which a handler that is slow to read gets a body of 8 MiB, in bytes.
async fn largest_piece(config: ConnectionConfig) -> usize {
    const BODY: usize = 8 << 20;
    let slow = tower::service_fn(|request: Request<Incoming>| async move {
        let mut body = request.into_body();
        let mut largest = 0;
        while let Some(frame) = body.frame().await {
            largest = frame
                .expect("arrives")
                .into_data()
                .map_or(0, |data| data.len())
                .max(largest);
            // The client is faster, so what may be read at once is there.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(largest.to_string()))))
    });
    let (_manager, address) = served(config, slow, |listener| listener).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {BODY}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.expect("writes");
    client.write_all(&vec![b'x'; BODY]).await.expect("writes");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers");
    let (_, largest) = answer.split_once("\r\n\r\n").expect("a head");
    largest.parse().expect("a number")
}

#[tokio::test]
async fn an_upload_is_read_in_pieces_as_large_as_the_buffer_may_grow() {
    let mut config = ConnectionConfig::default();
    let largest = largest_piece(config.clone()).await;
    assert!(
        largest > 200 << 10,
        "{largest} bytes: small heads are no reason for small reads"
    );
    config.read_buffer_bytes = 64 << 10;
    let largest = largest_piece(config).await;
    // Two reads may have met before the handler took them.
    assert!(largest <= 128 << 10, "{largest} bytes");
}

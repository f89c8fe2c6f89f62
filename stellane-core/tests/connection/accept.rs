//! Listening sockets and what is decided before a connection is served.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::connection::ProxyProtocol;
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, Incoming, ListenConfig, Listener, WhenFull,
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

fn behind_a_proxy(mode: ProxyProtocol, trusted: &str) -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.proxy_protocol.mode = mode;
    config.proxy_protocol.trusted = vec![trusted.to_owned()];
    config.proxy_protocol.timeout = Duration::from_millis(200);
    config
}

/// Version 2, `PROXY`, TCP over IPv4, from 192.0.2.7:4711, with an extension of three bytes.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x12\xC0\x00\x02\x07\xC0\x00\x02\x01\x12\x67\x00\x50\x04\x00\x03abc";

#[tokio::test]
async fn a_trusted_proxy_says_who_its_client_is() {
    let (manager, address) = start(behind_a_proxy(ProxyProtocol::Required, "127.0.0.0/8")).await;
    let headers: [(&[u8], &str); 4] = [
        (
            b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n",
            "192.0.2.7:4711",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n",
            "[2001:db8::7]:4711",
        ),
        (V2, "192.0.2.7:4711"),
        // A health check of the proxy's own.
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ];
    for (header, expected) in headers {
        // At once with the request, and byte by byte.
        for piece in [1000, 1] {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.set_nodelay(true).expect("sets");
            for piece in header.chunks(piece) {
                stream.write_all(piece).await.expect("writes");
                tokio::task::yield_now().await;
            }
            get(&mut stream).await;
            let peer = manager.list()[0].peer.expect("TCP").to_string();
            assert!(peer.starts_with(expected), "{peer}, expected {expected}");
            drop(stream);
            while !manager.list().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    assert_eq!(manager.stats().closed_total(), 8);
}

#[tokio::test]
async fn limits_are_those_of_the_client_behind_the_proxy() {
    let mut config = behind_a_proxy(ProxyProtocol::Required, "127.0.0.1");
    config.max_connections_per_peer = 1;
    let (manager, address) = start(config).await;
    let mut clients = Vec::new();
    for client in 1..=3 {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let header = format!("PROXY TCP4 192.0.2.{client} 192.0.2.1 4711 80\r\n");
        stream.write_all(header.as_bytes()).await.expect("writes");
        get(&mut stream).await;
        clients.push(stream);
    }
    let mut second = TcpStream::connect(address).await.expect("connects");
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.1 4712 80\r\n";
    second.write_all(header).await.expect("writes");
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(manager.stats().open, 3);
}

#[tokio::test]
async fn what_is_no_header_in_time_is_closed_unanswered() {
    let (manager, address) = start(behind_a_proxy(ProxyProtocol::Required, "127.0.0.1")).await;
    let long = ["PROXY ", &"A".repeat(200)].concat();
    let far_too_long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
    let wrong: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 99999 80\r\n",
        b"PROXY TCP4 192.0.2.7\r\n",
        long.as_bytes(),
        far_too_long,
        b"PROXY T", // and no more
    ];
    for (i, bytes) in wrong.into_iter().enumerate() {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(bytes).await.expect("writes");
        // Closed or reset, with what was not read.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "{bytes:?}");
        let stats = manager.stats();
        assert_eq!(
            stats.closed(CloseReason::ProxyHeader),
            i as u64 + 1,
            "{bytes:?}"
        );
        assert_eq!(stats.accepted_total, stats.closed_total());
    }
}

#[tokio::test]
async fn who_is_not_trusted_can_claim_nothing() {
    let (_, address) = start(behind_a_proxy(ProxyProtocol::Required, "10.0.0.0/8")).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");

    let (manager, address) = start(behind_a_proxy(ProxyProtocol::Trusted, "10.0.0.0/8")).await;
    let mut direct = TcpStream::connect(address).await.expect("connects");
    get(&mut direct).await;
    assert!(manager.list()[0].peer.expect("TCP").ip().is_loopback());
    let mut claims = TcpStream::connect(address).await.expect("connects");
    claims
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
        .await
        .expect("writes");
    let mut answer = String::new();
    let _ = claims.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[cfg(unix)]
#[tokio::test]
async fn sockets_are_taken_over_from_systemd() {
    const CHILD: &str = "STELLANE_TEST_INHERITS";
    if std::env::var_os(CHILD).is_some() {
        let listeners = Listener::inherited().expect("good sockets");
        assert_eq!(listeners.len(), 1);
        assert!(Listener::inherited().expect("no sockets").is_empty());
        let manager = manager(ConnectionConfig::default());
        let serving = manager.serve_all(listeners, tower::service_fn(hello));
        return serving.await.expect("serves until it is killed");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address");
    // As systemd does it: the third file descriptor, and who it is for.
    let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec "$@""#;
    let mut child = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().expect("a path"))
        .args(["--exact", "accept::sockets_are_taken_over_from_systemd"])
        .env(CHILD, "1")
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let mut client = TcpStream::connect(address).await.expect("connects");
    get(&mut client).await;
    child.kill().expect("ends");
    child.wait().expect("ends");
}

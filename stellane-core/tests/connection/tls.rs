//! TLS over real sockets, with rustls as the client.
#![cfg(all(feature = "tls-ring", feature = "http2"))]

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::connection::{
    CloseReason, ConnectionConfig, ConnectionManager, ConnectionState, Incoming, TlsAcceptor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// A certificate of its own in two files, which end with it.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(name: &str) -> Self {
        let path = |kind| {
            std::env::temp_dir().join(format!("stellane-{}-{name}.{kind}", std::process::id()))
        };
        let files = Self {
            certificate: path("pem"),
            key: path("key"),
        };
        files.renew();
        files
    }

    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        std::fs::write(&self.certificate, made.cert.pem()).expect("writes");
        std::fs::write(&self.key, made.signing_key.serialize_pem()).expect("writes");
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from_files(&self.certificate, &self.key).expect("good files")
    }

    /// A client that trusts the certificate as it is in the file now.
    fn client(&self, alpn: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(&self.certificate).expect("reads");
        roots.add(certificate).expect("a certificate");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.certificate);
        let _ = std::fs::remove_file(&self.key);
    }
}

async fn start(
    config: ConnectionConfig,
    acceptor: &TlsAcceptor,
) -> (ConnectionManager, SocketAddr) {
    let service = tower::service_fn(|request: Request<Incoming>| async move {
        let version = request.version();
        let body = request.into_body().collect().await.map(|b| b.to_bytes());
        let text = match version {
            Version::HTTP_2 => Bytes::from_static(b"two"),
            _ => Bytes::from_static(b"one"),
        };
        let echoed = body.ok().filter(|body| !body.is_empty());
        Ok::<_, Infallible>(Response::new(Full::new(echoed.unwrap_or(text))))
    });
    served(config, service, |listener| listener.tls(acceptor)).await
}

async fn connect(
    client: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    client.connect(name, stream).await
}

async fn get(stream: &mut TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = Vec::new();
    while !answer.ends_with(b"one") {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    String::from_utf8(answer).expect("text")
}

fn quick() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.park_after = Duration::from_millis(1);
    config
}

#[tokio::test]
async fn an_idle_tls_connection_is_parked_and_answers_again() {
    let files = Files::new("parked");
    let (manager, address) = start(quick(), &files.acceptor()).await;
    let mut stream = connect(&files.client(&[]), address)
        .await
        .expect("connects");
    for round in 0..3 {
        get(&mut stream).await;
        until(&manager, "parked", |m| {
            m.list()[0].state == ConnectionState::Parked
        })
        .await;
        assert_eq!(manager.stats().unparked_total, round);
    }
    // Two requests in one record, the second in two: what rustls has decrypted is never left behind.
    let requests = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HTTP/1.1\r\nhost: localh";
    stream.write_all(requests).await.expect("writes");
    stream.write_all(b"ost\r\n\r\n").await.expect("writes");
    let mut answer = Vec::new();
    while answer.windows(3).filter(|end| end == b"one").count() < 2 {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    // A goodbye, as browsers say it, is no error.
    stream.shutdown().await.expect("ends");
    until(&manager, "closed", |m| {
        m.stats().closed(CloseReason::ClientClosed) == 1
    })
    .await;
}

#[tokio::test]
async fn a_body_larger_than_every_buffer_comes_through() {
    let files = Files::new("large");
    let (_manager, address) = start(quick(), &files.acceptor()).await;
    let stream = connect(&files.client(&[]), address)
        .await
        .expect("connects");
    let (mut read, mut write) = tokio::io::split(stream);
    let body: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let sent = body.clone();
    tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.expect("writes");
        write.write_all(&sent).await.expect("writes");
        write.flush().await.expect("flushes");
        write
    });
    let mut answer = Vec::new();
    while answer.len() < body.len() || !answer.ends_with(&body[body.len() - 1000..]) {
        assert!(read.read_buf(&mut answer).await.expect("reads") > 0);
    }
    assert!(answer.ends_with(&body));
}

#[tokio::test]
async fn a_client_that_says_goodbye_behind_its_request_is_answered() {
    let files = Files::new("goodbye");
    let slow = tower::service_fn(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.map(|b| b.to_bytes());
        tokio::time::sleep(Duration::from_millis(30)).await;
        Ok::<_, Infallible>(Response::new(Full::new(body.unwrap_or_default())))
    });
    let (manager, address) = served(quick(), slow, |l| l.tls(&files.acceptor())).await;
    for request in [
        "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n\r\nposted",
    ] {
        let mut stream = connect(&files.client(&[]), address)
            .await
            .expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        // `close_notify`, and FIN behind it.
        stream.shutdown().await.expect("says goodbye");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    until(&manager, "gone", |m| m.stats().open == 0).await;
    assert_eq!(manager.stats().requests_cancelled_total, 0);
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let files = Files::new("alpn");
    let (manager, address) = start(quick(), &files.acceptor()).await;
    let mut stream = connect(&files.client(&["http/1.1"]), address)
        .await
        .expect("connects");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    get(&mut stream).await;

    let stream = connect(&files.client(&["h2", "http/1.1"]), address)
        .await
        .expect("connects");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("speaks");
    tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(Full::<Bytes>::default());
    let response = send
        .send_request(request.expect("a request"))
        .await
        .expect("answers");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "two");
    let stats = manager.stats();
    assert_eq!((stats.tls_total, stats.http2_total), (2, 1));
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let files = Files::new("renewed");
    let acceptor = files.acceptor();
    let (_manager, address) = start(quick(), &acceptor).await;
    let old = files.client(&[]);
    let mut before = connect(&old, address).await.expect("connects");
    get(&mut before).await;

    files.renew();
    let new = files.client(&[]);
    assert!(connect(&new, address).await.is_err(), "not loaded yet");
    acceptor.reload().expect("reloads");
    get(&mut connect(&new, address).await.expect("connects")).await;
    assert!(connect(&old, address).await.is_err(), "the old one is gone");
    get(&mut before).await;

    // Half of a renewal changes nothing.
    std::fs::write(&files.key, "no key").expect("writes");
    let error = acceptor.reload().expect_err("no key in it").to_string();
    assert!(error.contains(".key"), "{error}");
    get(&mut connect(&new, address).await.expect("connects")).await;

    // The files are followed.
    let following = tokio::spawn({
        let acceptor = acceptor.clone();
        async move { acceptor.follow_files(Duration::from_millis(10)).await }
    });
    files.renew();
    let newest = files.client(&[]);
    while connect(&newest, address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    following.abort();
}

#[tokio::test]
async fn handshakes_that_fail_or_stall_end_with_their_reason_and_hold_up_nobody() {
    let mut config = quick();
    config.first_byte_timeout = Duration::from_millis(500);
    config.tls.handshake_timeout = Duration::from_millis(500);
    config.tls.max_handshakes = 1;
    let files = Files::new("stalled");
    let (manager, address) = start(config, &files.acceptor()).await;
    // Silent: holds no place.
    let _silent = TcpStream::connect(address).await.expect("connects");
    let mut plain = TcpStream::connect(address).await.expect("connects");
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    until(&manager, "failed", |m| {
        m.stats().closed(CloseReason::HandshakeFailed) == 1
    })
    .await;
    get(&mut connect(&files.client(&[]), address)
        .await
        .expect("connects"))
    .await;

    // Begins, and then says no more: others do not wait for it.
    let mut stalled = TcpStream::connect(address).await.expect("connects");
    stalled
        .write_all(&[0x16, 0x03, 0x01, 0x02])
        .await
        .expect("writes");
    let timed_out = |m: &ConnectionManager| m.stats().closed(CloseReason::HandshakeTimeout) == 1;
    until(&manager, "ended", timed_out).await;
    let stats = manager.stats();
    assert_eq!(stats.closed(CloseReason::HandshakeTimeout), 1, "{stats:?}");
    until(&manager, "silent closed", |m| {
        m.stats().closed(CloseReason::FirstByteTimeout) == 1
    })
    .await;
}

/// A hello, and whoever said it.
fn hello(files: &Files) -> (Vec<u8>, ClientConnection) {
    let config = Arc::clone(files.client(&[]).config());
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("writes to memory");
    (hello, client)
}

#[tokio::test]
async fn handshakes_whose_clients_are_waited_for_hold_no_place() {
    let mut config = ConnectionConfig::default();
    config.first_byte_timeout = Duration::from_secs(600);
    config.tls.handshake_timeout = Duration::from_secs(600);
    config.tls.max_handshakes = 1;
    let files = Files::new("waited-for");
    let (manager, address) = start(config, &files.acceptor()).await;
    let mut waited_for = Vec::new();
    // In the middle of the hello, at its last byte, and behind it.
    for cut in [1, 40, usize::MAX - 1, usize::MAX] {
        for _ in 0..20 {
            let (hello, _) = hello(&files);
            let cut = cut.min(hello.len() - usize::from(cut == usize::MAX - 1));
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.write_all(&hello[..cut]).await.expect("writes");
            waited_for.push(stream);
        }
    }
    let handshaking = |m: &ConnectionManager| {
        let list = m.list();
        let in_it = list
            .iter()
            .filter(|c| c.state == ConnectionState::Handshake);
        in_it.count() == 80
    };
    until(&manager, "in their handshake", handshaking).await;
    for _ in 0..5 {
        let good = timeout(
            Duration::from_secs(60),
            connect(&files.client(&[]), address),
        )
        .await;
        get(&mut good.expect("in time").expect("connects")).await;
    }
    // None of them was ended for it.
    until(&manager, "as before", handshaking).await;
}

/// The 50th and the 99th percentile of good handshakes, one after the other, in milliseconds.
async fn good_handshakes(client: &TlsConnector, address: SocketAddr) -> (f64, f64) {
    let mut times = Vec::new();
    for _ in 0..300 {
        let begun = std::time::Instant::now();
        get(&mut connect(client, address).await.expect("connects")).await;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    (times[150], times[297])
}

/// `cargo test --release -p stellane-core --test connection -- --ignored --nocapture storm`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "times, to be looked at by hand"]
async fn times_of_good_handshakes_in_a_storm() {
    let mut config = ConnectionConfig::default();
    config.tls.handshake_timeout = Duration::from_secs(600);
    config.min_timeout = Duration::ZERO;
    let files = Files::new("storm");
    let (manager, address) = start(config, &files.acceptor()).await;
    let client = files.client(&[]);
    // In turns, since the machine is not as busy all the time.
    for whole in [false, true] {
        for _ in 0..6 {
            let alone = good_handshakes(&client, address).await;
            let mut storm = Vec::new();
            for _ in 0..1000 {
                let (hello, _) = hello(&files);
                let mut stream = TcpStream::connect(address).await.expect("connects");
                let cut = if whole { hello.len() } else { hello.len() / 2 };
                stream.write_all(&hello[..cut]).await.expect("writes");
                storm.push(stream);
            }
            let beside = good_handshakes(&client, address).await;
            println!("alone {alone:.2?}, beside 1000 (whole: {whole}) {beside:.2?}");
            drop(storm);
            until(&manager, "gone", |m| m.stats().open == 0).await;
        }
    }
}

#[tokio::test]
async fn a_hello_without_end_is_ended_and_a_long_one_in_pieces_is_heard() {
    let files = Files::new("long-hello");
    let (manager, address) = start(quick(), &files.acceptor()).await;
    let mut endless = TcpStream::connect(address).await.expect("connects");
    // A hello of 60 000 bytes in records of 1000.
    let mut record = vec![0x16, 3, 1, 0x03, 0xE8, 1, 0, 0xEA, 0x60, 3, 3];
    record.resize(1005, 0);
    let mut sent = 0;
    while endless.write_all(&record).await.is_ok() && sent < 100 {
        record[5..11].fill(0);
        sent += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(sent < 100, "it is read for ever");
    until(&manager, "ended", |m| {
        m.stats().closed(CloseReason::HandshakeFailed) == 1
    })
    .await;

    let (hello, mut client) = hello(&files);
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.set_nodelay(true).expect("sets");
    for piece in hello.chunks(7) {
        stream.write_all(piece).await.expect("writes");
        tokio::task::yield_now().await;
    }
    let mut flight = Vec::new();
    while client.is_handshaking() {
        assert!(stream.read_buf(&mut flight).await.expect("reads") > 0);
        let read = client.read_tls(&mut &flight[..]).expect("reads");
        flight.drain(..read);
        client.process_new_packets().expect("a handshake");
    }
}

#[tokio::test]
async fn who_finds_no_room_hears_an_alert() {
    let mut config = ConnectionConfig::default();
    config.max_connections = 1;
    // So that nothing makes room.
    config.drain_idle = Duration::from_secs(600);
    let files = Files::new("no-room");
    let (manager, address) = start(config, &files.acceptor()).await;
    let mut first = connect(&files.client(&[]), address)
        .await
        .expect("connects");
    get(&mut first).await;
    let refused = connect(&files.client(&[]), address).await;
    let error = refused.expect_err("there is no room").to_string();
    assert!(error.contains("alert"), "{error}");
    assert_eq!(manager.stats().closed(CloseReason::Refused), 1);
}

#[tokio::test]
async fn a_drain_ends_tls_connections_too() {
    let mut config = quick();
    config.drain_idle = Duration::from_millis(50);
    let files = Files::new("drained");
    let (manager, address) = start(config, &files.acceptor()).await;
    let mut stream = connect(&files.client(&[]), address)
        .await
        .expect("connects");
    get(&mut stream).await;
    let report = manager.drain(Duration::from_secs(5)).await;
    assert_eq!((report.closed, report.aborted), (1, 0));
}

/// `cargo test --release -p stellane-core --test connection -- --ignored --nocapture memory`;
/// with `STELLANE_TEST_TLS_UNPARKED=1` for comparison.
#[tokio::test]
#[ignore = "prints a figure: process memory of a parked TLS connection"]
async fn memory_of_a_parked_connection() {
    const CONNECTIONS: usize = 2000;
    let files = Files::new("memory");
    if let Ok(address) = std::env::var("STELLANE_TEST_TLS_CLIENT") {
        // The clients, in a process of their own.
        let (address, certificate) = address.split_once(' ').expect("address and file");
        let trusted = Files {
            certificate: certificate.into(),
            key: PathBuf::new(),
        };
        let client = trusted.client(&[]);
        std::mem::forget(trusted);
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let address = address.parse().expect("an address");
            let mut stream = connect(&client, address).await.expect("connects");
            get(&mut stream).await;
            streams.push(stream);
        }
        std::future::pending::<()>().await;
    }
    let mut config = quick();
    config.park = std::env::var_os("STELLANE_TEST_TLS_UNPARKED").is_none();
    let (manager, address) = start(config, &files.acceptor()).await;
    get(&mut connect(&files.client(&[]), address)
        .await
        .expect("connects"))
    .await;
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages = statm
            .split(' ')
            .nth(1)
            .and_then(|n| n.parse::<usize>().ok());
        pages.expect("a number") * 4096
    };
    let before = resident();
    let mut clients = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--ignored", "tls::memory_of_a_parked_connection"])
        .env(
            "STELLANE_TEST_TLS_CLIENT",
            format!("{address} {}", files.certificate.display()),
        )
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    while manager.stats().parked + manager.stats().idle < CONNECTIONS as u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (resident() - before) as f64 / CONNECTIONS as f64 / 1024.0;
    println!("{each:.2} KiB for each of {CONNECTIONS} idle TLS connections");
    clients.kill().expect("ends");
    clients.wait().expect("ends");
}

#[cfg(feature = "full")]
#[tokio::test]
async fn the_preset_serves_tls_by_configuration() {
    use stellane_core::{Runtime, RuntimeConfig, router::Router};
    let files = Files::new("preset");
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.connection.tls.certificate = files.certificate.display().to_string();
    config.connection.tls.key = files.key.display().to_string();
    let router = Router::builder().get("/", || async { "one" }).build();
    let runtime = Runtime::builder()
        .config(config)
        .service(router.expect("no conflicts"))
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    let _serving = tokio::spawn(bound.serve());
    let mut stream = connect(&files.client(&[]), address)
        .await
        .expect("connects");
    assert!(get(&mut stream).await.starts_with("HTTP/1.1 200"));
}

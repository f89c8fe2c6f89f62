//! How long slow clients may take: minutes while there is room, and the less the fewer places are left.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

static BIG: [u8; 16 << 20] = [b'b'; 16 << 20];

/// `/big` has a long answer, others say how long their body was.
async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/big" {
        return Ok(Response::new(Full::new(Bytes::from_static(&BIG))));
    }
    let body = request.into_body().collect().await;
    let length = body.map_or(0, |body| body.to_bytes().len());
    Ok(Response::new(Full::from(format!("got {length}."))))
}

/// A connection in memory, with a manager of its own.
fn in_memory(
    config: ConnectionConfig,
) -> (ConnectionManager, DuplexStream, JoinHandle<CloseReason>) {
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let (client, server) = tokio::io::duplex(64 << 10);
    let service = tower::service_fn(handle);
    let serving = tokio::spawn(manager.serve_connection(server, None, service));
    (manager, client, serving)
}

async fn start(config: ConnectionConfig) -> (ConnectionManager, SocketAddr) {
    served(config, tower::service_fn(handle), |listener| listener).await
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        match stream.read_buf(&mut got).await {
            Ok(1..) => {}
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&got)),
        }
    }
    String::from_utf8(got).expect("text")
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn who_pauses_while_there_is_room_is_served() {
    // A load balancer keeps a connection ready; a head, and a body, stop for a while.
    let (_manager, mut client, _serving) = in_memory(ConnectionConfig::default());
    pause(500).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nhost")
        .await
        .expect("writes");
    pause(50).await;
    let rest = b": x\r\ncontent-length: 10\r\n\r\nhello";
    client.write_all(rest).await.expect("writes");
    pause(300).await;
    client.write_all(b"world").await.expect("writes");
    let answer = read_until(&mut client, "got 10.").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    // A proxy asks again after all the time that it keeps an idle connection: Envoy's hour. Somebody pauses a video.
    pause(3600).await;
    client
        .write_all(b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut video = vec![0; 4 << 20];
    client.read_exact(&mut video).await.expect("reads");
    pause(300).await;
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("reads");
    assert!(video.len() + rest.len() > BIG.len());
}

/// What a client sends, of which the server hears when it looks: each piece from a time on.
struct Pieces(VecDeque<(Instant, &'static [u8])>, DuplexStream);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.front() {
            Some((at, piece)) if *at <= Instant::now() => {
                buf.put_slice(piece);
                self.0.pop_front();
                Poll::Ready(Ok(()))
            }
            _ => Poll::Pending,
        }
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.1).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_shutdown(cx)
    }
}

/// So it is after the process was stopped: the time is over, and what came meanwhile lies in the socket.
#[tokio::test(start_paused = true)]
async fn whose_head_is_whole_when_its_time_is_found_to_be_over_is_served() {
    let over = Duration::from_secs(2);
    for (head, rest, answer) in [
        (
            &b"GET / HTTP/1.1\r\nhos"[..],
            &b"t: x\r\n\r\n"[..],
            &b"got 0."[..],
        ),
        #[cfg(feature = "http2")]
        (
            b"PRI * HTTP/2.0\r\n\r\n",
            b"SM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"\x04\x01\0\0\0\0",
        ),
    ] {
        let mut config = ConnectionConfig::default();
        config.head_timeout = over;
        let manager = ConnectionManager::builder().config(config).build();
        let manager = manager.expect("valid");
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let now = Instant::now();
        let sent = Pieces([(now, head), (now + over, rest)].into(), server);
        let service = tower::service_fn(handle);
        let serving = tokio::spawn(manager.serve_connection(sent, None, service));
        let mut got = Vec::new();
        while !got.windows(answer.len()).any(|part| part == answer) {
            assert!(client.read_buf(&mut got).await.expect("reads") > 0);
        }
        pause(1).await;
        assert!(!serving.is_finished(), "{:?}", serving.await);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_server_does_not_run_no_time_of_a_client_passes() {
    let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    for (sent, rest) in [request.split_at(0), request.split_at(19)] {
        let mut config = ConnectionConfig::default();
        config.first_byte_timeout = Duration::from_secs(2);
        config.head_timeout = Duration::from_secs(2);
        let (_manager, mut client, _serving) = in_memory(config);
        client.write_all(sent.as_bytes()).await.expect("writes");
        pause(1).await;
        // Its process was stopped, or its machine.
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.write_all(rest.as_bytes()).await.expect("writes");
        read_until(&mut client, "got 0.").await;
    }
}

/// It does not answer PINGs meanwhile either: its process has stopped, or its socket is full.
#[cfg(feature = "http2")]
#[tokio::test(start_paused = true)]
async fn who_pauses_a_download_over_http2_is_served() {
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let (_manager, client, _serving) = in_memory(ConnectionConfig::default());
    let speaks = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut client, mut connection) = speaks.await.expect("speaks");
    let get = Request::get("http://x/big").body(Full::<Bytes>::default());
    let response = client.send_request(get.expect("valid"));
    let response = tokio::select! {
        response = response => response.expect("an answer"),
        ended = &mut connection => panic!("{ended:?}"),
    };
    let (mut body, mut length) = (response.into_body(), 0);
    let mut read_to = async |least: usize| {
        while length < least {
            tokio::select! {
                frame = body.frame() => {
                    let data = frame.expect("more").expect("whole").into_data();
                    length += data.map_or(0, |data| data.len());
                }
                ended = &mut connection => panic!("{ended:?} after {length}"),
            }
        }
    };
    read_to(1 << 20).await;
    pause(300).await;
    read_to(BIG.len()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_configured_is_what_counts_while_there_is_room() {
    let mut config = ConnectionConfig::default();
    config.rate_grace = Duration::from_secs(20);
    for (seconds, expected) in [(15, "200 "), (25, "408 ")] {
        let (_manager, mut client, _serving) = in_memory(config.clone());
        let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n";
        client.write_all(post).await.expect("writes");
        pause(seconds).await;
        let _ = client.write_all(b"x").await;
        let mut answer = vec![0; 13];
        client.read_exact(&mut answer).await.expect("reads");
        assert_eq!(&answer[9..], expected.as_bytes(), "after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_that_memory_is_scarce_has_the_slow_go() {
    for (level, min_timeout, closed) in [
        (0.0, 1, false),
        (1.0, 1, true),
        (1.0, 60, false),
        (1.0, 0, false),
    ] {
        let mut config = ConnectionConfig::default();
        config.min_timeout = Duration::from_secs(min_timeout);
        let (manager, mut client, serving) = in_memory(config);
        client
            .write_all(b"GET / HTTP/1.1\r\nhost")
            .await
            .expect("writes");
        manager.set_pressure(level);
        pause(5).await;
        assert_eq!(serving.is_finished(), closed, "{level} {min_timeout}");
        let _ = client.write_all(b": x\r\n\r\n").await;
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.expect("reads");
        let expected = if closed {
            b"HTTP/1.1 408"
        } else {
            b"HTTP/1.1 200"
        };
        assert_eq!(answer, expected, "{level} {min_timeout}");
    }
}

/// Asks for a long answer, takes none of it until the server has had enough, and then reads what there is.
async fn ignore_an_answer(
    manager: &ConnectionManager,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<usize> {
    let get = b"GET /big HTTP/1.0\r\n\r\n";
    stream.write_all(get).await.expect("writes");
    until(manager, "closed", |m| {
        m.stats().closed(CloseReason::SlowRead) == 1
    })
    .await;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await
}

fn impatient() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.write_timeout = Duration::from_millis(300);
    config
}

#[tokio::test]
async fn an_answer_that_is_cut_ends_by_a_reset() {
    let (manager, address) = start(impatient()).await;
    let stream = TcpStream::connect(address).await.expect("connects");
    let cut = ignore_an_answer(&manager, stream).await;
    let kind = cut.expect_err("cut").kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_answer_that_is_cut_ends_by_a_reset_over_tls_too() {
    use std::sync::Arc;

    use stellane_core::connection::TlsAcceptor;
    use tokio_rustls::rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivatePkcs8KeyDer, ServerName},
    };

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a certificate");
    let acceptor = TlsAcceptor::from_rustls(server);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();

    let service = tower::service_fn(handle);
    let (manager, address) = served(impatient(), service, |listener| listener.tls(&acceptor)).await;
    let stream = TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    let client = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = client.connect(name, stream).await.expect("shakes hands");
    let cut = ignore_an_answer(&manager, stream).await;
    let kind = cut.expect_err("cut").kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
}

/// Reads a piece every 50 ms, `bytes` in all; fails if the answer ends before.
async fn read_slowly(stream: &mut TcpStream, piece: usize, bytes: usize) {
    let mut buffer = vec![0; piece];
    for _ in 0..bytes / piece {
        stream.read_exact(&mut buffer).await.expect("not cut");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The buffers of a socket hold megabytes, and the server is told that they take more when a third is free: much later
/// than the timeout.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_reads_slowly_is_not_taken_for_one_that_does_not_read() {
    let mut config = ConnectionConfig::default();
    config.write_timeout = Duration::from_secs(1);
    config.rate_grace = Duration::from_secs(1);
    let (manager, address) = start(config).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let get = b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(get).await.expect("writes");
    read_slowly(&mut stream, 10_000, 1_000_000).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("not cut");
    assert!(rest.len() + 1_000_000 > BIG.len());
    assert_eq!(manager.stats().closed(CloseReason::SlowRead), 0);
}

/// Asks again and again on one connection, until it is told to end.
async fn ask(address: SocketAddr, end: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut end = std::pin::pin!(end);
    let mut stream = TcpStream::connect(address).await.expect("connects");
    for answers in 0.. {
        let get = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab";
        stream.write_all(get).await.expect("writes");
        read_until(&mut stream, "got 2.").await;
        tokio::select! {
            _ = &mut end => return answers,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    0
}

#[tokio::test]
async fn as_places_run_out_the_slow_make_room_and_the_others_stay() {
    const PLACES: usize = 400;
    let mut config = ConnectionConfig::default();
    config.max_connections = PLACES;
    let (manager, address) = start(config).await;
    let (end, told) = tokio::sync::oneshot::channel();
    let asking = tokio::spawn(ask(address, told));
    // An upload in pieces, and a download that is read slowly, but read.
    let mut upload = TcpStream::connect(address).await.expect("connects");
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n";
    upload.write_all(post).await.expect("writes");
    let uploading = tokio::spawn(async move {
        for _ in 0..60 {
            upload.write_all(&[b'u'; 1000]).await.expect("not cut");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        read_until(&mut upload, "got 60000.").await
    });
    let mut download = TcpStream::connect(address).await.expect("connects");
    let get = b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    download.write_all(get).await.expect("writes");
    let downloading = tokio::spawn(async move {
        read_slowly(&mut download, 10_000, 600_000).await;
    });

    let mut slow = Vec::new();
    for n in 0..PLACES - 10 {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let first: &[u8] = match n % 6 {
            0 => b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n",
            1 | 2 => b"GET / HTTP/1.1\r\nhost",
            _ => b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc",
        };
        stream.write_all(first).await.expect("writes");
        slow.push(stream);
    }
    // Nobody else needs a place: they go before.
    until(&manager, "room", |m| m.stats().open < 7 * PLACES as u64 / 8).await;
    uploading.await.expect("answered");
    downloading.await.expect("read");
    end.send(()).expect("still asking");
    assert!(asking.await.expect("answered to the end") > 10);
    let stats = manager.stats();
    for reason in CloseReason::ALL {
        let expected = matches!(
            reason,
            CloseReason::HeadTimeout
                | CloseReason::SlowBody
                | CloseReason::SlowRead
                // The honest ones, at their end.
                | CloseReason::ClientClosed
                | CloseReason::IoError
        );
        assert!(expected || stats.closed(*reason) == 0, "{stats:?}");
    }
    // Most are left: there is room enough again.
    assert!(stats.open > PLACES as u64 / 2, "{stats:?}");
}

/// Ten thousand in some seconds, beside one that asks on a connection of its own and one that connects anew each time.
/// Needs 21 000 open files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "20 000 sockets, half a minute"]
async fn ten_thousand_that_pause_harm_nobody() {
    let (manager, address) = start(ConnectionConfig::default()).await;
    let (end, told) = tokio::sync::oneshot::channel();
    let asking = tokio::spawn(ask(address, told));
    let coming = tokio::spawn(async move {
        let (mut answers, mut failures) = (0, Vec::new());
        for _ in 0..1000 {
            let once = async {
                let mut stream = TcpStream::connect(address).await?;
                let get = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                stream.write_all(get).await?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                Ok::<_, io::Error>(answer)
            };
            match once.await {
                Ok(answer) if answer.ends_with("got 0.") => answers += 1,
                other => failures.push(format!("{other:?}")),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (answers, failures)
    });
    let mut slow = Vec::new();
    let began = std::time::Instant::now();
    for n in 0..10_000 {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            continue;
        };
        let first: &[u8] = match n % 20 {
            0 => b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n",
            1..10 => b"GET / HTTP/1.1\r\nhost",
            _ => b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc",
        };
        let _ = stream.write_all(first).await;
        slow.push(stream);
    }
    println!("all after {:?}: {:?}", began.elapsed(), manager.stats());
    let (answers, failures) = coming.await.expect("asks to the end");
    end.send(()).expect("still asking");
    let asked = asking.await.expect("answered to the end");
    println!(
        "{asked} and {answers} answers, {failures:?}: {:?}",
        manager.stats()
    );
    assert!(failures.is_empty() && asked > 100);
}

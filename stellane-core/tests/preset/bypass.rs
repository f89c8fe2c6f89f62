//! The way out: the same service by plain hyper-util.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    BoxError, Components, RequestBody, Runtime, RuntimeConfig, RuntimeError,
    connection::ConnectInfo, runtime::RunReport,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tower::service_fn;

/// More than the preset lets through.
const LARGE: usize = 4 << 20;

struct Server {
    address: SocketAddr,
    components: Components,
    go: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<RunReport, RuntimeError>>,
}

fn config() -> RuntimeConfig {
    RuntimeConfig::default().with(|config| {
        config.server.admin_address = String::new();
        config.connection.connect_info = true;
        // Neither counts.
        config.server.max_body_bytes = 10;
        config.limit.initial = 1;
    })
}

/// `None` leaves it to the environment.
async fn serve(config: RuntimeConfig, bypass: Option<bool>) -> Server {
    let go = Arc::new(Notify::new());
    let noticed = Arc::clone(&go);
    let app = service_fn(move |request: Request<RequestBody>| {
        let go = Arc::clone(&noticed);
        async move {
            let peer = request.extensions().get::<ConnectInfo>();
            let peer = peer.and_then(ConnectInfo::peer).expect("is told");
            assert!(peer.ip().is_loopback());
            if request.uri().path() == "/wait" {
                go.notified().await;
            }
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(Full::new(body)))
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let mut builder = Runtime::builder()
        .config(config)
        .service(app)
        .shutdown_signal(async {
            let _ = stopped.await;
        });
    if let Some(bypass) = bypass {
        builder = builder.bypass(bypass);
    }
    let bound = builder.build().expect("builds").bind("127.0.0.1:0").await;
    let bound = bound.expect("binds");
    Server {
        address: bound.local_addr(),
        components: bound.components().clone(),
        go,
        stop: Some(stop),
        serving: tokio::spawn(bound.serve()),
    }
}

impl Server {
    /// Nothing of ours has seen a request or a connection.
    fn assert_bypassed(&self) {
        let Components {
            connections,
            limit,
            metrics,
            ..
        } = &self.components;
        assert_eq!(connections.stats().accepted_total, 0);
        assert_eq!(connections.stats().requests_total, 0);
        assert_eq!(limit.stats().admitted, 0);
        assert_eq!(metrics.stats().requests_total, 0);
    }

    async fn end(mut self) -> RunReport {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(60), self.serving).await;
        let report = ended.expect("ends").expect("no panic");
        report.expect("no error")
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn http1(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender {
    let connecting = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
    let (sender, connection) = connecting.expect("connects");
    tokio::spawn(connection);
    sender
}

fn request(path: &str, bytes: usize) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://localhost{path}")).header("host", "localhost");
    let body = Full::from(Bytes::from(vec![b'x'; bytes]));
    request.body(body).expect("a request")
}

async fn length(answer: Response<hyper::body::Incoming>) -> usize {
    assert_eq!(answer.status(), 200);
    answer
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes()
        .len()
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connects")
}

#[tokio::test]
async fn http1_is_served_without_a_limit_and_without_a_count() {
    let server = serve(config(), Some(true)).await;
    let mut client = http1(connect(server.address).await).await;
    for bytes in [0, LARGE, 5] {
        let answer = client
            .send_request(request("/", bytes))
            .await
            .expect("is answered");
        assert_eq!(length(answer).await, bytes);
    }
    // Many at once.
    let mut waiting = Vec::new();
    for _ in 0..30 {
        let mut client = http1(connect(server.address).await).await;
        waiting.push(tokio::spawn(async move {
            client.send_request(request("/wait", 1)).await
        }));
    }
    for one in waiting {
        while !one.is_finished() {
            server.go.notify_waiters();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            length(one.await.expect("no panic").expect("is answered")).await,
            1
        );
    }
    server.assert_bypassed();
    assert!(server.end().await.is_clean());
}

#[tokio::test]
async fn http2_is_served_on_the_same_port() {
    let server = serve(config(), Some(true)).await;
    let io = TokioIo::new(connect(server.address).await);
    let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut client, connection) = connecting.expect("connects");
    tokio::spawn(connection);
    for bytes in [0, LARGE] {
        let answer = client
            .send_request(request("/", bytes))
            .await
            .expect("is answered");
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(length(answer).await, bytes);
    }
    server.assert_bypassed();
    drop(client);
    assert!(server.end().await.is_clean());
}

#[tokio::test]
async fn tls_is_spoken_with_the_configured_certificate() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let path =
        |kind| std::env::temp_dir().join(format!("stellane-bypass-{}.{kind}", std::process::id()));
    let (certificate, key) = (path("pem"), path("key"));
    std::fs::write(&certificate, made.cert.pem()).expect("writes");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    let config = config().with(|config| {
        config.connection.tls.certificate = certificate.display().to_string();
        config.connection.tls.key = key.display().to_string();
    });
    let server = serve(config, Some(true)).await;
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_file(&certificate).expect("reads");
    roots.add(trusted).expect("a certificate");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connecting = TlsConnector::from(Arc::new(client));
    let stream = connecting
        .connect(name, connect(server.address).await)
        .await;
    let mut client = http1(stream.expect("a handshake")).await;
    let answer = client
        .send_request(request("/", 7))
        .await
        .expect("is answered");
    assert_eq!(length(answer).await, 7);
    server.assert_bypassed();
    drop(client);
    assert!(server.end().await.is_clean());
    for file in [certificate, key] {
        std::fs::remove_file(file).expect("is there");
    }
}

#[tokio::test]
async fn what_is_under_way_at_the_end_is_answered_and_then_nobody_listens() {
    let mut server = serve(config(), Some(true)).await;
    let (address, go) = (server.address, Arc::clone(&server.go));
    let mut client = http1(connect(address).await).await;
    // One that is idle does not hold it up.
    let mut idle = http1(connect(address).await).await;
    let answer = idle
        .send_request(request("/", 1))
        .await
        .expect("is answered");
    assert_eq!(length(answer).await, 1);
    let waiting = tokio::spawn(async move { client.send_request(request("/wait", 3)).await });
    // It is there when the handler takes the notice.
    let mut second = http1(connect(address).await).await;
    let answer = second
        .send_request(request("/", 1))
        .await
        .expect("is answered");
    assert_eq!(length(answer).await, 1);
    drop(server.stop.take());
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!waiting.is_finished());
    go.notify_one();
    let answer = waiting.await.expect("no panic").expect("is answered");
    assert_eq!(length(answer).await, 3);
    assert!(server.end().await.is_clean());
}

/// Runs in a process of its own, see below.
#[tokio::test]
async fn as_the_environment_says() {
    let server = serve(config(), None).await;
    let mut client = http1(connect(server.address).await).await;
    let answer = client
        .send_request(request("/", 1))
        .await
        .expect("is answered");
    assert_eq!(length(answer).await, 1);
    match std::env::var_os("STELLANE_BYPASS") {
        Some(_) => server.assert_bypassed(),
        None => assert_eq!(server.components.limit.stats().admitted, 1),
    }
    drop(client);
    server.end().await;
}

#[test]
fn the_environment_turns_it_on_without_a_new_build() {
    let this = std::env::current_exe().expect("known");
    let status = Command::new(this)
        .args(["--exact", "bypass::as_the_environment_says"])
        .env("STELLANE_BYPASS", "1")
        .status();
    assert!(status.expect("runs").success());
}

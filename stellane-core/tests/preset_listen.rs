//! Where the preset listens: what `server.address` and `[[server.listen]]` take.
#![cfg(all(feature = "full", unix))]

#[path = "support/log.rs"]
mod log;

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use http::{Request, Response};
use log::Log;
use stellane_core::{
    RequestBody, Runtime, RuntimeError,
    config::{Loader, RuntimeConfig},
    connection::TlsAcceptor,
    runtime::BoundRuntime,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

/// A path that is free, and is so again at the end.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        let name = format!("stellane-listen-{name}-{}.sock", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn config(text: &str) -> RuntimeConfig {
    let config = Loader::new().text("app.toml", text).load().expect("valid");
    config.with(|config| config.server.admin_address = String::new())
}

/// TLS for the name `localhost`, and a client that trusts it.
fn tls() -> (TlsAcceptor, TlsConnector) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let provider = Arc::new(default_provider());
    let certificate = pair.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    (TlsAcceptor::from_rustls(server), connector)
}

macro_rules! bind {
    ($builder:expr) => {{
        let app = tower::service_fn(|_: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new("hello".to_owned()))
        });
        let runtime = $builder
            .service(app)
            .shutdown_signal(std::future::pending());
        runtime.build().expect("builds").bind_configured().await
    }};
}

async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    io.write_all(request).await.expect("writes");
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.expect("reads");
    answer
}

fn ports<S>(bound: &BoundRuntime<S>) -> Vec<u16> {
    bound
        .local_addrs()
        .iter()
        .map(std::net::SocketAddr::port)
        .collect()
}

#[tokio::test]
async fn an_address_may_be_a_unix_socket() {
    let socket = SocketPath::new("address");
    let text = format!("[server]\naddress = \"unix:{}\"\n", socket.0.display());
    let bound = bind!(Runtime::builder().config(config(&text))).expect("binds");
    assert!(bound.local_addrs().is_empty(), "no port beside it");
    tokio::spawn(bound.serve());
    let answer = answer(UnixStream::connect(&socket.0).await.expect("connects")).await;
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn an_address_may_be_a_port_of_the_whole_machine() {
    let bound = bind!(Runtime::builder().config(config("[server]\naddress = \":0\"\n")));
    let bound = bound.expect("binds");
    assert!(bound.local_addr().ip().is_unspecified());
    let port = bound.local_addr().port();
    tokio::spawn(bound.serve());
    let answer = answer(
        TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("by IPv4"),
    )
    .await;
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn several_addresses_each_with_or_without_tls() {
    let (acceptor, connector) = tls();
    let socket = SocketPath::new("several");
    let text = format!(
        "[server]\naddress = \"127.0.0.1:1\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ntls = \"on\"\n\
         [[server.listen]]\naddress = \"unix:{}\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ntls = \"off\"\n",
        socket.0.display()
    );
    let bound = bind!(Runtime::builder().config(config(&text)).tls(acceptor)).expect("binds");
    let ports = ports(&bound);
    assert_eq!(ports.len(), 3, "and not the one of `server.address`");
    tokio::spawn(bound.serve());
    for port in &ports[..2] {
        let tcp = TcpStream::connect(("127.0.0.1", *port))
            .await
            .expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = connector.connect(name, tcp).await.expect("a handshake");
        let answer = answer(tls).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    let plain = TcpStream::connect(("127.0.0.1", ports[2]))
        .await
        .expect("connects");
    assert!(answer(plain).await.ends_with("hello"));
    let unix = UnixStream::connect(&socket.0).await.expect("connects");
    assert!(answer(unix).await.ends_with("hello"));
}

#[tokio::test]
async fn tls_that_is_asked_for_is_not_left_out() {
    let text = "[[server.listen]]\naddress = \"127.0.0.1:0\"\ntls = \"on\"\n";
    let error = bind!(Runtime::builder().config(config(text))).expect_err("no certificate");
    assert!(
        matches!(
            &error,
            RuntimeError::Component {
                name: "server.listen",
                ..
            }
        ),
        "{error}"
    );
    let admin = config("[server]\naddress = \"127.0.0.1:0\"\nadmin_tls = true\n")
        .with(|config| config.server.admin_address = "127.0.0.1:0".to_owned());
    let error = bind!(Runtime::builder().config(admin)).expect_err("no certificate");
    assert!(error.to_string().contains("connection.tls"), "{error}");
}

#[tokio::test]
async fn the_admin_service_speaks_tls_if_asked_to() {
    let (acceptor, connector) = tls();
    let config = config("[server]\naddress = \"127.0.0.1:0\"\nadmin_tls = true\n")
        .with(|config| config.server.admin_address = "127.0.0.1:0".to_owned());
    let bound = bind!(Runtime::builder().config(config).tls(acceptor)).expect("binds");
    let admin = bound.admin_addr().expect("on");
    tokio::spawn(bound.serve());
    let tcp = TcpStream::connect(admin).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = connector.connect(name, tcp).await.expect("a handshake");
    assert!(answer(tls).await.contains("<html"), "the page");
}

#[tokio::test]
async fn an_address_that_the_program_names_takes_the_place_of_all_others() {
    let text = "[[server.listen]]\naddress = \"127.0.0.1:1\"\n";
    let app = tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let runtime = Runtime::builder().config(config(text)).service(app);
    let runtime = runtime.shutdown_signal(std::future::pending());
    let bound = runtime
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    assert_eq!(bound.local_addrs().len(), 1);
}

#[test]
fn what_is_no_address_is_named() {
    for (text, expected) in [
        (
            "[server]\naddress = \"unix:\"",
            "app.toml:2: `server.address`: `unix:` is not an address",
        ),
        ("[server]\naddress = \":\"", "`:` is not an address"),
        ("[server]\naddress = \":x\"", "`:x` is not an address"),
        (
            "[server]\naddress = \"3000\"",
            "expected HOST:PORT, such as `127.0.0.1:3000`, `:3000`, or `unix:",
        ),
        (
            "[[server.listen]]\ntls = \"on\"",
            "app.toml:1: `server.listen`: `` is not an address",
        ),
        (
            "[[server.listen]]\naddress = \"unix:/a\"\ntls = \"on\"",
            "since `tls` is `on`",
        ),
        (
            "[[server.listen]]\nadress = \":1\"",
            "app.toml:1: `server.listen`",
        ),
        (
            "[[server.listen]]\naddress = \":1\"\ntls = \"maybe\"",
            "app.toml:1: `server.listen`",
        ),
        (
            "[server]\nadmin_address = \"unix:/a\"",
            "`unix:/a` is not an address: expected HOST:PORT",
        ),
    ] {
        let error = Loader::new()
            .text("app.toml", text)
            .load()
            .expect_err(text)
            .to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[tokio::test]
async fn an_admin_address_that_others_can_reach_is_warned_of() {
    for (address, token, expected) in [
        ("127.0.0.1:0", "", None),
        ("[::1]:0", "", None),
        (
            "0.0.0.0:0",
            "",
            Some("to nobody anything else, since there is no `server.admin_token`"),
        ),
        ("0.0.0.0:0", "long-and-secret", Some("`server.admin_tls`")),
    ] {
        let log = Log::default();
        let _logging = tracing::subscriber::set_default(log.subscriber());
        let config = config("[server]\naddress = \"127.0.0.1:0\"\n").with(|config| {
            config.server.admin_address = address.to_owned();
            config.server.admin_token = token.to_owned();
        });
        let bound = bind!(Runtime::builder().config(config)).expect("binds");
        let service = bound.local_addr();
        tokio::spawn(bound.serve());
        // What is warned of is so before anybody is answered.
        let stream = TcpStream::connect(service).await.expect("connects");
        assert!(answer(stream).await.ends_with("hello"));
        let log = log.text();
        assert!(log.contains("serving http://"), "{log}");
        let warned = log.contains("can be reached from other machines");
        assert_eq!(warned, expected.is_some(), "{address}: {log}");
        assert!(
            log.contains(expected.unwrap_or_default()),
            "{address}: {log}"
        );
        assert!(!log.contains("long-and-secret"), "{log}");
    }
}

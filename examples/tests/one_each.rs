//! The examples of one use each, started as their users would.

#[path = "support/server.rs"]
mod server;

use std::{
    io::{Read, Write},
    process::Command,
};

use server::Server;

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// One that says what to try.
fn start(program: &str) -> Server {
    let (server, said) = Server::start(program);
    assert!(said.contains(", try: "), "{said}");
    server
}

impl Server {
    fn ask(&self, path: &str, fields: &str) -> String {
        self.tell(&format!("GET {path}"), fields, "")
    }

    fn tell(&self, line: &str, fields: &str, body: &str) -> String {
        let mut stream = self.connect();
        let request =
            format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n{body}");
        stream.write_all(request.as_bytes()).expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[test]
fn each_crate_is_used_alone() {
    let text = output(env!("CARGO_BIN_EXE_alone_router"), &[]);
    assert!(text.contains("GET /users/7: 200 OK user 7"), "{text}");
    assert!(text.contains("file a.tar of kind gz"), "{text}");
    let text = output(env!("CARGO_BIN_EXE_alone_router"), &["/users/x"]);
    assert!(text.contains("404"), "{text}");
    let text = output(env!("CARGO_BIN_EXE_alone_pool"), &["10"]);
    assert!(text.contains("from the pool"), "{text}");
    let text = output(env!("CARGO_BIN_EXE_alone_interner"), &["10"]);
    assert!(text.contains("2 frozen, "), "{text}");
    let text = output(env!("CARGO_BIN_EXE_alone_metrics"), &[]);
    assert!(
        text.contains("a histogram: Key(http_server_request_duration_seconds"),
        "{text}"
    );
    assert!(text.contains("1 request counted"), "{text}");
    let text = output(env!("CARGO_BIN_EXE_alone_limit"), &["10"]);
    assert!(text.contains("4 of 10 asked the dependency"), "{text}");
    let text = output(env!("CARGO_BIN_EXE_alone_tuner"), &[]);
    assert!(text.contains("batch.size: 10 -> 20"), "{text}");
}

#[test]
fn the_worker_pool_computes_behind_axum() {
    let server = start(env!("CARGO_BIN_EXE_password_hashing"));
    let hash = server.tell("POST /hash", "content-length: 6\r\n", "secret");
    assert!(hash.contains("\r\n\r\n$argon2id$"), "{hash}");
    assert!(server.ask("/hello", "").ends_with("hello\n"));
    let stats = server.ask("/workers", "");
    assert!(!stats.contains("\"submitted\":0,"), "{stats}");
}

#[test]
fn layers_of_ours_stand_under_axum_serve() {
    let server = start(env!("CARGO_BIN_EXE_layers_axum"));
    assert!(server.ask("/", "").ends_with("hello\n"));
    assert!(server.ask("/panic", "").starts_with("HTTP/1.1 500 "));
    let stats = server.ask("/stats", "");
    assert!(stats.contains("\r\n\r\n2 requests; "), "{stats}");
}

#[test]
fn a_handler_whose_client_has_left_goes_on_to_its_end() {
    let server = start(env!("CARGO_BIN_EXE_client_left"));
    for path in ["/cancel", "/finish"] {
        let mut stream = server.connect();
        let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("writes");
        while !server.ask("/", "").contains(match path {
            "/cancel" => "1 orders begun",
            _ => "2 orders begun",
        }) {}
    }
    let whole = || server.ask("/", "").contains("2 orders begun, 1 whole");
    let ends = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !whole() {
        assert!(std::time::Instant::now() < ends, "{}", server.ask("/", ""));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The other never comes.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(whole());
}

#[test]
fn layers_of_tower_http_stand_beside_ours() {
    let server = start(env!("CARGO_BIN_EXE_serve_tower_http"));
    let fields = "origin: https://app.example.com\r\naccept-encoding: gzip\r\n";
    let hello = server.ask("/", fields);
    for field in [
        "access-control-allow-origin: https://app.example.com",
        "content-encoding: gzip",
        "x-within: yes",
        "x-around: yes",
        "x-request-id: ",
    ] {
        assert!(hello.contains(&format!("\r\n{field}")), "{field}: {hello}");
    }
    let panic = server.ask("/panic", fields);
    assert!(panic.starts_with("HTTP/1.1 500 "), "{panic}");
    assert!(
        panic.contains("\r\naccess-control-allow-origin: "),
        "{panic}"
    );
    assert!(
        panic.contains("\r\nx-around: yes") && !panic.contains("x-within"),
        "{panic}"
    );
}

#[test]
fn tls_is_spoken() {
    use std::sync::Arc;
    use tokio_rustls::rustls::{
        ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    /// The certificate is one of the moment.
    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let provider = ring::default_provider();
            provider
                .signature_verification_algorithms
                .supported_schemes()
        }
    }

    let server = start(env!("CARGO_BIN_EXE_serve_tls"));
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut socket = server.connect();
    let mut stream = Stream::new(&mut client, &mut socket);
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).expect("writes");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.ends_with("hello over TLSv1_3\n"), "{answer}");
}

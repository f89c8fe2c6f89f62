//! TLS by configuration: certificates by name, least version, certificates of clients, redirects.
#![cfg(all(feature = "full", feature = "tls-ring", unix))]

#[path = "support/ask.rs"]
mod ask;
#[path = "support/authority.rs"]
mod authority;
#[path = "support/log.rs"]
mod log;
#[path = "support/looks.rs"]
mod looks;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use authority::{Authority, Issued};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use log::Log;
use looks::holds_soon;
use stellane_core::{
    RequestBody, Runtime, RuntimeError,
    autotune::Key,
    config::{Loader, RuntimeConfig},
    connection::{
        CloseReason, ConnectInfo, ConnectionManager, TlsAcceptor, TlsCertificate, TlsClient,
        TlsConfig,
    },
    runtime::BoundRuntime,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SignatureScheme,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

/// Files that end with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("stellane-tls-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("makes");
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        // As those who renew do it, so that no half is ever there.
        let new = self.0.join("new");
        std::fs::write(&new, content).expect("writes");
        std::fs::rename(&new, &path).expect("renames");
        path.display().to_string()
    }

    /// The table of a certificate and its key.
    fn pair(&self, name: &str, issued: &Issued) -> String {
        let certificate = self.write(&format!("{name}.pem"), &issued.certificate);
        let key = self.write(&format!("{name}.key"), &issued.key);
        format!("{{ certificate = \"{certificate}\", key = \"{key}\" }}")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(text: &str) -> RuntimeConfig {
    let config = Loader::new().text("app.toml", text).load().expect("valid");
    config.with(|config| config.server.admin_address = String::new())
}

/// What the handler knows of its client.
fn describe(request: &Request<RequestBody>) -> String {
    let client = request.extensions().get::<TlsClient>();
    let connection = request.extensions().get::<ConnectInfo>();
    let by_connection = connection.and_then(|connection| connection.tls()?.client.as_ref());
    assert_eq!(client, by_connection);
    match client {
        None => "nobody".to_owned(),
        Some(client) => format!(
            "{} | {} | {} | {}",
            client.id().unwrap_or("-"),
            client.subject(),
            client.dns_names().join(" "),
            client.spiffe_id().unwrap_or("-"),
        ),
    }
}

macro_rules! bind {
    ($builder:expr) => {{
        let app = tower::service_fn(|request: Request<RequestBody>| async move {
            let path = request.uri().path().to_owned();
            let answer = match path.as_str() {
                "/" => describe(&request),
                path => format!("at {path}"),
            };
            Ok::<_, Infallible>(Response::new(answer))
        });
        let runtime = $builder
            .service(app)
            .shutdown_signal(std::future::pending());
        runtime.build().expect("builds").bind_configured().await
    }};
}

/// Serves, and tells where.
fn serve<S: stellane_core::App>(bound: BoundRuntime<S>) -> (Vec<SocketAddr>, ConnectionManager) {
    let connections = bound.components().connections.clone();
    let addresses = bound.local_addrs();
    tokio::spawn(bound.serve());
    (addresses, connections)
}

/// A client that trusts these roots.
struct Client {
    config: ClientConfig,
}

impl Client {
    fn new(authority: &Authority) -> Self {
        Self::with(authority, None, &[&TLS12, &TLS13])
    }

    fn with(
        authority: &Authority,
        issued: Option<&Issued>,
        versions: &[&'static tokio_rustls::rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match issued {
            None => config.with_no_client_auth(),
            Some(Issued {
                certificate, key, ..
            }) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                let chain = vec![certificate.expect("PEM")];
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        Self { config }
    }

    /// One that can't check signatures of this kind.
    fn without(authority: &Authority, scheme: SignatureScheme) -> Self {
        let mut provider = default_provider();
        let known = &mut provider.signature_verification_algorithms;
        let others = known
            .mapping
            .iter()
            .copied()
            .filter(|(one, _)| *one != scheme);
        known.mapping = Box::leak(others.collect());
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config }
    }

    async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = name.to_owned().try_into().expect("a name");
        let socket = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, socket).await
    }

    /// The body of the answer to `GET /` over HTTP/1.
    async fn one(&self, address: SocketAddr, name: &str) -> std::io::Result<String> {
        let mut stream = self.connect(address, name, &["http/1.1"]).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(body.to_owned())
    }

    /// The same over HTTP/2.
    async fn two(&self, address: SocketAddr, name: &str) -> std::io::Result<String> {
        let stream = self.connect(address, name, &["h2"]).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut send, connection) = handshake.await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let request = Request::get(format!("https://{name}/")).body(Full::<Bytes>::default());
        let answer = send.send_request(request.expect("a request")).await;
        let body = answer.map_err(std::io::Error::other)?.into_body();
        let body = body.collect().await.map_err(std::io::Error::other)?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).expect("text"))
    }

    /// The DNS name of the certificate that the server shows.
    async fn shown(&self, address: SocketAddr, name: &str) -> std::io::Result<Vec<u8>> {
        let stream = self.connect(address, name, &[]).await?;
        let shown = stream.get_ref().1.peer_certificates().expect("shown");
        Ok(shown[0].to_vec())
    }
}

fn der(issued: &Issued) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    der.expect("PEM").to_vec()
}

async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(holds_soon(holds).await, "never {what}");
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let folder = Folder::new("sni");
    let authority = Authority::new("servers");
    let issued: Vec<_> = [
        // The first is also for everybody who asks for what nobody has.
        &["first.example", "other.example", "127.0.0.1"][..],
        &["a.example", "www.a.example"],
        &["*.a.example"],
        &["deep.b.example"],
    ]
    .iter()
    .map(|names| authority.issue("", names, &[]))
    .collect();
    let pairs: Vec<_> = (0..4)
        .map(|n| folder.pair(&n.to_string(), &issued[n]))
        .collect();
    let text = format!(
        "[server]\naddress = \"127.0.0.1:0\"\n[connection.tls]\ncertificates = [{}]\n",
        pairs.join(", ")
    );
    let (addresses, _) = serve(bind!(Runtime::builder().config(config(&text))).expect("binds"));
    let client = Client::new(&authority);
    for (name, expected) in [
        ("first.example", 0),
        ("other.example", 0),
        ("127.0.0.1", 0),
        ("a.example", 1),
        ("A.Example", 1),
        ("www.a.example", 1),
        ("x.a.example", 2),
        ("deep.b.example", 3),
    ] {
        let shown = client.shown(addresses[0], name).await.expect(name);
        assert!(shown == der(&issued[expected]), "{name}");
        assert_eq!(client.one(addresses[0], name).await.expect(name), "nobody");
        assert_eq!(client.two(addresses[0], name).await.expect(name), "nobody");
    }
    // A client that looks at no name sees what the others get: no handshake ends without a word.
    for unknown in ["nobody.example", "x.y.a.example", "b.example"] {
        let error = client
            .shown(addresses[0], unknown)
            .await
            .expect_err("another");
        assert!(error.to_string().contains("first.example"), "{error}");
    }
}

#[tokio::test]
async fn of_two_for_one_name_a_client_gets_the_one_whose_key_it_can_check() {
    let folder = Folder::new("keys");
    let authority = Authority::new("servers");
    let edwards = authority.issue_with(&rcgen::PKCS_ED25519, &["a.example"]);
    let usual = authority.issue("", &["a.example"], &[]);
    let pairs = [folder.pair("one", &edwards), folder.pair("two", &usual)].join(", ");
    let text = format!(
        "[server]\naddress = \"127.0.0.1:0\"\n[connection.tls]\ncertificates = [{pairs}]\n"
    );
    let (addresses, _) = serve(bind!(Runtime::builder().config(config(&text))).expect("binds"));
    let all = Client::new(&authority);
    let shown = all.shown(addresses[0], "a.example").await.expect("shown");
    assert!(shown == der(&edwards), "the first that will do");
    // As browsers are.
    let browser = Client::without(&authority, SignatureScheme::ED25519);
    for name in ["a.example", "127.0.0.1"] {
        let shown = browser.shown(addresses[0], name).await;
        match name {
            "a.example" => assert!(shown.expect("shown") == der(&usual)),
            _ => assert!(
                shown
                    .expect_err("no such name")
                    .to_string()
                    .contains("a.example")
            ),
        }
    }
}

#[tokio::test]
async fn a_client_of_an_old_version_is_refused_only_if_that_is_asked_for() {
    let folder = Folder::new("version");
    let authority = Authority::new("servers");
    let pair = folder.pair("server", &authority.issue("", &["a.example"], &[]));
    let old = Client::with(&authority, None, &[&TLS12]);
    let new = Client::with(&authority, None, &[&TLS13]);
    for (least, refused) in [("1.2", 0), ("1.3", 2)] {
        let text = format!(
            "[server]\naddress = \"127.0.0.1:0\"\n\
             [connection.tls]\ncertificates = [{pair}]\nmin_version = \"{least}\"\n"
        );
        let bound = bind!(Runtime::builder().config(config(&text))).expect("binds");
        let (addresses, connections) = serve(bound);
        for answer in [
            old.one(addresses[0], "a.example").await,
            old.two(addresses[0], "a.example").await,
        ] {
            assert_eq!(answer.is_err(), refused > 0, "{least}: {answer:?}");
            if let Err(error) = answer {
                assert!(error.to_string().contains("ProtocolVersion"), "{error}");
            }
        }
        for answer in [
            new.one(addresses[0], "a.example").await,
            new.two(addresses[0], "a.example").await,
        ] {
            assert_eq!(answer.expect(least), "nobody");
        }
        until("counted", async || {
            connections.stats().closed(CloseReason::HandshakeFailed) == refused
        })
        .await;
    }
}

#[tokio::test]
async fn who_shows_a_certificate_is_known_and_who_shows_a_wrong_one_is_refused() {
    let folder = Folder::new("clients");
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (other, stranger) = (Authority::new("other clients"), Authority::new("clients"));
    let pair = folder.pair("server", &servers.issue("", &["a.example"], &[]));
    let ca = folder.write("ca.pem", format!("{}{}", clients.pem, other.pem));

    let id = "spiffe://example.org/billing";
    let alice = clients.issue("alice", &["alice.example"], &[id]);
    let two = clients.issue("two", &[], &[id, "spiffe://example.org/other"]);
    let nameless = clients.issue("", &["n.example"], &[]);
    let evil = clients.issue("x,CN=alice", &[], &["https://a.example"]);
    let revoked = clients.issue("revoked", &[], &[]);
    // Whose issuer has no list is not refused for that.
    let listless = other.issue("bob", &[], &[]);
    let forged = stranger.issue("alice", &["alice.example"], &[id]);
    let list = clients.revoke(&[&revoked]);
    let as_pem = folder.write("list.pem", list.pem().expect("PEM"));
    let as_der = folder.write("list.crl", list.der());

    let known = [
        (
            &alice,
            format!("{id} | CN=alice,O=Example\\, Inc. | alice.example | {id}"),
        ),
        (
            &two,
            "CN=two,O=Example\\, Inc. | CN=two,O=Example\\, Inc. |  | -".to_owned(),
        ),
        (&nameless, "n.example |  | n.example | -".to_owned()),
        (
            &evil,
            "CN=x\\,CN\\=alice,O=Example\\, Inc. | CN=x\\,CN\\=alice,O=Example\\, Inc. |  | -"
                .replace("\\=", "="),
        ),
        (
            &listless,
            "CN=bob,O=Example\\, Inc. | CN=bob,O=Example\\, Inc. |  | -".to_owned(),
        ),
    ];
    for (auth, list) in [("optional", &as_pem), ("required", &as_der)] {
        let text = format!(
            "[server]\naddress = \"127.0.0.1:0\"\n\
             [connection.tls]\ncertificates = [{pair}]\n\
             client_auth = \"{auth}\"\nclient_ca = \"{ca}\"\nclient_crl = \"{list}\"\n"
        );
        let bound = bind!(Runtime::builder().config(config(&text))).expect("binds");
        let (addresses, connections) = serve(bound);
        for versions in [&[&TLS12][..], &[&TLS13]] {
            let client = |issued| Client::with(&servers, issued, versions);
            let before = connections.stats().closed(CloseReason::HandshakeFailed);
            for (issued, expected) in &known {
                let client = client(Some(issued));
                let answers = [
                    client.one(addresses[0], "a.example").await,
                    client.two(addresses[0], "a.example").await,
                ];
                for answer in answers {
                    assert_eq!(&answer.expect("known"), expected, "{auth}");
                }
            }
            let mut refused = 4;
            for wrong in [&revoked, &forged] {
                let client = client(Some(wrong));
                let one = client.one(addresses[0], "a.example").await;
                let two = client.two(addresses[0], "a.example").await;
                assert!(one.is_err() && two.is_err(), "{auth}: {one:?} {two:?}");
            }
            let nobody = client(None);
            let answers = [
                nobody.one(addresses[0], "a.example").await,
                nobody.two(addresses[0], "a.example").await,
            ];
            for answer in answers {
                match auth {
                    "optional" => assert_eq!(answer.expect("served"), "nobody"),
                    _ => {
                        answer.expect_err("no certificate");
                        refused += 1;
                    }
                }
            }
            until("counted", async || {
                let failed = connections.stats().closed(CloseReason::HandshakeFailed);
                failed - before == refused
            })
            .await;
        }
    }
}

#[tokio::test]
async fn the_limit_can_share_its_places_among_clients_by_their_certificates() {
    let folder = Folder::new("limit");
    let authority = Authority::new("all");
    let pair = folder.pair("server", &authority.issue("", &["a.example"], &[]));
    let ca = folder.write("ca.pem", &authority.pem);
    let text = format!(
        "[server]\naddress = \"127.0.0.1:0\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ncertificates = [{pair}]\n\
         client_auth = \"optional\"\nclient_ca = \"{ca}\"\n"
    );
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let builder = Runtime::builder()
        .config(config(&text))
        .limit_layer(|layer, _| {
            layer.key(move |head| {
                let id = head.extensions.get::<TlsClient>().and_then(TlsClient::id);
                seen.lock().expect("whole").push(id.map(str::to_owned));
                id.map(Key::of)
            })
        });
    let (addresses, _) = serve(bind!(builder).expect("binds"));
    let id = "spiffe://example.org/a";
    for issued in [Some(authority.issue("a", &[], &[id])), None] {
        let client = Client::with(&authority, issued.as_ref(), &[&TLS13]);
        client.one(addresses[0], "a.example").await.expect("one");
        client.two(addresses[0], "a.example").await.expect("two");
    }
    let keys = keys.lock().expect("whole");
    let id = Some(id.to_owned());
    assert_eq!(*keys, [id.clone(), id, None, None]);
}

#[tokio::test]
async fn each_address_may_have_certificates_and_rules_of_its_own() {
    let folder = Folder::new("own");
    let authority = Authority::new("all");
    let ca = folder.write("ca.pem", &authority.pem);
    let issued = ["all.example", "own.example"].map(|name| authority.issue("", &[name], &[]));
    let of_all = folder.pair("all", &issued[0]);
    let own = folder.pair("own", &issued[1]);
    let text = format!(
        "[connection.tls]\ncertificates = [{of_all}]\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ncertificates = [{own}]\nmin_version = \"1.3\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ntls = \"on\"\nclient_auth = \"required\"\nclient_ca = \"{ca}\"\n"
    );
    let (addresses, _) = serve(bind!(Runtime::builder().config(config(&text))).expect("binds"));
    let [all, own, clients] = addresses[..] else {
        panic!("{addresses:?}");
    };
    let old = Client::with(&authority, None, &[&TLS12]);
    let new = Client::with(&authority, None, &[&TLS13]);
    assert_eq!(old.one(all, "all.example").await.expect("old"), "nobody");
    assert_eq!(new.one(own, "own.example").await.expect("new"), "nobody");
    old.one(own, "own.example").await.expect_err("too old");
    new.one(clients, "all.example").await.expect_err("unknown");
    let known = authority.issue("c", &[], &[]);
    let known = Client::with(&authority, Some(&known), &[&TLS12, &TLS13]);
    let answer = known.two(clients, "all.example").await.expect("known");
    assert!(answer.starts_with("CN=c,"), "{answer}");
}

#[tokio::test]
async fn all_files_are_followed_and_a_bad_one_changes_nothing() {
    let folder = Folder::new("followed");
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let later = Authority::new("later clients");
    let issue = |name: &str| servers.issue("", &[name], &[]);
    let first = folder.pair("first", &issue("first.example"));
    let second = folder.pair("second", &issue("second.example"));
    let ca = folder.write("ca.pem", &clients.pem);
    let crl = folder.write("list.pem", clients.revoke(&[]).pem().expect("PEM"));
    let text = format!(
        "[server]\naddress = \"127.0.0.1:0\"\n\
         [connection.tls]\ncertificates = [{first}, {second}]\nreload_interval = \"10ms\"\n\
         client_auth = \"required\"\nclient_ca = \"{ca}\"\nclient_crl = \"{crl}\"\n"
    );
    let (addresses, _) = serve(bind!(Runtime::builder().config(config(&text))).expect("binds"));
    let address = addresses[0];
    let alice = clients.issue("alice", &[], &[]);
    let bob = later.issue("bob", &[], &[]);
    let [alice, bob] =
        [&alice, &bob].map(|one| (one.clone(), Client::with(&servers, Some(one), &[&TLS13])));
    alice.1.one(address, "second.example").await.expect("known");
    bob.1
        .one(address, "second.example")
        .await
        .expect_err("unknown");

    // The second certificate.
    let renewed = issue("second.example");
    folder.pair("second", &renewed);
    until("renewed", async || {
        let shown = alice.1.shown(address, "second.example").await;
        shown.is_ok_and(|shown| shown == der(&renewed))
    })
    .await;
    // Who signs clients.
    folder.write("ca.pem", format!("{}{}", clients.pem, later.pem));
    until("known", async || {
        bob.1.one(address, "first.example").await.is_ok()
    })
    .await;

    // What is wrong keeps what was right, whatever it is.
    std::fs::remove_file(folder.0.join("first.key")).expect("removes");
    let fifo = std::process::Command::new("mkfifo")
        .arg(folder.0.join("first.key"))
        .status();
    assert!(fifo.expect("runs").success());
    folder.write("list.pem", vec![b'-'; 10 << 20]);
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        alice
            .1
            .one(address, "first.example")
            .await
            .expect("as before");
    }
    // Who is revoked, once all is right again.
    let list = clients.revoke(&[&alice.0]);
    folder.write("list.pem", list.pem().expect("PEM"));
    folder.pair("first", &issue("first.example"));
    until("revoked", async || {
        alice.1.one(address, "first.example").await.is_err()
    })
    .await;
    bob.1
        .one(address, "first.example")
        .await
        .expect("not revoked");

    let log = log.text();
    let faults: Vec<_> = log
        .lines()
        .filter(|line| line.contains("the old certificates stay"))
        .collect();
    let each: std::collections::BTreeSet<_> = faults.iter().collect();
    assert!(log.contains("first.key: it is no regular file"), "{log}");
    assert_eq!(each.len(), faults.len(), "each once: {log}");
    assert!(log.contains("certificates reloaded"), "{log}");
}

#[tokio::test]
async fn plain_http_is_sent_to_https_where_that_is_asked_for() {
    let folder = Folder::new("redirect");
    let authority = Authority::new("servers");
    let pair = folder.pair("server", &authority.issue("", &["a.example"], &[]));
    let text = format!(
        "[connection.tls]\ncertificates = [{pair}]\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ntls = \"redirect\"\n\
         [[server.listen]]\naddress = \"127.0.0.1:0\"\ntls = \"redirect\"\nredirect_port = 9443\n"
    );
    let (addresses, _) = serve(bind!(Runtime::builder().config(config(&text))).expect("binds"));
    let [https, http, other] = addresses[..] else {
        panic!("{addresses:?}");
    };
    let client = Client::new(&authority);
    assert_eq!(
        client.one(https, "a.example").await.expect("served"),
        "nobody"
    );

    let port = https.port();
    for (target, host, expected) in [
        (
            "/a/b?c=d&e",
            "a.example",
            "https://a.example/a/b?c=d&e".to_owned(),
        ),
        ("/", "a.example:80", "https://a.example/".to_owned()),
        ("/", "a.example:8080", format!("https://a.example:{port}/")),
        ("/", "[::1]:8080", format!("https://[::1]:{port}/")),
        ("/", "[::1]", "https://[::1]/".to_owned()),
        (
            "//evil.example/",
            "a.example",
            "https://a.example//evil.example/".to_owned(),
        ),
        (
            "http://a.example/x",
            "a.example",
            "https://a.example/x".to_owned(),
        ),
        (
            "/.well-known/acme-challenge",
            "a.example",
            "https://a.example/.well-known/acme-challenge".to_owned(),
        ),
    ] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let answer = ask::ask_at(http, &request).await;
            assert!(answer.starts_with("HTTP/1.1 308 "), "{target}: {answer}");
            let line = format!("location: {expected}\r\n");
            assert!(answer.contains(&line), "{target} at {host}: {answer}");
        }
    }
    let request = "GET /x HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let answer = ask::ask_at(other, request).await;
    assert!(
        answer.contains("location: https://a.example:9443/x\r\n"),
        "{answer}"
    );
    // Who issues certificates asks by plain HTTP.
    let acme = "GET /.well-known/acme-challenge/t HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let answer = ask::ask_at(http, acme).await;
    assert!(
        answer.ends_with("at /.well-known/acme-challenge/t"),
        "{answer}"
    );
    // Nobody knows where to send these.
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: me@a.example\r\nconnection: close\r\n\r\n",
    ] {
        let answer = ask::ask_at(http, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "),
            "{answer}"
        );
    }

    // HTTP/2 without TLS, by who knows that it is spoken.
    let socket = TcpStream::connect(http).await.expect("connects");
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut send, connection) = handshake.await.expect("speaks");
    tokio::spawn(connection);
    let request = Request::get("http://a.example/two").body(Full::<Bytes>::default());
    let answer = send
        .send_request(request.expect("a request"))
        .await
        .expect("answers");
    assert_eq!(answer.status(), 308);
    assert_eq!(answer.headers()["location"], "https://a.example/two");
}

#[tokio::test]
async fn what_is_asked_of_tls_is_never_left_out_in_silence() {
    let folder = Folder::new("in-vain");
    let authority = Authority::new("all");
    let ca = folder.write("ca.pem", &authority.pem);
    let pair = folder.pair("server", &authority.issue("", &["a.example"], &[]));
    let listen = "[[server.listen]]\naddress = \"127.0.0.1:0\"\n";
    for (text, expected) in [
        (
            format!("[connection.tls]\nclient_auth = \"required\"\nclient_ca = \"{ca}\"\n"),
            "nobody speaks TLS",
        ),
        (
            "[connection.tls]\nmin_version = \"1.3\"\n".to_owned(),
            "nobody speaks TLS",
        ),
        (
            format!("[connection.tls]\ncertificates = [{pair}]\nclient_auth = \"optional\"\n"),
            "needs `client_ca`",
        ),
        (
            format!("[connection.tls]\ncertificates = [{pair}]\nclient_ca = \"{ca}\"\n"),
            "expected `client_auth = \"optional\"`",
        ),
        (
            format!("{listen}client_auth = \"required\"\nclient_ca = \"{ca}\"\n"),
            "there is no certificate: expected `certificate` and `key`",
        ),
        (
            format!("{listen}certificates = [{pair}]\n{listen}tls = \"on\"\n"),
            "there is no certificate for `tls = \"on\"`",
        ),
        (
            format!(
                "[connection.tls]\nmin_version = \"1.3\"\n{listen}certificates = [{pair}]\n{listen}"
            ),
            "nobody speaks TLS",
        ),
        (
            format!("{listen}tls = \"redirect\"\n"),
            "there is no certificate for `tls = \"redirect\"`",
        ),
        (
            "[connection.tls]\ncertificate = \"a.pem\"\n".to_owned(),
            "a.pem",
        ),
    ] {
        let text = if text.contains("[[") {
            text
        } else {
            format!("[server]\naddress = \"127.0.0.1:0\"\n{text}")
        };
        let error = bind!(Runtime::builder().config(config(&text))).expect_err(&text);
        assert!(matches!(error, RuntimeError::Component { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    for (text, expected) in [
        (
            format!("{listen}tls = \"off\"\nclient_auth = \"required\"\n"),
            "nobody speaks TLS there",
        ),
        (
            format!("{listen}tls = \"redirect\"\nmin_version = \"1.3\"\n"),
            "nobody speaks TLS there",
        ),
        (
            "[[server.listen]]\naddress = \"unix:/a\"\ntls = \"redirect\"\n".to_owned(),
            "since `tls` is `redirect`",
        ),
        (
            "[connection.tls]\nmin_version = \"1.1\"\n".to_owned(),
            "`1.2` or `1.3`",
        ),
        (
            "[connection.tls]\nclient_auth = \"maybe\"\n".to_owned(),
            "`none`, `optional`, `required`",
        ),
        (
            "[connection.tls]\ncertificates = [{ certificate = \"a\" }]\n".to_owned(),
            "missing field `key`",
        ),
    ] {
        let error = Loader::new()
            .text("app.toml", &*text)
            .load()
            .expect_err(&text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_file_that_is_wrong_is_named_with_what_is_expected_and_without_what_is_in_it() {
    let folder = Folder::new("wrong");
    let authority = Authority::new("all");
    let good = authority.issue("", &["a.example"], &[]);
    let other = authority.issue("", &["a.example"], &[]);
    let pem = folder.write("good.pem", &good.certificate);
    let key = folder.write("good.key", &good.key);
    let secret = "aHVudGVyMg";
    let half: String = good.key.chars().take(good.key.len() / 2).collect();
    let cut = format!("-----BEGIN PRIVATE KEY-----\n{secret}");
    for (certificate, key, expected) in [
        (&pem[..], "", "there is no file"),
        ("", &key[..], "there is no file"),
        (&pem, "/none/x.key", "/none/x.key: No such file"),
        (&pem, "/dev/null", "no private key in it: expected PEM"),
        (&pem, &folder.write("other.key", &other.key), "the key is not that of"),
        (&pem, &folder.write("half.key", half), "is it still being written?"),
        (&pem, &folder.write("cut.key", cut), "is it still being written?"),
        (&pem, &folder.write("bad.key", format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----\n")), "no base64"),
        (&pem, &folder.write("start.key", format!("-----BEGIN {secret}\n")), "it is not PEM"),
        (
            &pem,
            &folder.write("enc.key", format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{secret}==\n-----END ENCRYPTED PRIVATE KEY-----\n")),
            "openssl pkey -in FILE",
        ),
        (&folder.write("der.pem", der(&good)), &key, "it is DER"),
        (&key, &key, "no certificate in it"),
        ("/tmp", &key, "/tmp: Is a directory"),
    ] {
        let config = TlsConfig::default()
            .with(|tls| tls.certificates.push(TlsCertificate::new(certificate, key)));
        let error = TlsAcceptor::from_config(&config).expect_err(expected);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{expected}: {shown}");
        assert!(!shown.contains(secret), "{shown}");
    }
}

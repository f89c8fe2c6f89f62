//! The section `[http]`: tower-http's layers in the preset, over real sockets, by HTTP/1 and HTTP/2.
#![cfg(feature = "http-layers")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use crate::{looks::in_time, self_signed::SelfSigned};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    BoxError, Components, RequestBody, Runtime, RuntimeConfig,
    autotune::AlgorithmKind,
    catch_faults::Refusal,
    config::Loader,
    connection::{Listener, TlsAcceptor},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tower::service_fn;
use tower_http::{decompression::DecompressionLayer, request_id::RequestId};

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

const LONG: &str = "a line that says what it says more than once\n";

fn long() -> String {
    LONG.repeat(100)
}

/// What a request asks for, by its path; `x-…` of the query become headers of the answer.
async fn app(request: Request<RequestBody>) -> Result<Response<Body>, BoxError> {
    let mut response = Response::builder();
    for pair in request.uri().query().unwrap_or_default().split('&') {
        if let Some((name, value)) = pair.split_once('=') {
            response = response.header(name, value.replace("%20", " ").replace("%22", "\""));
        }
    }
    Ok(match request.uri().path() {
        "/long" => {
            let text = match *request.method() {
                Method::HEAD => {
                    response = response.header(header::CONTENT_LENGTH, long().len());
                    body("")
                }
                _ => body(long()),
            };
            response.body(text)?
        }
        "/short" => response.body(body("hello"))?,
        "/part" => response.status(206).body(body(long()))?,
        "/unchanged" => response.status(304).body(body(""))?,
        "/id" => {
            let id = request.extensions().get::<RequestId>();
            let id = id.map(|id| id.header_value().to_str().unwrap_or("?").to_owned());
            let field = request.headers().get("x-request-id");
            assert_eq!(
                field.map(http::HeaderValue::as_bytes),
                id.as_deref().map(str::as_bytes)
            );
            response.body(body(id.unwrap_or_default()))?
        }
        "/hang" => std::future::pending().await,
        "/panic" => panic!("on purpose"),
        "/late" => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT).into()),
        path => response.body(body(format!(
            "{} {path}{}",
            request.method(),
            match request
                .headers()
                .iter()
                .any(|(_, value)| value.is_sensitive())
            {
                true => " with secrets",
                false => "",
            }
        )))?,
    })
}

fn config(text: &str) -> RuntimeConfig {
    let loaded = Loader::new().text("test.toml", text).load();
    loaded.expect("valid").with(|config| {
        config.server.admin_address = String::new();
        config.server.max_body_bytes = 10;
        config.limit.algorithm = AlgorithmKind::Fixed;
        (config.limit.initial, config.limit.min) = (1, 1);
        config.limit.max_wait = Duration::ZERO;
    })
}

async fn served(text: &str) -> (SocketAddr, Components) {
    let runtime = Runtime::builder()
        .config(config(text))
        .service(service_fn(app))
        .shutdown_signal(std::future::pending())
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let (address, components) = (bound.local_addr(), bound.components().clone());
    tokio::spawn(bound.serve());
    (address, components)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

use Protocol::{Http1, Http2};

async fn send(
    address: SocketAddr,
    protocol: Protocol,
    line: &str,
    fields: &[(&str, &str)],
    text: &str,
) -> Response<Incoming> {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let mut request = Request::builder().method(method);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let sent = Full::new(Bytes::from(text.to_owned()));
    match protocol {
        Http1 => {
            let (mut client, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .expect("a connection");
            tokio::spawn(connection);
            let request = request.uri(path).header(header::HOST, "example.org");
            client
                .send_request(request.body(sent).expect("valid"))
                .await
        }
        Http2 => {
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .expect("a connection");
            tokio::spawn(connection);
            let request = request.uri(format!("http://example.org{path}"));
            client
                .send_request(request.body(sent).expect("valid"))
                .await
        }
    }
    .expect("an answer")
}

async fn bytes(response: Response<Incoming>) -> Bytes {
    response
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes()
}

/// What a client makes of it that knows all encodings.
async fn decoded(response: Response<Incoming>) -> Bytes {
    use tower::{Layer, ServiceExt};
    let response = std::sync::Mutex::new(Some(response));
    let ready = service_fn(move |_: Request<()>| {
        let response = response.lock().expect("no panic").take();
        async move { Ok::<_, Infallible>(response.expect("called once")) }
    });
    let service = DecompressionLayer::new().layer(ready);
    let response = service.oneshot(Request::new(())).await.expect("an answer");
    let collected = response.into_body().collect().await;
    collected.expect("whole").to_bytes()
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next().map(|value| value.to_str().expect("text"));
    assert!(all.next().is_none(), "{name} twice: {headers:?}");
    first
}

const BROWSERS: &str = r#"
    [http.request_id]
    enabled = true
    [http.cors]
    allow_origins = ["https://app.example.com", "http://localhost:5173"]
    allow_credentials = true
"#;
const ORIGIN: (&str, &str) = ("origin", "https://app.example.com");

#[tokio::test]
async fn whatever_is_refused_has_its_cors_headers_and_its_request_id() {
    let (address, components) = served(BROWSERS).await;
    for protocol in [Http1, Http2] {
        let check = async |line: &str, more: &[(&str, &str)], text: &str, status: u16| {
            let fields = [&[ORIGIN, ("x-request-id", "mine-1")], more].concat();
            let answer = send(address, protocol, line, &fields, text).await;
            assert_eq!(answer.status(), status, "{line} {protocol:?}");
            let headers = answer.headers();
            let told = |name| field(headers, name);
            assert_eq!(
                told("access-control-allow-origin"),
                Some(ORIGIN.1),
                "{line}"
            );
            assert_eq!(told("access-control-allow-credentials"), Some("true"));
            assert_eq!(told("access-control-expose-headers"), Some("x-request-id"));
            assert_eq!(told("x-request-id"), Some("mine-1"), "{line}");
            let vary = headers.get_all("vary").iter();
            assert!(
                vary.flat_map(|v| v.to_str()).any(|v| v.contains("origin")),
                "{line}"
            );
        };
        check("GET /", &[], "", 200).await;
        check("GET /late", &[], "", 408).await;
        check("POST /", &[], "more than ten", 413).await;
        check("GET /panic", &[], "", 500).await;
        check("GET /hang", &[("x-request-timeout-ms", "20")], "", 504).await;
        let _place = components.limit.try_acquire().expect("the only one");
        check("GET /", &[], "", 503).await;
    }
}

#[tokio::test]
async fn a_preflight_is_no_request_of_the_service_whatever_its_load() {
    let (address, components) = served(BROWSERS).await;
    let _place = components.limit.try_acquire().expect("the only one");
    for protocol in [Http1, Http2] {
        let asks = [
            ORIGIN,
            ("access-control-request-method", "PUT"),
            (
                "access-control-request-headers",
                "authorization,content-type",
            ),
        ];
        // One with a body is none that a browser sends; it is answered all the same.
        for text in ["", "more than ten bytes"] {
            let answer = send(address, protocol, "OPTIONS /", &asks, text).await;
            assert_eq!(answer.status(), 200, "{protocol:?} {text}");
            let headers = answer.headers().clone();
            let told = |name| field(&headers, name);
            assert_eq!(told("access-control-allow-origin"), Some(ORIGIN.1));
            assert_eq!(told("access-control-allow-credentials"), Some("true"));
            assert_eq!(told("access-control-allow-headers"), Some(asks[2].1));
            let methods = told("access-control-allow-methods").expect("told");
            assert!(
                methods.split(',').any(|method| method == "PUT"),
                "{methods}"
            );
            assert_eq!(told("access-control-max-age"), Some("600"));
            assert!(told("x-request-id").is_some());
            assert_eq!(bytes(answer).await, "");
        }
        // Whose origin is not allowed is told nothing, `null` neither.
        for origin in [
            "null",
            "https://evil.example",
            "https://app.example.com.evil.example",
        ] {
            let asks = [("origin", origin), asks[1]];
            let answer = send(address, protocol, "OPTIONS /", &asks, "").await;
            assert_eq!(
                field(answer.headers(), "access-control-allow-origin"),
                None,
                "{origin}"
            );
        }
    }
    assert_eq!(components.metrics.stats().requests_total, 0);
    assert_eq!(components.limit.stats().successes, 0);
}

#[tokio::test]
async fn options_that_are_no_preflight_are_the_services_own() {
    let (address, _components) = served(BROWSERS).await;
    for protocol in [Http1, Http2] {
        for fields in [
            &[][..],
            &[ORIGIN],
            &[("access-control-request-method", "GET")],
        ] {
            let answer = send(address, protocol, "OPTIONS /own", fields, "").await;
            assert_eq!(bytes(answer).await, "OPTIONS /own", "{fields:?}");
        }
    }
}

#[tokio::test]
async fn the_connection_of_a_preflight_with_a_body_goes_on() {
    let (address, _components) = served(BROWSERS).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let preflight = "OPTIONS / HTTP/1.1\r\nhost: x\r\norigin: https://app.example.com\r\n\
                     access-control-request-method: PUT\r\ncontent-length: 5\r\n\r\nhello";
    let then = "GET /then HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream
        .write_all(preflight.as_bytes())
        .await
        .expect("writes");
    stream.write_all(then.as_bytes()).await.expect("writes");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.expect("reads");
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.ends_with("GET /then"), "{answers}");
}

#[tokio::test]
async fn an_id_of_a_client_is_bounded_in_length_and_characters() {
    let (address, _components) = served(BROWSERS).await;
    let long = "a".repeat(129);
    let accepted = [
        "a",
        &long[..128],
        "0b3f-4c.5~6_7",
        "Root=1-67:abc/+=",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ];
    let replaced = [
        "",
        " ",
        &long,
        "a b",
        "a\"b",
        "<script>",
        "${jndi:ldap}",
        "a;b",
        "a,b",
        "a\tb",
    ];
    for protocol in [Http1, Http2] {
        for id in accepted {
            let answer = send(address, protocol, "GET /id", &[("x-request-id", id)], "").await;
            assert_eq!(field(answer.headers(), "x-request-id"), Some(id));
            assert_eq!(bytes(answer).await, id.as_bytes());
        }
        let mut made = Vec::new();
        let several = [("x-request-id", "one"), ("x-request-id", "two")];
        let strange = replaced.map(|id| vec![("x-request-id", id)]);
        for fields in strange.into_iter().chain([vec![], several.to_vec()]) {
            let answer = send(address, protocol, "GET /id", &fields, "").await;
            let id = field(answer.headers(), "x-request-id")
                .expect("set")
                .to_owned();
            assert!(
                id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
                "{fields:?} {id}"
            );
            assert_eq!(bytes(answer).await, id.as_bytes());
            made.push(id);
        }
        made.sort();
        made.dedup();
        assert_eq!(made.len(), 12, "each has its own");
    }
    let (address, _components) =
        served("[http.request_id]\nenabled = true\naccept = false\nheader = \"x-request-id\"")
            .await;
    let answer = send(address, Http1, "GET /id", &[("x-request-id", "mine")], "").await;
    assert_ne!(field(answer.headers(), "x-request-id"), Some("mine"));
}

const COMPRESSED: &str = "[http.compression]\nenabled = true";
const TEXT: &str = "content-type=text/plain;%20charset=utf-8";

#[tokio::test]
async fn answers_are_compressed_by_what_is_asked_and_by_what_they_are() {
    let (address, _components) = served(COMPRESSED).await;
    let all = "gzip, deflate, br, zstd";
    // What is asked for, what is answered with.
    let encodings = [
        (all, Some("zstd")),
        ("gzip", Some("gzip")),
        ("x-gzip", Some("gzip")),
        ("GZip;q=0.5, br;q=0.8", Some("br")),
        ("br", Some("br")),
        ("*", Some("zstd")),
        ("identity;q=0, gzip;q=0.1", Some("gzip")),
        ("deflate", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000, *;q=0", None),
        ("gzip;q=2, br;q=nonsense, zstd;q=.5", None),
        // No 406 from one who has another form of the answer, nor after a handler has run.
        ("identity;q=0", None),
        ("*;q=0", None),
        ("", None),
    ];
    for protocol in [Http1, Http2] {
        for (asked, expected) in encodings {
            let line = format!("GET /long?{TEXT}&etag=%22a%22&accept-ranges=bytes");
            let answer = send(address, protocol, &line, &[("accept-encoding", asked)], "").await;
            assert_eq!(answer.status(), 200, "{asked}");
            let headers = answer.headers().clone();
            assert_eq!(field(&headers, "content-encoding"), expected, "{asked}");
            assert_eq!(field(&headers, "vary"), Some("accept-encoding"), "{asked}");
            let (length, tag, ranges) = match expected {
                Some(_) => (None, "W/\"a\"", None),
                None => (Some(long().len().to_string()), "\"a\"", Some("bytes")),
            };
            assert_eq!(
                field(&headers, "content-length"),
                length.as_deref(),
                "{asked}"
            );
            assert_eq!(field(&headers, "etag"), Some(tag), "{asked}");
            assert_eq!(field(&headers, "accept-ranges"), ranges, "{asked}");
            assert_eq!(decoded(answer).await, long(), "{asked}");
        }
        // What is answered, and whether it is touched.
        for (path, is_compressed) in [
            ("/long?content-type=application/json", true),
            (
                "/long?content-type=application/problem%2Bjson"
                    .replace("%2B", "+")
                    .as_str(),
                true,
            ),
            ("/long?content-type=Image/SVG+xml", true),
            ("/long?content-type=text/html&content-length=4500", true),
            ("/long", false),
            ("/short?content-type=text/plain", false),
            ("/long?content-type=image/png", false),
            ("/long?content-type=application/octet-stream", false),
            ("/long?content-type=text/event-stream", false),
            ("/long?content-type=Text/Event-Stream;charset=utf-8", false),
            ("/long?content-type=application/grpc", false),
            ("/long?content-type=application/grpc+json", false),
            ("/long?content-type=application/grpc-web-text", false),
            (
                "/long?content-type=text/plain&cache-control=public,%20No-Transform",
                false,
            ),
            (
                "/long?content-type=text/plain&content-range=bytes%200-4499/9000",
                false,
            ),
            (
                "/long?content-type=text/plain&content-digest=sha-256=:abc=:",
                false,
            ),
            ("/part?content-type=text/plain", false),
            ("/unchanged?content-type=text/plain", false),
        ] {
            let line = format!("GET {path}");
            let answer = send(address, protocol, &line, &[("accept-encoding", all)], "").await;
            let headers = answer.headers();
            let encoding = field(headers, "content-encoding");
            assert_eq!(encoding.is_some(), is_compressed, "{path}: {headers:?}");
            let length = field(headers, "content-length").map(str::to_owned);
            let status = answer.status();
            let body = bytes(answer).await;
            if let Some(length) = length {
                assert_eq!(length, body.len().to_string(), "{path}");
            } else {
                assert!(is_compressed || status == 304, "{path} keeps its length");
            }
        }
        // Encoded already: tag and bytes are the service's own.
        let line = format!("GET /long?{TEXT}&content-encoding=br&etag=%22b%22");
        let answer = send(address, protocol, &line, &[("accept-encoding", all)], "").await;
        assert_eq!(field(answer.headers(), "content-encoding"), Some("br"));
        assert_eq!(field(answer.headers(), "etag"), Some("\"b\""));
        assert_eq!(bytes(answer).await, long());
    }
}

#[tokio::test]
async fn the_head_and_the_304_of_a_compressed_answer_are_its_own() {
    let (address, _components) = served(COMPRESSED).await;
    let line = format!("HEAD /long?{TEXT}&etag=%22a%22");
    for protocol in [Http1, Http2] {
        let answer = send(address, protocol, &line, &[("accept-encoding", "gzip")], "").await;
        let headers = answer.headers();
        assert_eq!(field(headers, "content-encoding"), Some("gzip"));
        assert_eq!(field(headers, "etag"), Some("W/\"a\""));
        assert!(
            field(headers, "content-length").is_none_or(|length| length == "0"),
            "not that of the plain one: {headers:?}"
        );
        assert_eq!(bytes(answer).await, "");
        let answer = send(address, protocol, &line, &[], "").await;
        let length = long().len().to_string();
        assert_eq!(field(answer.headers(), "content-length"), Some(&*length));
        assert_eq!(field(answer.headers(), "content-encoding"), None);

        for (known, tag) in [
            ("W/\"a\"", "W/\"a\""),
            ("\"x\", W/\"a\"", "W/\"a\""),
            ("\"a\"", "\"a\""),
        ] {
            let fields = [("accept-encoding", "gzip"), ("if-none-match", known)];
            let answer = send(
                address,
                protocol,
                "GET /unchanged?etag=%22a%22",
                &fields,
                "",
            )
            .await;
            assert_eq!(answer.status(), 304);
            assert_eq!(field(answer.headers(), "etag"), Some(tag), "{known}");
        }
    }
}

#[tokio::test]
async fn what_a_stream_has_sent_arrives_compressed_before_the_next() {
    let (begun, mut streams) = mpsc::unbounded_channel();
    let service = service_fn(move |_: Request<RequestBody>| {
        let (lines, more) = mpsc::unbounded_channel::<&'static str>();
        begun.send(lines).expect("the test waits");
        let stream = futures_util::stream::unfold(more, async |mut more| {
            let line = more.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), more))
        });
        std::future::ready(
            Response::builder()
                .header("content-type", "application/x-ndjson")
                .body(StreamBody::new(stream)),
        )
    });
    let runtime = Runtime::builder()
        .config(config(COMPRESSED).with(|config| config.limit.initial = 100))
        .service(service)
        .shutdown_signal(std::future::pending())
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    for protocol in [Http1, Http2] {
        for encoding in ["gzip", "br", "zstd"] {
            let fields = [("accept-encoding", encoding)];
            let mut answer = send(address, protocol, "GET /", &fields, "").await;
            assert_eq!(field(answer.headers(), "content-encoding"), Some(encoding));
            let lines = streams.recv().await.expect("begun");
            // The next is sent only when something of the last has come.
            for _ in 0..3 {
                lines.send("{\"a\":1}\n").expect("a reader");
                let frame = answer.body_mut().frame();
                let frame = in_time(frame).await;
                let frame = frame.expect("flushed").expect("a frame").expect("whole");
                assert!(frame.data_ref().is_some_and(|data| !data.is_empty()));
            }
        }
    }
}

#[tokio::test]
async fn what_other_pages_make_a_browser_send_is_refused() {
    let text = format!(
        "{BROWSERS}\n[http.csrf]\nenabled = true\ntrusted_origins = [\"https://pay.example\"]"
    );
    let (address, components) = served(&text).await;
    let evil = ("origin", "https://evil.example");
    let cross = ("sec-fetch-site", "cross-site");
    for protocol in [Http1, Http2] {
        for (line, fields, status) in [
            ("POST /", &[evil, cross][..], 403),
            ("POST /", &[evil], 403),
            ("POST /", &[("origin", "null"), cross], 403),
            ("DELETE /", &[cross], 403),
            // No browser, the same origin, one that is trusted by either section, and what changes nothing.
            ("POST /", &[], 200),
            ("POST /", &[("origin", "http://example.org")], 200),
            ("POST /", &[evil, ("sec-fetch-site", "same-origin")], 200),
            ("POST /", &[("origin", "https://pay.example"), cross], 200),
            ("POST /", &[ORIGIN, cross], 200),
            ("GET /", &[evil, cross], 200),
        ] {
            let answer = send(address, protocol, line, fields, "").await;
            assert_eq!(answer.status(), status, "{line} {fields:?} {protocol:?}");
            assert!(field(answer.headers(), "x-request-id").is_some());
        }
    }
    assert_eq!(components.metrics.stats().requests_total, 12);
}

const TLS: &str = r#"
    [http.security_headers]
    enabled = true
    content_security_policy = "default-src 'self'"
    [http.hsts]
    max_age = "1h"
    include_subdomains = true
"#;

#[tokio::test]
async fn browsers_are_told_to_be_careful_and_of_tls_only_over_tls() {
    let key = SelfSigned::new();
    let listen = async || {
        Listener::from(
            tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("binds"),
        )
    };
    let (plain, secret) = (
        listen().await,
        listen().await.tls(&TlsAcceptor::from_rustls(key.server())),
    );
    let (at, at_tls) = (
        plain.local_addr().expect("TCP"),
        secret.local_addr().expect("TCP"),
    );
    let runtime = Runtime::builder()
        .config(config(TLS))
        .service(service_fn(app))
        .shutdown_signal(std::future::pending())
        .build()
        .expect("builds");
    let bound = runtime.listen_on([plain, secret]).await.expect("listens");
    tokio::spawn(bound.serve());

    let answer = send(at, Http1, "GET /?x-frame-options=SAMEORIGIN", &[], "").await;
    let headers = answer.headers();
    assert_eq!(field(headers, "x-content-type-options"), Some("nosniff"));
    assert_eq!(
        field(headers, "x-frame-options"),
        Some("SAMEORIGIN"),
        "the service's own"
    );
    assert_eq!(
        field(headers, "referrer-policy"),
        Some("strict-origin-when-cross-origin")
    );
    assert_eq!(
        field(headers, "content-security-policy"),
        Some("default-src 'self'")
    );
    assert_eq!(field(headers, "strict-transport-security"), None);

    let socket = TcpStream::connect(at_tls).await.expect("connects");
    let mut stream = key.connect(socket).await;
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    let expected = "\r\nstrict-transport-security: max-age=3600; includeSubDomains\r\n";
    assert!(answer.contains(expected), "{answer}");
    assert!(answer.contains("\r\nx-frame-options: DENY\r\n"), "{answer}");
}

#[tokio::test]
async fn a_trailing_slash_goes_and_nothing_else_of_a_path_does() {
    let (address, _components) = served("[http]\ntrim_trailing_slash = true").await;
    for (path, seen) in [
        ("/a/", "/a"),
        ("/a///", "/a"),
        ("//a", "/a"),
        ("/a", "/a"),
        ("/", "/"),
        ("//", "/"),
        ("/a/b/?x-q=/", "/a/b"),
        ("/a%2F", "/a%2F"),
        ("/a%2f/", "/a%2f"),
        ("/a/%2e%2e/", "/a/%2e%2e"),
        ("/a//b/", "/a//b"),
    ] {
        for protocol in [Http1, Http2] {
            let answer = send(address, protocol, &format!("GET {path}"), &[], "").await;
            if path.contains('?') {
                assert_eq!(
                    field(answer.headers(), "x-q"),
                    Some("/"),
                    "the query is whole"
                );
            }
            assert_eq!(
                bytes(answer).await,
                format!("GET {seen}").as_bytes(),
                "{path}"
            );
        }
    }
    let (address, _components) = served(COMPRESSED).await;
    let answer = send(address, Http1, "GET /a/", &[], "").await;
    assert_eq!(bytes(answer).await, "GET /a/", "off");
}

#[tokio::test]
async fn secrets_are_marked_before_anybody_can_log_them() {
    let (address, _components) = served("[http]\nsensitive_headers = [\"authorization\"]").await;
    for (name, seen) in [("authorization", "GET / with secrets"), ("accept", "GET /")] {
        let answer = send(address, Http1, "GET /", &[(name, "x")], "").await;
        assert_eq!(bytes(answer).await, seen.as_bytes());
    }
}

#[tokio::test]
async fn with_nothing_on_nothing_is_there() {
    let (address, _components) = served("").await;
    let fields = [
        ORIGIN,
        ("x-request-id", "mine"),
        ("accept-encoding", "gzip"),
    ];
    let answer = send(address, Http1, &format!("GET /long?{TEXT}"), &fields, "").await;
    let names: Vec<_> = answer
        .headers()
        .keys()
        .map(header::HeaderName::as_str)
        .collect();
    let ours = |name: &&&str| !["content-type", "content-length", "date"].contains(*name);
    assert_eq!(names.iter().filter(ours).count(), 0, "{names:?}");
}

#[test]
fn what_contradicts_itself_is_told_when_it_is_loaded() {
    for (text, expected) in [
        (
            "[http.cors]\nallow_origins = [\"app.example.com\"]",
            "there is no scheme",
        ),
        (
            "[http.cors]\nallow_origins = [\"https://app.example.com/\"]",
            "nothing but a port",
        ),
        (
            "[http.cors]\nallow_origins = [\"https://*.example.com\"]",
            "nothing but a port",
        ),
        (
            "[http.cors]\nallow_origins = [\"https://App.example.com\"]",
            "letters are small",
        ),
        (
            "[http.cors]\nallow_origins = [\"https://example.com:443\"]",
            "usual port is left out",
        ),
        (
            "[http.cors]\nallow_origins = [\"http://example.com:80\"]",
            "usual port is left out",
        ),
        (
            "[http.cors]\nallow_origins = [\"http://example.com:x\"]",
            "that is no port",
        ),
        (
            "[http.cors]\nallow_origins = [\"https://\"]",
            "there is no host",
        ),
        ("[http.cors]\nallow_origins = [\"\"]", "there is no scheme"),
        (
            "[http.cors]\nallow_origins = [\"*\", \"https://a.example\"]",
            "nothing beside it",
        ),
        (
            "[http.cors]\nallow_origins = [\"*\"]\nallow_credentials = true",
            "which anybody can be",
        ),
        (
            "[http.cors]\nallow_origins = [\"null\"]\nallow_credentials = true",
            "which anybody can be",
        ),
        (
            "[http.cors]\nexpose_headers = [\"*\"]\nallow_credentials = true",
            "headers by name",
        ),
        ("[http.cors]\nallow_methods = [\"G T\"]", "is not a method"),
        (
            "[http.cors]\nallow_headers = [\"x y\"]",
            "is not the name of a header",
        ),
        (
            "[http.cors]\nallow_headers = [\"*\", \"x\"]",
            "nothing beside it",
        ),
        (
            "[http.csrf]\ntrusted_origins = [\"*\"]",
            "there is no scheme",
        ),
        (
            "[http.csrf]\ntrusted_origins = [\"null\"]",
            "there is no scheme",
        ),
        (
            "[http.request_id]\nheader = \"\"",
            "is not the name of a header",
        ),
        ("[http]\nsensitive_headers = [\"*\"]", "only in `cors`"),
        (
            "[http.compression]\nencodings = [\"deflate\"]",
            "is not one of br, gzip, zstd",
        ),
        (
            "[http.compression]\nenabled = true\nencodings = []",
            "there is none",
        ),
        (
            "[http.compression]\ncontent_types = [\"json\"]",
            "is not a type",
        ),
        ("[http.compression]\nlevel = 0", "expected 1 to 9"),
        ("[http.compression]\nlevel = 11", "expected 1 to 9"),
        (
            "[http.security_headers]\nframe_options = \"DENY\\nx: y\"",
            "printable ASCII",
        ),
        (
            "[http.cors]\nallow_origin = []",
            "did you mean `allow_origins`?",
        ),
    ] {
        let errors = Loader::new()
            .text("test.toml", text)
            .load()
            .expect_err(text);
        assert!(errors.to_string().contains(expected), "{text}: {errors}");
    }
    for origin in [
        "*",
        "null",
        "https://a.example:8443",
        "http://[::1]:3000",
        "http://127.0.0.1",
        "app://localhost",
    ] {
        let text = format!("[http.cors]\nallow_origins = [\"{origin}\"]");
        let loaded = Loader::new().text("test.toml", text).load();
        assert!(loaded.is_ok(), "{origin}: {loaded:?}");
    }
}

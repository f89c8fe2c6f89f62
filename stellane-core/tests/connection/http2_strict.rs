//! What HTTP/2 can say in two ways is refused as over HTTP/1, with the same settings.
#![cfg(feature = "full")]

use std::{convert::Infallible, net::SocketAddr};

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer, RST_STREAM, field, frame, head,
};
use crate::served::served;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    Runtime, RuntimeConfig,
    connection::{ConnectionConfig, Incoming},
    router::Router,
};
use tokio::net::TcpStream;

/// Whether a stream with these fields is answered, or reset with `PROTOCOL_ERROR`.
async fn is_answered(peer: &mut Peer, stream: u32, fields: &[(&str, &str)]) -> bool {
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let head: Vec<_> = usual
        .iter()
        .chain(fields)
        .flat_map(|(name, value)| field(name, value))
        .collect();
    let flags = END_HEADERS | END_STREAM;
    peer.send(&frame(HEADERS, flags, stream, &head)).await;
    loop {
        let frame = peer.next().await.expect("the connection lives");
        if frame.is(RST_STREAM, stream) {
            assert_eq!(frame.code(), 1, "PROTOCOL_ERROR");
            return false;
        }
        if frame.is(HEADERS, stream) {
            return true;
        }
    }
}

#[tokio::test]
async fn a_request_says_once_whom_it_is_for() {
    let service = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    for strict in [true, false] {
        let mut config = ConnectionConfig::default();
        config.strict_http1 = strict;
        let (_manager, address) = served(config, service, |listener| listener).await;
        let mut peer = Peer::greet(address, &[]).await;
        for (n, (fields, fine)) in [
            (&[(":authority", "a")][..], true),
            (&[(":authority", "a"), ("host", "a")], true),
            (&[(":authority", "A:80"), ("host", "a")], true),
            (&[("host", "a")], true),
            // As a proxy forwards what had none over HTTP/1.0.
            (&[], true),
            (&[(":authority", "a"), ("host", "b")], false),
            (&[(":authority", "a:443"), ("host", "a")], false),
            (&[(":authority", "a"), ("host", "a"), ("host", "a")], false),
            (&[("host", "a"), ("host", "b")], false),
            (&[(":authority", "user@a")], false),
            (&[("host", "user@a")], false),
            (&[(":authority", "a")], true),
        ]
        .into_iter()
        .enumerate()
        {
            let stream = u32::try_from(n).expect("few") * 2 + 1;
            let answered = is_answered(&mut peer, stream, fields).await;
            assert_eq!(answered, fine || !strict, "{fields:?}");
        }
    }
}

async fn preset(config: RuntimeConfig) -> SocketAddr {
    let router = Router::builder().get("/{*path}", async || "hello").build();
    let runtime = Runtime::builder()
        .config(config)
        .service(router.expect("builds"))
        .build();
    let bound = runtime.expect("builds").bind("127.0.0.1:0").await;
    let bound = bound.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    address
}

#[tokio::test]
async fn a_target_and_fields_have_the_same_limits() {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.strict_http1.max_target_bytes = 100;
    config.strict_http1.max_headers = 20;
    let address = preset(config).await;
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("speaks");
    tokio::spawn(connection);
    for (path, fields, cookies, status) in [
        (100, 20, 0, StatusCode::OK),
        (101, 0, 0, StatusCode::URI_TOO_LONG),
        (10, 21, 0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        // A browser sends each cookie in a field of its own.
        (10, 19, 90, StatusCode::OK),
        (10, 20, 90, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    ] {
        let mut request = Request::get(format!("http://x/{}", "p".repeat(path - 1)));
        for n in 0..fields {
            request = request.header(format!("x-{n}"), "y");
        }
        for n in 0..cookies {
            request = request.header("cookie", format!("c{n}=1"));
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = client.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), status, "{path} {fields} {cookies}");
    }
}

/// Answers with the trailers that it got, or that there is an error.
async fn trailers(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let told = match request.into_body().collect().await {
        Ok(body) => format!("{:?}", body.trailers()),
        Err(_) => "an error".to_owned(),
    };
    Ok(Response::new(Full::from(told)))
}

/// These fields and a long one, as much as a frame holds.
fn filled(mut fields: Vec<u8>) -> Vec<u8> {
    let length = 16_384 - fields.len() - 6;
    let more = length - 127;
    let [low, high] = [more & 0x7F | 0x80, more >> 7].map(|n| u8::try_from(n).expect("short"));
    fields.extend([0, 1, b'x', 127, low, high]);
    fields.resize(16_384, b'v');
    fields
}

#[tokio::test]
async fn trailers_have_no_pseudo_headers() {
    // Literals, of the static table by value and by name, of the dynamic table, and behind a change of its size.
    let indexed = |entry: u8| vec![0x80 | entry];
    let path = [&[0x04, 2][..], b"/x"].concat();
    let cases = [
        (field("x-end", "yes"), r#"{"x-end": "yes"}"#),
        (Vec::new(), "{}"),
        (
            [field("x-end", "yes"), field("www-authenticate", "theirs")].concat(),
            r#"{"x-end": "yes", "www-authenticate": "theirs"}"#,
        ),
        (
            [vec![0x3F, 0xE1, 0x1F], field("x-end", "yes")].concat(),
            r#"{"x-end": "yes"}"#,
        ),
        (field(":path", "/x"), ""),
        (field(":status", "200"), ""),
        (
            [field(":method", "GET"), field("x-end", "yes")].concat(),
            "",
        ),
        (
            [field("x-end", "yes"), field(":method", "GET")].concat(),
            "",
        ),
        (indexed(2), ""),
        (path, ""),
        (indexed(62), ""),
        ([vec![0x3F, 0xE1, 0x1F], field(":path", "/x")].concat(), ""),
        (filled(Vec::new()), r#"{"x": "VALUE"}"#),
        // In a frame that has no room for another byte.
        (filled(field(":path", "/x")), ""),
    ];
    for strict in [true, false] {
        let mut config = ConnectionConfig::default();
        config.strict_http1 = strict;
        config.http2.max_header_list_bytes = 1 << 16;
        let service = tower::service_fn(trailers);
        let (_manager, address) = served(config, service, |listener| listener).await;
        for piece in [1, 7, usize::MAX] {
            let mut peer = Peer::greet(address, &[]).await;
            for (n, (block, expected)) in cases.iter().enumerate() {
                let stream = u32::try_from(n).expect("few") * 2 + 1;
                // Its `:authority` is in the dynamic table from then on.
                let head = match n {
                    0 => {
                        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/")];
                        let fields = fields.iter().flat_map(|(name, value)| field(name, value));
                        fields.chain([0x41, 1, b'x']).collect()
                    }
                    _ => head("POST", "/"),
                };
                let bytes = [
                    frame(HEADERS, END_HEADERS, stream, &head),
                    frame(DATA, 0, stream, b"body"),
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, block),
                ]
                .concat();
                for piece in bytes.chunks(piece) {
                    peer.send(piece).await;
                    tokio::task::yield_now().await;
                }
                let mut got = Vec::new();
                let refused = loop {
                    let frame = peer.next().await.expect("the connection lives");
                    if frame.is(RST_STREAM, stream) {
                        assert_eq!(frame.code(), 1, "PROTOCOL_ERROR");
                        break true;
                    }
                    if frame.is(DATA, stream) {
                        got.extend(frame.payload);
                        if frame.flags & END_STREAM != 0 {
                            break false;
                        }
                    }
                };
                let got = String::from_utf8(got).expect("text");
                let got = got.replace(&"v".repeat(16_378), "VALUE");
                if strict {
                    assert_eq!(refused, expected.is_empty(), "{n} by {piece}: {got}");
                }
                if !refused && !expected.is_empty() {
                    assert_eq!(got, format!("Some({expected})"), "{n} by {piece}");
                }
            }
        }
    }
}

/// Two changes to the size of HPACK's table are the most that there may be (RFC 7541, 4.2). So many are no trailers.
#[tokio::test]
async fn trailers_behind_no_end_of_changes_to_the_table_are_an_error() {
    let service = tower::service_fn(trailers);
    let (_manager, address) =
        served(ConnectionConfig::default(), service, |listener| listener).await;
    let mut peer = Peer::greet(address, &[]).await;
    let block = [vec![0x20; 100], field(":path", "/x")].concat();
    let bytes = [
        frame(HEADERS, END_HEADERS, 1, &head("POST", "/")),
        frame(DATA, 0, 1, b"body"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block),
    ];
    peer.send(&bytes.concat()).await;
    loop {
        let frame = peer.next().await.expect("told why");
        assert!(!frame.is(DATA, 1), "answered");
        if frame.kind == GOAWAY {
            assert_eq!(frame.code(), 1, "PROTOCOL_ERROR");
            break;
        }
    }
}

/// The service of a path that is never answered, and of others that are.
async fn now_or_never<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/never" {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Full::from("hello")))
}

async fn bare_hyper() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("binds");
    let address = listener.local_addr().expect("has one");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(now_or_never);
            let io = TokioIo::new(stream);
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(io, service));
        }
    });
    address
}

/// RFC 9113, 5.1 and 5.1.1: whether it is an error of the stream or of the connection, and which one.
#[tokio::test]
async fn fields_on_a_stream_that_is_over_are_the_same_error_as_of_hyper() {
    let (manager, ours) = served(
        ConnectionConfig::default(),
        tower::service_fn(now_or_never),
        |l| l,
    )
    .await;
    let hyper = bare_hyper().await;
    let fields = |end, stream, path| frame(HEADERS, END_HEADERS | end, stream, &head("POST", path));
    let cancel = frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    let data = frame(DATA, END_STREAM, 1, b"body");
    let errors = [
        // Half closed by the head, and by the body.
        (
            [fields(END_STREAM, 1, "/never"), fields(END_STREAM, 1, "/")].concat(),
            None,
        ),
        (
            [&fields(0, 1, "/never"), &data, &fields(END_STREAM, 1, "/")]
                .map(|frame| &frame[..])
                .concat(),
            None,
        ),
        // Answered meanwhile.
        (fields(END_STREAM, 1, "/"), Some(fields(END_STREAM, 1, "/"))),
        // Cancelled by its client.
        (
            [
                &fields(0, 1, "/never"),
                &cancel,
                &fields(END_STREAM, 1, "/"),
            ]
            .map(|frame| &frame[..])
            .concat(),
            None,
        ),
        // Never begun, and too late for that.
        (
            [fields(END_STREAM, 5, "/never"), fields(END_STREAM, 3, "/")].concat(),
            None,
        ),
    ];
    for (n, (first, then)) in errors.iter().enumerate() {
        let mut told = Vec::new();
        for address in [ours, hyper] {
            let mut peer = Peer::greet(address, &[]).await;
            peer.send(first).await;
            if let Some(then) = then {
                peer.until(DATA, 1).await;
                peer.send(then).await;
            }
            let error = loop {
                let frame = peer.next().await.expect("is told");
                if matches!(frame.kind, RST_STREAM | GOAWAY) {
                    break (frame.kind, frame.stream, frame.code());
                }
            };
            told.push(error);
        }
        assert_eq!(told[0], told[1], "{n}");
    }
    drop(manager);
}

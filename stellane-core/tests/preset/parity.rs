//! What `axum::serve` and tonic's server can be told, and what they tell handlers of connections: rows of the table in
//! `runtime/moving_in.md`.

#[cfg(unix)]
use std::{convert::Infallible, net::SocketAddr};

use crate::ask::{ask, ask_at};
use crate::frames::{
    END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Peer, RST_STREAM, SETTINGS, frame, head,
};
#[cfg(unix)]
use crate::self_signed::SelfSigned;
use http::{Request, Response};
use stellane_core::{
    RequestBody, Runtime, RuntimeConfig,
    connection::{ConnectInfo, ConnectionConfig, ForwardedHeader, Listener},
    connections, serve,
};
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Answers what its connection tells.
fn facts() -> impl tower::Service<
    Request<RequestBody>,
    Response = Response<String>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    service_fn(async |request: Request<RequestBody>| {
        let connection = request.extensions().get::<ConnectInfo>();
        let peer = connection.and_then(ConnectInfo::peer);
        #[cfg(unix)]
        let uid = connection
            .and_then(|c| c.unix_peer()?.credentials)
            .map(|c| c.uid());
        #[cfg(not(unix))]
        let uid = None::<u32>;
        let tls = connection.and_then(|c| c.tls()?.version);
        Ok(Response::new(format!(
            "peer={peer:?} uid={uid:?} tls={tls:?}"
        )))
    })
}

fn config(change: impl FnOnce(&mut ConnectionConfig)) -> RuntimeConfig {
    RuntimeConfig::default().with(|config| {
        config.server.admin_address = String::new();
        config.connection.connect_info = true;
        change(&mut config.connection);
    })
}

async fn served(config: RuntimeConfig) -> SocketAddr {
    let server = serve("127.0.0.1:0", facts()).config(config);
    let bound = server.bind().await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    address
}

/// What the server says of itself at the beginning of a connection of HTTP/2.
async fn settings(change: impl FnOnce(&mut ConnectionConfig)) -> Vec<(u16, u32)> {
    let address = served(config(change)).await;
    let mut peer = Peer::greet(address, &[]).await;
    let first = peer.next().await.expect("settings");
    assert!(first.is(SETTINGS, 0), "{first:?}");
    let pairs = first.payload.chunks_exact(6);
    pairs
        .map(|pair| {
            let [a, b, c, d, e, f] = pair.try_into().expect("six");
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        })
        .collect()
}

#[tokio::test]
async fn http2_is_as_it_is_configured() {
    const HEADER_TABLE: u16 = 1;
    const STREAMS: u16 = 3;
    const WINDOW: u16 = 4;
    const FRAME: u16 = 5;
    const HEADER_LIST: u16 = 6;
    const CONNECT: u16 = 8;
    let said = settings(|connection| {
        let http2 = &mut connection.http2;
        http2.max_frame_bytes = 1 << 20;
        http2.header_table_bytes = 0;
        http2.max_concurrent_streams = 7;
        http2.stream_window_bytes = 1 << 21;
        http2.max_header_list_bytes = 5000;
    })
    .await;
    for expected in [
        (FRAME, 1 << 20),
        (HEADER_TABLE, 0),
        (STREAMS, 7),
        (WINDOW, 1 << 21),
        (HEADER_LIST, 5000),
        (CONNECT, 1),
    ] {
        assert!(said.contains(&expected), "{expected:?} in {said:?}");
    }
    let said = settings(|connection| {
        connection.http2.adaptive_window = true;
        connection.http2.extended_connect = false;
    })
    .await;
    let window = said.iter().find(|(id, _)| *id == WINDOW);
    assert!(window.is_none_or(|(_, bytes)| *bytes == 65_535), "{said:?}");
    assert!(!said.contains(&(CONNECT, 1)), "{said:?}");
}

/// Until the connection ends, or the answer to a stream.
async fn end_of(peer: &mut Peer, stream: u32) -> Option<Frame> {
    while let Some(frame) = peer.next().await {
        if frame.kind == GOAWAY || frame.is(HEADERS, stream) {
            return Some(frame);
        }
    }
    None
}

#[tokio::test]
async fn no_reset_before_a_request_was_begun_may_be_allowed() {
    let both = |stream| {
        [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/")),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    };
    for (most, ends) in [(0, true), (20, false)] {
        let address = served(config(|c| c.http2.max_pending_accept_reset_streams = most)).await;
        let mut peer = Peer::greet(address, &[]).await;
        let asked = frame(HEADERS, END_HEADERS | END_STREAM, 3, &head("GET", "/"));
        peer.send(&[both(1), asked].concat()).await;
        let end = end_of(&mut peer, 3).await.expect("a frame");
        assert_eq!(end.kind == GOAWAY, ends, "{most}: {end:?}");
    }
}

#[tokio::test]
async fn http1_can_be_turned_off() {
    let address = served(config(|connection| connection.http1 = false)).await;
    let answer = ask_at(address, GET).await;
    assert!(!answer.contains("HTTP/1.1"), "{answer:?}");
    let mut peer = Peer::greet(address, &[]).await;
    peer.send(&frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &head("GET", "/"),
    ))
    .await;
    let answer = end_of(&mut peer, 1).await.expect("a frame");
    assert!(answer.is(HEADERS, 1), "{answer:?}");
}

#[tokio::test]
async fn proxies_that_are_trusted_say_whose_a_request_is() {
    let trusting = |networks: &'static str| {
        let mut config = config(|connection| {
            connection.connect_info = false; // it is on by what follows
            connection.forwarded.header = ForwardedHeader::XForwardedFor;
            connection.forwarded.trusted = vec![networks.to_owned()];
        });
        config.limit.max = 1000;
        config
    };
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   x-forwarded-for: 127.0.0.9, 192.0.2.7\r\n\r\n";
    for (networks, expected) in [("127.0.0.0/8", "192.0.2.7:0"), ("10.0.0.0/8", "127.0.0.1:")] {
        let address = served(trusting(networks)).await;
        let answer = ask_at(address, request).await;
        assert!(
            answer.contains(&format!("peer=Some({expected}")),
            "{answer}"
        );
    }

    // Nobody knows who gave this one, and so nobody speaks for it.
    let (client, io) = tokio::io::duplex(4096);
    let mut given = Some(Ok(io));
    let incoming = connections(move |_| std::task::Poll::Ready(given.take()));
    tokio::spawn(
        serve(incoming, facts())
            .config(trusting("0.0.0.0/0"))
            .into_future(),
    );
    let answer = ask(client, request).await;
    assert!(answer.contains("peer=None"), "{answer}");
}

/// axum's `ConnectInfo` is that of the client, each request's own on a connection of a proxy.
#[cfg(feature = "axum-08")]
#[tokio::test]
async fn each_request_of_a_proxy_has_its_own_client() {
    use axum::{Router, extract::ConnectInfo as Axum, routing::get};
    let app = Router::new().route(
        "/",
        get(async |Axum(peer): Axum<SocketAddr>| format!("({peer})")),
    );
    let config = config(|connection| {
        connection.forwarded.header = ForwardedHeader::Forwarded;
        connection.forwarded.trusted = vec!["127.0.0.1".to_owned()];
    });
    let bound = serve("127.0.0.1:0", app).config(config).bind().await;
    let bound = bound.expect("binds");
    let client = TcpStream::connect(bound.local_addr())
        .await
        .expect("connects");
    tokio::spawn(bound.serve());
    let requests = "GET / HTTP/1.1\r\nhost: x\r\nforwarded: for=192.0.2.1\r\n\r\n\
                    GET / HTTP/1.1\r\nhost: x\r\nforwarded: for=\"192.0.2.2:9\"\r\nconnection: close\r\n\r\n";
    let answers = ask(client, requests).await;
    assert!(answers.contains("(192.0.2.1:0)"), "{answers}");
    assert!(answers.contains("(192.0.2.2:9)"), "{answers}");
}

/// A stream of sockets tells of them what a listener does.
#[tokio::test]
async fn sockets_that_somebody_else_accepted_tell_what_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let incoming = connections(move |cx| listener.poll_accept(cx).map_ok(|(io, _)| io).map(Some));
    tokio::spawn(serve(incoming, facts()).into_future());
    let client = TcpStream::connect(address).await.expect("connects");
    let local = client.local_addr().expect("an address");
    let answer = ask(client, GET).await;
    assert!(answer.contains(&format!("peer=Some({local})")), "{answer}");

    #[cfg(unix)]
    {
        let (client, io) = tokio::net::UnixStream::pair().expect("a pair");
        let uid = client.peer_cred().expect("credentials").uid();
        let mut given = Some(Ok(io));
        let incoming = connections(move |_| std::task::Poll::Ready(given.take()));
        tokio::spawn(serve(incoming, facts()).into_future());
        let answer = ask(client, GET).await;
        assert!(answer.contains(&format!("uid=Some({uid})")), "{answer}");
    }
}

/// Of sockets that are accepted here, which have it from their listener, and of those that somebody else accepted.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_waits_to_be_sent_unless_the_configuration_says_so() {
    for nodelay in [true, false] {
        let configured = || config(|config| config.nodelay = nodelay);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let same = socket2::Socket::from(listener.try_clone().expect("a handle"));
        tokio::spawn(serve(listener, facts()).config(configured()).into_future());
        let client = TcpStream::connect(address).await.expect("connects");
        assert!(ask(client, GET).await.contains("peer="));
        assert_eq!(same.tcp_nodelay().expect("an option"), nodelay);

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connects");
        let (accepted, _) = listener.accept().expect("accepts");
        accepted.set_nonblocking(true).expect("sets");
        let same = accepted.try_clone().expect("a handle");
        let mut given = Some(TcpStream::from_std(accepted));
        let incoming = connections(move |_| std::task::Poll::Ready(given.take()));
        tokio::spawn(serve(incoming, facts()).config(configured()).into_future());
        assert!(ask(client, GET).await.contains("peer="));
        assert_eq!(same.nodelay().expect("an option"), nodelay);
    }
}

/// What tonic's `trace_fn` is for: a span around each call, made of its request.
#[tokio::test]
async fn a_span_around_each_request_is_a_layer_of_tower_http() {
    use tower::Layer;
    let spans = tower_http::trace::TraceLayer::new_for_http().make_span_with(
        |request: &Request<RequestBody>| tracing::info_span!("call", path = request.uri().path()),
    );
    let app = spans.layer(service_fn(async |_: Request<RequestBody>| {
        let span = tracing::Span::current();
        Ok::<_, Infallible>(Response::new(format!(
            "in {:?}",
            span.metadata().map(|span| span.name())
        )))
    }));
    let _logging = tracing::subscriber::set_default(tracing_subscriber::registry());
    let bound = serve("127.0.0.1:0", app).bind().await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    let client = TcpStream::connect(address).await.expect("connects");
    let answer = ask(client, GET).await;
    assert!(answer.contains(r#"in Some("call")"#), "{answer}");
}

/// A configuration of rustls, with whatever cryptography, for all listeners of TCP; a Unix socket beside them, and no other
/// port.
#[cfg(unix)]
#[tokio::test]
async fn a_configuration_of_rustls_is_brought_along() {
    let key = SelfSigned::new();
    let path = std::env::temp_dir().join(format!("stellane-parity-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let secret = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let at_tls = secret.local_addr().expect("an address");
    let plain = tokio::net::UnixListener::bind(&path).expect("binds");
    let runtime = Runtime::builder()
        .config(config(|_| {}))
        .tls(key.server())
        .service(facts())
        .build()
        .expect("builds");
    let listeners = [Listener::from(secret), Listener::from(plain)];
    tokio::spawn(runtime.serve_listeners(listeners));

    let client = tokio::net::UnixStream::connect(&path)
        .await
        .expect("connects");
    assert!(ask(client, GET).await.contains("tls=None"));
    let socket = TcpStream::connect(at_tls).await.expect("connects");
    let stream = key.connect(socket).await;
    let answer = ask(stream, GET).await;
    assert!(answer.contains("tls=Some(\"TLSv1_3\")"), "{answer}");
    let _ = std::fs::remove_file(path);
}

/// Who has no cryptography for TLS from files hears what to do, and nobody is given one.
#[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc-rs")))]
#[tokio::test]
async fn tls_from_files_asks_for_cryptography() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let path =
        |kind| std::env::temp_dir().join(format!("stellane-none-{}.{kind}", std::process::id()));
    std::fs::write(path("pem"), key.cert.pem()).expect("writes");
    std::fs::write(path("key"), key.signing_key.serialize_pem()).expect("writes");
    let config = config(|connection| {
        connection.tls.certificate = path("pem").display().to_string();
        connection.tls.key = path("key").display().to_string();
    });
    let error = serve("127.0.0.1:0", facts()).config(config).bind().await;
    let error = error.expect_err("no cryptography").to_string();
    assert!(error.contains("`tls-ring` or `tls-aws-lc-rs`"), "{error}");
    for kind in ["pem", "key"] {
        let _ = std::fs::remove_file(path(kind));
    }
}

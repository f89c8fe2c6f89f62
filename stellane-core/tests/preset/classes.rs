//! Classes and exemptions of the preset's limit, by configuration, and keys by a closure.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig, autotune::Key, config::Loader,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::service_fn;

/// Two places, one of which a class may have.
const CONFIG: &str = r#"
    [server]
    admin_address = ""
    [workers]
    min_workers = 1
    [limit]
    algorithm = "fixed"
    initial = 8
    max_wait = "0s"
    [limit.classes.gpu]
    limit = 1
    hold = "body"
    paths = ["/v1/{model}/chat"]
    methods = ["POST"]
    [limit.classes]
    interactive = 0.25
"#;

async fn start(key: bool) -> (SocketAddr, Components) {
    let config: RuntimeConfig = Loader::new()
        .text("app.toml", CONFIG)
        .load()
        .expect("loads");
    let mut runtime = Runtime::builder().config(config);
    if key {
        runtime = runtime
            .limit_layer(|layer, _| layer.key(|head| head.headers.get("x-tenant").map(Key::of)));
    }
    let bound = runtime
        .service(service_fn(async |request: Request<RequestBody>| {
            if request.headers().contains_key("x-wait") {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new("done".to_owned()))
        }))
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let started = (bound.local_addr(), bound.components().clone());
    tokio::spawn(bound.serve());
    started
}

async fn send(address: SocketAddr, line: &str, fields: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request =
        format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    stream
}

async fn status(address: SocketAddr, line: &str, fields: &str) -> u16 {
    let mut answer = String::new();
    let mut stream = send(address, line, fields).await;
    stream.read_to_string(&mut answer).await.expect("reads");
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.expect("a status")
}

/// Requests that go on for ever, once they have their places.
async fn hold(
    started: &(SocketAddr, Components),
    line: &str,
    fields: &str,
    n: u32,
) -> Vec<TcpStream> {
    let (address, components) = started;
    let before = components.limit.stats().in_flight;
    let mut held = Vec::new();
    for _ in 0..n {
        held.push(send(*address, line, &format!("x-wait: 1\r\n{fields}")).await);
    }
    while components.limit.stats().in_flight < before + n {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    held
}

#[tokio::test]
async fn a_class_has_seats_of_its_own_and_what_is_exempt_needs_no_place() {
    let started = start(false).await;
    let address = started.0;
    let _held = hold(&started, "POST /v1/large/chat", "", 1).await;
    assert_eq!(
        status(address, "POST /v1/small/chat", "").await,
        503,
        "its seat is taken"
    );
    assert_eq!(
        status(address, "GET /v1/small/chat", "").await,
        200,
        "another method"
    );
    assert_eq!(
        status(address, "POST /v1/chat", "").await,
        200,
        "another path"
    );
    let _others = hold(&started, "GET /", "", 7).await;
    assert_eq!(status(address, "GET /", "").await, 503);
    let check = "POST /grpc.health.v1.Health/Check";
    assert_eq!(status(address, check, "").await, 200);
    let stats = started.1.limit.stats();
    assert_eq!((stats.shed_class_full, stats.shed_limit), (1, 1));
    assert_eq!(started.1.connections.stats().requests_total, 8 + 5);
}

#[tokio::test]
async fn a_tenant_leaves_a_quarter_to_others() {
    let started = start(true).await;
    let address = started.0;
    let _held = hold(&started, "GET /", "x-tenant: a\r\n", 6).await;
    assert_eq!(status(address, "GET /", "x-tenant: b\r\n").await, 200);
    assert_eq!(status(address, "GET /", "x-tenant: a\r\n").await, 503);
    assert_eq!(status(address, "GET /", "x-tenant: b\r\n").await, 200);
}

#[tokio::test]
async fn a_connection_with_many_streams_leaves_a_quarter_to_others() {
    let started = start(false).await;
    let address = started.0;
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = |waits: bool| {
        let request = Request::get("http://localhost/");
        let request = match waits {
            true => request.header("x-wait", "1"),
            false => request,
        };
        request.body(Empty::<Bytes>::new()).expect("a request")
    };
    let held: Vec<_> = (0..6)
        .map(|_| tokio::spawn(sender.send_request(request(true))))
        .collect();
    while started.1.limit.stats().in_flight < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(address, "GET /", "").await, 200);
    let own = sender.send_request(request(false)).await;
    assert_eq!(own.expect("an answer").status(), 503);
    assert_eq!(status(address, "GET /", "").await, 200);
    drop(held);
}

#[tokio::test]
async fn a_template_that_is_none_fails_the_start_with_its_name() {
    let mut config = RuntimeConfig::default();
    config.limit.exempt = vec!["/a/{b".to_owned()];
    let runtime = Runtime::builder().config(config);
    let built = runtime
        .service(service_fn(async |_: Request<RequestBody>| {
            Ok::<_, Infallible>(Response::new(String::new()))
        }))
        .build();
    let error = built.expect_err("fails").to_string();
    assert!(
        error.contains("limit") && error.contains("/a/{b"),
        "{error}"
    );
}

//! Deadlines and body limits of some requests, by the configuration and by a closure.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, body::Body, extract::DefaultBodyLimit, routing::put};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    BoxError, Components, RefusalKind, RequestBody, RequestLimits, Runtime, RuntimeConfig,
    config::Loader,
};
use tokio::net::TcpStream;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

const CONFIG: &str = r#"
    [server]
    admin_address = ""
    max_body_bytes = 100
    [server.route_limits.uploads]
    max_body_bytes = "1KiB"
    paths = ["/files/{*path}"]
    methods = ["PUT"]
    [server.route_limits.notes]
    max_body_bytes = 10
    paths = ["/notes/{id}"]
    [server.route_limits.reports]
    timeout = "10m"
    paths = ["/reports/{id}", "/files/{*path}"]
    methods = ["GET"]
    [server.route_limits.pings]
    timeout = "1s"
    paths = ["/ping"]
    [server.route_limits.chat]
    timeout = "2s"
    grpc = ["llm.v1.Chat"]
    [server.route_limits.long]
    timeout = "10m"
    grpc = ["llm.v1.Long"]
    [server.route_limits.patches]
    timeout = "3s"
    max_body_bytes = 20
    methods = ["PATCH"]
    [overload]
    default_timeout = "10s"
    max_timeout = "20s"
"#;

fn config() -> RuntimeConfig {
    Loader::new()
        .text("app.toml", CONFIG)
        .load()
        .expect("loads")
}

/// Takes the seconds that `x-take` says, and reads its body.
async fn app<B>(request: Request<RequestBody<B>>) -> Result<Response<String>, BoxError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    if let Some(take) = request.headers().get("x-take") {
        let seconds: f64 = take.to_str()?.parse()?;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(body.len().to_string()))
}

/// Of so many bytes, whose number is in the head or not.
fn body(size: usize, whole: bool) -> Body {
    let bytes = Bytes::from(vec![b'x'; size]);
    match whole {
        true => bytes.into(),
        false => Body::from_stream(stream::iter([Ok::<_, Infallible>(bytes)])),
    }
}

fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.header("host", "a").body(body).expect("valid")
}

/// The status, or that of gRPC in its place.
fn outcome<B>(response: &Response<B>) -> u16 {
    let grpc = response.headers().get("grpc-status");
    let grpc = grpc.map(|status| status.to_str().expect("text").parse().expect("a number"));
    grpc.unwrap_or(response.status().as_u16())
}

/// Asks the preset as one layer, and as the layers that this stands for.
async fn ask_both(make: impl Fn() -> Request<Body>) -> [u16; 2] {
    let config = config();
    let components = Components::new(&config).expect("valid");
    let fused = components
        .layer(&config.server)
        .layer(service_fn(app::<Body>));
    let layers = ServiceBuilder::new()
        .layer(components.layers(&config.server))
        .service(service_fn(app::<Body>));
    let fused = fused.oneshot(make()).await.expect("answers");
    let layers = layers.oneshot(make()).await.expect("answers");
    [outcome(&fused), outcome(&layers)]
}

#[tokio::test]
async fn a_body_may_be_as_large_as_its_route_allows() {
    for (method, path, size, status) in [
        ("PUT", "/other", 100, 200),
        ("PUT", "/other", 101, 413),
        // Larger than all others.
        ("PUT", "/files/a/b", 101, 200),
        ("PUT", "/files/a/b", 1024, 200),
        ("PUT", "/files/a/b", 1025, 413),
        // Another method, which has a deadline of its own and no limit.
        ("GET", "/files/a/b", 101, 413),
        ("POST", "/files/a/b", 101, 413),
        // Smaller.
        ("POST", "/notes/1", 10, 200),
        ("POST", "/notes/1", 11, 413),
        ("POST", "/notes", 100, 200),
        ("PATCH", "/anything", 20, 200),
        ("PATCH", "/anything", 21, 413),
        ("PATCH", "/notes/1", 11, 413),
        // Written so that some services take it for the same.
        ("POST", "/notes/1/", 11, 413),
        ("POST", "//notes/1", 11, 413),
        ("POST", "//notes/1//", 11, 413),
    ] {
        for whole in [true, false] {
            let make = || request(method, path, body(size, whole));
            let case = format!("{method} {path} {size} {whole}");
            assert_eq!(ask_both(make).await, [status; 2], "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_may_take_as_long_as_its_route_allows() {
    for (line, asked_ms, take, status) in [
        ("GET /other", "", "9", 200),
        ("GET /other", "", "11", 504),
        ("GET /other", "15000", "14", 200),
        ("GET /other", "60000", "21", 504),
        // Longer than all others, also than what a client may ask for elsewhere.
        ("GET /reports/1", "", "590", 200),
        ("GET /reports/1", "", "601", 504),
        ("GET /reports/1", "300000", "299", 200),
        ("GET /reports/1", "300000", "301", 504),
        ("GET /reports/1", "900000", "601", 504),
        // Shorter.
        ("GET /ping", "", "0.9", 200),
        ("GET /ping", "", "1.1", 504),
        ("GET /ping", "500", "0.6", 504),
        ("GET /ping", "9000", "1.1", 504),
        ("PATCH /other", "", "3.1", 504),
        // gRPC, in its own words.
        ("POST /llm.v1.Chat/Ask", "", "1.9", 200),
        ("POST /llm.v1.Chat/Ask", "", "2.1", 4),
        ("POST /llm.v1.Chat/Ask", "9000", "2.1", 4),
        ("POST /llm.v1.Other/Ask", "", "9", 200),
        ("POST /llm.v1.Other/Ask", "", "11", 4),
    ] {
        let (method, path) = line.split_once(' ').expect("two words");
        let make = || {
            let mut request = request(method, path, Body::empty());
            let headers = request.headers_mut();
            headers.insert("x-take", take.parse().expect("valid"));
            if !asked_ms.is_empty() {
                let asked = asked_ms.parse().expect("valid");
                headers.insert("x-request-timeout-ms", asked);
            }
            if path.starts_with("/llm") {
                let grpc = http::HeaderValue::from_static("application/grpc");
                headers.insert("content-type", grpc);
            }
            request
        };
        let case = format!("{line} asks for {asked_ms} and takes {take}");
        assert_eq!(ask_both(make).await, [status; 2], "{case}");
    }
}

#[tokio::test]
async fn the_limit_of_a_route_is_also_what_extractors_take_by_default() {
    const MIB: usize = 1 << 20;
    let config = RuntimeConfig::default().with(|config| {
        let uploads = stellane_core::config::RouteLimits::default().with(|limits| {
            limits.paths = vec!["/more/{*path}".to_owned(), "/more".to_owned()];
            limits.max_body_bytes = 4 << 20;
        });
        let kinds = &mut config.server.route_limits;
        kinds.insert("uploads".to_owned(), uploads);
    });
    let components = Components::new(&config).expect("valid");
    let read = || put(async |body: Bytes| body.len().to_string());
    let axum: Router = Router::new()
        .route("/usual", read())
        .route("/more", read())
        .route("/more/but", read().layer(DefaultBodyLimit::max(MIB)));
    let ours = stellane_core::router::Router::builder()
        .put("/usual", async |body: Bytes| body.len().to_string())
        .put("/more", async |body: Bytes| body.len().to_string())
        .build()
        .expect("builds");
    let layer = components.layer(&config.server);
    for (path, size, status) in [
        ("/usual", 3 * MIB, 413),
        ("/more", 3 * MIB, 200),
        ("/more", 5 * MIB, 413),
        ("/more/but", 3 * MIB, 413),
    ] {
        for whole in [true, false] {
            let make = || request("PUT", path, body(size, whole));
            let answer = layer.layer(axum.clone()).oneshot(make()).await;
            let status = StatusCode::from_u16(status).expect("valid");
            assert_eq!(
                answer.expect("answers").status(),
                status,
                "{path} {size} {whole}"
            );
            if path != "/more/but" {
                let answer = layer.layer(ours.clone()).oneshot(make()).await;
                assert_eq!(answer.expect("answers").status(), status, "ours: {path}");
            }
        }
    }
}

/// Served on a port of its own, with an answer of one's own to what is refused.
async fn served(default_timeout: Duration, closure: bool) -> SocketAddr {
    let mut config = config();
    config.overload.default_timeout = default_timeout;
    config.overload.max_timeout = Duration::ZERO;
    let mut builder = Runtime::builder().config(config).on_refusal(|kind, head| {
        let is_late = kind.status() == StatusCode::GATEWAY_TIMEOUT;
        if !is_late && kind != RefusalKind::BodyTooLarge || head.uri.path().starts_with("/llm") {
            return None;
        }
        let mut response = Response::new(Bytes::from(format!("own {}", kind.status().as_u16())));
        *response.status_mut() = kind.status();
        Some(response)
    });
    if closure {
        builder = builder.route_limits(|head| {
            let limits = RequestLimits::default();
            match head.headers.get("x-tenant").map(|tenant| tenant.as_bytes()) {
                Some(b"large") => limits
                    .timeout(Duration::from_secs(300))
                    .max_body_bytes(2000),
                Some(b"patient") => limits.timeout(Duration::from_secs(300)),
                Some(b"small") => limits.max_body_bytes(5),
                Some(b"panics") => panic!("on purpose"),
                _ => limits,
            }
        });
    }
    let bound = builder
        .service(service_fn(app::<stellane_core::connection::Incoming>))
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("listens");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    address
}

/// Sent by hyper's client; the outcome and the text.
async fn send(address: SocketAddr, version: Version, mut request: Request<Body>) -> (u16, String) {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let response = match version {
        Version::HTTP_2 => {
            let uri = format!("http://{address}{}", request.uri().path());
            *request.uri_mut() = uri.parse().expect("valid");
            request.headers_mut().remove("host");
            let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
            let (mut client, connection) = connecting.await.expect("connects");
            tokio::spawn(connection);
            client.ready().await.expect("ready");
            client.send_request(request).await
        }
        _ => {
            let (mut client, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .expect("connects");
            tokio::spawn(connection);
            client.ready().await.expect("ready");
            client.send_request(request).await
        }
    };
    let response = response.expect("answers");
    let outcome = outcome(&response);
    let text = response.into_body().collect().await.expect("a body");
    let text = String::from_utf8(text.to_bytes().to_vec()).expect("text");
    (outcome, text)
}

const SHORT: Duration = Duration::from_millis(50);
const NONE: Duration = Duration::ZERO;

/// Asked over both versions of HTTP: the outcomes and the texts.
async fn ask(
    address: SocketAddr,
    line: &str,
    size: usize,
    (name, value): (&'static str, &str),
) -> [(u16, String); 2] {
    let (method, path) = line.split_once(' ').expect("two words");
    let make = || {
        let mut request = request(method, path, body(size, size.is_multiple_of(2)));
        let headers = request.headers_mut();
        headers.insert(name, value.parse().expect("valid"));
        if path.starts_with("/llm") {
            let grpc = http::HeaderValue::from_static("application/grpc");
            headers.insert("content-type", grpc);
        }
        request
    };
    [
        send(address, Version::HTTP_11, make()).await,
        send(address, Version::HTTP_2, make()).await,
    ]
}

#[tokio::test]
async fn over_sockets_routes_have_their_limits_and_refusals_are_shaped() {
    let own = |status: u16| [(); 2].map(|()| (status, format!("own {status}")));
    let read = |size: usize| [(); 2].map(|()| (200, size.to_string()));
    let address = served(NONE, false).await;
    let sent = async |line, size| ask(address, line, size, ("x-none", "")).await;
    assert_eq!(sent("PUT /files/a", 1024).await, read(1024));
    assert_eq!(sent("PUT /files/a", 1026).await, own(413));
    assert_eq!(sent("PUT /files/a", 1025).await, own(413));
    assert_eq!(sent("PUT /other", 101).await, own(413));
    assert_eq!(sent("PUT /notes/1", 12).await, own(413));
    // Messages are limited, each of them, and by whoever reads them.
    assert_eq!(sent("POST /llm.v1.Other/Ask", 5001).await, read(5001));

    let address = served(SHORT, false).await;
    let takes = async |line, seconds| ask(address, line, 0, ("x-take", seconds)).await;
    assert_eq!(takes("GET /other", "900").await, own(504));
    assert_eq!(takes("GET /reports/1", "0.2").await, read(0));
    assert_eq!(takes("GET /ping", "900").await, own(504));
    let [_, grpc] = takes("POST /llm.v1.Long/Ask", "0.2").await;
    assert_eq!(grpc, (200, "0".to_owned()));
    let [_, grpc] = takes("POST /llm.v1.Chat/Ask", "900").await;
    assert_eq!(grpc, (4, String::new()));
}

#[tokio::test]
async fn a_stream_of_grpc_is_as_long_as_it_likes() {
    let address = served(NONE, false).await;
    // 3000 messages of 1 KB, where 100 bytes are the most of a body.
    let message = Bytes::from([&[0, 0, 0, 4, 0][..], &[b'x'; 1024]].concat());
    let messages = stream::iter(vec![Ok::<_, Infallible>(message); 3000]);
    let mut request = request("POST", "/llm.v1.Long/Talk", Body::from_stream(messages));
    let grpc = http::HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    let answer = send(address, Version::HTTP_2, request).await;
    assert_eq!(answer, (200, (3000 * 1029).to_string()));
}

#[tokio::test]
async fn a_closure_has_the_first_word_and_the_configuration_the_second() {
    let address = served(NONE, true).await;
    let outcomes = async |line, size, tenant| {
        let answers = ask(address, line, size, ("x-tenant", tenant)).await;
        answers.map(|(outcome, _)| outcome)
    };
    assert_eq!(outcomes("PUT /other", 2000, "large").await, [200; 2]);
    assert_eq!(outcomes("PUT /other", 2001, "large").await, [413; 2]);
    assert_eq!(outcomes("PUT /files/a", 6, "small").await, [413; 2]);
    // What it leaves open.
    assert_eq!(outcomes("PUT /files/a", 1000, "patient").await, [200; 2]);
    assert_eq!(outcomes("PUT /other", 101, "patient").await, [413; 2]);
    assert_eq!(outcomes("PUT /files/a", 1000, "nobody").await, [200; 2]);
    assert_eq!(outcomes("PUT /files/a", 1000, "panics").await, [200; 2]);
    assert_eq!(outcomes("PUT /other", 101, "panics").await, [413; 2]);

    let address = served(SHORT, true).await;
    let outcomes = async |line: &str, take: &str, tenant: &'static str| {
        let mut request = request("GET", line, Body::empty());
        let headers = request.headers_mut();
        headers.insert("x-tenant", http::HeaderValue::from_static(tenant));
        headers.insert("x-take", take.parse().expect("valid"));
        send(address, Version::HTTP_11, request).await.0
    };
    assert_eq!(outcomes("/other", "0.2", "patient").await, 200);
    assert_eq!(outcomes("/reports/1", "0.2", "nobody").await, 200);
    assert_eq!(outcomes("/other", "900", "nobody").await, 504);
}

#[test]
fn limits_that_limit_nothing_or_nobody_are_told_when_they_are_loaded() {
    for (limits, told) in [
        ("timeout = \"1m\"", "expected `paths`, `methods` or `grpc`"),
        ("paths = [\"/\"]", "it limits nothing"),
        ("timeout = \"25h\"\npaths = [\"/\"]", "0s to 1 day"),
        (
            "max_body_bytes = 1\ngrpc = [\"a.B\"]",
            "limits each message",
        ),
        (
            "max_body_bytes = \"much\"\npaths = [\"/\"]",
            "\"much\" is not a size",
        ),
        ("max_body_byte = 1\npaths = [\"/\"]", "max_body_bytes"),
    ] {
        let text = format!("[server.route_limits.x]\n{limits}");
        let errors = Loader::new().text("app.toml", text).load().expect_err(told);
        assert!(errors.to_string().contains(told), "{errors}");
    }
    let text = "[server.route_limits.x]\ntimeout = \"1s\"\npaths = [\"/{a}/{\"]";
    let config = Loader::new().text("app.toml", text).load().expect("reads");
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("builds");
    let error = tokio.block_on(async { Components::new(&config).map(|_| ()).expect_err("none") });
    assert!(error.to_string().contains("server.route_limits"), "{error}");
}

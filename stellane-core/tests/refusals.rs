//! What a client sees of a request that the preset answers in the place of the service.
#![cfg(feature = "full")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use stellane_core::{
    BoxError, Components, RefusalKind, RequestBody, Runtime, RuntimeConfig,
    autotune::{AlgorithmKind, RequestHead},
    fault::Refusal,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::metadata::MetadataMap;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::service_fn;

/// One place, and nobody waits for it.
fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.server.max_body_bytes = 10;
    config.workers.min_workers = 1;
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max_wait = Duration::ZERO;
    config
}

/// Fails in the way that the path names.
async fn answer(request: Request<RequestBody>) -> Result<Response<String>, BoxError> {
    match request.uri().path() {
        "/panic" => panic!("as asked"),
        "/error" => Err("as asked".into()),
        "/refuse" => Err(Refusal::new(StatusCode::IM_A_TEAPOT).closing().into()),
        "/read" => {
            request.into_body().collect().await?;
            Ok(Response::new("read".to_owned()))
        }
        "/hang" => std::future::pending().await,
        _ => Ok(Response::new("hello".to_owned())),
    }
}

type OnRefusal = fn(RefusalKind, RequestHead<'_>) -> Option<Response<Bytes>>;

async fn serve(config: RuntimeConfig, on_refusal: Option<OnRefusal>) -> (SocketAddr, Components) {
    let mut builder = Runtime::builder().config(config);
    if let Some(own) = on_refusal {
        builder = builder.on_refusal(own);
    }
    let runtime = builder.service(service_fn(answer)).build().expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    (address, components)
}

/// The answer to a request that asks for the connection's end.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

/// What tonic's client makes of the answer.
async fn call(address: SocketAddr, timeout_ms: &str) -> Result<i32, tonic::Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.expect("an address").connect().await;
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    let timeout = timeout_ms.parse().expect("a number");
    request
        .metadata_mut()
        .insert("x-request-timeout-ms", timeout);
    let mut client = HealthClient::new(channel.expect("connects"));
    Ok(client.check(request).await?.into_inner().status)
}

fn pushback(metadata: &MetadataMap) -> u32 {
    let value = metadata
        .get("grpc-retry-pushback-ms")
        .expect("says when to retry");
    value.to_str().expect("text").parse().expect("a number")
}

#[tokio::test]
async fn grpc_is_refused_in_its_own_language() {
    let (address, components) = serve(config(), None).await;
    let place = components.limit.try_acquire().expect("the only one");
    let refused = call(address, "60000").await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert_eq!(
        refused.message(),
        "The concurrency limit is reached. Retry later."
    );
    assert!((1000..=3000).contains(&pushback(refused.metadata())));
    // No deadline at all: the way is another one.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.expect("an address").connect().await;
    let refused = HealthClient::new(channel.expect("connects"))
        .check(HealthCheckRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    drop(place);

    let late = call(address, "0").await.expect_err("too late");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert_eq!(components.limit.stats().shed_limit, 2);
    assert_eq!(components.limit.stats().shed_deadline, 1);
}

#[tokio::test]
async fn grpc_is_told_in_its_own_language_that_its_time_is_over() {
    let runtime = Runtime::builder()
        .config(config())
        .service(service_fn(async |_: Request<RequestBody>| {
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(Response::new(String::new()))
        }))
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    let late = call(address, "50").await.expect_err("never answered");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert_eq!(late.message(), "The deadline of the request has passed.");
}

#[tokio::test]
async fn grpc_web_is_refused_in_headers() {
    let (address, components) = serve(config(), None).await;
    let _place = components.limit.try_acquire().expect("the only one");
    for content_type in [
        "application/grpc-web+proto",
        "application/grpc-web-text+proto",
    ] {
        let refused = ask(
            address,
            &format!(
                "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-type: {content_type}\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0"
            ),
        )
        .await;
        assert!(refused.starts_with("HTTP/1.1 200 OK\r\n"), "{refused}");
        for line in [
            &format!("content-type: {content_type}"),
            "grpc-status: 14",
            "grpc-message: The concurrency limit is reached. Retry later.",
            "content-length: 0",
        ] {
            assert!(refused.contains(&format!("\r\n{line}\r\n")), "{refused}");
        }
        assert!(refused.ends_with("\r\n\r\n"), "{refused}");
    }
}

#[tokio::test]
async fn whatever_is_refused_or_fails_may_be_answered_by_oneself() {
    let own: OnRefusal = |kind, head| {
        let asks = head.headers.get("x-own")? == "yes";
        let mut response = Response::new(format!("{kind:?} {}", head.uri).into());
        *response.status_mut() = kind.status();
        asks.then_some(response)
    };
    let (address, components) = serve(config(), Some(own)).await;
    let cases = [
        ("/panic", "", "500", "Panic"),
        ("/error", "", "500", "Error"),
        ("/refuse", "", "418", "Refused"),
        ("/", "content-length: 11\r\n", "413", "BodyTooLarge"),
        (
            "/read",
            "transfer-encoding: chunked\r\n",
            "413",
            "BodyTooLarge",
        ),
        ("/", "host: y\r\n", "400", "Violation(HostRepeated)"),
        ("/", "x-request-timeout-ms: 0\r\n", "503", "Shed(Deadline)"),
        (
            "/hang",
            "x-request-timeout-ms: 50\r\n",
            "504",
            "Shed(TimedOut)",
        ),
    ];
    let check = async |(path, fields, status, kind): (&str, &str, &str, &str), own: &str| {
        let body = match path {
            "/read" => "B\r\n01234567890\r\n0\r\n\r\n",
            _ => "",
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-own: {own}\r\n{fields}\r\n{body}"
        );
        let answer = ask(address, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let own_text = format!("\r\n\r\n{kind}");
        assert_eq!(answer.contains(&own_text), own == "yes", "{kind}: {answer}");
        assert_eq!(answer.ends_with(&format!(" {path}")), own == "yes");
    };
    for own in ["yes", "no"] {
        for (path, fields, status, kind) in cases {
            check((path, fields, status, kind), own).await;
            if !fields.contains("timeout") {
                // With a deadline, and so through the layers one by one.
                let fields = format!("x-request-timeout-ms: 9000\r\n{fields}");
                check((path, &fields, status, kind), own).await;
            }
        }
        let _place = components.limit.try_acquire().expect("the only one");
        check(("/", "", "503", "Shed(Limit)"), own).await;
    }
    assert_eq!(components.limit.stats().in_flight, 0);
}

#[tokio::test]
async fn an_answer_of_ones_own_ends_a_connection_that_is_to_end_and_its_panic_is_caught() {
    let own: OnRefusal = |kind, _| match kind {
        RefusalKind::Panic => panic!("so does this"),
        _ => Some(Response::new(Bytes::from_static(b"my own"))),
    };
    let (address, components) = serve(config(), Some(own)).await;
    // Ends although nobody asks for it.
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET /refuse HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let answer = ask(address, request).await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.ends_with("my own"), "{answer}");
    }
    let request = "GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = ask(address, request).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_eq!(components.faults.stats().panics, 2);
}

#[tokio::test]
async fn a_refusal_is_a_problem_that_says_when_to_come_again() {
    let (address, components) = serve(config(), None).await;
    let _place = components.limit.try_acquire().expect("the only one");
    let refused = tokio::time::timeout(
        Duration::from_secs(5),
        ask(
            address,
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        ),
    )
    .await
    .expect("at once");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(
        refused.contains("\r\ncontent-type: application/problem+json\r\n"),
        "{refused}"
    );
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
}

//! What a client sees of a request that the preset answers in the place of the service.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    ask::{ask_at, get},
    log::Log,
    looks::{holds_soon, in_time},
    self_signed::SelfSigned,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use stellane_core::{
    BoxError, Components, RefusalKind, RequestBody, RequestLimits, Runtime, RuntimeConfig,
    autotune::{AlgorithmKind, Permit, RequestHead},
    catch_faults::Refusal,
    config::{ListenAddress, ListenTls, RateLimits},
    memory::Budget,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tonic::metadata::MetadataMap;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, service_fn};

/// One place, and nobody waits for it.
fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.server.max_body_bytes = 10;
    config.workers.min_workers = 1;
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max_wait = Duration::ZERO;
    // By default the calls that are made here.
    config.limit.exempt = vec!["/exempt".to_owned(), "/exempt/{*path}".to_owned()];
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
        "/hang" | "/exempt/hang" => std::future::pending().await,
        "/exempt/slow" => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(Response::new("slow".to_owned()))
        }
        "/exempt/large" => Ok(Response::new("x".repeat(8 << 20) + "end")),
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
        let refused = ask_at(
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
    let scrape = components.prometheus.render();
    let counted = scrape.lines().any(|line| {
        line.contains("_duration_seconds_count")
            && line.contains("rpc_response_status_code=\"UNAVAILABLE\"")
            && line.ends_with(" 2")
    });
    assert!(counted, "{scrape}");
}

#[tokio::test]
async fn whatever_is_refused_or_fails_may_be_answered_by_oneself() {
    let own: OnRefusal = |kind, head| {
        let asks = head.headers.get("x-own")? == "yes";
        let mut response = Response::new(format!("{kind:?} {}", head.uri).into());
        *response.status_mut() = kind.status();
        asks.then_some(response)
    };
    let mut config = config();
    config.rate_limit = rates();
    let (address, components) = serve(config, Some(own)).await;
    let cases = [
        ("/rated", "", "429", "RateLimited"),
        #[cfg(feature = "redis")]
        ("/stored", "", "503", "RateStoreAway"),
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
        let answer = ask_at(address, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let own_text = format!("\r\n\r\n{kind}");
        assert_eq!(answer.contains(&own_text), own == "yes", "{kind}: {answer}");
        assert_eq!(answer.ends_with(&format!(" {path}")), own == "yes");
    };
    let first = ask_at(
        address,
        "GET /rated HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(first.await.starts_with("HTTP/1.1 200 "));
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

/// One request an hour to `/rated`, and to `/stored` none, since its store is away.
fn rates() -> BTreeMap<String, RateLimits> {
    let rate = |path: &str| {
        RateLimits::default().with(|rate| {
            rate.rules = vec!["1/h".parse().expect("a rule")];
            rate.paths = vec![path.to_owned()];
        })
    };
    BTreeMap::from([
        ("rated".to_owned(), rate("/rated")),
        #[cfg(feature = "redis")]
        (
            "stored".to_owned(),
            rate("/stored").with(|rate| {
                rate.shared = "redis://127.0.0.1:1".to_owned();
                rate.without_store =
                    stellane_core::autotune::rate_limit::shared::WithoutStore::Refuse;
            }),
        ),
    ])
}

/// A kind that is added without a row here fails this test.
#[tokio::test]
#[cfg(feature = "redis")]
async fn there_is_no_kind_that_nobody_is_asked_about() {
    let own: OnRefusal = |kind, _| Some(Response::new(format!("own: {kind:?}").into()));
    let key = SelfSigned::new();
    let mut config = config();
    config.rate_limit = rates();
    config.memory.budget = Budget::Bytes(8 << 20);
    for tls in [ListenTls::On, ListenTls::Off, ListenTls::Redirect] {
        let mut listen = ListenAddress::default();
        (listen.address, listen.tls) = ("127.0.0.1:0".to_owned(), tls);
        config.server.listen.push(listen);
    }
    let larger = RequestLimits::default().max_body_bytes(1 << 30);
    let runtime = Runtime::builder()
        .config(config)
        .tls(key.server())
        .on_refusal(own)
        .route_limits(move |head| match head.uri.path() {
            "/read" => larger,
            _ => RequestLimits::default(),
        })
        .service(service_fn(answer))
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind_configured().await.expect("binds");
    let [_, address, redirect] = bound.local_addrs()[..] else {
        panic!("three addresses");
    };
    tokio::spawn(bound.serve());
    let mut asked = BTreeSet::new();
    let mut tell = |answer: &str| {
        let (_, kind) = answer
            .split_once("own: ")
            .unwrap_or_else(|| panic!("{answer}"));
        let name = kind.split(|c: char| !c.is_alphanumeric()).next();
        asked.insert(name.expect("a name").to_owned());
    };
    get(address, "/rated").await;
    for path in ["/rated", "/stored", "/panic", "/error", "/refuse"] {
        tell(&get(address, path).await);
    }
    for fields in [
        "host: y\r\n",
        "content-length: 11\r\n",
        "x-request-timeout-ms: 0\r\n",
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        tell(&ask_at(address, &request).await);
    }
    tell(&ask_at(redirect, "GET / HTTP/1.0\r\n\r\n").await);
    let upload = Request::post(format!("http://{address}/read"));
    let upload = crate::memory::send(address, false, upload, 16 << 20).await;
    tell(std::str::from_utf8(upload.body()).expect("text"));
    assert_eq!(components.limit.stats().in_flight, 0);
    // Needs threads that are held: `beyond_those_that_may_wait_requests_of_their_route_are_refused_and_no_others`.
    asked.insert("ThreadsHeld".to_owned());

    let source = include_str!("../../src/runtime/refusal.rs");
    let (_, kinds) = source.split_once("pub enum RefusalKind {").expect("there");
    let (kinds, _) = kinds.split_once("\n}\n").expect("its end");
    let name = |line: &str| Some(line.trim().split_once([',', '('])?.0.to_owned());
    let kinds = kinds.lines().filter(|line| !line.contains("///"));
    assert_eq!(asked, kinds.filter_map(name).collect::<BTreeSet<_>>());
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
        let answer = ask_at(address, request).await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.ends_with("my own"), "{answer}");
    }
    let request = "GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = ask_at(address, request).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_eq!(components.faults.stats().panics, 2);
}

#[tokio::test]
async fn a_refusal_is_a_problem_that_says_when_to_come_again() {
    let (address, components) = serve(config(), None).await;
    let _place = components.limit.try_acquire().expect("the only one");
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let refused = in_time(ask_at(address, request)).await;
    let refused = refused.expect("while the place is held");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(
        refused.contains("\r\ncontent-type: application/problem+json\r\n"),
        "{refused}"
    );
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
}

const END: &str = "GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// What a connection gets for these bytes, and then for a request that ends it.
async fn exchange(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let bytes = [bytes, END].concat();
    stream.write_all(bytes.as_bytes()).await.expect("writes");
    read_to_end(stream).await
}

/// The same, and the end comes a little later, if the server has not ended it before.
async fn exchange_and_end(mut stream: TcpStream, bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).await.expect("writes");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let _ = stream.write_all(END.as_bytes()).await;
    read_to_end(stream).await
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    // It may have ended before, with a reset.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(answer).expect("text")
}

/// Without what differs from one answer to the next: the second, and how long the client is to wait.
fn comparable(answer: &str) -> String {
    let fields = ["date: ", "retry-after: ", "grpc-retry-pushback-ms: "];
    let varies = |line: &&str| fields.iter().any(|field| line.starts_with(field));
    let lines = answer.split("\r\n").filter(|line| !varies(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// What was counted: by the limit, by the metrics and by the connections.
fn counted(components: &Components) -> (u64, u64, u64, u64, String) {
    let (http, limit) = (components.metrics.stats(), components.limit.stats());
    let scrape = components.prometheus.render();
    let of_requests = |line: &&str| line.starts_with("http_server_request_duration_seconds_count");
    let mut series: Vec<_> = scrape.lines().filter(of_requests).collect();
    series.sort_unstable();
    (
        limit.shed_limit,
        http.requests_total,
        http.requests_failed_total,
        components.connections.stats().requests_total,
        series.join("\n"),
    )
}

/// The preset twice, with the only place taken: one that refuses before there is a request, and one that asks
/// somebody first, who has no answer of their own.
async fn early_and_late(config: RuntimeConfig) -> ([(SocketAddr, Components); 2], [Permit; 2]) {
    let nothing: OnRefusal = |_, _| None;
    let servers = [
        serve(config.clone(), None).await,
        serve(config, Some(nothing)).await,
    ];
    let places = servers
        .each_ref()
        .map(|(_, components)| components.limit.try_acquire().expect("the only one"));
    (servers, places)
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\naccept: */*\r\n\r\n";

/// What is refused where it is read, what takes the longer way, and what is none of the limit's business.
fn requests() -> Vec<String> {
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(7000));
    vec![
        GET.to_owned(),
        // Pipelined, and in two pieces of which the second begins within a head.
        GET.repeat(40),
        format!("{GET}GET /b HTT"),
        // Let in although the limit is reached.
        format!("GET /exempt?x HTTP/1.1\r\nhost: x\r\n\r\n{GET}"),
        // Methods; fields that are known by name elsewhere.
        "DELETE /a HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\n".to_owned(),
        "BREW /a HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        // What hyper sends otherwise, or ends the connection with.
        "HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /a HTTP/1.0\r\nhost: x\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n".to_owned(),
        // With a body; with a deadline; of gRPC.
        format!("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi{GET}"),
        format!("POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{GET}"),
        format!("GET /a HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 0\r\n\r\n{GET}"),
        format!("GET /a HTTP/1.1\r\nhost: x\r\nGRPC-Timeout: 5S\r\n\r\n{GET}"),
        "GET /a HTTP/1.1\r\nhost: x\r\nContent-Type: application/grpc-web\r\n\r\n".to_owned(),
        // What is wrong with a request is told before the limit is asked, or after.
        "GET /a HTTP/1.1\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nhost: x\n\r\n".to_owned(),
        "GET /a\u{7f} HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nho st: x\r\n\r\n".to_owned(),
        "GET http://x/a HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        long,
    ]
}

#[tokio::test]
async fn what_is_refused_before_it_is_a_request_gets_the_same_answer_and_is_counted_the_same() {
    let (servers, places) = early_and_late(config()).await;
    for bytes in requests() {
        let [early, late] = servers.each_ref().map(|(address, _)| *address);
        let (early, late) = tokio::join!(exchange(early, &bytes), exchange(late, &bytes));
        assert_eq!(comparable(&early), comparable(&late), "{bytes}");
        let [early, late] = servers
            .each_ref()
            .map(|(_, components)| counted(components));
        assert_eq!(early, late, "{bytes}");
    }
    let refused = servers[0].1.limit.stats().shed_limit;
    assert!(refused > 50, "{refused}");
    drop(places);
}

/// Asks on each of these, all of which are refused.
async fn refused(streams: &mut [TcpStream]) {
    for stream in &mut *streams {
        stream.write_all(GET.as_bytes()).await.expect("writes");
    }
    for stream in streams {
        let answer = read_answer(stream, "}").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}

/// Connections whose clients are refused again and again, until all of them are parked for that, and the only place.
async fn parked(
    address: SocketAddr,
    components: &Components,
    count: usize,
) -> (Vec<TcpStream>, Option<Permit>) {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.expect("connects"));
    }
    let mut place = None;
    park(&mut streams, components, &mut place).await;
    (streams, place)
}

/// Has all of them parked. A machine that is busy with other tests is late, and then rests for up to ten seconds.
async fn park(streams: &mut [TcpStream], components: &Components, place: &mut Option<Permit>) {
    let all_are = async {
        loop {
            // One that is held for seconds is set aside, and then somebody gets in.
            drop(place.take());
            *place = Some(components.limit.try_acquire().expect("the only one"));
            if components.connections.stats().parked == streams.len() as u64 {
                return;
            }
            refused(streams).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(90), all_are).await;
    ended.expect("in time");
}

/// They are read together then, and not by tasks of their own.
#[tokio::test]
async fn while_many_are_refused_each_gets_what_it_would_get_alone() {
    let (servers, places) = early_and_late(config()).await;
    drop(places);
    let [(address, components), (late, late_components)] = &servers;
    let requests = requests();
    // Those that are not asked for anything see to it that there are many.
    let (mut others, place) = parked(*address, components, requests.len() + 40).await;
    let _place = late_components.limit.try_acquire().expect("the only one");
    for bytes in requests {
        let stream = others.pop().expect("enough");
        let answer = exchange_and_end(stream, &bytes).await;
        let alone = TcpStream::connect(*late).await.expect("connects");
        let alone = exchange_and_end(alone, &bytes).await;
        assert_eq!(comparable(&answer), comparable(&alone), "{bytes}");
    }

    // In two pieces, of which the first is no request yet.
    let mut stream = others.pop().expect("enough");
    let (begin, end) = GET.split_at(20);
    stream.write_all(begin.as_bytes()).await.expect("writes");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let answer = exchange_and_end(stream, end).await;
    assert_eq!(answer.matches("HTTP/1.1 503").count(), 2, "{answer}");
    // Who leaves is gone.
    let open = || components.connections.stats().open as usize;
    holds_soon(async || open() == others.len()).await;
    others.truncate(10);
    holds_soon(async || open() == 10).await;

    drop(place);
    for stream in others {
        let answer = exchange_and_end(stream, GET).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    }
}

#[tokio::test]
async fn what_is_refused_where_it_is_parked_is_counted_once() {
    let (address, components) = serve(config(), None).await;
    let (mut streams, mut place) = parked(address, &components, 50).await;
    let connections = || components.connections.stats();
    for _ in 0..10 {
        park(&mut streams, &components, &mut place).await;
        let (before, unparked) = (counted(&components), connections().unparked_total);
        refused(&mut streams).await;
        let after = counted(&components);
        let of =
            |counted: (u64, u64, u64, u64, String)| [counted.0, counted.1, counted.2, counted.3];
        let more = of(after)
            .iter()
            .zip(of(before))
            .map(|(after, before)| after - before)
            .collect::<Vec<_>>();
        assert_eq!(more, [50; 4]);
        if (connections().parked, connections().unparked_total) == (50, unparked) {
            return;
        }
    }
    panic!("they are parked and do not stay so: {:?}", connections());
}

#[tokio::test]
async fn who_gets_in_while_many_are_refused_is_parked_with_them_after_its_answer() {
    let (address, components) = serve(config(), None).await;
    let (mut streams, mut place) = parked(address, &components, 50).await;
    for _ in 0..10 {
        park(&mut streams, &components, &mut place).await;
        refused(&mut streams).await;
        let exempt = GET.replace("/a", "/exempt");
        streams[0]
            .write_all(exempt.as_bytes())
            .await
            .expect("writes");
        let answer = read_answer(&mut streams[0], "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if components.connections.stats().parked == 50 {
            return;
        }
    }
    panic!("it is not: {:?}", components.connections.stats());
}

/// What its client does is noticed while nobody looks at its socket but who reads all that are refused.
#[tokio::test]
async fn who_gets_in_while_many_are_refused_is_served_as_alone() {
    let mut config = config();
    config.connection.half_close_grace = Duration::from_millis(1);
    let (address, components) = serve(config, None).await;
    let (mut streams, mut place) = parked(address, &components, 50).await;
    let mut ask = async |path: &str| {
        park(&mut streams, &components, &mut place).await;
        // Many, for longer than who counts them looks back.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            refused(&mut streams).await;
        }
        let mut stream = streams.pop().expect("enough");
        let request = GET.replace("/a", path);
        stream.write_all(request.as_bytes()).await.expect("writes");
        stream
    };
    // More than the system takes at once.
    let mut stream = ask("/exempt/large").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let answer = read_answer(&mut stream, "end").await;
    assert!(answer.starts_with("HTTP/1.1 200"));

    let mut stream = ask("/exempt/slow").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.write_all(GET.as_bytes()).await.expect("writes");
    let answers = read_answer(&mut stream, "}").await;
    assert!(answers.contains("slowHTTP/1.1 503"), "{answers}");

    let stream = ask("/exempt/hang").await;
    let open = || components.connections.stats().open;
    let before = open();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(stream);
    assert!(holds_soon(async || open() == before - 1).await, "stays");
}

/// Counts how often it is asked whether it is ready, as it is before each request.
#[derive(Clone, Default)]
struct Asked(Arc<AtomicUsize>);

impl Service<Request<RequestBody>> for Asked {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.fetch_add(1, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test]
async fn the_service_does_not_hear_of_what_is_refused_before_it_is_a_request() {
    let service = Asked::default();
    let builder = Runtime::builder().config(config()).service(service.clone());
    let runtime = builder.build().expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    let place = components.limit.try_acquire().expect("the only one");
    // The last one ends its connection, and takes the longer way.
    exchange(address, &GET.repeat(10)).await;
    assert_eq!(components.limit.stats().shed_limit, 11);
    assert_eq!(service.0.load(Relaxed), 1);
    drop(place);
    exchange(address, &GET.repeat(10)).await;
    assert_eq!(service.0.load(Relaxed), 12);
}

#[tokio::test]
async fn what_a_refusal_has_to_say_about_its_connection_is_said() {
    let mut config = config();
    config.connection.max_requests = 3;
    config.connection.keep_alive_header = true;
    let (servers, _places) = early_and_late(config).await;
    let [early, late] = servers.each_ref().map(|(address, _)| *address);
    let bytes = GET.repeat(5);
    let (early, late) = tokio::join!(exchange(early, &bytes), exchange(late, &bytes));
    assert_eq!(comparable(&early), comparable(&late));
    assert_eq!(early.matches("HTTP/1.1 503").count(), 3, "{early}");
    assert!(early.contains("keep-alive: timeout="), "{early}");
    assert!(early.contains("connection: close"), "{early}");
}

#[tokio::test]
async fn nobody_is_refused_before_a_place_that_is_free_or_a_queue_that_has_room() {
    let (address, components) = serve(config(), None).await;
    let place = components.limit.try_acquire().expect("the only one");
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut ask = async || {
        stream.write_all(GET.as_bytes()).await.expect("writes");
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.expect("reads");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    assert!(ask().await.starts_with("HTTP/1.1 503"));
    drop(place);
    assert!(ask().await.starts_with("HTTP/1.1 200"));
    drop(components);

    let mut config = config();
    config.limit.max_wait = Duration::from_secs(3600);
    let (address, components) = serve(config, None).await;
    let place = components.limit.try_acquire().expect("the only one");
    let waiting = tokio::spawn(async move { exchange(address, GET).await });
    until_waiting(&components, 1).await;
    drop(place);
    let answer = waiting.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn who_would_wait_in_vain_is_told_at_once_and_who_asks_again_and_again_waits() {
    let mut config = config();
    config.limit.max_wait = Duration::from_secs(60);
    config.limit.max_waiters = 100;
    // Who has left is not waited for.
    config.connection.half_close_grace = Duration::from_millis(1);
    let (address, components) = serve(config, None).await;
    let _place = components.limit.try_acquire().expect("the only one");
    let waits = async || {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(GET.as_bytes()).await.expect("writes");
        stream
    };
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(waits().await);
    }
    until_waiting(&components, 20).await;
    // Somebody gives up after more than a twentieth of the longest wait.
    tokio::time::sleep(Duration::from_millis(3100)).await;
    waiting.pop();
    until_waiting(&components, 19).await;

    let mut stream = waits().await;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.expect("reads");
    assert!(answer[..read].starts_with(b"HTTP/1.1 503"));
    assert_eq!(components.limit.stats().shed_queue_full, 1);
    stream.write_all(GET.as_bytes()).await.expect("writes");
    until_waiting(&components, 20).await;
}

async fn until_waiting(components: &Components, count: u32) {
    let stats = || components.limit.stats();
    assert!(
        holds_soon(async || stats().waiting == count).await,
        "{:?}",
        stats()
    );
}

#[tokio::test]
async fn the_log_tells_of_refusals_now_and_then_and_not_of_each() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let lines = || {
        let text = log.text();
        let about = text
            .lines()
            .filter(|line| line.contains("the limit is reached: "));
        about.map(str::to_owned).collect::<Vec<_>>()
    };
    let (address, components) = serve(config(), None).await;
    let mut holds = TcpStream::connect(address).await.expect("connects");
    let request = b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n";
    holds.write_all(request).await.expect("writes");
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        assert!(holds_soon(async || holds()).await, "never {what}");
    };
    until("held", &|| components.limit.stats().in_flight == 1).await;
    for _ in 0..2 {
        for _ in 0..50 {
            let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let answer = ask_at(address, request).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
        until("told", &|| !lines().is_empty()).await;
    }
    let lines = lines();
    assert!(lines.len() < 10, "{lines:#?}");
    assert!(lines[0].contains("WARN"), "{lines:#?}");
    assert!(lines[0].contains(": limit 1, CPU "), "{lines:#?}");
}

/// On the first request of a connection, after another, and after a pause; with a body in one piece and in two.
async fn is_kept_when_refused(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    components: &Components,
    length: usize,
) {
    let body = "x".repeat(length);
    let post = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
    for (n, cut) in [post.len(), post.len() / 2, post.len() - 1]
        .into_iter()
        .enumerate()
    {
        for parked in [false, true] {
            let place = components.limit.try_acquire().expect("the only one");
            for piece in [&post[..cut], &post[cut..]] {
                stream.write_all(piece.as_bytes()).await.expect("writes");
                stream.flush().await.expect("writes");
                tokio::task::yield_now().await;
            }
            let refused = read_answer(&mut stream, "}").await;
            assert!(
                refused.starts_with("HTTP/1.1 503 "),
                "{length} {n}: {refused}"
            );
            assert!(
                !refused.contains("connection: close"),
                "{length} {n}: {refused}"
            );
            drop(place);
            stream.write_all(GET.as_bytes()).await.expect("writes");
            stream.flush().await.expect("writes");
            let answer = read_answer(&mut stream, "hello").await;
            assert!(
                answer.starts_with("HTTP/1.1 200 "),
                "{length} {n}: {answer}"
            );
            while parked && components.connections.stats().parked == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Reads up to such an end.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !got.ends_with(end.as_bytes()) {
            let read = stream.read_buf(&mut got).await.expect("reads");
            assert!(read > 0, "ended after {:?}", String::from_utf8_lossy(&got));
        }
    };
    in_time(reading).await.expect("in time");
    String::from_utf8(got).expect("text")
}

#[tokio::test]
async fn a_body_that_was_refused_with_its_request_does_not_cost_the_connection() {
    let key = SelfSigned::new();
    for tls in [false, true] {
        let mut config = config();
        config.server.max_body_bytes = 1 << 20;
        config.connection.park_after = Duration::from_millis(1);
        let mut builder = Runtime::builder().config(config);
        if tls {
            builder = builder.tls(key.server());
        }
        let runtime = builder.service(service_fn(answer)).build().expect("builds");
        let components = runtime.components().clone();
        let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
        let address = bound.local_addr();
        tokio::spawn(bound.serve());
        for length in [1, 2100, 16 << 10] {
            let stream = TcpStream::connect(address).await.expect("connects");
            if tls {
                is_kept_when_refused(key.connect(stream).await, &components, length).await;
            } else {
                is_kept_when_refused(stream, &components, length).await;
            }
        }
    }
}

//! Crates that others use with axum and tonic, each served by `stellane_core::serve` over a socket.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use axum_client_ip::{ClientIp, ClientIpSource};
use axum_extra::{
    TypedHeader,
    extract::cookie::{Cookie, CookieJar},
    headers::UserAgent,
};
use stellane_core::{App, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::service::Routes;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tower::Layer;
use tower_governor::{GovernorLayer, governor::GovernorConfigBuilder};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};
use utoipa_axum::{router::OpenApiRouter, routes};

async fn start(app: impl App) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, app).into_future());
    address
}

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get_with(address: SocketAddr, head: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n");
    ask(address, request.as_bytes()).await
}

#[tokio::test]
async fn tower_governor_counts_by_the_peer() {
    let config = GovernorConfigBuilder::default()
        .per_second(3600)
        .burst_size(2)
        .finish()
        .expect("valid");
    let app = Router::new()
        .route("/", get(async || "hello"))
        .layer(GovernorLayer::new(config));
    let address = start(app).await;
    for _ in 0..2 {
        assert!(get_with(address, "").await.starts_with("HTTP/1.1 200"));
    }
    assert!(get_with(address, "").await.starts_with("HTTP/1.1 429"));
}

#[tokio::test]
async fn axum_client_ip_finds_the_peer() {
    let app = Router::new()
        .route("/", get(async |ClientIp(ip): ClientIp| ip.to_string()))
        .layer(ClientIpSource::ConnectInfo.into_extension());
    let answer = get_with(start(app).await, "").await;
    assert!(answer.ends_with("\r\n127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn axum_extra_extracts_cookies_and_headers() {
    let app = Router::new().route(
        "/",
        get(
            async |jar: CookieJar, TypedHeader(agent): TypedHeader<UserAgent>| {
                let seen = format!("{} {agent}", jar.get("a").map_or("none", Cookie::value));
                (jar.add(Cookie::new("b", "2")), seen)
            },
        ),
    );
    let answer = get_with(start(app).await, "cookie: a=1\r\nuser-agent: me\r\n").await;
    assert!(
        answer.contains("set-cookie: b=2\r\n") && answer.ends_with("\r\n1 me"),
        "{answer}"
    );
}

#[utoipa::path(get, path = "/", responses((status = 200, body = str)))]
async fn described() -> &'static str {
    "hello"
}

#[tokio::test]
async fn utoipa_describes_what_is_served() {
    let (app, api) = OpenApiRouter::<()>::new()
        .routes(routes!(described))
        .split_for_parts();
    assert!(api.paths.paths.contains_key("/"));
    assert!(get_with(start(app).await, "").await.ends_with("\r\nhello"));
}

#[tokio::test]
async fn tower_sessions_remembers() {
    let app = Router::new()
        .route(
            "/",
            get(async |session: Session| {
                let seen: usize = session.get("seen").await.ok().flatten().unwrap_or(0);
                session.insert("seen", seen + 1).await.expect("stored");
                seen.to_string()
            }),
        )
        .layer(SessionManagerLayer::new(MemoryStore::default()).with_secure(false));
    let address = start(app).await;
    let answer = get_with(address, "").await;
    let cookie = answer
        .split("set-cookie: ")
        .nth(1)
        .and_then(|rest| rest.split(';').next());
    let cookie = format!("cookie: {}\r\n", cookie.expect("a session"));
    assert!(answer.ends_with("\r\n0"), "{answer}");
    assert!(get_with(address, &cookie).await.ends_with("\r\n1"));
}

async fn channel(address: SocketAddr) -> tonic::transport::Channel {
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("valid");
    endpoint.connect().await.expect("connects")
}

async fn grpc() -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("shop", tonic_health::ServingStatus::Serving)
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("valid");
    Routes::new(health).add_service(reflection)
}

#[tokio::test]
async fn tonic_health_answers_and_watches() {
    let address = start(grpc().await).await;
    let mut client = HealthClient::new(channel(address).await);
    let asked = HealthCheckRequest {
        service: "shop".to_owned(),
    };
    let answer = client.check(asked.clone()).await.expect("answered");
    assert_eq!(answer.into_inner().status, 1);
    let mut watch = client.watch(asked).await.expect("answered").into_inner();
    assert_eq!(
        watch
            .message()
            .await
            .expect("a message")
            .expect("one")
            .status,
        1
    );
}

#[tokio::test]
async fn tonic_reflection_lists_services() {
    let address = start(grpc().await).await;
    let mut client = ServerReflectionClient::new(channel(address).await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(tokio_stream::once(list))
        .await
        .expect("answered");
    let answer = answers.into_inner().message().await.expect("a message");
    assert!(format!("{answer:?}").contains("grpc.health.v1.Health"));
}

#[tokio::test]
async fn tonic_web_is_spoken_to_browsers() {
    let app = tonic_web::GrpcWebLayer::new().layer(grpc().await);
    let request = b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    let answer = ask(start(app).await, request).await;
    assert!(
        answer.contains("content-type: application/grpc-web+proto"),
        "{answer}"
    );
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

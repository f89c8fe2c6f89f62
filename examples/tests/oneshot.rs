//! How an application is tested with all of the preset around it, and no server: `oneshot` for a request, a connection in
//! memory for what belongs to one.

use axum::{Router, body::Body, extract::Request, routing::post};
use http::StatusCode;
use http_body_util::BodyExt;
use stellane_core::{Components, Runtime, RuntimeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, ServiceExt};

fn app() -> Router {
    Router::new()
        .route("/echo", post(async |body: String| body))
        .route("/panic", post(async || -> () { panic!("on purpose") }))
}

#[tokio::test]
async fn a_request_is_answered_without_a_server() {
    let config = RuntimeConfig::default();
    let components = Components::new(&config).expect("valid");
    let app = components.layer(&config.server).layer(app());

    let request = Request::post("/echo")
        .body(Body::from("hello"))
        .expect("valid");
    let answer = app.clone().oneshot(request).await.expect("answered");
    let body = answer.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "hello");

    let request = Request::post("/panic").body(Body::empty()).expect("valid");
    let answer = app.oneshot(request).await.expect("answered");
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(components.faults.stats().panics, 1);
}

#[tokio::test]
async fn a_connection_is_served_in_memory() {
    let config =
        RuntimeConfig::default().with(|config| config.server.admin_address = String::new());
    let runtime = Runtime::builder()
        .config(config)
        .service(app())
        .build()
        .expect("builds");
    let (mut client, server) = tokio::io::duplex(4096);
    tokio::spawn(runtime.serve_connection(server, None));
    let request =
        "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    client.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.ends_with("hello"), "{answer}");
}

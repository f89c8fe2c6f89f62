//! Open pages learn of a restart, and nothing but a page is touched.
#![cfg(feature = "hot-reload")]

use axum::{
    Router,
    body::Body,
    response::{Html, Response},
    routing::get,
};
use http::{Request, header};
use http_body_util::BodyExt;
use stellane_core::hot_reload::{LIVE_PATH, LiveReloadLayer};
use tower::{Layer, ServiceExt};

fn app() -> Router {
    Router::new()
        .route("/", get(|| async { Html("<p>page</p>") }))
        .route("/text", get(|| async { "text" }))
        .route(
            "/zipped",
            get(|| async { ([(header::CONTENT_ENCODING, "br")], Html("zipped")) }),
        )
}

async fn ask(layer: &LiveReloadLayer, method: &str, path: &str) -> (Response<()>, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .expect("valid");
    let response = layer
        .layer(app())
        .oneshot(request)
        .await
        .expect("infallible");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (
        Response::from_parts(parts, ()),
        String::from_utf8(body.to_vec()).expect("text"),
    )
}

#[tokio::test]
async fn a_page_gets_the_script_and_no_stale_length() {
    let (response, body) = ask(&LiveReloadLayer::new(), "GET", "/").await;
    assert!(
        body.starts_with("<p>page</p><script>") && body.contains(LIVE_PATH),
        "{body}"
    );
    assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
}

#[tokio::test]
async fn what_is_not_a_plain_page_stays_as_it_was() {
    let layer = LiveReloadLayer::new();
    assert_eq!(ask(&layer, "GET", "/text").await.1, "text");
    assert_eq!(ask(&layer, "GET", "/zipped").await.1, "zipped");
    assert_eq!(ask(&layer, "HEAD", "/").await.1, "");
    assert_eq!(
        ask(&LiveReloadLayer::enabled(false), "GET", "/").await.1,
        "<p>page</p>"
    );
    assert_eq!(
        ask(&LiveReloadLayer::enabled(false), "GET", LIVE_PATH)
            .await
            .0
            .status(),
        404
    );
}

#[tokio::test]
async fn each_process_has_its_own_id_and_keeps_it() {
    let layer = LiveReloadLayer::new();
    let (response, id) = ask(&layer, "GET", LIVE_PATH).await;
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(ask(&layer, "GET", LIVE_PATH).await.1, id);
    assert_ne!(ask(&LiveReloadLayer::new(), "GET", LIVE_PATH).await.1, id);
}

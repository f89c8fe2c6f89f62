//! Prepared responses: what a client sees, and that nothing stale is served.
#![cfg(feature = "engine-selector")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use stellane_core::{
    engine_selector::Declined,
    prepared::{Encoding, Outcome, PrepareError, Prepared, PreparedLayer, PreparedResponse},
};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};

async fn ask(
    prepared: &Prepared,
    request: http::request::Builder,
) -> Result<(Response<()>, Bytes), Declined> {
    let request = request.body(()).expect("a request");
    let response = prepared.service().oneshot(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    Ok((Response::from_parts(parts, ()), body))
}

fn hello() -> Prepared {
    let prepared = Prepared::new();
    let cache = HeaderValue::from_static("no-cache");
    let response = PreparedResponse::new("text/plain", "hello hello hello")
        .header(header::CACHE_CONTROL, cache)
        .variant(Encoding::Gzip, "gzipped")
        .variant(Encoding::Brotli, "brotl");
    prepared.insert("/hello", response);
    prepared
}

#[tokio::test]
async fn get_and_head_are_answered_and_the_rest_is_declined() {
    let prepared = hello();
    let (response, body) = ask(&prepared, Request::get("/hello")).await.expect("it");
    assert_eq!(
        (response.status(), &body[..]),
        (StatusCode::OK, &b"hello hello hello"[..])
    );
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert_eq!(response.headers()[header::VARY], "accept-encoding");
    let (response, body) = ask(&prepared, Request::head("/hello")).await.expect("it");
    assert_eq!(
        (&response.headers()[header::CONTENT_LENGTH], body.len()),
        (&"17".parse().expect("a value"), 0)
    );
    for other in [
        Request::get("/hello?x"),
        Request::get("/other"),
        Request::post("/hello"),
    ] {
        assert_eq!(
            ask(&prepared, other).await.expect_err("not prepared"),
            Declined
        );
    }
    assert_eq!((prepared.stats().served, prepared.stats().declined), (2, 3));
}

#[tokio::test]
async fn headers_of_the_request_do_not_come_back() {
    let request = Request::get("/hello").header("x-secret", "1");
    let (response, _) = ask(&hello(), request).await.expect("it");
    assert!(response.headers().get("x-secret").is_none());
}

#[tokio::test]
async fn the_variant_is_the_one_the_client_likes_best_and_each_has_its_own_tag() {
    let prepared = hello();
    let mut tags = Vec::new();
    for (accepts, coding, bytes) in [
        ("gzip, br", Some("br"), "brotl"),
        ("gzip, br;q=0.5", Some("gzip"), "gzipped"),
        ("zstd", None, "hello hello hello"),
        ("identity, gzip;q=0.5", None, "hello hello hello"),
        ("identity;q=0, gzip;q=0.1", Some("gzip"), "gzipped"),
    ] {
        let request = Request::get("/hello").header(header::ACCEPT_ENCODING, accepts);
        let (response, body) = ask(&prepared, request).await.expect("it");
        let got = response.headers().get(header::CONTENT_ENCODING);
        assert_eq!(
            got.map(HeaderValue::as_bytes),
            coding.map(str::as_bytes),
            "{accepts}"
        );
        assert_eq!(body, bytes, "{accepts}");
        tags.push(response.headers()[header::ETAG].clone());
    }
    assert_eq!((&tags[1], &tags[2]), (&tags[4], &tags[3]));
    assert!(tags[0] != tags[1] && tags[1] != tags[2]);
}

#[tokio::test]
async fn who_has_it_already_hears_304_without_a_body() {
    let prepared = hello();
    let gzip = || Request::get("/hello").header(header::ACCEPT_ENCODING, "gzip");
    let (first, _) = ask(&prepared, gzip()).await.expect("it");
    let etag = first.headers()[header::ETAG].clone();
    let again = gzip().header(header::IF_NONE_MATCH, &etag);
    let (response, body) = ask(&prepared, again).await.expect("it");
    assert_eq!(
        (response.status(), body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    assert_eq!(response.headers()[header::ETAG], etag);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert!(response.headers().get(header::CONTENT_TYPE).is_none());
    // The tag of one variant is not that of another.
    let plain = Request::get("/hello").header(header::IF_NONE_MATCH, &etag);
    assert_eq!(
        ask(&prepared, plain).await.expect("it").0.status(),
        StatusCode::OK
    );
    assert_eq!(prepared.stats().not_modified, 1);
}

#[tokio::test]
async fn what_changes_is_rendered_again_once_and_what_does_not_keeps_its_tag() {
    let prepared = Prepared::new();
    let (version, rendered) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let native = {
        let (version, rendered) = (version.clone(), rendered.clone());
        service_fn(move |_: Request<Full<Bytes>>| {
            rendered.fetch_add(1, Relaxed);
            let page = format!("version {}", version.load(Relaxed));
            let response = Response::builder().header(header::CONTENT_TYPE, "text/html");
            async move { response.body(page) }
        })
    };
    let etag = || prepared.find("/page").expect("prepared").etag().clone();
    let prepare = || prepared.prepare("/page", native.clone());
    assert_eq!(prepare().await.expect("renders"), Outcome::Changed);
    let first = etag();
    for _ in 0..100 {
        let (_, body) = ask(&prepared, Request::get("/page")).await.expect("it");
        assert_eq!(body, "version 1");
    }
    assert_eq!(rendered.load(Relaxed), 1);
    assert_eq!(prepare().await.expect("renders"), Outcome::Unchanged);
    assert_eq!(etag(), first);

    version.store(2, Relaxed);
    assert!(prepared.invalidate("/page"));
    ask(&prepared, Request::get("/page"))
        .await
        .expect_err("the native service has it");
    assert_eq!(prepare().await.expect("renders"), Outcome::Changed);
    assert!(etag() != first);
}

#[tokio::test]
async fn what_was_rendered_before_an_invalidation_is_thrown_away() {
    let prepared = Prepared::new();
    let go_on = Arc::new(Notify::new());
    let native = {
        let go_on = go_on.clone();
        service_fn(move |_: Request<Full<Bytes>>| {
            let go_on = go_on.clone();
            async move {
                go_on.notified().await;
                Ok::<_, Infallible>(Response::new("stale".to_owned()))
            }
        })
    };
    let preparing = {
        let prepared = prepared.clone();
        tokio::spawn(async move { prepared.prepare("/page", native).await })
    };
    tokio::task::yield_now().await;
    prepared.invalidate("/page");
    go_on.notify_one();
    let outcome = preparing.await.expect("no panic").expect("renders");
    assert_eq!(outcome, Outcome::Overtaken);
    assert!(prepared.find("/page").is_none());
}

#[tokio::test]
async fn an_error_is_not_prepared() {
    let prepared = Prepared::new();
    let native = service_fn(|_: Request<Full<Bytes>>| async {
        Response::builder().status(500).body(String::new())
    });
    let error = prepared.prepare("/page", native).await;
    assert!(matches!(
        error,
        Err(PrepareError::Status(StatusCode::INTERNAL_SERVER_ERROR))
    ));
    assert_eq!(prepared.stats().entries, 0);
}

#[tokio::test]
async fn what_is_for_one_client_is_not_prepared_for_all() {
    for (name, value) in [
        (header::SET_COOKIE, "id=7"),
        (header::CACHE_CONTROL, "max-age=5, Private"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept-encoding, cookie"),
    ] {
        let prepared = Prepared::new();
        let native = service_fn(|_: Request<Full<Bytes>>| {
            let response = Response::builder().header(&name, value);
            async move { response.body(String::from("hello Ada")) }
        });
        let error = prepared.prepare("/page", native).await;
        assert!(matches!(error, Err(PrepareError::Personal)), "{value}");
    }
}

#[tokio::test]
async fn the_layer_lets_the_service_within_answer_the_rest_as_it_was_asked() {
    let native = service_fn(|request: Request<&'static str>| async move {
        let asked = &request.headers()["x-asked"];
        let said = format!("{asked:?} {} {}", request.uri(), request.body());
        Ok::<_, Infallible>(Response::new(said))
    });
    let service = PreparedLayer::new(&hello()).layer(native);
    for (uri, said) in [
        ("/hello", "hello hello hello"),
        ("/other", "\"yes\" /other body"),
        ("/hello?x", "\"yes\" /hello?x body"),
    ] {
        let request = Request::get(uri).header("x-asked", "yes");
        let request = request.body("body").expect("a request");
        let response = service.clone().oneshot(request).await.expect("an answer");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), said);
    }
}

#[test]
fn each_thread_answers_with_the_same_and_all_are_counted() {
    let prepared = hello();
    let ask_often = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            for _ in 0..10 {
                let gzip = Request::get("/hello").header(header::ACCEPT_ENCODING, "gzip");
                let (response, body) = ask(&prepared, gzip).await.expect("it");
                assert_eq!(&body[..], b"gzipped");
                let etag = response.headers()[header::ETAG].clone();
                let again = Request::get("/hello").header(header::ACCEPT_ENCODING, "gzip");
                let again = again.header(header::IF_NONE_MATCH, etag);
                let (response, _) = ask(&prepared, again).await.expect("it");
                assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
                assert!(ask(&prepared, Request::get("/other")).await.is_err());
            }
        });
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(ask_often);
        }
    });
    let stats = prepared.stats();
    assert_eq!(
        (stats.served, stats.not_modified, stats.declined),
        (30, 30, 30)
    );
}

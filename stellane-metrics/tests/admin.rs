//! The admin service, through its `Service`.

#![cfg(all(feature = "admin", feature = "prometheus"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use stellane_metrics::{
    Admin, AdminBody, AdminBuilder, AdminService, BuildError, HttpMetrics, MetricsLayer, Readiness,
    RuntimeMetrics, metrics, prometheus,
};
use tower::{Layer, ServiceExt, service_fn};

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 9090);

fn builder() -> AdminBuilder {
    Admin::builder()
        .json(
            "/config",
            || json!({ "tls": { "private_key": "x", "port": 1 }, "tokens": ["a"] }),
        )
        .post("/tuning/mode", |mode| match mode {
            "apply" => Ok(json!({ "mode": mode })),
            _ => Err("expected apply".to_owned()),
        })
}

/// As `builder`, where nothing has to be proved.
fn guarded() -> AdminBuilder {
    builder().guarded()
}

fn local() -> AdminService {
    builder().bound_to(LOOPBACK.into()).build().unwrap()
}

async fn call(service: &AdminService, request: Request<Full<Bytes>>) -> Response<AdminBody> {
    service.clone().oneshot(request).await.unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header(header::HOST, "localhost:9090")
        .body(Full::default())
        .unwrap()
}

fn post(host: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::post("/tuning/mode").header(header::HOST, host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from("apply")).unwrap()
}

async fn text(response: Response<AdminBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn value(response: Response<AdminBody>) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

#[tokio::test]
async fn readiness_follows_the_drain_while_liveness_stays() {
    let readiness = Readiness::new();
    let service = Admin::builder()
        .readiness(readiness.clone())
        .build()
        .unwrap();
    assert_eq!(
        call(&service, get("/readyz")).await.status(),
        StatusCode::OK
    );
    readiness.set_ready(false);
    let response = call(&service, get("/readyz")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        value(response).await,
        json!({ "ready": false, "reasons": ["draining"] })
    );
    assert_eq!(
        call(&service, get("/healthz")).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_latch_that_is_dropped_keeps_the_server_unready() {
    let readiness = Readiness::new();
    drop(readiness.latch("migrations"));
    assert_eq!(readiness.reasons(), ["migrations"]);
}

#[tokio::test]
async fn runtime_json_routes_and_events_tell_the_same_requests() {
    let http = HttpMetrics::builder().build().unwrap();
    let app = MetricsLayer::new(&http)
        .route_from_request(|_: &Request<Full<Bytes>>| Some("/a"))
        .layer(service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hi")))
        }));
    app.oneshot(get("/a"))
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    let runtime = RuntimeMetrics::builder().http(&http).build().unwrap();
    let service = guarded().runtime(runtime).build().unwrap();

    let runtime = value(call(&service, get("/runtime.json")).await).await;
    assert_eq!(runtime["requests_total"], 1);
    let routes = value(call(&service, get("/routes")).await).await;
    assert_eq!(
        (&routes[0]["route"], &routes[0]["response_bytes"]),
        (&json!("/a"), &json!(2))
    );

    let mut events = call(&service, get("/events")).await;
    assert_eq!(events.headers()[header::CONTENT_TYPE], "text/event-stream");
    let snapshot = |data: Bytes| -> Value {
        let data = data
            .strip_prefix(b"data: ")
            .unwrap()
            .strip_suffix(b"\n\n")
            .unwrap();
        serde_json::from_slice(data).unwrap()
    };
    let mut next = async || {
        let frame = tokio::time::timeout(Duration::from_secs(20), events.body_mut().frame()).await;
        snapshot(frame.unwrap().unwrap().unwrap().into_data().unwrap())
    };
    let first = next().await;
    assert_eq!(first["requests_total"], 1);
    assert!(
        next().await["uptime"].as_f64() > first["uptime"].as_f64(),
        "each event is a new one"
    );
}

#[tokio::test]
async fn every_field_of_the_design_is_in_the_snapshot() {
    let service = guarded()
        .runtime(RuntimeMetrics::builder().build().unwrap())
        .build()
        .unwrap();
    let snapshot = value(call(&service, get("/runtime.json")).await).await;
    for field in "requests_total requests_per_second requests_in_flight requests_cancelled_total latency_avg \
         latency_p50 latency_p90 latency_p99 latency_p999 workers_active workers_idle queue_depth \
         queue_wait_p99 jobs_stolen_total heap_size rss pool_retained_bytes pool_hits pool_misses \
         memory_trims trim_pause connections_active connections_idle connections_parked connections_upgraded \
         connections_per_second connections_closed_total interner_entries interner_bytes \
         interner_bypassed limit shed_total tuning_actions_total threads_held thread_holds_total \
         thread_held_seconds_total \
         background_restarts_total acceleration"
        .split_whitespace()
    {
        assert!(!snapshot[field].is_null(), "{field} is missing");
    }
}

#[tokio::test]
async fn event_streams_are_bounded_and_their_places_come_back() {
    let service = guarded()
        .runtime(RuntimeMetrics::builder().build().unwrap())
        .build()
        .unwrap();
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(call(&service, get("/events")).await);
    }
    let refused = call(&service, get("/events")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    assert_eq!(
        call(&service, get("/events")).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn secrets_in_the_configuration_are_redacted() {
    let config = value(call(&local(), get("/config")).await).await;
    assert_eq!(
        config,
        json!({ "tls": { "private_key": "<redacted>", "port": 1 }, "tokens": "<redacted>" })
    );
}

#[tokio::test]
async fn changes_need_a_loopback_name_and_the_same_origin() {
    let service = local();
    let response = call(&service, post("localhost:9090", &[])).await;
    assert_eq!(value(response).await, json!({ "mode": "apply" }));
    let allowed = [
        post("[::1]:9090", &[]),
        post(
            "127.0.0.1",
            &[
                ("origin", "http://127.0.0.1"),
                ("sec-fetch-site", "same-origin"),
            ],
        ),
    ];
    for request in allowed {
        assert_eq!(call(&service, request).await.status(), StatusCode::OK);
    }
    let refused = [
        // A name of the attacker's that resolves to 127.0.0.1.
        post("evil.example:9090", &[]),
        post("127.0.0.1.evil.example", &[]),
        post("localhost:9090", &[("origin", "http://evil.example")]),
        post("localhost:9090", &[("origin", "null")]),
        post("localhost:9090", &[("sec-fetch-site", "cross-site")]),
        post("localhost:9090", &[("sec-fetch-site", "same-site")]),
    ];
    for request in refused {
        assert_eq!(
            call(&service, request).await.status(),
            StatusCode::FORBIDDEN
        );
    }
    let rebound = Request::get("/config")
        .header(header::HOST, "evil.example")
        .body(Full::default());
    assert_eq!(
        call(&service, rebound.unwrap()).await.status(),
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn on_other_addresses_changes_need_the_token() {
    let public: SocketAddr = ([0, 0, 0, 0], 9090).into();
    let without = builder().bound_to(public).build().unwrap();
    assert_eq!(
        call(&without, post("host", &[])).await.status(),
        StatusCode::FORBIDDEN
    );
    // The address is not known: the same.
    let unknown = builder().build().unwrap();
    assert_eq!(
        call(&unknown, post("localhost", &[])).await.status(),
        StatusCode::FORBIDDEN
    );

    let with = builder()
        .bound_to(public)
        .allow_host("host")
        .token("s3cret")
        .build()
        .unwrap();
    for (header, status) in [
        ("Bearer s3cret", StatusCode::OK),
        ("bearer s3cret", StatusCode::OK),
        ("Bearer s3creT", StatusCode::UNAUTHORIZED),
        ("Bearer ", StatusCode::UNAUTHORIZED),
        ("Basic s3cret", StatusCode::UNAUTHORIZED),
        // `me:s3cret`, `:s3cret`, `me:s3creT`, `s3cret`, and what is none.
        ("Basic bWU6czNjcmV0", StatusCode::OK),
        ("basic OnMzY3JldA==", StatusCode::OK),
        ("Basic bWU6czNjcmVU", StatusCode::UNAUTHORIZED),
        ("Basic czNjcmV0", StatusCode::UNAUTHORIZED),
        ("Basic b*==", StatusCode::UNAUTHORIZED),
    ] {
        let response = call(&with, post("host", &[("authorization", header)])).await;
        assert_eq!(response.status(), status, "{header}");
    }
    assert_eq!(
        call(&with, post("host", &[])).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn wrong_changes_paths_and_methods_are_answered_with_the_reason() {
    let service = local();
    let wrong = Request::post("/tuning/mode")
        .body(Full::from("full speed"))
        .unwrap();
    let response = call(&service, wrong).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(value(response).await, json!({ "error": "expected apply" }));

    let long = Request::post("/tuning/mode")
        .body(Full::from(vec![b'a'; 65_537]))
        .unwrap();
    assert_eq!(
        call(&service, long).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );

    let response = call(&service, get("/tuning/mode")).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()[header::ALLOW], "POST, PUT");

    let response = call(&service, get("/nothing")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(
        value(response).await["paths"]
            .as_array()
            .unwrap()
            .contains(&json!("/config"))
    );
}

#[tokio::test]
async fn a_closure_that_panics_is_an_answer() {
    let service = Admin::builder()
        .guarded()
        .json("/bad", || panic!("on purpose"))
        .build()
        .unwrap();
    assert_eq!(
        call(&service, get("/bad")).await.status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[tokio::test]
async fn the_log_level_is_read_and_changed() {
    let level = std::sync::Arc::new(std::sync::Mutex::new("info".to_owned()));
    let (read, write) = (level.clone(), level.clone());
    let service = Admin::builder()
        .bound_to(LOOPBACK.into())
        .log_level(
            move || read.lock().unwrap().clone(),
            move |new| {
                *write.lock().unwrap() = new.to_owned();
                Ok(())
            },
        )
        .build()
        .unwrap();
    let put = Request::put("/log-level")
        .body(Full::from("debug\n"))
        .unwrap();
    assert_eq!(call(&service, put).await.status(), StatusCode::OK);
    assert_eq!(
        value(call(&service, get("/log-level")).await).await,
        json!("debug")
    );
}

#[tokio::test]
async fn the_page_and_everything_else_come_with_safe_headers_below_a_prefix() {
    let service = guarded().prefix("/admin/").build().unwrap();
    for path in ["/admin", "/admin/", "/admin/?x=1"] {
        let response = call(&service, get(path)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let headers = response.headers().clone();
        assert!(
            headers[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .contains("default-src 'none'")
        );
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let page = text(response).await;
        // Self-contained: nothing is loaded from elsewhere.
        assert!(page.contains("</html>") && !page.contains("src=\"") && !page.contains("https://"));
    }
}

#[tokio::test]
async fn metrics_are_rendered_with_what_the_application_records() {
    let http = HttpMetrics::builder().build().unwrap();
    let scrape = prometheus().http(&http).build().unwrap();
    let recorder = scrape.recorder();
    metrics::with_local_recorder(&recorder, || {
        metrics::counter!("orders_total").increment(3);
        metrics::histogram!("order_seconds").record(0.02);
    });
    let service = Admin::builder().prometheus(scrape).build().unwrap();
    let response = call(&service, get("/metrics")).await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = text(response).await;
    assert!(text.contains("orders_total 3"));
    assert!(
        text.contains("order_seconds_bucket{le=\"0.025\"} 1"),
        "buckets, no summary"
    );
    assert!(text.contains("http_server_active_requests{http_request_method=\"GET\"} 0"));
}

#[test]
fn paths_that_are_taken_are_refused() {
    for path in ["/metrics", "no-slash", "/config"] {
        let error = builder().json(path, || Value::Null).build().unwrap_err();
        assert_eq!(error, BuildError::AdminPath(path.to_owned()));
    }
}

#[tokio::test]
async fn beyond_loopback_only_probes_and_metrics_are_for_everybody() {
    let scrape = prometheus().build().unwrap();
    let service = |token: &str, address: [u8; 4]| {
        builder()
            .runtime(RuntimeMetrics::builder().build().unwrap())
            .prometheus(scrape.clone())
            .readiness(Readiness::new())
            .bound_to((address, 9090).into())
            .token(token)
            .allow_host("orders.internal")
            .build()
            .unwrap()
    };
    let ask = async |service: &AdminService, path: &str, host: &str, token: &str| {
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::default());
        call(service, request.unwrap()).await.status().as_u16()
    };
    let (any, with, local) = ([0, 0, 0, 0], "s3cret", [127, 0, 0, 1]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        for (token, address) in [("", any), (with, any), (with, local)] {
            let service = service(token, address);
            assert_eq!(ask(&service, path, "evil.example", "").await, 200, "{path}");
        }
    }
    for path in [
        "/",
        "/config",
        "/runtime.json",
        "/events",
        "/history.json",
        "/paths",
        "/none",
    ] {
        let found = if path == "/none" { 404 } else { 200 };
        for (token, address, host, given, status) in [
            ("", any, "10.0.0.1:9090", "", 403),
            ("", any, "localhost", with, 403),
            (with, any, "10.0.0.1:9090", "", 401),
            (with, any, "10.0.0.1:9090", "s3creT", 401),
            (with, any, "10.0.0.1:9090", with, found),
            (with, any, "[fd00::1]:9090", with, found),
            (with, any, "orders.internal:9090", with, found),
            (with, any, "Orders.Internal", with, found),
            (with, any, "evil.example", with, 403),
            (with, any, "evil.example", "", 403),
            (with, local, "localhost", "", found),
            (with, local, "orders.internal", "", found),
            (with, local, "evil.example", with, 403),
        ] {
            let service = service(token, address);
            let case = format!("{path} {token:?} {address:?} {host} {given:?}");
            assert_eq!(ask(&service, path, host, given).await, status, "{case}");
        }
    }
    let refused = call(&service(with, any), get("/config")).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    // A browser then asks for it.
    assert!(
        refused.headers()[header::WWW_AUTHENTICATE]
            .to_str()
            .unwrap()
            .starts_with("Basic ")
    );
}

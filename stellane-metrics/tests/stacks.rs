//! The layer in other people's stacks: axum, hyper over real sockets, recorders of the `metrics` facade.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use stellane_metrics::{HttpMetrics, MetricsLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, service_fn};

fn http() -> HttpMetrics {
    HttpMetrics::builder().build().unwrap()
}

/// Waits for something that happens on another task.
async fn until(mut what: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never happened");
}

#[cfg(feature = "axum")]
mod axum_routes {
    use axum::{Router, body::Body, routing::get};
    use stellane_metrics::RouteLabelLayer;
    use tower::ServiceExt;

    use super::*;

    fn router() -> Router {
        Router::new()
            .route("/users/{id}", get(|| async { "user" }))
            .nest(
                "/api",
                Router::new().route("/orders/{id}", get(|| async { "order" })),
            )
    }

    async fn ask<S, B>(service: S, path: &str)
    where
        S: tower::Service<Request<Body>, Response = Response<B>, Error = Infallible>,
        B: hyper::body::Body<Error: std::fmt::Debug>,
    {
        let request = Request::get(path).body(Body::empty()).unwrap();
        service
            .oneshot(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
    }

    fn routes(http: &HttpMetrics) -> Vec<String> {
        let mut routes: Vec<_> = http.routes().into_iter().map(|stats| stats.route).collect();
        routes.sort();
        routes
    }

    #[tokio::test]
    async fn around_the_router_an_inner_layer_names_the_route() {
        let http = http();
        let app = MetricsLayer::new(&http).layer(router().route_layer(RouteLabelLayer::axum()));
        for path in ["/users/7", "/users/8", "/api/orders/9", "/wp-login.php"] {
            ask(app.clone(), path).await;
        }
        assert_eq!(
            routes(&http),
            ["/api/orders/{id}", "/users/{id}", "_UNMATCHED"]
        );
    }

    #[tokio::test]
    async fn inside_of_the_router_the_request_names_the_route() {
        let http = http();
        let app = router().layer(MetricsLayer::new(&http).route_from_axum());
        for path in ["/users/7", "/api/orders/9", "/wp-login.php"] {
            ask(app.clone(), path).await;
        }
        assert_eq!(
            routes(&http),
            ["/api/orders/{id}", "/users/{id}", "_UNMATCHED"]
        );
    }
}

#[tokio::test]
async fn over_http_1_responses_complete_and_clients_that_leave_count_as_cancelled() {
    let http = http();
    let service =
        MetricsLayer::new(&http).layer(service_fn(|request: Request<Incoming>| async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        }));
    let (client, server) = tokio::io::duplex(4096);
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), TowerToHyperService::new(service)),
    );
    let mut client = client;
    let mut buffer = [0; 1024];
    for (method, body) in [("GET", true), ("HEAD", false)] {
        client
            .write_all(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let n = client.read(&mut buffer).await.unwrap();
        assert_eq!(buffer[..n].ends_with(b"hello"), body);
    }
    until(|| http.stats().requests_total == 2).await;
    assert_eq!(http.stats().requests_cancelled_total, 0);

    client
        .write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    until(|| http.stats().requests_in_flight == 1).await;
    drop(client);
    until(|| http.stats().requests_in_flight == 0).await;
    let stats = http.stats();
    assert_eq!(
        (stats.requests_total, stats.requests_cancelled_total),
        (3, 1)
    );
}

#[tokio::test]
async fn over_http_2_grpc_trailers_resets_and_streams_are_told_apart() {
    let http = http();
    let service =
        MetricsLayer::new(&http).layer(service_fn(|request: Request<Incoming>| async move {
            let endless = request.uri().path() == "/endless";
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "13".parse().unwrap());
            let frames = futures_util::stream::unfold(0, move |n| {
                let trailers = trailers.clone();
                async move {
                    let frame = match n {
                        0 => Frame::data(Bytes::from_static(b"message")),
                        _ if endless => std::future::pending().await,
                        1 => Frame::trailers(trailers),
                        _ => return None,
                    };
                    Some((Ok::<_, Infallible>(frame), n + 1))
                }
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
        }));
    let (client, server) = tokio::io::duplex(4096);
    tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(server), TowerToHyperService::new(service)),
    );
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut ask = |path: &str| {
        let uri = format!("http://a{path}");
        sender.send_request(Request::get(uri).body(Empty::<Bytes>::new()).unwrap())
    };
    let call = ask("/pkg.Service/Call")
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(call.trailers().unwrap()["grpc-status"], "13");
    let mut endless = ask("/endless").await.unwrap();
    assert!(endless.body_mut().frame().await.is_some());
    drop(endless);
    until(|| http.stats().requests_total == 2).await;
    let text = http.render();
    let count = |parts: &[&str]| {
        let name = "http_server_request_duration_seconds_count";
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .count()
    };
    assert_eq!(
        count(&[r#"version="2""#, r#"rpc_response_status_code="INTERNAL""#]),
        1,
        "{text}"
    );
    assert_eq!(
        count(&[r#"status_code="200""#, r#"error_type="cancelled""#]),
        1,
        "{text}"
    );
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn any_recorder_of_the_facade_gets_the_same_totals_and_no_request_twice() {
    use stellane_metrics::{FacadePublisher, prometheus};
    use tower::ServiceExt;

    let http = http();
    let exporter = prometheus().build().unwrap();
    let mut publisher = FacadePublisher::new(exporter.recorder()).http(&http);
    for round in 1..=3 {
        for _ in 0..10 {
            let service = MetricsLayer::new(&http)
                .route_from_request(|_: &Request<Empty<Bytes>>| Some("/x"))
                .layer(service_fn(|_| async {
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
                }));
            let response = service
                .oneshot(Request::new(Empty::<Bytes>::new()))
                .await
                .unwrap();
            response.into_body().collect().await.unwrap();
        }
        publisher.publish();
        let text = exporter.render();
        let line = text
            .lines()
            .find(|line| line.starts_with("http_server_request_duration_seconds_count"))
            .unwrap_or_else(|| panic!("not in\n{text}"));
        assert!(line.contains(r#"http_route="/x""#), "{line}");
        assert!(line.ends_with(&format!(" {}", round * 10)), "{line}");
    }
}

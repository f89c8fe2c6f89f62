//! What [`MetricsLayer`] counts, through the public API.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    future::{pending, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Channel, Empty, Full, StreamBody};
use stellane_metrics::{
    HttpMetrics, MetricsConfig, MetricsLayer, RequestBytesBody, RequestBytesLayer, current_route,
    label_route,
};
use tower::{Layer, Service, ServiceExt, service_fn};

fn http() -> HttpMetrics {
    HttpMetrics::builder().build().unwrap()
}

fn request() -> Request<Full<Bytes>> {
    Request::new(Full::default())
}

/// The value of the series whose name and labels contain all of `parts`; panics unless there is exactly one.
#[track_caller]
fn value(http: &HttpMetrics, parts: &[&str]) -> f64 {
    let text = http.render();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .collect();
    assert_eq!(lines.len(), 1, "{parts:?} in\n{text}");
    lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

const COUNT: &str = "http_server_request_duration_seconds_count";

#[tokio::test]
async fn a_request_is_counted_with_its_route_method_status_and_sizes() {
    let http = http();
    let service = MetricsLayer::new(&http)
        .route_from_request(|_: &Request<Full<Bytes>>| Some("/users/{id}"))
        .layer(service_fn(|_| async {
            let mut response = Response::new(Full::<Bytes>::from("hello"));
            *response.status_mut() = StatusCode::CREATED;
            Ok::<_, Infallible>(response)
        }));
    let request = Request::post("/users/7")
        .body(Full::from("ninety-one"))
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(http.stats().requests_in_flight, 1);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "hello"
    );

    let labels = [
        r#"http_request_method="POST""#,
        r#"http_route="/users/{id}""#,
        r#"http_response_status_code="201""#,
        r#"network_protocol_version="1.1""#,
        r#"url_scheme="http""#,
    ];
    let all = |name| [&[name], &labels[..]].concat();
    assert_eq!(value(&http, &all(COUNT)), 1.0);
    assert_eq!(
        value(
            &http,
            &all("stellane_http_response_head_duration_seconds_count")
        ),
        1.0
    );
    assert_eq!(
        value(&http, &all("http_server_request_body_size_bytes_sum")),
        10.0
    );
    assert_eq!(
        value(&http, &all("http_server_response_body_size_bytes_sum")),
        5.0
    );
    assert!(!http.render().contains("error_type"));
    let stats = http.stats();
    assert_eq!(
        (stats.requests_total, stats.requests_in_flight, stats.series),
        (1, 0, 1)
    );
}

#[tokio::test]
async fn unmatched_routes_unknown_methods_and_5xx_have_fixed_labels() {
    let http = http();
    let service = MetricsLayer::new(&http).layer(service_fn(|_| async {
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        Ok::<_, Infallible>(response)
    }));
    let mut request = request();
    *request.method_mut() = Method::from_bytes(b"BREW").unwrap();
    service.oneshot(request).await.unwrap();
    let labels = [
        r#"method="_OTHER""#,
        r#"route="_UNMATCHED""#,
        r#"error_type="502""#,
    ];
    assert_eq!(value(&http, &[&[COUNT], &labels[..]].concat()), 1.0);
    assert_eq!(http.stats().requests_failed_total, 1);
}

#[tokio::test]
async fn an_inner_layer_and_the_response_can_name_the_route() {
    let http = http();
    let inner = service_fn(|_| async {
        tokio::task::yield_now().await;
        assert_eq!(current_route(), None);
        label_route("/from/inside");
        assert_eq!(current_route().as_deref(), Some("/from/inside"));
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    MetricsLayer::new(&http)
        .layer(inner)
        .oneshot(request())
        .await
        .unwrap();
    assert_eq!(value(&http, &[COUNT, r#"route="/from/inside""#]), 1.0);

    let layer = MetricsLayer::new(&http)
        .route_from_response(|_: &Response<Empty<Bytes>>| Some("/from/response"));
    layer.layer(inner).oneshot(request()).await.unwrap();
    assert_eq!(value(&http, &[COUNT, r#"route="/from/response""#]), 1.0);

    // Outside of any layer it is harmless.
    label_route("/nobody/listens");
    assert_eq!(current_route(), None);
    assert_eq!(http.stats().routes, 2);
}

#[tokio::test]
async fn nested_layers_keep_their_routes_apart() {
    let (outer, inner) = (http(), http());
    let service = MetricsLayer::new(&outer).layer(service_fn(|request| {
        label_route("/outer");
        let inner = MetricsLayer::new(&inner).layer(service_fn(|_: Request<Full<Bytes>>| {
            label_route("/inner");
            ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        }));
        inner.oneshot(request)
    }));
    service.oneshot(request()).await.unwrap();
    assert_eq!(value(&outer, &[COUNT, r#"route="/outer""#]), 1.0);
    assert_eq!(value(&inner, &[COUNT, r#"route="/inner""#]), 1.0);
}

#[tokio::test]
async fn a_future_dropped_before_and_after_its_first_poll_counts_as_cancelled_once() {
    let http = http();
    let mut service = MetricsLayer::new(&http).layer(service_fn(|_| {
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    drop(service.call(request()));
    assert_eq!(http.stats().requests_cancelled_total, 1);

    let mut future = Box::pin(service.call(request()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    assert_eq!(http.stats().requests_in_flight, 1);
    drop(future);
    let stats = http.stats();
    assert_eq!(
        (
            stats.requests_total,
            stats.requests_in_flight,
            stats.requests_cancelled_total
        ),
        (2, 0, 2)
    );
    assert_eq!(
        value(
            &http,
            &[COUNT, r#"status_code="499""#, r#"error_type="cancelled""#]
        ),
        2.0
    );
}

#[tokio::test]
async fn a_body_dropped_unread_or_half_read_counts_as_cancelled_with_the_status_it_had() {
    let http = http();
    let mut service = MetricsLayer::new(&http).layer(service_fn(|_| {
        let frames = ["one", "two"].map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from(data))));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    drop(service.call(request()).await.unwrap());
    let mut response = service.call(request()).await.unwrap();
    assert!(response.body_mut().frame().await.is_some());
    drop(response);
    assert_eq!(http.stats().requests_cancelled_total, 2);
    assert_eq!(
        value(
            &http,
            &[COUNT, r#"status_code="200""#, r#"error_type="cancelled""#]
        ),
        2.0
    );
    assert_eq!(
        value(&http, &["http_server_response_body_size_bytes_sum"]),
        3.0
    );
}

#[tokio::test]
async fn a_body_read_to_its_announced_length_is_complete_even_if_nobody_polls_its_end() {
    /// Says how long it is, but not that it has ended, as a pipe might.
    struct Pipe(Option<Bytes>, u64);
    impl Body for Pipe {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }
    let http = http();
    let service = MetricsLayer::new(&http).layer(service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Pipe(Some(Bytes::from("abc")), 3)))
    }));
    let mut response = service.oneshot(request()).await.unwrap();
    assert!(response.body_mut().frame().await.is_some());
    drop(response);
    let stats = http.stats();
    assert_eq!(
        (stats.requests_total, stats.requests_cancelled_total),
        (1, 0)
    );
}

#[tokio::test]
async fn the_unread_bodies_of_head_not_modified_and_upgrades_are_complete() {
    let http = http();
    let mut service =
        MetricsLayer::new(&http).layer(service_fn(|request: Request<Full<Bytes>>| async move {
            let mut response = Response::new(Full::<Bytes>::from("a body nobody reads"));
            if let Some(status) = request.extensions().get::<StatusCode>() {
                *response.status_mut() = *status;
            }
            Ok::<_, Infallible>(response)
        }));
    let mut head = request();
    *head.method_mut() = Method::HEAD;
    drop(service.call(head).await.unwrap());
    for status in [StatusCode::NOT_MODIFIED, StatusCode::SWITCHING_PROTOCOLS] {
        let mut request = request();
        request.extensions_mut().insert(status);
        drop(service.call(request).await.unwrap());
    }
    let mut connect = request();
    *connect.method_mut() = Method::CONNECT;
    drop(service.call(connect).await.unwrap());
    let stats = http.stats();
    assert_eq!(
        (stats.requests_total, stats.requests_cancelled_total),
        (4, 0)
    );
}

#[tokio::test]
async fn errors_of_the_service_and_of_the_body_have_their_own_type() {
    let http = http();
    let failing = service_fn(|_| async { Err::<Response<Empty<Bytes>>, _>("no") });
    assert!(
        MetricsLayer::new(&http)
            .layer(failing)
            .oneshot(request())
            .await
            .is_err()
    );
    assert_eq!(value(&http, &[COUNT, r#"error_type="service_error""#]), 1.0);

    let broken = service_fn(|_| async {
        let frames = futures_util::stream::iter([Err::<Frame<Bytes>, _>("broken")]);
        Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
    });
    let response = MetricsLayer::new(&http)
        .layer(broken)
        .oneshot(request())
        .await
        .unwrap();
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(value(&http, &[COUNT, r#"error_type="body_error""#]), 1.0);
    let stats = http.stats();
    assert_eq!(
        (
            stats.requests_total,
            stats.requests_failed_total,
            stats.requests_cancelled_total
        ),
        (2, 2, 0)
    );
}

#[test]
fn a_panic_in_call_in_poll_and_in_the_body_counts_once_as_a_panic() {
    let http = http();
    let mut cx = Context::from_waker(Waker::noop());

    let mut in_call = MetricsLayer::new(&http).layer(service_fn(|_| {
        panic!("in call");
        #[expect(unreachable_code, reason = "names the type of the future")]
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    assert!(catch_unwind(AssertUnwindSafe(|| in_call.call(request()))).is_err());

    let mut in_poll = MetricsLayer::new(&http).layer(service_fn(|_| async {
        panic!("in poll");
        #[expect(unreachable_code, reason = "names the type of the future")]
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    // As tokio does it: the panic is caught around the poll, the future is dropped later.
    let mut future = Box::pin(in_poll.call(request()));
    assert!(catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))).is_err());
    drop(future);

    struct Bomb;
    impl Body for Bomb {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("in the body")
        }
    }
    let mut in_body = MetricsLayer::new(&http).layer(service_fn(|_| {
        ready(Ok::<_, Infallible>(Response::new(Bomb)))
    }));
    let Poll::Ready(Ok(mut response)) = pin!(in_body.call(request())).poll(&mut cx) else {
        panic!("the response is ready");
    };
    let poll = || Pin::new(response.body_mut()).poll_frame(&mut cx).is_ready();
    assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
    drop(response);

    let stats = http.stats();
    assert_eq!(
        (
            stats.requests_total,
            stats.requests_failed_total,
            stats.requests_in_flight
        ),
        (3, 3, 0)
    );
    let panics = http
        .render()
        .lines()
        .filter(|l| l.starts_with(COUNT) && l.contains("panic"))
        .count();
    assert_eq!(panics, 2, "with and without a status\n{}", http.render());

    // The scope of the panicked request is gone.
    label_route("/late");
    assert_eq!(http.stats().routes, 0);
}

#[tokio::test]
async fn the_grpc_status_comes_from_the_trailers_or_from_the_head() {
    let http = http();
    let mut service =
        MetricsLayer::new(&http).layer(service_fn(|request: Request<Full<Bytes>>| {
            let in_head = request.headers().contains_key("fail-early");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "14".parse().unwrap());
            let frames = [
                Frame::data(Bytes::from("message")),
                Frame::trailers(trailers),
            ];
            let frames = if in_head {
                Vec::new()
            } else {
                Vec::from(frames)
            };
            let frames = frames.into_iter().map(Ok::<_, Infallible>);
            let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
            if in_head {
                response
                    .headers_mut()
                    .insert("grpc-status", "5".parse().unwrap());
            }
            ready(Ok::<_, Infallible>(response))
        }));
    for early in [false, true] {
        let mut request = request();
        *request.version_mut() = Version::HTTP_2;
        if early {
            request
                .headers_mut()
                .insert("fail-early", "1".parse().unwrap());
        }
        service
            .call(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
    }
    let unavailable = [
        r#"rpc_response_status_code="UNAVAILABLE""#,
        r#"error_type="UNAVAILABLE""#,
    ];
    assert_eq!(value(&http, &[&[COUNT], &unavailable[..]].concat()), 1.0);
    assert_eq!(
        value(&http, &[COUNT, r#"rpc_response_status_code="NOT_FOUND""#]),
        1.0
    );
}

/// A body of eight bytes that does not say so.
async fn streamed() -> Request<Channel<Bytes>> {
    let (mut sender, body) = Channel::<Bytes>::new(2);
    sender.send_data(Bytes::from("12345")).await.unwrap();
    sender.send_data(Bytes::from("678")).await.unwrap();
    Request::new(body)
}

#[tokio::test]
async fn a_streamed_request_body_is_counted_with_the_inner_layer_only() {
    let http = http();
    let read = service_fn(|request: Request<RequestBytesBody<Channel<Bytes>>>| async {
        request.into_body().collect().await.unwrap();
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let service = MetricsLayer::new(&http).layer(RequestBytesLayer::new().layer(read));
    service.oneshot(streamed().await).await.unwrap();
    assert_eq!(
        value(&http, &["http_server_request_body_size_bytes_sum"]),
        8.0
    );
}

#[tokio::test]
async fn a_streamed_request_body_is_counted_for_its_request_when_a_poll_calls_the_service() {
    let http = http();
    let read = service_fn(|request: Request<RequestBytesBody<Channel<Bytes>>>| async {
        request.into_body().collect().await.unwrap();
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    // As behind a queue, or in a router of axum.
    let inner = RequestBytesLayer::new().layer(read);
    let later = service_fn(move |request| inner.oneshot(request));
    let service = MetricsLayer::new(&http).layer(later);
    service.oneshot(streamed().await).await.unwrap();
    let counted = || {
        let sum = value(&http, &["http_server_request_body_size_bytes_sum"]);
        let count = value(&http, &["http_server_request_body_size_bytes_count"]);
        (sum, count)
    };
    assert_eq!(counted(), (8.0, 1.0));
    // Nor is it counted for the next request of the thread, whose body nobody knows.
    let ignore = service_fn(|_: Request<Channel<Bytes>>| {
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let service = MetricsLayer::new(&http).layer(ignore);
    service.oneshot(streamed().await).await.unwrap();
    assert_eq!(counted(), (8.0, 1.0));
}

#[tokio::test]
async fn a_streamed_request_body_is_counted_around_a_service_with_metrics_of_its_own() {
    let (outer, inner) = (http(), http());
    let read = service_fn(|request: Request<RequestBytesBody<Channel<Bytes>>>| async {
        request.into_body().collect().await.unwrap();
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let measured = RequestBytesLayer::new().layer(MetricsLayer::new(&inner).layer(read));
    let service = MetricsLayer::new(&outer).layer(measured);
    service.oneshot(streamed().await).await.unwrap();
    assert_eq!(
        value(&outer, &["http_server_request_body_size_bytes_sum"]),
        8.0
    );
}

#[tokio::test]
async fn durations_are_measured_to_the_head_and_to_the_end_of_the_body() {
    let now = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&now);
    let http = HttpMetrics::builder()
        .clock(move || Duration::from_millis(clock.load(Relaxed)))
        .build()
        .unwrap();
    let in_handler = Arc::clone(&now);
    let service = MetricsLayer::new(&http).layer(service_fn(move |_| {
        in_handler.fetch_add(30, Relaxed);
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x"))))
    }));
    let response = service.oneshot(request()).await.unwrap();
    now.fetch_add(700, Relaxed);
    response.into_body().collect().await.unwrap();
    assert_eq!(
        value(&http, &["stellane_http_response_head_duration_seconds_sum"]),
        0.03
    );
    assert_eq!(
        value(&http, &["http_server_request_duration_seconds_sum"]),
        0.73
    );
    assert_eq!(
        value(
            &http,
            &["http_server_request_duration_seconds_bucket", r#"le="0.5""#]
        ),
        0.0
    );
    assert_eq!(
        value(
            &http,
            &[
                "http_server_request_duration_seconds_bucket",
                r#"le="0.75""#
            ]
        ),
        1.0
    );
}

#[test]
fn a_configuration_out_of_range_is_refused_with_every_reason() {
    let mut config = MetricsConfig::default();
    config.max_routes = 0;
    config.window = Duration::ZERO;
    let error = HttpMetrics::builder()
        .config(config)
        .build()
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "`max_routes` = 0: expected 1 to 100000; `window` = 0ns: expected 1 to 1000 times `interval`"
    );
}

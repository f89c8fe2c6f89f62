//! What is told of gRPC calls, and of downloads that nobody asks for their end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    future::{pending, poll_fn, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use stellane_metrics::{HttpMetrics, MetricsLayer, RouteLabelLayer};
use tower::{Layer, Service, ServiceBuilder, service_fn};

const COUNT: &str = "http_server_request_duration_seconds_count";

/// Ends with trailers that say OK; knows neither its length nor, before, its end.
struct Messages(Option<Frame<Bytes>>, bool);

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let trailers = || {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            Frame::trailers(trailers)
        };
        let frame = match self.0.take() {
            None => std::mem::replace(&mut self.1, false).then(trailers),
            data => data,
        };
        Poll::Ready(frame.map(Ok))
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn message(text: &'static str) -> Answer {
    let frame = Frame::data(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(Messages(Some(frame), true).boxed());
    let kind = "application/grpc".parse().unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn trailers_only(status: u16) -> Answer {
    let mut response = Response::new(Full::default().boxed());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
    headers.insert("grpc-status", status.into());
    response
}

fn call(path: &str) -> Request<Full<Bytes>> {
    let request = Request::post(path).version(http::Version::HTTP_2);
    let request = request.header(header::CONTENT_TYPE, "application/grpc+proto");
    request.body(Full::default()).unwrap()
}

/// A service of two methods, and what a router says of others.
async fn greeter(request: Request<Full<Bytes>>) -> Result<Answer, Infallible> {
    Ok(match request.uri().path() {
        "/hello.Greeter/Say" => message("hello"),
        "/hello.Greeter/Fail" => trailers_only(5),
        "/hello.Greeter/Hang" => pending().await,
        "/plain" => message("").map(|_| Full::default().boxed()),
        _ => trailers_only(12),
    })
}

#[track_caller]
fn count(http: &HttpMetrics, parts: &[&str]) -> f64 {
    let text = http.render();
    let found = |line: &&str| line.starts_with(COUNT) && parts.iter().all(|p| line.contains(p));
    let lines: Vec<_> = text.lines().filter(found).collect();
    assert_eq!(lines.len(), 1, "{parts:?} in\n{text}");
    lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn drain(
    service: &mut impl Service<Request<Full<Bytes>>, Response = Response<impl Body>, Error = Infallible>,
    path: &str,
) {
    let response = service.call(call(path)).await.unwrap();
    let _ = response.into_body().collect().await;
}

#[tokio::test]
async fn calls_are_told_by_method_where_the_service_knows_it() {
    let http = HttpMetrics::builder().build().unwrap();
    let mut service = MetricsLayer::new(&http).layer(service_fn(greeter));
    // Before anything is known of the service, there is no name for it.
    drain(&mut service, "/hello.Greeter/Invented").await;
    assert_eq!(
        count(&http, &[r#"http_route="_UNMATCHED""#, "UNIMPLEMENTED"]),
        1.0
    );
    for _ in 0..2 {
        drain(&mut service, "/hello.Greeter/Say").await;
        drain(&mut service, "/hello.Greeter/Fail").await;
    }
    drain(&mut service, "/hello.Greeter/Invented").await;
    drain(&mut service, "/other.Service/Invented").await;
    assert_eq!(
        count(&http, &[r#"http_route="/hello.Greeter/Say""#, r#""OK""#]),
        2.0
    );
    assert_eq!(
        count(&http, &[r#"http_route="/hello.Greeter/Fail""#, "NOT_FOUND"]),
        2.0
    );
    assert_eq!(
        count(&http, &[r#"http_route="/hello.Greeter/_OTHER""#]),
        1.0
    );
    assert_eq!(count(&http, &["_UNMATCHED"]), 2.0);
    assert_eq!(http.stats().routes, 3);
}

#[tokio::test]
async fn what_anybody_can_send_makes_no_routes() {
    let http = HttpMetrics::builder().build().unwrap();
    let mut service =
        MetricsLayer::new(&http).layer(service_fn(|request: Request<Full<Bytes>>| {
            // A login before the service, an application without gRPC, a limit.
            ready(Ok::<_, Infallible>(match request.uri().path().len() % 3 {
                0 => trailers_only(16),
                1 => Response::new(Full::from("not found").boxed()),
                _ => trailers_only(14),
            }))
        }));
    for i in 0..30 {
        drain(&mut service, &format!("/a.B/{}", "x".repeat(i))).await;
    }
    assert_eq!(http.stats().routes, 0);
}

#[tokio::test]
async fn a_label_stays_unless_it_is_all_that_is_below_the_service() {
    let http = HttpMetrics::builder().build().unwrap();
    for (label, told) in [
        ("/hello.Greeter/{*rest}", "/hello.Greeter/Say"),
        ("greeter", "greeter"),
    ] {
        let mut service = ServiceBuilder::new()
            .layer(MetricsLayer::new(&http))
            .layer(RouteLabelLayer::new(move |_: &Request<Full<Bytes>>| {
                Some(label)
            }))
            .service_fn(greeter);
        drain(&mut service, "/hello.Greeter/Say").await;
        assert_eq!(count(&http, &[&format!(r#"http_route="{told}""#)]), 1.0);
    }
}

#[tokio::test]
async fn a_call_has_a_status_however_it_ends() {
    let http = HttpMetrics::builder().build().unwrap();
    let mut service = MetricsLayer::new(&http).layer(service_fn(greeter));
    // The client leaves before the head, then within the body.
    let mut hanging = Box::pin(service.call(call("/hello.Greeter/Hang")));
    assert!(
        hanging
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    drop(hanging);
    assert_eq!(
        count(
            &http,
            &["CANCELLED", r#"error_type="cancelled""#, r#""499""#]
        ),
        1.0
    );
    let mut body = pin!(
        service
            .call(call("/hello.Greeter/Say"))
            .await
            .unwrap()
            .into_body()
    );
    poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
    drop(service.call(call("/hello.Greeter/Say")).await.unwrap());
    assert_eq!(count(&http, &["CANCELLED", r#"/hello.Greeter/Say"#]), 1.0);

    // What speaks no gRPC is told as the client takes it.
    for (status, told) in [
        (StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE"),
        (StatusCode::NOT_FOUND, "UNIMPLEMENTED"),
        (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    ] {
        let http = HttpMetrics::builder().build().unwrap();
        let mut service = MetricsLayer::new(&http).layer(service_fn(move |_| {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = status;
            ready(Ok::<_, Infallible>(response))
        }));
        drain(&mut service, "/hello.Greeter/Say").await;
        assert_eq!(count(&http, &[told]), 1.0);
    }
}

#[tokio::test]
async fn a_download_is_complete_when_as_much_is_out_as_its_head_says() {
    struct File(u8);
    impl Body for File {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 100])))))
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::default()
        }
    }
    let http = HttpMetrics::builder().build().unwrap();
    let mut service = MetricsLayer::new(&http).layer(service_fn(|_: Request<Full<Bytes>>| {
        let response = Response::builder().header(header::CONTENT_LENGTH, 300);
        ready(Ok::<_, Infallible>(response.body(File(9)).unwrap()))
    }));
    for frames in [3, 2] {
        let response = service.call(Request::new(Full::default())).await.unwrap();
        let mut body = pin!(response.into_body());
        for _ in 0..frames {
            poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        }
    }
    let stats = http.stats();
    assert_eq!(
        (stats.requests_total, stats.requests_cancelled_total),
        (2, 1)
    );
}

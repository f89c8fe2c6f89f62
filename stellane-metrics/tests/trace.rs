//! Spans, `traceparent` and the slow-request log.

#![cfg(feature = "tracing")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use stellane_metrics::{TraceContext, TraceLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, ServiceExt, service_fn};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

/// What happened, a line each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Log {
    fn line(&self, kind: &str, fill: impl FnOnce(&mut Fields<'_>)) {
        let mut text = self.0.lock().unwrap();
        text.push_str(kind);
        fill(&mut Fields(&mut text));
        text.push('\n');
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn install(&self) -> DefaultGuard {
        tracing::subscriber::set_default(Registry::default().with(self.clone()))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.line("open", |fields| attributes.record(fields));
    }
    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.line("record", |fields| values.record(fields));
    }
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.line("event", |fields| event.record(fields));
    }
    fn on_close(&self, _: Id, _: Context<'_, S>) {
        self.line("close", |_| ());
    }
}

type Body = Full<Bytes>;

async fn handle(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let context = request.extensions().get::<TraceContext>().unwrap();
    assert_eq!(request.headers()["traceparent"], context.to_string());
    tracing::info!("inside");
    let mut response = Response::new(Full::from(context.to_string()));
    if request.uri().path() == "/bad" {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    Ok(response)
}

fn request(path: &str, parent: Option<&str>) -> Request<Body> {
    let request = Request::get(path);
    let request = parent
        .into_iter()
        .fold(request, |r, parent| r.header("traceparent", parent));
    request.body(Full::default()).unwrap()
}

/// The context the handler saw.
async fn send<Q>(layer: &TraceLayer<Q>, request: Request<Body>) -> TraceContext
where
    Q: stellane_metrics::RequestRoute<Body> + Clone,
{
    let response = layer
        .layer(service_fn(handle))
        .oneshot(request)
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    TraceContext::parse(std::str::from_utf8(&body).unwrap()).unwrap()
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_request_is_one_span_with_the_conventional_names() {
    let log = Log::default();
    let _guard = log.install();
    let layer = TraceLayer::new().route_from_request(|_: &Request<Body>| Some("/{page}"));
    let context = send(&layer, request("/bad", Some(PARENT))).await;
    let text = log.text();
    for part in [
        "otel.kind=\"server\"",
        "http.request.method=\"GET\"",
        "url.path=\"/bad\"",
        "http.route=\"/{page}\"",
        "otel.name=GET /{page}",
        "trace_id=0af7651916cd43dd8448eb211c80319c",
        "parent_id=b7ad6b7169203331",
        "http.response.status_code=502",
        "error.type=\"502\"",
        &format!("span_id={:016x}", context.span_id),
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(text.matches("open").count(), 1);
    assert!(text.ends_with("close\n"), "{text}");
}

#[tokio::test]
async fn the_callers_trace_goes_on_and_a_broken_one_is_replaced() {
    let parent = TraceContext::parse(PARENT).unwrap();
    let context = send(&TraceLayer::new(), request("/", Some(PARENT))).await;
    assert_eq!((context.trace_id, context.sampled), (parent.trace_id, true));
    assert_ne!(context.span_id, parent.span_id);

    for broken in [
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(TraceContext::parse(broken), None, "{broken}");
    }
    let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
    assert_eq!(
        TraceContext::parse(later).unwrap().trace_id,
        parent.trace_id
    );
    let fresh = send(&TraceLayer::new(), request("/", Some("nonsense"))).await;
    assert_ne!(fresh.trace_id, parent.trace_id);
}

#[tokio::test]
async fn sampling_follows_the_caller_and_else_the_share() {
    let log = Log::default();
    let _guard = log.install();
    let never = TraceLayer::new().sample(0.0);
    assert!(!send(&never, request("/", None)).await.sampled);
    assert!(!log.text().contains("open"));
    assert!(send(&never, request("/", Some(PARENT))).await.sampled);
    let unsampled = format!("{}0", &PARENT[..PARENT.len() - 1]);
    assert!(
        !send(&TraceLayer::new(), request("/", Some(&unsampled)))
            .await
            .sampled
    );

    let half = TraceLayer::new().sample(0.5);
    let mut sampled = 0;
    for _ in 0..1_000 {
        sampled += u32::from(send(&half, request("/", None)).await.sampled);
    }
    assert!((400..600).contains(&sampled), "{sampled} of 1000");
}

#[tokio::test]
async fn a_slow_request_is_logged_with_its_route_even_if_it_is_not_sampled() {
    let log = Log::default();
    let _guard = log.install();
    let layer = TraceLayer::new()
        .sample(0.0)
        .slow(Duration::from_nanos(1))
        .route_from_request(|_: &Request<Body>| Some("/slow/{id}"));
    send(&layer, request("/slow/7", None)).await;
    let text = log.text();
    assert!(
        text.contains("message=\"slow request\"") || text.contains("message=slow request"),
        "{text}"
    );
    assert!(text.contains("http.route=\"/slow/{id}\""), "{text}");
    assert!(!text.contains("/slow/7"), "the path may hold personal data");

    let quiet = Log::default();
    let _guard = quiet.install();
    send(&layer.slow(Duration::ZERO), request("/slow/7", None)).await;
    assert!(!quiet.text().contains("slow request"));
}

/// What a client with this parent is told by whoever serves at the address.
async fn over_a_socket(address: std::net::SocketAddr) -> TraceContext {
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /users/7 HTTP/1.1\r\nhost: x\r\ntraceparent: {PARENT}\r\nconnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    TraceContext::parse(body).unwrap()
}

/// Whether it is the caller's trace, with a span of the server's.
fn goes_on(context: TraceContext) -> bool {
    let parent = TraceContext::parse(PARENT).unwrap();
    context.trace_id == parent.trace_id && context.span_id != parent.span_id
}

/// The header as it is passed on.
fn passed_on(headers: &http::HeaderMap) -> String {
    headers["traceparent"].to_str().unwrap().to_owned()
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn under_axum_serve_the_callers_trace_is_passed_on() {
    let app = axum::Router::new()
        .route(
            "/users/{id}",
            axum::routing::get(async |headers: http::HeaderMap| passed_on(&headers)),
        )
        .layer(TraceLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let context = over_a_socket(address).await;
    assert!(goes_on(context), "{context}");
    serving.abort();
}

#[tokio::test]
async fn in_plain_hyper_the_callers_trace_is_passed_on() {
    let app = TraceLayer::new().layer(service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(passed_on(request.headers())))
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(app))
            .await
    });
    let context = over_a_socket(address).await;
    assert!(goes_on(context), "{context}");
    serving.await.unwrap().unwrap();
}

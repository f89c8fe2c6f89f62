//! The preset as a layer: in any stack of tower, with any body, without a server.

use std::{
    convert::Infallible,
    error::Error,
    future::{Ready, ready},
    task::{Context, Poll},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request as AxumRequest},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use stellane_core::{
    Components, RequestBody, RequestBodyError, RuntimeConfig,
    autotune::{AdaptiveLimitLayer, AlgorithmKind},
    catch_faults::CatchFaultsLayer,
    connection::Incoming,
    metrics::MetricsLayer,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
};

/// One place, and nobody waits for it.
fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max_wait = std::time::Duration::ZERO;
    config
}

/// A body of one's own, neither hyper's nor ours nor axum's, and without a `Default`.
struct Own(Full<Bytes>);

impl Body for Own {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

/// Chunks, of which nobody says how many there are.
fn chunks(bytes: usize) -> axum::body::Body {
    let chunks = vec![Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1024])); bytes / 1024];
    axum::body::Body::from_stream(stream::iter(chunks))
}

async fn text<B: Body<Error: std::fmt::Debug>>(response: Response<B>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn the_preset_of_a_service_is_called_without_a_server_by_requests_with_any_body() {
    async fn echo<B>(request: Request<B>) -> Result<Response<Own>, Box<dyn Error + Send + Sync>>
    where
        B: Body<Data = Bytes, Error: Error + Send + Sync + 'static>,
    {
        let body = request.into_body().collect().await?.to_bytes();
        Ok(Response::new(Own(Full::new(body))))
    }
    let config = RuntimeConfig::default();
    let components = Components::new(&config).expect("valid");
    let layer = components.layer(&config.server);

    // For our server, as its handlers are.
    let preset = layer.layer(service_fn(echo::<RequestBody>));
    let answer = preset.oneshot(Request::new(Incoming::from("hello"))).await;
    assert_eq!(text(answer.expect("answered")).await, "hello");
    // For others.
    let preset = layer.layer(service_fn(echo::<RequestBody<Own>>));
    let request = Request::new(Own(Full::from("hello")));
    assert_eq!(
        text(preset.oneshot(request).await.expect("answered")).await,
        "hello"
    );
    let preset = layer.layer(service_fn(echo::<RequestBody<axum::body::Body>>));
    let answer = preset.oneshot(Request::new(chunks(4096))).await;
    assert_eq!(text(answer.expect("answered")).await.len(), 4096);

    assert_eq!(components.metrics.stats().requests_total, 3);
    assert_eq!(components.limit.stats().successes, 3);
}

#[tokio::test]
async fn bodies_are_made_of_bytes_text_and_streams() {
    async fn read(body: RequestBody) -> Result<Bytes, RequestBodyError> {
        Ok(body.collect().await?.to_bytes())
    }
    let stream = || stream::iter(["he", "llo"].map(|text| Ok(Frame::data(text.as_bytes()))));
    let bodies: [RequestBody; 5] = [
        "hello".into(),
        "hello".to_owned().into(),
        b"hello".to_vec().into(),
        Bytes::from_static(b"hello").into(),
        RequestBody::new(StreamBody::new(
            stream().map(|frame: Result<_, Infallible>| frame),
        )),
    ];
    for body in bodies {
        assert_eq!(read(body).await.expect("a body"), "hello");
    }
    assert!(RequestBody::<Incoming>::default().is_end_stream());
    let failing = stream::iter([Err::<Frame<Bytes>, _>(std::io::Error::other("gone"))]);
    let error = read(RequestBody::new(StreamBody::new(failing))).await;
    let error = error.expect_err("it fails");
    assert!(!error.is_too_large());
    assert_eq!(error.source().expect("what failed").to_string(), "gone");

    fn needs_sync<T: Send + Sync>(_: &T) {}
    needs_sync(&RequestBody::<Incoming>::default());
}

use futures_util::StreamExt;

#[tokio::test]
async fn layers_of_tower_http_that_want_an_empty_body_stand_outside_of_each_of_ours() {
    let components = Components::new(&RuntimeConfig::default()).expect("valid");
    let server = RuntimeConfig::default().server;
    let outside = || {
        ServiceBuilder::new()
            .layer(CorsLayer::permissive())
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                std::time::Duration::from_secs(30),
            ))
            .layer(tower_http::csrf::CsrfLayer::new())
    };
    async fn own<B>(_: Request<B>) -> Result<Response<Own>, Infallible> {
        Ok(Response::new(Own(Full::from("hello"))))
    }
    macro_rules! answers {
        ($layer:expr) => {{
            let service = outside().layer($layer).service(service_fn(own));
            let request = Request::new(Full::<Bytes>::default());
            let answer = service.oneshot(request).await.expect("answered");
            assert_eq!(text(answer).await, "hello");
        }};
    }
    answers!(components.layer(&server));
    answers!(MetricsLayer::new(&components.metrics));
    answers!(AdaptiveLimitLayer::new(&components.limit));
    answers!(components.overload.clone());
    answers!(CatchFaultsLayer::new(&components.faults));
}

/// What a browser sees of requests that are refused or fail, through tower-http's layers around the preset.
#[tokio::test]
async fn refusals_have_cors_headers_and_request_ids_and_a_preflight_needs_no_place() {
    let mut config = config();
    config.server.max_body_bytes = 10;
    let components = Components::new(&config).expect("valid");
    let app: Router = Router::new()
        .route("/panic", get(async || -> () { panic!("on purpose") }))
        .route("/hang", get(std::future::pending::<()>))
        .route("/read", post(async |body: Bytes| body));
    let app = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(CorsLayer::permissive())
        .layer(components.layer(&config.server))
        .service(app);
    let ask = async |method: Method, path: &str, timeout: &str, body: axum::body::Body| {
        let mut request = AxumRequest::builder()
            .method(method)
            .uri(path)
            .header("origin", "https://example.org")
            .header("access-control-request-method", "GET");
        if !timeout.is_empty() {
            request = request.header("x-request-timeout-ms", timeout);
        }
        let answer = app
            .clone()
            .oneshot(request.body(body).expect("valid"))
            .await;
        let answer = answer.expect("answered");
        let headers = answer.headers();
        assert!(
            headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN),
            "{answer:?}"
        );
        assert!(headers.contains_key("x-request-id"), "{answer:?}");
        answer.status().as_u16()
    };
    let none = axum::body::Body::empty;
    assert_eq!(ask(Method::GET, "/panic", "", none()).await, 500);
    assert_eq!(ask(Method::GET, "/hang", "20", none()).await, 504);
    assert_eq!(
        ask(Method::POST, "/read", "", "more than ten".into()).await,
        413
    );
    assert_eq!(ask(Method::POST, "/read", "", chunks(2048)).await, 413);
    let place = components.limit.try_acquire().expect("the only one");
    assert_eq!(ask(Method::GET, "/panic", "", none()).await, 503);
    assert_eq!(ask(Method::OPTIONS, "/panic", "", none()).await, 200);
    drop(place);
}

#[tokio::test]
async fn the_limits_of_axum_routes_count_as_with_axum_serve() {
    const MIB: usize = 1 << 20;
    let app = || -> Router {
        let read = || post(async |body: Bytes| body.len().to_string());
        let raw = async |request: AxumRequest| {
            let body = request.into_body().collect().await;
            body.map(|body| body.to_bytes().len().to_string())
                .map_err(|_| StatusCode::IM_A_TEAPOT)
        };
        Router::new()
            .route("/usual", read())
            .route("/less", read().layer(DefaultBodyLimit::max(MIB)))
            .route("/more", read().layer(DefaultBodyLimit::max(4 * MIB)))
            .route("/any", read().layer(DefaultBodyLimit::disable()))
            .route("/raw", post(raw))
    };
    let answers = async |ceiling: u64, path: &str, size: usize, whole: bool| {
        let mut config = RuntimeConfig::default();
        config.server.max_body_bytes = ceiling;
        let components = Components::new(&config).expect("valid");
        let body = || match whole {
            true => axum::body::Body::from(vec![b'x'; size]),
            false => chunks(size),
        };
        let request = || AxumRequest::post(path).body(body()).expect("valid");
        let bare = app().oneshot(request()).await.expect("answered").status();
        let preset = components.layer(&config.server).layer(app());
        let answer = preset.oneshot(request()).await.expect("answered");
        (bare.as_u16(), answer.status().as_u16())
    };
    for whole in [true, false] {
        for (path, size, status) in [
            ("/usual", MIB, 200),
            ("/usual", 3 * MIB, 413),
            ("/less", 2 * MIB, 413),
            ("/more", 3 * MIB, 200),
            ("/more", 5 * MIB, 413),
            ("/any", 9 * MIB, 200),
            ("/raw", 9 * MIB, 200),
        ] {
            assert_eq!(
                answers(0, path, size, whole).await,
                (status, status),
                "{path} {size}"
            );
        }
        // A ceiling is one for all routes, and no more than that.
        let ceiling = 3 * MIB as u64;
        for (path, size, status) in [
            ("/usual", 2 * MIB + 1024, 413),
            ("/more", 2 * MIB + 1024, 200),
            ("/more", 4 * MIB, 413),
            ("/any", 4 * MIB, 413),
        ] {
            assert_eq!(
                answers(ceiling, path, size, whole).await.1,
                status,
                "{path} {size}"
            );
        }
        // Who reads it by themselves answers by themselves, unless it is known from the head.
        let status = if whole { 413 } else { 418 };
        assert_eq!(answers(ceiling, "/raw", 4 * MIB, whole).await.1, status);
    }
}

#[tokio::test]
async fn the_ceiling_also_counts_through_the_layers_one_by_one() {
    let mut config = RuntimeConfig::default();
    config.server.max_body_bytes = 10;
    let components = Components::new(&config).expect("valid");
    let app: Router = Router::new().route("/", post(async |body: Bytes| body));
    let preset = components.layer(&config.server).layer(app);
    let request = AxumRequest::post("/").header("x-request-timeout-ms", "9000");
    let request = request.body(chunks(2048)).expect("valid");
    let answer = preset.oneshot(request).await.expect("answered");
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn grpc_is_answered_in_its_own_language_whatever_fails() {
    let mut config = RuntimeConfig::default();
    config.server.max_body_bytes = 10;
    let components = Components::new(&config).expect("valid");
    let fails = service_fn(async |request: Request<RequestBody<axum::body::Body>>| {
        match request.uri().path() {
            "/panic" => panic!("on purpose"),
            "/error" => Err("on purpose"),
            "/stream" => {
                let read = request.into_body().collect().await.expect("whole");
                Ok(Response::new(Full::<Bytes>::from(
                    read.to_bytes().len().to_string(),
                )))
            }
            _ => std::future::pending().await,
        }
    });
    let preset = components.layer(&config.server).layer(fails);
    let call = async |path: &str, content_type: &str, timeout: Option<&str>, body| {
        let mut request = AxumRequest::post(path).header("content-type", content_type);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(body).expect("valid");
        preset.clone().oneshot(request).await.expect("answered")
    };
    for content_type in [
        "application/grpc",
        "application/grpc-web+proto",
        "application/grpc-web-text+proto",
    ] {
        for (path, timeout, status) in [
            ("/panic", None, "13"),
            ("/panic", Some("9S"), "13"),
            ("/error", None, "13"),
            ("/error", Some("9S"), "13"),
            ("/hang", Some("20m"), "4"),
        ] {
            let answer = call(path, content_type, timeout, chunks(2048)).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert!(answer.body().is_end_stream(), "{path}");
            assert_eq!(answer.headers()["grpc-status"], status, "{path}");
            assert_eq!(answer.headers()["content-type"], content_type, "{path}");
            assert!(!answer.headers()["grpc-message"].is_empty(), "{path}");
        }
        // Of as many messages as there are.
        let answer = call("/stream", content_type, None, chunks(4 << 20)).await;
        assert_eq!(text(answer).await, (4 << 20).to_string());
    }
    // Others are told as ever.
    let answer = call("/panic", "application/json", None, "".into()).await;
    assert_eq!(answer.status(), 500);
    let answer = call("/panic", "application/json", None, "more than ten".into()).await;
    assert_eq!(answer.status(), 413);
}

#[cfg(feature = "tonic-014")]
#[tokio::test]
async fn an_error_that_is_a_status_of_tonic_is_that_answer() {
    let config = RuntimeConfig::default();
    let components = Components::new(&config).expect("valid");
    let fails = service_fn(async |_: Request<RequestBody<axum::body::Body>>| {
        Err::<Response<Full<Bytes>>, _>(tonic::Status::not_found("no such thing"))
    });
    for timeout in ["9S", "none"] {
        let request = AxumRequest::post("/")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout);
        let request = request.body(axum::body::Body::empty()).expect("valid");
        let preset = components.layer(&config.server).layer(fails);
        let answer = preset.oneshot(request).await.expect("answered");
        assert_eq!(answer.headers()["grpc-status"], "5");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(components.faults.stats().errors, 0);
    assert_eq!(components.limit.stats().in_flight, 0);
}

/// A call that takes longer than its client waits ends with trailers, whatever the server allows for a head.
#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_grpc_call_covers_its_stream() {
    let mut config = RuntimeConfig::default();
    config.overload.max_timeout = std::time::Duration::from_secs(1);
    let components = Components::new(&config).expect("valid");
    let streams = service_fn(async |request: Request<RequestBody<axum::body::Body>>| {
        let first = stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::from("first"))) });
        let body = StreamBody::new(first.chain(stream::pending()));
        let content_type = request.headers()["content-type"].clone();
        Response::builder()
            .header("content-type", content_type)
            .body(body)
    });
    let preset = components.layer(&config.server).layer(streams);
    for (content_type, timeout, ends) in [
        ("application/grpc", "50m", true),
        ("application/grpc", "1H", false),
        ("application/grpc-web+proto", "50m", true),
        ("application/grpc-web-text", "50m", true),
        // What is no call has nothing to say it with.
        ("text/event-stream", "50m", false),
    ] {
        let request = AxumRequest::post("/")
            .header("content-type", content_type)
            .header("grpc-timeout", timeout)
            .body(axum::body::Body::empty())
            .expect("valid");
        let answer = preset.clone().oneshot(request).await.expect("answered");
        let mut body = Box::pin(answer.into_body());
        let first = body.frame().await.expect("a frame").expect("whole");
        assert_eq!(first.into_data().expect("data"), "first");
        let wait = std::time::Duration::from_secs(60);
        let last = tokio::time::timeout(wait, body.frame()).await;
        assert_eq!(last.is_ok(), ends, "{content_type} {timeout}");
        let Ok(last) = last else { continue };
        let last = last.expect("a frame").expect("whole");
        match content_type {
            "application/grpc" => {
                let trailers = last.into_trailers().expect("trailers");
                assert_eq!(trailers["grpc-status"], "4");
            }
            "application/grpc-web+proto" => {
                let data = last.into_data().expect("data");
                assert_eq!(data[0], 0x80);
                assert_eq!(
                    data.len() - 5,
                    u32::from_be_bytes([data[1], data[2], data[3], data[4]]) as usize
                );
                assert!(data[5..].starts_with(b"grpc-status:4\r\n"));
            }
            _ => {
                let data = last.into_data().expect("data");
                assert!(data.starts_with(b"gA"), "0x80 and a length in base64");
            }
        }
        assert!(body.frame().await.is_none());
    }
    assert_eq!(components.overload.stats().timed_out, 3);
    assert_eq!(components.limit.stats().in_flight, 0);
}

#[tokio::test]
async fn a_server_of_another_kind_names_the_connection_of_a_request() {
    fn is_service<S: Service<Request<Full<Bytes>>>>(_: &S) {}
    let config = RuntimeConfig::default();
    let components = Components::new(&config).expect("valid");
    let hello = service_fn(async |_: Request<RequestBody<Full<Bytes>>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    });
    let preset = components.layer(&config.server).layer(hello);
    is_service(&preset);
    let mut request = Request::new(Full::default());
    request
        .extensions_mut()
        .insert(stellane_core::autotune::Key::from_number(7));
    assert_eq!(
        preset.oneshot(request).await.expect("answered").status(),
        200
    );
}

/// May be called once it was asked whether it is ready, as tower has it. A clone was not.
#[derive(Default)]
struct Strict(bool);

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "not asked");
        ready(Ok(Response::new("done".to_owned())))
    }
}

#[tokio::test]
async fn a_service_is_called_when_it_is_ready_at_once_and_from_the_queue() {
    let mut config = config();
    config.limit.max_wait = std::time::Duration::from_secs(3600);
    let components = Components::new(&config).expect("valid");
    let preset = components.layer(&config.server).layer(Strict::default());
    let layers = ServiceBuilder::new()
        .layer(components.layers(&config.server))
        .service(Strict::default());
    let request = || {
        let request = Request::get("/").header(header::HOST, "x");
        request.body(Full::<Bytes>::default()).expect("valid")
    };
    for waits in [false, true] {
        let place = waits.then(|| components.limit.try_acquire().expect("the only one"));
        let mut first = Box::pin(preset.clone().oneshot(request()));
        if waits {
            let is_pending =
                tokio::select! { biased; _ = &mut first => false, () = ready(()) => true };
            assert!(is_pending);
        }
        drop(place);
        assert_eq!(first.await.expect("answered").status(), 200, "{waits}");

        let place = waits.then(|| components.limit.try_acquire().expect("the only one"));
        let mut second = Box::pin(layers.clone().oneshot(request()));
        if waits {
            let is_pending =
                tokio::select! { biased; _ = &mut second => false, () = ready(()) => true };
            assert!(is_pending);
        }
        drop(place);
        assert_eq!(second.await.expect("answered").status(), 200, "{waits}");
    }
}

#[tokio::test]
async fn a_handler_knows_the_size_of_a_body_and_whether_it_was_too_large() {
    /// What it knows, as an answer with the status that is in the path.
    async fn tell(
        request: Request<RequestBody<axum::body::Body>>,
    ) -> Result<Response<String>, Infallible> {
        let size = request.body().size_hint().exact();
        let status = request.uri().path()[1..].parse().expect("a status");
        let told = match request.into_body().collect().await {
            Ok(_) => format!("{size:?}"),
            Err(error) => format!("too large: {}", error.is_too_large()),
        };
        let mut answer = Response::new(told);
        *answer.status_mut() = status;
        Ok(answer)
    }
    let mut config = RuntimeConfig::default();
    config.server.max_body_bytes = 1500;
    let components = Components::new(&config).expect("valid");
    let preset = components.layer(&config.server).layer(service_fn(tell));
    for (path, body, status, told) in [
        ("/200", axum::body::Body::from("hello"), 200, "Some(5)"),
        ("/200", chunks(1024), 200, "None"),
        ("/200", chunks(2048), 200, "too large: true"),
        // A bad request for another reason stays one.
        ("/400", chunks(1024), 400, "None"),
    ] {
        let request = Request::post(path).body(body).expect("valid");
        let answer = preset.clone().oneshot(request).await.expect("answered");
        assert_eq!(answer.status(), status, "{told}");
        assert_eq!(text(answer).await, told);
    }
    let made = RequestBody::<axum::body::Body>::from("hello");
    assert_eq!(made.size_hint().exact(), Some(5));
}

//! Each layer of tower-http with what it does to a request, for the tests that put it within and around the preset.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use stellane_core::{BoxError, runtime::BoxService};
use theirs::*;
use tower::ServiceBuilder;

/// What the rows name, here and where they are written out.
pub(crate) mod theirs {
    pub(crate) use tower_http::{
        add_extension::AddExtensionLayer,
        auth::{AddAuthorizationLayer, AsyncRequireAuthorizationLayer},
        catch_panic::CatchPanicLayer,
        compression::CompressionLayer,
        cors::CorsLayer,
        csrf::CsrfLayer,
        decompression::{DecompressionLayer, RequestDecompressionLayer},
        follow_redirect::FollowRedirectLayer,
        limit::RequestBodyLimitLayer,
        map_request_body::MapRequestBodyLayer,
        map_response_body::MapResponseBodyLayer,
        metrics::InFlightRequestsLayer,
        normalize_path::NormalizePathLayer,
        on_early_drop::{EarlyDropsAsFailures, OnEarlyDropLayer},
        propagate_header::PropagateHeaderLayer,
        request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
        sensitive_headers::{
            SetSensitiveHeadersLayer, SetSensitiveRequestHeadersLayer,
            SetSensitiveResponseHeadersLayer,
        },
        set_header::{
            SetRequestHeaderLayer, SetResponseHeaderLayer, request::SetMultipleRequestHeadersLayer,
            response::SetMultipleResponseHeadersLayer,
        },
        set_status::SetStatusLayer,
        timeout::{
            RequestBodyDeadlineLayer, RequestBodyTimeoutLayer, ResponseBodyDeadlineLayer,
            ResponseBodyTimeoutLayer, TimeoutLayer,
        },
        trace::{DefaultOnFailure, TraceLayer},
        validate_request::ValidateRequestHeaderLayer,
    };
}

/// Says what it has got.
pub(crate) async fn app<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, BoxError>
where
    B: Body<Data: Buf, Error: Into<BoxError>>,
{
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/panic" => panic!("on purpose"),
        "/hang" => std::future::pending().await,
        _ => {}
    }
    if head.uri.path() == "/moved" {
        let moved = Response::builder().status(StatusCode::FOUND);
        return Ok(moved.header(header::LOCATION, "/a").body(Full::default())?);
    }
    let seen = |name| head.headers.get(name).cloned();
    let mut response = Response::builder().header(header::CONTENT_TYPE, "text/plain");
    if let Some(value) = seen(header::AUTHORIZATION.as_str()) {
        response = response.header("seen-authorization", value);
    }
    for name in ["x-in", "x-request-id"] {
        if let Some(value) = seen(name) {
            response = response.header(format!("seen-{name}"), value);
        }
    }
    if let Some(number) = head.extensions.get::<u32>() {
        response = response.header("seen-extension", *number);
    }
    let secret = head.headers.values().any(HeaderValue::is_sensitive);
    let body = std::pin::pin!(body)
        .collect()
        .await
        .map_err(Into::into)?
        .to_bytes();
    let text = match head.uri.path() {
        "/long" => "long ".repeat(100),
        path => format!(
            "{path} {}{}",
            String::from_utf8_lossy(&body),
            ["", "secret"][usize::from(secret)]
        ),
    };
    Ok(response.body(Full::from(text))?)
}

pub(crate) fn request(
    line: &str,
    fields: &[(&str, &str)],
    body: &'static [u8],
) -> Request<Full<Bytes>> {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let request = Request::builder().method(method).uri(path);
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(Full::from(body)).expect("valid")
}

/// What is expected of an answer: its status, a field of it, its text, and how many requests the preset has seen and
/// seen given up by a layer around it.
pub(crate) struct Expected {
    pub(crate) status: u16,
    pub(crate) field: (&'static str, &'static str),
    pub(crate) text: &'static str,
}

pub(crate) const fn expected(
    status: u16,
    field: (&'static str, &'static str),
    text: &'static str,
) -> Expected {
    Expected {
        status,
        field,
        text,
    }
}

pub(crate) const ANY: (&str, &str) = ("", "");

pub(crate) async fn check<B>(name: &str, answer: Response<B>, expected: &Expected)
where
    B: Body<Data: Buf, Error: std::fmt::Debug>,
{
    assert_eq!(answer.status(), expected.status, "{name}");
    let (field, value) = expected.field;
    if !field.is_empty() {
        let told = answer.headers().get(field).map(|value| value.as_bytes());
        assert_eq!(
            told,
            Some(value.as_bytes()),
            "{name}: {:?}",
            answer.headers()
        );
    }
    let body = std::pin::pin!(answer.into_body())
        .collect()
        .await
        .expect(name);
    let text = body.to_bytes();
    if !expected.text.is_empty() {
        assert_eq!(text, expected.text, "{name}");
    }
}

pub(crate) fn limited<B>(body: B) -> Limited<B> {
    Limited::new(body, 1 << 20)
}

/// `hello, packed`
pub(crate) const PACKED: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 203, 72, 205, 201, 201, 215, 81, 40, 72, 76, 206, 78, 77, 1,
    0, 235, 161, 234, 8, 13, 0, 0, 0,
];

/// Only who says who they are.
pub(crate) async fn authorize<B, R: Default>(
    request: Request<B>,
) -> Result<Request<B>, Response<R>> {
    match request.headers().contains_key(header::AUTHORIZATION) {
        true => Ok(request),
        false => {
            let mut response = Response::new(R::default());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Err(response)
        }
    }
}

/// Calls `$row!(name, layer, request, expected)` for each.
macro_rules! each_layer_of_tower_http {
    ($row:ident) => {{
        use std::time::Duration;

        use http::{HeaderName, HeaderValue, StatusCode};
        use $crate::rows::theirs::*;

        let (name, value) = (
            HeaderName::from_static("x-in"),
            HeaderValue::from_static("in"),
        );
        let long = Duration::from_secs(60);
        let get = || request("GET /a", &[], b"");
        let post = |fields| request("POST /a", fields, b"hello");
        let hello = expected(200, ANY, "/a hello");

        $row!(
            "AddAuthorization",
            AddAuthorizationLayer::bearer("t"),
            get(),
            expected(200, ("seen-authorization", "Bearer t"), "")
        );
        $row!(
            "AddExtension",
            AddExtensionLayer::new(7_u32),
            get(),
            expected(200, ("seen-extension", "7"), "")
        );
        $row!(
            "AsyncRequireAuthorization",
            AsyncRequireAuthorizationLayer::new(authorize),
            get(),
            expected(401, ANY, "")
        );
        $row!(
            "CatchPanic",
            CatchPanicLayer::new(),
            request("GET /panic", &[], b""),
            expected(500, ANY, "")
        );
        $row!(
            "Compression",
            CompressionLayer::new(),
            request("GET /long", &[("accept-encoding", "br")], b""),
            expected(200, ("content-encoding", "br"), "")
        );
        $row!(
            "Cors",
            CorsLayer::permissive(),
            post(&[("origin", "https://a.example")]),
            expected(200, ("access-control-allow-origin", "*"), "/a hello")
        );
        $row!(
            "Csrf",
            CsrfLayer::new(),
            post(&[("sec-fetch-site", "cross-site")]),
            expected(403, ANY, "")
        );
        $row!(
            "Decompression",
            tower::layer::util::Stack::new(CompressionLayer::new(), DecompressionLayer::new()),
            post(&[]),
            hello
        );
        $row!(
            "FollowRedirect",
            FollowRedirectLayer::new(),
            request("GET http://a/moved", &[("host", "a")], b""),
            expected(200, ANY, "/a ")
        );
        $row!(
            "InFlightRequests",
            InFlightRequestsLayer::pair().0,
            post(&[]),
            hello
        );
        $row!(
            "MapRequestBody",
            MapRequestBodyLayer::new(limited),
            post(&[]),
            hello
        );
        $row!(
            "MapResponseBody",
            MapResponseBodyLayer::new(limited),
            post(&[]),
            hello
        );
        $row!(
            "NormalizePath",
            NormalizePathLayer::trim_trailing_slash(),
            request("GET /a/", &[], b""),
            expected(200, ANY, "/a ")
        );
        $row!(
            "OnEarlyDrop",
            OnEarlyDropLayer::new(EarlyDropsAsFailures::new(DefaultOnFailure::default())),
            post(&[]),
            hello
        );
        $row!(
            "PropagateHeader",
            PropagateHeaderLayer::new(name.clone()),
            post(&[("x-in", "in")]),
            expected(200, ("x-in", "in"), "/a hello")
        );
        $row!(
            "PropagateRequestId",
            PropagateRequestIdLayer::x_request_id(),
            post(&[("x-request-id", "1")]),
            expected(200, ("x-request-id", "1"), "/a hello")
        );
        $row!(
            "RequestBodyDeadline",
            RequestBodyDeadlineLayer::new(long),
            post(&[]),
            hello
        );
        $row!(
            "RequestBodyLimit",
            RequestBodyLimitLayer::new(4),
            post(&[("content-length", "5")]),
            expected(413, ANY, "")
        );
        $row!(
            "RequestBodyTimeout",
            RequestBodyTimeoutLayer::new(long),
            post(&[]),
            hello
        );
        $row!(
            "RequestDecompression",
            RequestDecompressionLayer::new(),
            request("POST /a", &[("content-encoding", "gzip")], PACKED),
            expected(200, ANY, "/a hello, packed")
        );
        $row!(
            "ResponseBodyDeadline",
            ResponseBodyDeadlineLayer::new(long),
            post(&[]),
            hello
        );
        $row!(
            "ResponseBodyTimeout",
            ResponseBodyTimeoutLayer::new(long),
            post(&[]),
            hello
        );
        $row!(
            "SetMultipleRequestHeaders",
            SetMultipleRequestHeadersLayer::overriding(vec![(name.clone(), value.clone()).into()]),
            get(),
            expected(200, ("seen-x-in", "in"), "")
        );
        $row!(
            "SetMultipleResponseHeaders",
            SetMultipleResponseHeadersLayer::overriding(vec![(name.clone(), value.clone()).into()]),
            get(),
            expected(200, ("x-in", "in"), "")
        );
        $row!(
            "SetRequestHeader",
            SetRequestHeaderLayer::overriding(name.clone(), value.clone()),
            get(),
            expected(200, ("seen-x-in", "in"), "")
        );
        $row!(
            "SetRequestId",
            SetRequestIdLayer::x_request_id(MakeRequestUuid),
            post(&[("x-request-id", "1")]),
            expected(200, ("seen-x-request-id", "1"), "")
        );
        $row!(
            "SetResponseHeader",
            SetResponseHeaderLayer::overriding(name.clone(), value.clone()),
            get(),
            expected(200, ("x-in", "in"), "")
        );
        $row!(
            "SetSensitiveHeaders",
            SetSensitiveHeadersLayer::new([name.clone()]),
            post(&[("x-in", "in")]),
            expected(200, ANY, "/a hellosecret")
        );
        $row!(
            "SetSensitiveRequestHeaders",
            SetSensitiveRequestHeadersLayer::new([name.clone()]),
            post(&[("x-in", "in")]),
            expected(200, ANY, "/a hellosecret")
        );
        $row!(
            "SetSensitiveResponseHeaders",
            SetSensitiveResponseHeadersLayer::new([name.clone()]),
            post(&[]),
            hello
        );
        $row!(
            "SetStatus",
            SetStatusLayer::new(StatusCode::IM_A_TEAPOT),
            post(&[]),
            expected(418, ANY, "/a hello")
        );
        $row!(
            "Timeout",
            TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_millis(20)),
            request("GET /hang", &[], b""),
            expected(504, ANY, "")
        );
        $row!("Trace", TraceLayer::new_for_http(), post(&[]), hello);
        $row!(
            "ValidateRequestHeader",
            ValidateRequestHeaderLayer::accept("application/json"),
            request("GET /a", &[("accept", "text/css")], b""),
            expected(406, ANY, "")
        );
    }};
}
pub(crate) use each_layer_of_tower_http;

/// Calls `$row!(name, layer)` for each layer of ours that is for requests; the `BodyLimitLayer` is among
/// `Components::layers`, as it stands nowhere else.
macro_rules! layers_of_ours {
    ($row:ident) => {{
        use stellane_core::{
            Components, RuntimeConfig,
            autotune::{AdaptiveLimitLayer, AutoTuner},
            catch_faults::CatchFaultsLayer,
            engine_selector::{EngineSelector, EngineSelectorLayer},
            hot_reload::LiveReloadLayer,
            metrics::{MetricsLayer, NoRoute, RequestBytesLayer, RouteLabelLayer},
            pool::{PoolLayer, WorkerPoolLayer},
            prepared::{Prepared, PreparedLayer},
            router::{InternLayer, Interner, RouteLayer, RouteTable},
            strict_http1::StrictHttp1Layer,
        };

        let config = RuntimeConfig::default();
        let components = Components::new(&config).expect("valid");
        $row!("PresetLayer", components.layer(&config.server));
        $row!("MetricsLayer", MetricsLayer::new(&components.metrics));
        $row!(
            "AdaptiveLimitLayer",
            AdaptiveLimitLayer::new(&components.limit)
        );
        $row!("OverloadLayer", components.overload.clone());
        $row!("PoolLayer", PoolLayer::new(&components.pools));
        $row!(
            "StrictHttp1Layer",
            StrictHttp1Layer::new(&components.http1_rules)
        );
        $row!(
            "CatchFaultsLayer",
            CatchFaultsLayer::new(&components.faults)
        );
        $row!("LiveReloadLayer", LiveReloadLayer::new());
        $row!("Components::layers", components.layers(&config.server));
        $row!("RequestBytesLayer", RequestBytesLayer::new());
        $row!(
            "RouteLabelLayer",
            RouteLabelLayer::with_request_route(NoRoute)
        );
        let table = RouteTable::new(["/a"]).expect("valid");
        $row!("RouteLayer", RouteLayer::new(table));
        let interner = Interner::builder().build().expect("valid");
        $row!("InternLayer", InternLayer::new(&interner).header("x-in"));
        $row!("WorkerPoolLayer", WorkerPoolLayer::new(&components.workers));
        let tuner = AutoTuner::builder().build_layer().expect("valid");
        $row!("AutoTuneLayer", tuner);
        let prepared = Prepared::new();
        $row!("PreparedLayer", PreparedLayer::new(&prepared));
        let selector = EngineSelector::builder().route("/a").build();
        $row!(
            "EngineSelectorLayer",
            EngineSelectorLayer::new(&selector.expect("valid"), prepared.service())
        );
        #[cfg(feature = "http-layers")]
        {
            let http = stellane_core::HttpLayers::new(&config.http).expect("valid");
            $row!("HttpOuterLayer", http.outer());
            $row!("HttpInnerLayer", http.inner());
        }
    }};
}
pub(crate) use layers_of_ours;

/// In a box, or the type of all layers takes minutes to be compiled.
pub(crate) type Boxed = BoxService<UnsyncBoxBody<Bytes, BoxError>>;

pub(crate) fn boxed<B>(body: B) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Of all layers one stack, in an order that compiles: what wants a `Default` of the body inside of what has none.
pub(crate) fn all_layers(service: Boxed) -> Boxed {
    let (name, value) = (
        HeaderName::from_static("x-in"),
        HeaderValue::from_static("in"),
    );
    let long = Duration::from_secs(60);
    let same = MapRequestBodyLayer::new(boxed::<UnsyncBoxBody<Bytes, BoxError>>);
    let service = ServiceBuilder::new()
        .layer(AsyncRequireAuthorizationLayer::new(authorize))
        .layer(CompressionLayer::new())
        .layer(NormalizePathLayer::trim_trailing_slash())
        .layer(CatchPanicLayer::new())
        .layer(RequestBodyTimeoutLayer::new(long))
        .layer(RequestBodyDeadlineLayer::new(long))
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .layer(MapRequestBodyLayer::new(boxed))
        .service(service);
    let service = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(CsrfLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            long,
        ))
        .layer(ValidateRequestHeaderLayer::accept("text/plain"))
        .layer(SetStatusLayer::new(StatusCode::OK))
        .layer(RequestDecompressionLayer::new())
        .layer(MapRequestBodyLayer::new(boxed))
        .service(Boxed::new(service));
    let service = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .layer(InFlightRequestsLayer::pair().0)
        .layer(ResponseBodyTimeoutLayer::new(long))
        .layer(ResponseBodyDeadlineLayer::new(long))
        .layer(OnEarlyDropLayer::new(EarlyDropsAsFailures::new(
            DefaultOnFailure::default(),
        )))
        .service(Boxed::new(service));
    let several = vec![(name.clone(), value.clone()).into()];
    let service = ServiceBuilder::new()
        .layer(AddAuthorizationLayer::bearer("t"))
        .layer(SetRequestHeaderLayer::overriding(
            name.clone(),
            value.clone(),
        ))
        .layer(SetMultipleRequestHeadersLayer::overriding(several))
        .layer(SetResponseHeaderLayer::overriding(
            name.clone(),
            value.clone(),
        ))
        .layer(SetMultipleResponseHeadersLayer::overriding(vec![
            (name.clone(), value).into(),
        ]))
        .layer(PropagateHeaderLayer::new(name))
        .layer(AddExtensionLayer::new(7_u32))
        .layer(MapResponseBodyLayer::new(limited))
        .service(Boxed::new(service));
    Boxed::new(
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(SetSensitiveHeadersLayer::new([header::ORIGIN]))
            .layer(TraceLayer::new_for_http())
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(same)
            .service(Boxed::new(service)),
    )
}

/// A request that has something for many of them.
pub(crate) fn for_all() -> Request<Full<Bytes>> {
    let fields = [
        ("host", "example.org"),
        ("origin", "https://a.example"),
        ("sec-fetch-site", "same-origin"),
        ("accept-encoding", "gzip"),
    ];
    request("POST /a/", &fields, b"hello")
}

pub(crate) const OF_ALL: Expected = expected(200, ("seen-extension", "7"), "/a hellosecret");

/// The names in the first column of the table in the documentation, which are those of the rows.
pub(crate) fn documented() -> Vec<&'static str> {
    let table = include_str!("../../src/runtime/http/tower_http.md");
    let names = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.collect()
}

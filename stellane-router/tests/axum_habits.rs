//! What who comes from axum tries.

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    extract::Request as AxumRequest,
    middleware::{Next, from_fn},
};
use http::{Method, Request, Response, StatusCode, header};
use stellane_router::{Body, Path, RouteMatch, Router};
use support::{call, get, request, send, text};
use tower::{
    Layer, Service, service_fn,
    util::{MapRequestLayer, MapResponseLayer},
};
use tower_http::cors::CorsLayer;

fn tag(
    name: &'static str,
) -> impl Layer<stellane_router::Route, Service = impl stellane_router::ScopeService> + Send + Sync + Clone
{
    MapResponseLayer::new(move |mut response: Response<Body>| {
        response
            .headers_mut()
            .append("x-tag", name.parse().expect("a header value"));
        response
    })
}

fn tags(response: &Response<Body>) -> Vec<&str> {
    response
        .headers()
        .get_all("x-tag")
        .iter()
        .map(|v| v.to_str().expect("text"))
        .collect()
}

#[test]
fn a_cors_layer_of_a_scope_answers_preflights() {
    let api = Router::builder()
        .get("/x", async || "x")
        .layer(CorsLayer::permissive());
    let router = Router::builder()
        .nest("/api", api)
        .get("/bare", async || "")
        .build()
        .unwrap();
    let preflight = |path: &str| {
        let mut request = request(Method::OPTIONS, path);
        for (name, value) in [
            ("origin", "https://a.example"),
            ("access-control-request-method", "GET"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        call(&router, request)
    };
    let allowed = preflight("/api/x");
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(allowed.body().route().map(|r| r.template()), Some("/api/x"));
    assert!(
        !preflight("/bare")
            .headers()
            .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
    );
    let simple = send(&router, Method::GET, "/api/x");
    assert_eq!(simple.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}

#[test]
fn layers_of_all_scopes_around_see_405_and_options() {
    let inner = Router::builder()
        .get("/{id}", async || "")
        .layer(tag("inner"));
    let router = Router::builder()
        .layer(tag("outer"))
        .nest("/n", inner)
        .build()
        .unwrap();
    for (method, status) in [
        (Method::GET, StatusCode::OK),
        (Method::POST, StatusCode::METHOD_NOT_ALLOWED),
        (Method::OPTIONS, StatusCode::NO_CONTENT),
    ] {
        let response = send(&router, method, "/n/7");
        assert_eq!(
            (response.status(), tags(&response)),
            (status, vec!["inner", "outer"])
        );
        assert_eq!(response.body().route().unwrap().template(), "/n/{id}");
        if status != StatusCode::OK {
            assert_eq!(support::allow(&response), "GET, HEAD, OPTIONS");
        }
    }
    assert_eq!(router.stats().not_allowed, 1);
    assert_eq!(router.stats().options, 1);
    assert!(tags(&send(&router, Method::GET, "/nowhere")).is_empty());
}

#[test]
fn a_route_layer_is_around_routes_only() {
    let router = Router::builder()
        .get("/a", async || "")
        .route_layer(tag("route"))
        .layer(tag("all"))
        .fallback(async || "fallback")
        .build()
        .unwrap();
    assert_eq!(tags(&send(&router, Method::GET, "/a")), ["all", "route"]);
    assert_eq!(tags(&send(&router, Method::POST, "/a")), ["all"]);
    assert_eq!(tags(&send(&router, Method::GET, "/b")), ["all"]);
}

#[test]
fn a_fallback_for_methods_is_that_of_the_innermost_scope() {
    let scope = || Router::builder().get("/{id}", async || "");
    let own =
        scope().method_not_allowed_fallback(async |Path(id): Path<u64>, found: RouteMatch| {
            (
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{id} {}", found.template()),
            )
        });
    let router = Router::builder()
        .nest("/own", own)
        .nest("/other", scope().layer(tag("other")))
        .method_not_allowed_fallback(async || (StatusCode::IM_A_TEAPOT, "outer"))
        .build()
        .unwrap();
    let response = send(&router, Method::POST, "/own/7");
    assert_eq!(support::allow(&response), "GET, HEAD, OPTIONS");
    assert_eq!(
        (response.status(), text(response)),
        (StatusCode::METHOD_NOT_ALLOWED, "7 /own/{id}".to_owned())
    );
    let response = send(&router, Method::POST, "/other/7");
    assert_eq!(
        (response.status(), tags(&response)),
        (StatusCode::IM_A_TEAPOT, vec!["other"])
    );
    assert!(!response.headers().contains_key(header::ALLOW));
    assert_eq!(
        send(&router, Method::OPTIONS, "/own/7").status(),
        StatusCode::NO_CONTENT
    );
}

#[test]
fn middleware_of_axum_works_as_an_axum_layer() {
    async fn mark(request: AxumRequest, next: Next) -> axum::response::Response {
        let method = request.method().clone();
        let mut response = next.run(request).await;
        response
            .headers_mut()
            .append("x-tag", method.as_str().parse().unwrap());
        response
    }
    let router = Router::builder()
        .get("/{id}", async |Path(id): Path<u64>| id.to_string())
        .post("/{id}", async |body: String| body)
        .axum_layer(from_fn(mark))
        .layer(tag("outer first"))
        .build()
        .unwrap();
    let response = send(&router, Method::GET, "/7");
    assert_eq!(tags(&response), ["outer first", "GET"]);
    assert_eq!(text(response), "7");
    let posted = Request::post("/7")
        .body(http_body_util::Full::<bytes::Bytes>::from("sent"))
        .unwrap();
    assert_eq!(text(call(&router, posted)), "sent");
    assert_eq!(
        tags(&send(&router, Method::PUT, "/7")),
        ["outer first", "PUT"]
    );
}

#[test]
#[cfg(not(feature = "axum-08"))]
fn extractors_that_only_work_in_axum_are_refused_when_built() {
    use axum::extract::MatchedPath;
    use http::Uri;
    use stellane_router::Problem;

    let problem = |router: stellane_router::RouterBuilder| match router.build() {
        Err(report) => match report.problems() {
            [
                Problem::Extractor {
                    template, instead, ..
                },
            ] => (template.clone(), *instead),
            problems => panic!("{problems:?}"),
        },
        Ok(_) => panic!("it builds"),
    };
    let axum_path = async |_: axum::extract::Path<u64>| "";
    assert_eq!(
        problem(Router::builder().get("/{id}", axum_path)),
        ("/{id}".to_owned(), "stellane_router::Path")
    );
    let optional = async |_: Uri, _: Option<axum::extract::Path<u64>>, _: String| "";
    assert_eq!(
        problem(Router::builder().post("/{id}", optional)).1,
        "stellane_router::Path"
    );
    let matched = async |_: MatchedPath| "";
    assert_eq!(
        problem(Router::builder().any("/{id}", matched)).1,
        "stellane_router::RouteMatch"
    );
    let scope = Router::builder().fallback(matched);
    assert_eq!(problem(Router::builder().nest("/n", scope)).0, "");
    Router::builder()
        .get(
            "/{id}",
            async |_: axum::extract::OriginalUri, _: axum::extract::Query<()>, _: Path<u64>| "",
        )
        .build()
        .unwrap();
}

#[test]
fn one_handler_is_a_route_and_a_fallback() {
    let handler = async |id: Option<Path<u64>>, found: Option<RouteMatch>| {
        format!(
            "{:?} {:?}",
            id.map(|p| p.0),
            found.map(|m| m.template().to_owned())
        )
    };
    let router = Router::builder()
        .get("/{id}", handler)
        .fallback(handler)
        .build()
        .unwrap();
    assert_eq!(get(&router, "/7").1, "Some(7) Some(\"/{id}\")");
    assert_eq!(get(&router, "/a/b").1, "None None");
    assert_eq!(get(&router, "/seven").0, StatusCode::BAD_REQUEST);
}

#[test]
fn a_fallback_sees_the_parameters_of_its_scope() {
    let tenant = Router::builder()
        .get("/users", async || "")
        .fallback(async |Path(tenant): Path<String>| format!("nothing for {tenant}"));
    let named = Router::builder()
        .fallback(async |Path(all): Path<Vec<(String, String)>>| format!("{all:?}"));
    let router = Router::builder()
        .nest("/t/{tenant}", tenant)
        .nest("/n/{a}/{rest}", named)
        .build()
        .unwrap();
    assert_eq!(get(&router, "/t/acme/x/y").1, "nothing for acme");
    assert_eq!(get(&router, "/t/%61cme").1, "nothing for acme");
    assert_eq!(get(&router, "/n/1/2/3").1, r#"[("a", "1"), ("rest", "2")]"#);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_type_that_does_not_fit_is_a_fault_of_the_program() {
    use serde::Deserialize;
    #[derive(Deserialize)]
    struct Nested {
        #[serde(rename = "id")]
        _id: Vec<u8>,
    }
    #[derive(Deserialize)]
    struct Missing {
        #[serde(rename = "other")]
        _other: String,
    }
    let router = Router::builder()
        .get(
            "/pairs/{a}/{b}",
            async |Path(all): Path<Vec<(String, u8)>>| format!("{all:?}"),
        )
        .get(
            "/triples/{a}",
            async |_: Path<Vec<(String, String, String)>>| "",
        )
        .get("/nested/{id}", async |_: Path<Nested>| "")
        .get("/unit/{id}", async |_: Path<Vec<()>>| "")
        .get("/missing/{id}", async |_: Path<Missing>| "")
        .get("/count/{id}", async |_: Path<(u8, u8)>| "")
        .get("/fixed/{a}/{b}", async |_: Path<[[u8; 1]; 2]>| "")
        .build()
        .unwrap();
    assert_eq!(get(&router, "/pairs/1/2").1, r#"[("a", 1), ("b", 2)]"#);
    assert_eq!(get(&router, "/pairs/1/x").0, StatusCode::BAD_REQUEST);
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let paths = [
        "/triples/1",
        "/nested/1",
        "/unit/1",
        "/missing/1",
        "/count/1",
        "/fixed/1/2",
    ];
    tracing::subscriber::with_default(subscriber, || {
        for path in paths {
            assert_eq!(
                get(&router, path).0,
                StatusCode::INTERNAL_SERVER_ERROR,
                "{path}"
            );
        }
        assert_eq!(get(&router, "/pairs/1/x").0, StatusCode::BAD_REQUEST);
    });
    let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(lines.lines().count(), paths.len(), "{lines}");
    assert!(lines.lines().all(|line| line.contains("ERROR")), "{lines}");
}

#[test]
fn a_nested_service_sees_what_follows_its_prefix() {
    let echo = service_fn(async |request: Request<Body>| {
        let tenant = request
            .body()
            .route_match()
            .and_then(|m| m.params().get("tenant").map(str::to_owned));
        Ok::<_, Infallible>(Response::new(format!(
            "{} {}",
            request.uri(),
            tenant.unwrap_or_default()
        )))
    });
    let router = Router::builder()
        .nest_service("/static", echo)
        .get("/static/own", async || "own")
        .nest_service("/t/{tenant}/files/", echo)
        .nest_service("/r/{rest}", echo)
        .build()
        .unwrap();
    for (path, seen) in [
        ("/static", "/ "),
        ("/static/", "/ "),
        ("/static/css/a.css?v=1", "/css/a.css?v=1 "),
        ("/static?v=1", "/?v=1 "),
        ("/st%61tic/%7E/x%2Fy", "/%7E/x%2Fy "),
        ("/static//x", "//x "),
        ("/static/own", "own"),
        ("/t/acme/files/a/b", "/a/b acme"),
        ("/t/acme/files", "/ acme"),
        ("/r/1/2", "/2 "),
        ("/r/1", "/ "),
    ] {
        assert_eq!(get(&router, path).1, seen, "{path}");
    }
    assert_eq!(get(&router, "/statics").0, StatusCode::NOT_FOUND);
    let axum = axum::Router::new().route(
        "/{id}",
        axum::routing::get(async |axum::extract::Path(id): axum::extract::Path<u64>| {
            id.to_string()
        }),
    );
    let router = Router::builder()
        .nest_service("/axum", axum.clone())
        .build()
        .unwrap();
    assert_eq!(get(&router, "/axum/7").1, "7");
    let whole = Router::builder()
        .nest_service("/", axum)
        .get("/a/b", async || "b")
        .build()
        .unwrap();
    assert_eq!(get(&whole, "/7").1, "7");
    assert_eq!(get(&whole, "/a/b").1, "b");
}

#[test]
fn a_layer_may_fail() {
    #[derive(Clone)]
    struct Refuse;
    impl<S> Layer<S> for Refuse {
        type Service = RefuseService<S>;
        fn layer(&self, inner: S) -> RefuseService<S> {
            RefuseService(inner)
        }
    }
    #[derive(Clone)]
    struct RefuseService<S>(S);
    impl<S: Service<Request<Body>, Error = Infallible, Future: Unpin>> Service<Request<Body>>
        for RefuseService<S>
    {
        type Response = S::Response;
        type Error = tower::BoxError;
        type Future = futures::Either<S::Future>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: Request<Body>) -> Self::Future {
            match request.uri().query() {
                Some(reason) => futures::Either::Refused(Some(reason.to_owned())),
                None => futures::Either::Inner(self.0.call(request)),
            }
        }
    }
    mod futures {
        use std::{
            future::Future,
            pin::Pin,
            task::{Context, Poll, ready},
        };
        pub(super) enum Either<F> {
            Refused(Option<String>),
            Inner(F),
        }
        impl<T, F: Future<Output = Result<T, std::convert::Infallible>> + Unpin> Future for Either<F> {
            type Output = Result<T, tower::BoxError>;
            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                match &mut *self {
                    Self::Refused(reason) => {
                        Poll::Ready(Err(reason.take().expect("polled once").into()))
                    }
                    Self::Inner(inner) => Poll::Ready(Ok(match ready!(Pin::new(inner).poll(cx)) {
                        Ok(value) => value,
                        Err(never) => match never {},
                    })),
                }
            }
        }
    }
    let router = Router::builder()
        .get("/{id}", async |Path(id): Path<u64>| id.to_string())
        .try_layer(Refuse, |error: tower::BoxError| {
            (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        })
        .build()
        .unwrap();
    assert_eq!(get(&router, "/7").1, "7");
    assert_eq!(
        get(&router, "/7?late"),
        (StatusCode::SERVICE_UNAVAILABLE, "late".to_owned())
    );
}

#[test]
fn several_methods_are_one_call() {
    let router = Router::builder()
        .on([Method::PUT, Method::PATCH], "/a", async || "changed")
        .get("/a", async || "got")
        .route(
            vec![Method::GET, Method::POST],
            "/s",
            service_fn(async |_: Request<Body>| {
                Ok::<_, Infallible>(Response::new("served".to_owned()))
            }),
        )
        .build()
        .unwrap();
    for (method, path, answer) in [
        (Method::PUT, "/a", "changed"),
        (Method::PATCH, "/a", "changed"),
        (Method::GET, "/a", "got"),
        (Method::POST, "/s", "served"),
        (Method::GET, "/s", "served"),
    ] {
        assert_eq!(text(send(&router, method, path)), answer);
    }
    assert_eq!(
        support::allow(&send(&router, Method::DELETE, "/a")),
        "GET, HEAD, PUT, OPTIONS, PATCH"
    );
}

#[test]
fn a_layer_may_change_the_request_of_a_preflight() {
    // As a method override does: what the router says is what it found, not what the layer made of it.
    let change = MapRequestLayer::new(|mut request: Request<Body>| {
        *request.method_mut() = Method::GET;
        request.extensions_mut().clear();
        request
    });
    let router = Router::builder()
        .get("/a", async || "a")
        .layer(change)
        .build()
        .unwrap();
    assert_eq!(
        send(&router, Method::POST, "/a").status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}
